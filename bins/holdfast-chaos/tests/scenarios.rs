//! The commands on scenarios, as an engineer meets them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::Folder;
use insta::assert_snapshot;
use serde_json::Value;

const MEET: &str = r#"
name = "meet"
description = "Two public nodes meet, and one is cut off for a while."
worlds = ["core"]
duration = "60s"
seeds = { core = 2 }

[[node]]
name = "a"
[[node]]
name = "b"

[[workload]]
name = "hello"
from = "a"
to = "b"
service = "echo"
bytes = "10kB"
at = "2s"
patience = "20s"

[[fault]]
name = "dark"
at = "4s"
for = "3s"
kind = "cut"
between = ["a", "b"]

[expect]
converge_within = "20s"
"#;

fn meet() -> Folder {
    Folder::new().write("scenarios/meet.toml", MEET)
}

/// The same, but nobody can be that fast.
fn impossible() -> Folder {
    let hello = "patience = \"20s\"\n";
    let within =
        "[[expect.workload]]\nname = \"hello\"\noutcome = \"complete\"\nwithin = \"1ms\"\n";
    assert!(MEET.contains(hello));
    Folder::new().write("scenarios/meet.toml", &format!("{MEET}\n{within}"))
}

#[test]
fn all_scenarios_are_listed_with_worlds_and_budgets() {
    assert_snapshot!(meet().run(&["list"]).snapshot());
    let json: Value = serde_json::from_str(&meet().run(&["list", "--json"]).ok()).unwrap();
    assert_eq!(json[0]["name"], "meet");
    assert_eq!(json[0]["worlds"][0]["seeds"], 2);
}

#[test]
fn a_folder_below_is_as_good_as_the_one_with_the_scenarios() {
    let folder = meet().write("deep/er/file", "");
    let below = Folder(folder.0.join("deep/er"));
    assert!(below.run(&["list"]).ok().contains("meet"));
}

#[test]
fn every_problem_of_a_scenario_is_told_with_its_line_and_key() {
    let bad = MEET
        .replace("to = \"b\"", "to = \"nobody\"")
        .replace("kind = \"cut\"", "kind = \"cuts\"")
        .replace("duration = \"60s\"", "duration = \"60\"");
    let folder = Folder::new().write("scenarios/meet.toml", &bad);
    let ran = folder.run(&["check", "scenarios/meet.toml"]);
    assert_snapshot!(ran.snapshot());
    assert!(ran.out.contains("scenarios/meet.toml:5:"), "{}", ran.out);
    let ran = folder.run(&["check", "--json"]);
    assert_eq!(ran.code, 2);
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found[0]["line"], 5);
    // What cannot be read cannot be run.
    let ran = folder.run(&["run", "meet"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("meet.toml:5:"), "{}", ran.err);
}

#[test]
fn scenarios_without_a_problem_are_counted() {
    assert_snapshot!(meet().run(&["check"]).snapshot());
}

#[test]
fn the_schema_is_json() {
    let schema: Value = serde_json::from_str(&meet().run(&["check", "--schema"]).ok()).unwrap();
    assert!(schema["else"]["properties"]["node"].is_object());
}

#[test]
fn an_unknown_name_is_answered_with_the_one_that_was_meant() {
    let ran = meet().run(&["run", "meat"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("did you mean \"meet\"?"), "{}", ran.err);
    let ran = meet().run(&["run", "scenarios/meat.toml"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("no file scenarios/meat.toml"),
        "{}",
        ran.err
    );
    let ran = meet().run(&["replay", "meet", "--seed", "1", "--world", "turmoil"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("expected core"), "{}", ran.err);
}

#[test]
fn a_run_that_holds_is_a_row_and_success() {
    let out = meet().run(&["run", "meet"]).ok();
    let mut lines = out.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("SCENARIO  WORLD  SEEDS  FAILED")
    );
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["meet", "core", "2", "0"]);
    assert_eq!(row.last(), Some(&"held"));
    assert_eq!(lines.next(), None);
}

#[test]
fn a_failure_is_told_with_one_line_that_plays_it_again() {
    let folder = impossible();
    let ran = folder.run(&["run", "meet", "--seed", "7"]);
    assert_eq!(ran.code, 11, "{ran:?}");
    assert!(ran.out.contains("liveness: workload"), "{}", ran.out);
    let line = ran
        .out
        .lines()
        .find(|line| line.contains("holdfast-chaos replay"));
    let words: Vec<&str> = line.unwrap().split_whitespace().skip(1).collect();
    let again = folder.run(&words);
    assert_eq!(again.code, 11, "{again:?}");
    assert!(
        again.out.contains("VIOLATED (liveness) workload"),
        "{}",
        again.out
    );
    assert_eq!(again.err, "", "the scenario is the same");
}

#[test]
fn a_replay_of_another_scenario_than_the_one_that_failed_warns() {
    let ran = meet().run(&["replay", "meet", "--seed", "7", "--scenario-digest", "0123"]);
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("and was 0123 then"), "{}", ran.err);
}

#[test]
fn results_as_json_are_read_by_report() {
    let folder = meet();
    let json = folder.run(&["run", "meet", "--json"]).ok();
    let results: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(results["rows"][0]["seeds"], 2);
    assert_eq!(results["rows"][0]["failed"], 0);
    let folder = folder.write("results.json", &json);
    let text = folder.run(&["report", "--from", "results.json"]).ok();
    assert!(text.contains("Coverage marks: "), "{text}");
    let json = folder
        .run(&["report", "--from", "results.json", "--json"])
        .ok();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert!(report["marks"].as_object().unwrap().len() > 10);
    let ran = folder
        .write("bad.json", "{")
        .run(&["report", "--from", "bad.json"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("not what `run --json` prints"),
        "{}",
        ran.err
    );
}

#[test]
fn a_seed_is_one_history_in_every_process() {
    let folder = meet();
    let first = folder.run(&["replay", "meet", "--seed", "3", "--trace", "1.jsonl"]);
    let second = folder.run(&["replay", "meet", "--seed", "3", "--trace", "2.jsonl"]);
    let story = |out: &str| out.split("held").next().unwrap().to_owned();
    assert_eq!(story(&first.ok()), story(&second.ok()));
    let trace = folder.read("1.jsonl");
    assert!(trace.lines().count() > 100);
    assert_eq!(trace, folder.read("2.jsonl"));
    let canary = folder
        .run(&["replay", "meet", "--seed", "3", "--canary"])
        .ok();
    assert!(
        canary.starts_with("played three times, in two processes: "),
        "{canary}"
    );
}

#[test]
fn a_replay_writes_a_page_that_its_trace_makes_too() {
    let folder = meet();
    let args = [
        "replay", "meet", "--seed", "3", "--trace", "t.jsonl", "--html", "t.html",
    ];
    let story = folder.run(&args).ok();
    for told in [
        "link b up",
        "FAULT dark",
        "asked for: hello (a → b)",
        "over: dark",
    ] {
        assert!(story.contains(told), "{told}: {story}");
    }
    let again = ["replay", "--recorded", "t.jsonl", "--html", "again.html"];
    folder.run(&again).ok();
    assert_eq!(folder.read("t.html"), folder.read("again.html"));
}

#[test]
fn trace_and_page_are_two_files() {
    let folder = meet();
    for html in ["t.out", "./t.out"] {
        let ran = folder.run(&[
            "replay", "meet", "--seed", "3", "--trace", "t.out", "--html", html,
        ]);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("are one file"), "{}", ran.err);
        assert!(!folder.0.join("t.out").exists());
    }
}

#[test]
fn a_trace_that_cannot_be_written_hides_no_verdict() {
    let args = [
        "replay",
        "meet",
        "--seed",
        "1",
        "--trace",
        "nowhere/t.jsonl",
    ];
    let ran = impossible().run(&args);
    assert_eq!(ran.code, 11, "{ran:?}");
    assert!(ran.out.contains("liveness: workload"), "{}", ran.out);
    assert!(
        ran.err.contains("cannot write nowhere/t.jsonl"),
        "{}",
        ran.err
    );
    let ran = meet().run(&args);
    assert_eq!(ran.code, 13, "{ran:?}");
    assert!(ran.out.contains("held"), "{}", ran.out);
}

#[test]
fn the_line_that_plays_a_failure_again_names_the_planted_mistake() {
    let ran = impossible().run(&["run", "meet", "--seed", "1", "--mutant", "early-finish"]);
    assert_eq!(ran.code, 11, "{ran:?}");
    assert!(ran.out.contains(" --mutant early-finish\n"), "{}", ran.out);
}

#[test]
fn a_recording_that_is_none_is_told_by_its_line() {
    let folder = Folder::new().write("dump.jsonl", "\n{}\n");
    let ran = folder.run(&["replay", "--recorded", "dump.jsonl"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err
            .contains("dump.jsonl: line 2: not a line of a trace"),
        "{}",
        ran.err
    );
    let ran = folder.run(&["replay", "--recorded", "nothing.jsonl"]);
    assert_eq!(ran.code, 2);
}

#[test]
fn fresh_seeds_are_told_so_that_others_can_play_them() {
    let ran = meet().run(&["run", "meet", "--fresh", "1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.err.contains("fresh seeds of commit -: --seeds "),
        "{}",
        ran.err
    );
}
