//! The page of a drill: it shows what it was given, and nothing in it is markup or script.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use holdfast_timeline::rounds::{
    Figure, Lane, PointView, ROUNDS_MAX, RoundView, RoundsPage, State, WriteState,
};

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn round(seed: u64) -> RoundView {
    RoundView {
        seed,
        phase: 250,
        fault: Some(s(10)),
        lanes: vec![
            Lane {
                name: "worker-1".to_owned(),
                bars: vec![(s(0), s(10), State::Leader), (s(10), s(40), State::Struck)],
                writes: Vec::new(),
            },
            Lane {
                name: "writes at worker-2".to_owned(),
                bars: Vec::new(),
                writes: vec![(s(9), WriteState::Acknowledged), (s(35), WriteState::Lost)],
            },
        ],
        points: vec![
            PointView {
                at: s(10),
                name: "fault".to_owned(),
                member: Some("worker-1".to_owned()),
                source: "the drill".to_owned(),
            },
            PointView {
                at: s(35),
                name: "first acknowledged".to_owned(),
                member: None,
                source: "a client".to_owned(),
            },
        ],
        gap: Some((s(9), s(35))),
        recovery: Some([s(22), s(24), s(25)]),
        acknowledged: 2,
        lost: 1,
        violations: vec!["correctness: durability: one row is lost".to_owned()],
        outside: Vec::new(),
        notes: Vec::new(),
    }
}

fn page() -> RoundsPage {
    RoundsPage {
        title: "failover-soft".to_owned(),
        subtitle: "kernel world".to_owned(),
        replay: Some("holdfast-chaos run failover-soft".to_owned()),
        verdict: (false, "1 of 2 acknowledged writes lost".to_owned()),
        figures: vec![Figure {
            name: "fault to first write".to_owned(),
            is_main: true,
            times: vec![s(25)],
            p50: s(25),
            p50_ci95: Some((s(24), s(26))),
            worst: s(25),
            reference: "loopback 24.7 / 29.1 s".to_owned(),
        }],
        rounds: vec![round(3)],
    }
}

#[test]
fn points_gap_figures_and_losses_are_on_the_page() {
    let html = page().render();
    for part in [
        "fault +0.000",
        "first acknowledged +25.000",
        "no write for 26.0 s",
        "loopback 24.7 / 29.1 s",
        "24.0 – 26.0",
        "class=\"struck\"",
        "1 lost",
        "correctness: durability: one row is lost",
        "id=\"round-3\" open",
    ] {
        assert!(html.contains(part), "{part} is missing");
    }
}

#[test]
fn nothing_of_a_log_or_a_client_is_markup_and_there_is_no_script() {
    let evil = "</title><script>alert(1)</script>\"'&{{body}}\u{7}";
    let mut page = page();
    page.title = evil.to_owned();
    page.subtitle = evil.to_owned();
    page.replay = Some(evil.to_owned());
    page.verdict.1 = evil.to_owned();
    page.figures[0].name = evil.to_owned();
    page.figures[0].reference = evil.to_owned();
    let round = &mut page.rounds[0];
    round.lanes[0].name = evil.to_owned();
    round.points[0].name = evil.to_owned();
    round.points[0].source = evil.to_owned();
    round.points[0].member = Some(evil.to_owned());
    round.violations = vec![evil.to_owned()];
    round.outside = vec![evil.to_owned()];
    round.notes = vec![evil.to_owned()];
    let html = page.render();
    assert!(!html.contains("<script"));
    assert!(!html.contains("\"'&{"));
    assert_eq!(html.matches("<main>").count(), 1);
    assert!(html.contains("default-src 'none'"));
    for outside in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn a_page_of_nothing_and_one_of_too_much_are_pages() {
    assert!(RoundsPage::default().render().contains("</html>"));
    let empty = RoundsPage {
        rounds: vec![RoundView::default()],
        ..RoundsPage::default()
    };
    assert!(empty.render().contains("round-0"));
    let many = RoundsPage {
        rounds: (0..ROUNDS_MAX as u64 + 7).map(round).collect(),
        ..page()
    };
    let html = many.render();
    assert!(html.contains("7 more rounds"));
    assert_eq!(html.matches("<details class=\"round\"").count(), ROUNDS_MAX);
}
