//! The pages in a real browser. Where there is none, these tests say so and pass, but in CI.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;
use std::process::Command;

use common::Folder;

const BROWSERS: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];
/// A browser that needs longer is stuck.
const SECONDS_MAX: &str = "60";
const RECORDED: &str = include_str!("data/recorded.jsonl");

/// Does what somebody with a mouse and a keyboard does, and writes down what the page says.
const DRIVER: &str = include_str!("data/driver.html");

/// A page that nobody sees gets no frames: it draws without them, from its first picture on.
const FRAMES: &str =
    "<script>window.requestAnimationFrame = (draw) => setTimeout(draw, 0);</script>";

/// The document after its scripts ran, and what the console said. `None` without a browser.
fn opened(folder: &Folder, page: &Path) -> Option<(String, String)> {
    let found = |name: &&&str| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    let Some(browser) = BROWSERS.iter().find(found) else {
        let is_ci = std::env::var("CI").as_deref() == Ok("true");
        assert!(!is_ci, "CI must run this test: run `make setup`");
        eprintln!("SKIPPED: no browser here; run `make setup` to run this test");
        return None;
    };
    let output = Command::new("timeout")
        .args([SECONDS_MAX, browser, "--headless", "--disable-gpu"])
        // Its sandbox does not work for root, who runs the tests in a container.
        .args([
            "--no-sandbox",
            "--window-size=1600,1000",
            "--hide-scrollbars",
            "--enable-logging=stderr",
        ])
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!(
            "--user-data-dir={}",
            folder.0.join("profile").display()
        ))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let console = text(&output.stderr);
    let console: Vec<_> = console.lines().filter(|l| l.contains("CONSOLE")).collect();
    Some((text(&output.stdout), console.join("\n")))
}

fn recorded() -> Folder {
    let folder = Folder::new().write("recorded.jsonl", RECORDED);
    let ran = folder.run(&[
        "replay",
        "--recorded",
        "recorded.jsonl",
        "--html",
        "page.html",
    ]);
    assert_eq!(ran.ok(), "page.html\n");
    folder
}

#[test]
fn the_page_runs_without_an_error_and_nothing_of_a_trace_runs_in_it() {
    let folder = recorded();
    let Some((dom, console)) = opened(&folder, &folder.0.join("page.html")) else {
        return;
    };
    assert_eq!(console, "");
    for lane in ["a", "b", "server-1"] {
        assert!(
            dom.contains(&format!("<div class=\"lane\"><h3>{lane}</h3>")),
            "{lane}"
        );
    }
    assert!(dom.contains("link to #1: 0.020000 s signaling"), "{dom}");
    assert!(dom.contains("<td>ERROR the TURN allocation failed</td>"));
    assert!(dom.contains("<title>Recorded trace</title>"));
    assert!(!dom.contains("<img"));
}

#[test]
fn wheel_keys_drag_filter_and_table_do_what_they_say() {
    let folder = recorded();
    // The policy lets no script run but the page's own, so it is taken off for the driver.
    let page = folder.read("page.html");
    let (before, policy) = page.split_once("<meta http-equiv=").unwrap();
    let (_, after) = policy.split_once('\n').unwrap();
    let driven = format!("{before}{FRAMES}{after}").replace("</body>", DRIVER);
    let folder = folder.write("driven.html", &driven);
    let Some((dom, console)) = opened(&folder, &folder.0.join("driven.html")) else {
        return;
    };
    assert_eq!(console, "");
    let (_, said) = dom.split_once("<pre id=\"said\">").unwrap();
    let (said, _) = said.split_once("</pre>").unwrap();
    insta::assert_snapshot!(said);
}

#[test]
fn a_script_that_is_not_the_pages_own_does_not_run() {
    let folder = recorded();
    let owned = "<script>document.title='owned'</script></body>";
    let page = folder.read("page.html").replace("</body>", owned);
    let folder = folder.write("owned.html", &page);
    let Some((dom, console)) = opened(&folder, &folder.0.join("owned.html")) else {
        return;
    };
    assert!(dom.contains("<title>Recorded trace</title>"));
    assert!(console.contains("Content Security Policy"), "{console}");
}

#[test]
fn the_page_of_rounds_shows_each_with_its_times_and_runs_without_an_error() {
    let folder = Folder::new();
    let scenario = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../scenarios/failover-soft.toml"
    );
    let command = [
        "run", scenario, "--world", "core", "--seeds", "0..3", "--html",
    ];
    folder.run(&[&command[..], &["rounds.html"]].concat()).ok();
    let Some((dom, console)) = opened(&folder, &folder.0.join("rounds.html")) else {
        return;
    };
    assert_eq!(console, "");
    assert!(dom.contains("fault to first write"), "{dom}");
    for seed in 0..3 {
        assert!(dom.contains(&format!("seed {seed}")), "{seed}: {dom}");
    }
}
