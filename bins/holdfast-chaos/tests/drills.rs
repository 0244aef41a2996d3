//! The commands on drills, as an engineer meets them; in the core world, which needs nothing.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::Folder;
use serde_json::Value;

const SOFT: &str = r#"
name = "soft"
description = "The leader is killed."
worlds = ["core", "kernel"]
seeds = { core = 20, kernel = 3 }

[drill]
blow = { kind = "kill", target = "leader", what = "database" }
heal_after_write = "5s"

[expect]
failovers = 1
"#;

fn soft() -> Folder {
    Folder::new().write("scenarios/soft.toml", SOFT)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn rounds_are_judged_counted_and_shown_on_a_page() {
    let folder = soft();
    let args = [
        "run",
        "soft",
        "--world",
        "core",
        "--seeds",
        "0..4",
        "--html",
        "soft.html",
    ];
    let text = folder.run(&args).ok();
    assert!(
        text.starts_with("soft in core by mesh: 4 rounds, held: 0 of "),
        "{text}"
    );
    assert!(text.contains("fault to first write"), "{text}");
    let html = folder.read("soft.html");
    assert_eq!(html.matches("<details class=\"round\"").count(), 4);

    let args = [
        "run", "soft", "--world", "core", "--seeds", "0..4", "--json",
    ];
    let found = json(&folder.run(&args).ok());
    let drill = &found["drills"][0];
    assert_eq!((&drill["lost"], &drill["failed"]), (&0.into(), &0.into()));
    assert_eq!(drill["rounds"].as_array().unwrap().len(), 4);
    let rto = drill["stats"].as_array().unwrap().iter();
    let rto = rto
        .clone()
        .find(|stats| stats["span"] == "fault to first write")
        .unwrap();
    let p50 = rto["p50_ms"].as_f64().unwrap();
    assert!((15_000.0..40_000.0).contains(&p50), "{p50}");
}

#[test]
fn what_several_names_begin_with_plays_them_all() {
    let of = |name: &str| SOFT.replace("name = \"soft\"", &format!("name = {name:?}"));
    let folder = Folder::new()
        .write("scenarios/way-a.toml", &of("way-a"))
        .write("scenarios/way-b.toml", &of("way-b"))
        .write("scenarios/wayside.toml", &of("wayside"));
    let args = ["run", "way", "--world", "core", "--seed", "1"];
    let found = json(&folder.run(&[&args[..], &["--json"]].concat()).ok());
    let drills = found["drills"].as_array().unwrap().iter();
    let names: Vec<&str> = drills.map(|d| d["scenario"].as_str().unwrap()).collect();
    assert_eq!(names, ["way-a", "way-b"], "{found}");
    let ran = folder.run(&[&args[..], &["--html", "x.html"]].concat());
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("--html shows one drill"), "{ran:?}");
}

#[test]
fn a_round_that_does_not_hold_ends_with_its_class_and_the_line_that_plays_it_again() {
    let text = SOFT.replace("[expect]", "[expect]\nwrite_gap = \"1s\"");
    let folder = Folder::new().write("scenarios/soft.toml", &text);
    let ran = folder.run(&["run", "soft", "--world", "core", "--seed", "1"]);
    assert_eq!(ran.code, 11, "{ran:?}");
    assert!(ran.out.contains("seed 1: liveness: write-gap: "), "{ran:?}");
    assert!(
        ran.out
            .contains("holdfast-chaos run soft --world core --seed 1"),
        "{ran:?}"
    );
}

#[test]
fn drills_are_listed_and_checked_with_the_others() {
    let folder = soft().write("scenarios/bad.toml", &SOFT.replace("kill", "kil"));
    let ran = folder.run(&["check"]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.out
            .contains("drill.blow.kind: found \"kil\" (did you mean \"kill\"?)"),
        "{ran:?}"
    );
    let listed = json(&folder.run(&["list", "--json"]).ok());
    assert_eq!(listed[0]["name"], "soft");
    assert_eq!(listed[0]["worlds"][0]["seeds"], 20);
    let schema = json(&folder.run(&["check", "--schema"]).ok());
    assert_eq!(schema["then"]["properties"]["drill"]["type"], "object");
}

#[test]
fn what_is_of_scenarios_alone_is_refused_for_drills_and_the_other_way_round() {
    let folder = soft();
    let replay = folder.run(&["replay", "soft", "--seed", "1"]);
    assert_eq!(replay.code, 2);
    assert!(replay.err.contains("soft is a drill"), "{replay:?}");
    for args in [
        ["run", "soft", "--world", "turmoil"],
        ["run", "soft", "--html", "two-worlds.html"],
        ["run", "soft", "--mutant", "early-finish"],
    ] {
        assert_eq!(folder.run(&args).code, 2, "{args:?}");
    }
}

/// A measurement of three rounds in which it took so many milliseconds.
fn measured(ms: [u64; 3]) -> String {
    let round = |(seed, ms): (u64, &u64)| {
        serde_json::json!({
            "seed": seed, "phase": 100, "acknowledged": 500, "lost": 0, "unknown": 2,
            "ms": { "fault to first write": ms },
        })
    };
    let rounds: Vec<Value> = (0..).zip(&ms).map(round).collect();
    serde_json::json!({
        "scenario": "soft", "digest": "0", "transport": "mesh", "rounds": rounds,
    })
    .to_string()
}

/// A measurement of the drill as it is, in which everything took as long as the model says.
fn as_the_model_says() -> Value {
    let found = json(
        &soft()
            .run(&["run", "soft", "--world", "core", "--json"])
            .ok(),
    );
    let drill = &found["drills"][0];
    let stats = drill["stats"].as_array().unwrap().iter();
    let ms: serde_json::Map<String, Value> = stats
        .map(|stats| {
            let p50 = stats["p50_ms"].as_f64().unwrap().round() as u64;
            (stats["span"].as_str().unwrap().to_owned(), p50.into())
        })
        .collect();
    let round = |seed: u64| {
        serde_json::json!({
            "seed": seed, "phase": 100, "acknowledged": 500, "lost": 0, "unknown": 2, "ms": ms,
        })
    };
    serde_json::json!({
        "scenario": "soft", "digest": drill["played_digest"], "transport": "mesh",
        "rounds": [round(0), round(1), round(2)],
    })
}

#[test]
fn the_model_is_compared_with_what_was_measured_and_must_be_near() {
    let ran = soft().run(&["calibrate"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    let calibrated = |measured: &Value| {
        let folder = soft().write("scenarios/measured/soft.json", &measured.to_string());
        let folder = folder.write(
            "scenarios/other.toml",
            &SOFT.replace("\"soft\"", "\"other\""),
        );
        folder.run(&["calibrate"])
    };
    let near = as_the_model_says();
    let ran = calibrated(&near);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("agrees"), "{ran:?}");
    assert!(ran.out.contains("no measurement of: other"), "{ran:?}");

    let mut stale = near.clone();
    stale["digest"] = "0".into();
    let ran = calibrated(&stale);
    assert_eq!(ran.code, 12, "{ran:?}");
    assert!(ran.out.contains("CHANGED SINCE"), "{ran:?}");
    let mut few = near.clone();
    few["rounds"][2]["cut_short"] = true.into();
    let ran = calibrated(&few);
    assert_eq!(ran.code, 12, "{ran:?}");
    assert!(ran.out.contains("TOO FEW ROUNDS"), "{ran:?}");
    let mut blind = near.clone();
    for round in blind["rounds"].as_array_mut().unwrap() {
        let spans = round["ms"].as_object_mut().unwrap();
        spans.remove("fault to first write").unwrap();
    }
    let ran = calibrated(&blind);
    assert_eq!(ran.code, 12, "{ran:?}");
    assert!(ran.out.contains("missing"), "{ran:?}");
    let far = soft().write(
        "scenarios/measured/soft.json",
        &measured([2_000, 3_000, 4_000]),
    );
    let ran = far.run(&["calibrate"]);
    assert_eq!(ran.code, 12, "{ran:?}");
    assert!(ran.out.contains("APART"), "{ran:?}");
    let broken = soft().write("scenarios/measured/soft.json", "{}");
    assert_eq!(broken.run(&["calibrate"]).code, 13);
}

#[test]
fn mesh_and_loopback_stand_side_by_side() {
    let loopback = measured([20_000, 20_000, 20_000]).replace("mesh", "loopback");
    let folder = soft()
        .write(
            "scenarios/measured/soft.json",
            &measured([22_000, 26_000, 24_000]),
        )
        .write("scenarios/measured/soft.loopback.json", &loopback);
    let lines = json(&folder.run(&["report", "--drills", "--json"]).ok());
    assert_eq!(lines[0]["span"], "fault to first write");
    assert_eq!(lines[0]["mesh"]["p50_ms"], 24_000.0);
    assert_eq!(lines[0]["ratio"][0], 1.2);
    assert_eq!(lines[0]["pairs"], 3);
    let text = folder.run(&["report", "--drills"]).ok();
    assert!(text.contains("1.20 (3)"), "{text}");

    // What failed is told, and so is what cannot be compared.
    let mut failed = json(&loopback);
    failed["rounds"][0]["violations"] = serde_json::json!(["correctness: durability: 1 lost"]);
    failed["rounds"][0]["lost"] = 1.into();
    failed["rounds"][1]["phase"] = 200.into();
    let folder = folder.write("scenarios/measured/soft.loopback.json", &failed.to_string());
    let text = folder.run(&["report", "--drills"]).ok();
    assert!(text.contains("(2, 1 dropped)"), "{text}");
    assert!(text.contains("1 of 6"), "{text}");
    assert!(
        text.contains("1 of 3,000") || text.contains("1 of 3000"),
        "{text}"
    );
}
