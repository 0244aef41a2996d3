//! Pages, as somebody who opens them gets them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use holdfast_timeline::{Operation, Page, PageError, from_recorded};
use serde_json::{Value, json};

const SHORT: &str = include_str!("data/short.jsonl");
/// A page that takes longer to open than to read. One that is full has a fraction of it.
const PAGE_BYTES_MAX: usize = 24 << 20;

/// What a browser would find in the data block.
fn data(html: &str) -> Value {
    let (_, rest) = html.split_once(r#"id="data">"#).unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

fn page() -> Page {
    let s = Duration::from_secs;
    Page {
        title: "cut".into(),
        subtitle: "core world, seed 7".into(),
        replay: Some("holdfast-chaos replay cut --seed 7".into()),
        nodes: vec!["a".into(), "b".into()],
        steps: vec![
            (s(0), "start a".into(), false),
            (s(2), "cut a -> b".into(), true),
        ],
        spans: vec![(s(2), s(4), "cut a -> b".into())],
        ops: [(
            0,
            Operation {
                label: "bulk".into(),
                at: s(1),
            },
        )]
        .into(),
        violations: vec![(s(5), "convergence: a-b is down".into())],
        judged: true,
        ..Page::default()
    }
}

#[test]
fn a_short_trace_is_embedded_with_lanes_links_flows_and_arrows() {
    let html = page().render(SHORT.lines()).unwrap();
    let mut data = data(&html);
    // Hundreds of zeroes.
    let density = data["density"].take();
    assert_eq!(density.as_array().unwrap().len(), 3);
    insta::assert_snapshot!(serde_json::to_string_pretty(&data).unwrap());
}

#[test]
fn the_links_of_a_flight_recorder_are_those_that_its_machine_tells() {
    let dump = [
        r#"{"t_ns":100,"kind":"rx","from":"203.0.113.9:5000","len":60,"hash":0}"#,
        r#"{"t_ns":200,"kind":"output","what":"LinkState { peer: PeerId(\"b\"), from: Connecting, to: Up, why: \"handshake, done\" }"}"#,
        r#"{"t_ns":300,"kind":"output","what":"PathSelected { peer: PeerId(\"b\"), local: \"host 10.0.0.1:5\", remote: \"x\", class: \"relay\", why: \"best\" }"}"#,
        r#"{"t_ns":400,"kind":"deadline","why":"ice"}"#,
    ];
    let data = data(&from_recorded(dump).unwrap());
    assert_eq!(
        data["lanes"],
        json!([{ "name": "this node", "server": false }])
    );
    let texts = |n: &Value| data["texts"][n.as_u64().unwrap() as usize].clone();
    let spans: Vec<_> = data["links"][0]["spans"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    let told: Vec<_> = spans
        .iter()
        .map(|s| (s[0].clone(), texts(&s[2]), texts(&s[3]), texts(&s[4])))
        .collect();
    let row = |t: u64, state: &str, class: &str, why: &str| {
        (json!(t), json!(state), json!(class), json!(why))
    };
    assert_eq!(
        told,
        [
            row(0, "connecting", "", ""),
            row(200, "up", "", "handshake, done"),
            row(300, "up", "relay", "best"),
        ]
    );
}

#[test]
fn a_recorded_replay_brings_its_plan_along() {
    let header = page().header_line();
    let lines = [header.as_str()].into_iter().chain(SHORT.lines());
    let recorded = data(&from_recorded(lines).unwrap());
    assert_eq!(recorded["title"], "cut");
    assert_eq!(recorded["violations"][0][0], 5_000_000_000_u64);
    assert_eq!(
        recorded["lanes"],
        data(&page().render(SHORT.lines()).unwrap())["lanes"]
    );
}

/// Everything that could end the script, begin another or close the data block.
const HOSTILE: [&str; 6] = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "]]>{{data}}{{script}}",
    "\u{2028}alert(1)//\u{2029}",
    "\\\"-alert(1)-\\\"&lt;&quot;",
];

#[test]
fn what_a_stranger_sent_can_never_become_markup_or_script() {
    let benign = page().render(SHORT.lines()).unwrap();
    for text in HOSTILE {
        let page = Page {
            title: text.into(),
            subtitle: text.into(),
            replay: Some(text.into()),
            nodes: vec![text.into()],
            steps: vec![(Duration::ZERO, text.into(), true)],
            spans: vec![(Duration::ZERO, Duration::ZERO, text.into())],
            ops: [(
                0,
                Operation {
                    label: text.into(),
                    at: Duration::ZERO,
                },
            )]
            .into(),
            violations: vec![(Duration::ZERO, text.into())],
            marks: [(text.to_owned(), 1)].into(),
            ..Page::default()
        };
        let lines = [
            json!({ "t_ns": 1, "node": text, "kind": "output", "what": text }),
            json!({ "t_ns": 2, "node": text, "kind": "deadline", "why": text }),
            json!({ "t_ns": 3, "node": text, "kind": "rx", "from": text, "len": 1, "hash": 1 }),
            json!({ "t_ns": 4, "node": text, "kind": "seen", "what": { "seen": text } }),
            json!({ "t_ns": 5, "node": text, "kind": "seen", "what": { "seen": "link", "peer": 0, "state": text, "why": text } }),
            json!({ "t_ns": 6, "node": text, "kind": "seen", "what": { "seen": "error", "line": text } }),
        ];
        let html = page.render(lines.iter().map(Value::to_string)).unwrap();
        // No tag more than in a page without it, and all of it still there, as data.
        assert_eq!(
            html.matches('<').count(),
            benign.matches('<').count(),
            "{text}"
        );
        assert_eq!(
            html.matches('\u{2028}').count(),
            usize::from(text.contains('\u{2028}')),
            "only the title"
        );
        let data = data(&html);
        assert_eq!(data["title"], text);
        assert_eq!(data["lanes"][0]["name"], text);
        assert_eq!(data["violations"][0][1], text);
    }
}

#[test]
fn an_empty_trace_is_an_empty_page() {
    let html = from_recorded(["", "  "]).unwrap();
    let data = data(&html);
    assert_eq!(data["lanes"], json!([]));
    assert_eq!(data["packets"]["t"], json!([]));
    assert!(data["end"].as_u64().unwrap() > 0);
}

#[test]
fn a_malformed_line_is_told_by_its_number() {
    let lines = ["", r#"{"t_ns":1,"kind":"deadline","why":"x"}"#, "{nonsense"];
    let PageError::Line { line, what } = from_recorded(lines).unwrap_err();
    assert_eq!(line, 3);
    assert!(what.starts_with("not a line of a trace"), "{what}");
}

#[test]
fn a_page_has_no_need_of_anything_outside_of_it() {
    let html = page().render(SHORT.lines()).unwrap();
    for way_out in [
        "http:",
        "https:",
        "src=",
        "href=",
        "@import",
        "url(",
        "fetch(",
        "innerHTML",
    ] {
        assert!(!html.contains(way_out), "{way_out}");
    }
}

#[test]
fn a_huge_trace_makes_a_page_that_still_opens_and_says_what_is_left_out() {
    let lines = (0..300_000_u64).map(|n| {
        let t_ns = n * 1_000_000;
        let node = n % 60;
        match n % 3 {
            0 => json!({ "t_ns": t_ns, "node": format!("n{node}"), "kind": "tx", "to": format!("203.0.113.1:{}", n % 60_000), "len": n, "segment": 0, "hash": n }),
            1 => json!({ "t_ns": t_ns, "node": format!("n{node}"), "kind": "output", "what": format!("<{n}>").repeat(200) }),
            _ => json!({ "t_ns": t_ns, "node": format!("n{node}"), "kind": "seen", "what": { "seen": "link", "peer": n % 5_000, "state": "up", "why": "x" } }),
        }
        .to_string()
    });
    let html = Page::default().render(lines).unwrap();
    assert!(html.len() < PAGE_BYTES_MAX, "{} bytes", html.len());
    let notes = data(&html)["notes"].to_string();
    for what in ["events are left out", "changes of links", "share a lane"] {
        assert!(notes.contains(what), "{what}: {notes}");
    }
}

#[test]
fn what_surrounds_a_fault_is_kept_and_the_counts_are_of_everything() {
    let busy = 150_000_u64;
    let fault = r#"{"t_ns":140000000,"node":"a","kind":"seen","what":{"seen":"error","line":"x"}}"#;
    let lines = (0..busy).map(|n| {
        let t_ns = n * 1_000;
        format!(r#"{{"t_ns":{t_ns},"node":"a","kind":"tx","to":"203.0.113.1:1","len":9,"segment":9,"hash":0}}"#)
    });
    let html = Page::default()
        .render(lines.chain([fault.to_owned()]))
        .unwrap();
    let data = data(&html);
    assert_eq!(data["thinned"], true);
    let first = data["packets"]["t"][0].as_u64().unwrap();
    assert!((40_000_000..60_000_000).contains(&first), "{first}");
    let counted = data["density"][0][0].as_array().unwrap().iter();
    assert_eq!(counted.map(|n| n.as_u64().unwrap()).sum::<u64>(), busy);
}
