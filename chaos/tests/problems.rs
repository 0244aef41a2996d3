//! Every problem of a file is told, with its line and key; and no text makes the loader panic.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use holdfast_chaos::Scenario;
use proptest::prelude::*;

const GOOD: &str = r#"name = "good"
description = "Everything is right."
worlds = ["core", "turmoil"]
duration = "60s"
seeds = { core = 20 }

[servers]
brokers = 2
link = "delay=5ms"

[[nat]]
name = "home-a"
kind = "home"
mapping_expiry = "20s"

[[node]]
name = "a"
behind = "home-a"
link = { up = "delay=5ms,loss=1/100" }
clock = { offset = "-1h", drift_ppm = 100 }

[[node]]
name = "b"
start = ["0s", "2s"]

[[workload]]
name = "bulk"
from = "a"
to = "b"
service = "echo"
bytes = "2MB"
at = "2s"
patience = "20s"

[[fault]]
name = "dark"
at = ["5s", "8s"]
for = "3s"
kind = "link"
device = "a"
link = "blackhole"

[swarm]
kinds = ["cut", "loss", "crash"]
window = ["10s", "30s"]
faults_max = 4
spare = ["b"]

[expect]
converge_within = "10s"

[[expect.workload]]
name = "bulk"
within = "30s"
"#;

#[test]
fn the_good_file_is_good() {
    Scenario::parse("good.toml", GOOD).unwrap_or_else(|problems| panic!("\n{problems}"));
}

/// What is said of the good file after some of its text is replaced.
fn problems(edits: &[(&str, &str)]) -> String {
    let mut text = GOOD.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from:?}");
        text = text.replacen(from, to, 1);
    }
    match Scenario::parse("good.toml", &text) {
        Ok(_) => "no problem".to_owned(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn text_that_is_no_toml() {
    insta::assert_snapshot!(problems(&[(
        "duration = \"60s\"",
        "duration = 60s\nworlds = ["
    )]));
}

#[test]
fn unknown_and_missing_keys_and_wrong_types_all_at_once() {
    insta::assert_snapshot!(problems(&[
        ("description = ", "descripton = "),
        ("duration = \"60s\"", "duration = 60"),
        ("[\"core\", \"turmoil\"]", "[\"cor\", \"turmoil\"]"),
        ("brokers = 2", "brokers = 3"),
        ("mapping_expiry = \"20s\"", "maping_expiry = \"20s\""),
        ("kind = \"link\"", "kind = \"lnik\""),
        ("loss=1/100", "loss=2/1"),
        ("[\"5s\", \"8s\"]", "[\"5s\", \"8s\", \"9s\"]"),
    ]));
}

#[test]
fn names_of_what_does_not_exist() {
    insta::assert_snapshot!(problems(&[
        ("behind = \"home-a\"", "behind = \"home-b\""),
        ("to = \"b\"", "to = \"bb\""),
        ("device = \"a\"", "device = \"server-3\""),
        ("spare = [\"b\"]", "spare = [\"zoe\"]"),
        (
            "[[expect.workload]]\nname = \"bulk\"",
            "[[expect.workload]]\nname = \"bluk\""
        ),
    ]));
}

#[test]
fn keys_that_a_kind_of_fault_does_not_have() {
    insta::assert_snapshot!(problems(&[(
        "device = \"a\"\nlink = \"blackhole\"",
        "nat = \"home-a\"\n[[fault]]\nkind = \"flush\"\nat = \"4s\"\nfor = \"2s\"\nnat = \"home-a\"",
    )]));
}

#[test]
fn times_that_are_reversed_or_after_the_end() {
    insta::assert_snapshot!(problems(&[
        ("[\"5s\", \"8s\"]", "[\"8s\", \"5s\"]"),
        ("window = [\"10s\", \"30s\"]", "window = [\"10s\", \"70s\"]"),
        ("at = \"2s\"", "at = \"61s\""),
        ("start = [\"0s\", \"2s\"]", "start = \"90s\""),
    ]));
}

#[test]
fn a_fault_that_outlasts_the_run_and_no_time_to_converge() {
    insta::assert_snapshot!(problems(&[
        ("for = \"3s\"", "for = \"55s\""),
        ("converge_within = \"10s\"", "converge_within = \"40s\""),
    ]));
}

#[test]
fn addresses_that_overlap() {
    insta::assert_snapshot!(problems(&[
        (
            "kind = \"home\"",
            "kind = \"home\"\naddress = \"203.0.113.10\""
        ),
        (
            "name = \"b\"\nstart",
            "name = \"b\"\naddress = \"127.0.0.1\"\nstart"
        ),
    ]));
}

#[test]
fn nats_behind_nats_that_come_later() {
    insta::assert_snapshot!(problems(&[(
        "kind = \"home\"",
        "kind = \"home\"\nbehind = \"carrier\"\n[[nat]]\nname = \"carrier\"\nkind = \"symmetric\"",
    )]));
}

#[test]
fn what_the_kernel_world_cannot_do() {
    insta::assert_snapshot!(problems(&[(
        "[\"core\", \"turmoil\"]",
        "[\"core\", \"kernel\"]"
    )]));
}

#[test]
fn what_worlds_cannot_do_in_a_swarm() {
    insta::assert_snapshot!(problems(&[(
        "[\"cut\", \"loss\", \"crash\"]",
        "[\"cut\", \"pause\", \"crash\", \"cut\"]",
    )]));
}

#[test]
fn expectations_that_contradict_the_rest() {
    let links =
        "\n[[expect.link]]\nbetween = [\"a\", \"b\"]\nclass = \"relay\"\n\n[[expect.workload]]";
    insta::assert_snapshot!(problems(&[("\n[[expect.workload]]", links)]));
}

#[test]
fn a_refusal_that_nobody_gives_and_a_time_for_what_never_ends() {
    insta::assert_snapshot!(problems(&[(
        "within = \"30s\"",
        "outcome = \"refused\"\nwithin = \"59s\""
    )]));
}

#[test]
fn more_than_is_usual() {
    insta::assert_snapshot!(problems(&[
        ("duration = \"60s\"", "duration = \"1h\""),
        ("bytes = \"2MB\"", "bytes = \"30MB\""),
    ]));
}

#[test]
fn faults_that_would_undo_each_other() {
    insta::assert_snapshot!(problems(&[(
        "[swarm]",
        "[[fault]]\nname = \"slow\"\nat = \"9s\"\nfor = \"4s\"\nkind = \"link\"\ndevice = \"a\"\nlink = \"delay=300ms\"\n\n[swarm]",
    )]));
}

#[test]
fn two_nats_that_get_one_address_for_good() {
    insta::assert_snapshot!(problems(&[(
        "[swarm]",
        "[[nat]]\nname = \"home-b\"\nkind = \"home\"\n\n\
         [[fault]]\nat = \"9s\"\nkind = \"renumber\"\nnat = \"home-a\"\naddress = \"203.0.113.99\"\n\n\
         [[fault]]\nat = \"11s\"\nkind = \"renumber\"\nnat = \"home-b\"\naddress = \"203.0.113.99\"\n\n[swarm]",
    )]));
}

#[test]
fn a_scenario_that_expects_nothing() {
    insta::assert_snapshot!(problems(&[
        ("start = [\"0s\", \"2s\"]", "start = \"never\""),
        (
            "name = \"bulk\"\nwithin = \"30s\"",
            "name = \"bulk\"\noutcome = \"any\""
        ),
    ]));
}

#[test]
fn a_file_without_an_end_is_refused_after_what_a_scenario_may_have() {
    let error = Scenario::load("/dev/zero".as_ref())
        .unwrap_err()
        .to_string();
    assert!(error.contains("longer than a scenario may be"), "{error}");
}

#[test]
fn two_things_of_one_name_and_another_name_than_the_file() {
    insta::assert_snapshot!(problems(&[
        ("name = \"good\"", "name = \"better\""),
        ("name = \"b\"", "name = \"a\""),
        ("name = \"home-a\"", "name = \"server-1\""),
    ]));
}

const SLOTS: &str = r#"name = "slots"
description = "Three instances want two slots."
worlds = ["core"]
duration = "100s"

[membership]
slots = 2
lease = "10s"
clocks_ppm = 5000

[[node]]
name = "i"
count = 2

[[node]]
name = "pinned"
identity = "tee"
ordinal = 1

[[fault]]
at = "10s"
for = "5s"
kind = "kv-leader"

[swarm]
kinds = ["wipe", "kv-cut"]
window = ["10s", "30s"]
faults_max = 4
"#;

/// What is said of these slots after some of their text is replaced.
fn slot_problems(edits: &[(&str, &str)]) -> String {
    let mut text = SLOTS.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from:?}");
        text = text.replacen(from, to, 1);
    }
    match Scenario::parse("slots.toml", &text) {
        Ok(_) => "no problem".to_owned(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn instances_are_as_many_as_counted_and_each_has_its_name() {
    let scenario = Scenario::parse("slots.toml", SLOTS).unwrap();
    let names = scenario.topology().nodes.iter().map(|node| &node.name);
    assert_eq!(names.collect::<Vec<_>>(), ["i-1", "i-2", "pinned"]);
    let plan = scenario.plan(1, holdfast_plan::WorldKind::Core);
    let clocks = plan.topology.nodes.iter().map(|node| node.clock.drift_ppm);
    let clocks: Vec<i32> = clocks.collect();
    assert!(clocks.iter().all(|ppm| (-5_000..=5_000).contains(ppm)));
    assert!(clocks.iter().any(|ppm| *ppm != 0), "{clocks:?}");
}

#[test]
fn slots_that_cannot_be_claimed_like_that() {
    insta::assert_snapshot!(slot_problems(&[
        ("lease = \"10s\"", "lease = \"10ms\"\ndrift_per_mille = 1"),
        ("ordinal = 1", "ordinal = 3"),
        ("[\"core\"]", "[\"core\", \"turmoil\"]"),
        ("for = \"5s\"\n", ""),
        ("[\"wipe\", \"kv-cut\"]", "[\"wipe\", \"flush\", \"cut\"]"),
        ("[swarm]", "[expect]\nconverge_within = \"5ms\"\n\n[swarm]"),
    ]));
}

#[test]
fn more_instances_than_there_may_be() {
    insta::assert_snapshot!(slot_problems(&[
        ("count = 2", "count = 64"),
        ("ordinal = 1", "ordinal = 1\ncount = 2"),
    ]));
}

#[test]
fn faults_of_slots_where_there_are_none() {
    insta::assert_snapshot!(problems(&[
        ("[\"cut\", \"loss\", \"crash\"]", "[\"cut\", \"wipe\"]"),
        (
            "kind = \"link\"\ndevice = \"a\"\nlink = \"blackhole\"",
            "kind = \"kv-cut\""
        ),
        ("[expect]", "[expect]\nlosses_max = 1"),
        ("name = \"b\"", "name = \"b\"\nordinal = 1"),
    ]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn no_text_makes_the_loader_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..12usize, "[ -~\n]{0,8}|[0-9]{1,20}(s|ms|h|MB)|\\[\\[[a-z]{4}\\]\\]\n|\\PC"), 1..6)
    ) {
        let mut text = GOOD.to_owned();
        for (at, len, with) in &edits {
            let mut from = at.index(text.len());
            while !text.is_char_boundary(from) { from -= 1; }
            let mut to = (from + len).min(text.len());
            while !text.is_char_boundary(to) { to += 1; }
            text.replace_range(from..to, with);
        }
        match Scenario::parse("good.toml", &text) {
            Ok(scenario) => {
                let plan = scenario.plan(7, holdfast_plan::WorldKind::Core);
                prop_assert!(plan.healed_at <= plan.ends_at);
            }
            Err(problems) => {
                for problem in problems.iter() {
                    prop_assert!(problem.line >= 1 && problem.line <= text.matches('\n').count() + 1);
                }
            }
        }
    }
}
