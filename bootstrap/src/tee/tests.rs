//! The client against the simulator, over real sockets.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use holdfast_io::real::{RealClock, RealNet, block_on};
use tempfile::TempDir;

use super::*;
use crate::real::UnixNet;
use crate::testing::{Agent, Fault, Script, refuse};

/// Far more than a call takes on a busy machine, except where slowness is the point.
const LIMIT: Duration = Duration::from_secs(20);

fn socket(folder: &TempDir) -> AgentEndpoint {
    AgentEndpoint::Unix(folder.path().join("agent.sock"))
}

fn client(endpoint: &AgentEndpoint, limit: Duration) -> Box<dyn Tee> {
    match endpoint {
        AgentEndpoint::Unix(path) => {
            Box::new(Dstack::unix(UnixNet::new(path), RealClock, path).with_limit(limit))
        }
        AgentEndpoint::Http(server) => {
            Box::new(Dstack::http(RealNet, RealClock, server.clone()).with_limit(limit))
        }
    }
}

fn info_at(endpoint: &AgentEndpoint) -> Result<Info, TeeError> {
    block_on(client(endpoint, LIMIT).info()).unwrap()
}

/// What a call to an agent with this one fault says.
fn info_with(fault: Fault) -> TeeError {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(&socket(&folder), Script::new(1, 1).with_faults([fault])).unwrap();
    let error = info_at(agent.endpoint()).unwrap_err();
    assert_eq!(agent.faults_left(), 0, "the fault was met");
    assert_names_the_endpoint(&error, agent.endpoint());
    error
}

fn assert_names_the_endpoint(error: &TeeError, endpoint: &AgentEndpoint) {
    let text = error.to_string();
    assert!(text.contains(&endpoint.to_string()), "{text}");
    assert!(
        text.contains("expected") || text.contains("within"),
        "{text}"
    );
}

#[test]
fn the_agent_says_who_the_machine_is_over_a_socket_and_over_tcp() {
    let folder = TempDir::new().unwrap();
    for endpoint in [socket(&folder), free_port()] {
        let agent = Agent::start(&endpoint, Script::new(0xa1, 7)).unwrap();
        let info = info_at(agent.endpoint()).unwrap();
        assert_eq!(info.app_id, "a1".repeat(20));
        assert_eq!(info.instance_id, Some("07".repeat(20)));
        assert_eq!(info.compose_hash, Some("a1".repeat(32)));
        assert_eq!(agent.calls(), ["/Info"]);
    }
}

fn free_port() -> AgentEndpoint {
    let port = block_on(async {
        use holdfast_io::net::{Listener, Net};
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = RealNet.listen(any).await.unwrap();
        listener.local_addr().unwrap().port()
    });
    format!("http://127.0.0.1:{}", port.unwrap())
        .parse()
        .unwrap()
}

#[test]
fn an_agent_without_an_instance_id_or_a_compose_hash_says_none() {
    let folder = TempDir::new().unwrap();
    let mut script = Script::new(1, 1);
    script.instance_id.clear();
    script.compose_hash.clear();
    let agent = Agent::start(&socket(&folder), script).unwrap();
    let info = info_at(agent.endpoint()).unwrap();
    assert_eq!((info.instance_id, info.compose_hash), (None, None));
}

fn key_of(script: Script, path: &str) -> [u8; 32] {
    let folder = TempDir::new().unwrap();
    let agent = Agent::start(&socket(&folder), script).unwrap();
    let tee = client(agent.endpoint(), LIMIT);
    *block_on(tee.key(path, "test")).unwrap().unwrap()
}

#[test]
fn a_key_is_the_same_on_every_instance_of_an_application_and_on_no_other() {
    let ours = key_of(Script::new(1, 1), "a");
    assert_eq!(ours, key_of(Script::new(1, 2), "a"));
    assert_ne!(ours, key_of(Script::new(2, 1), "a"));
    assert_ne!(ours, key_of(Script::new(1, 1), "b"));
}

#[test]
fn a_quote_is_for_what_was_asked_and_one_for_something_else_is_refused() {
    let folder = TempDir::new().unwrap();
    let other = format!(r#"{{"quote":"00","report_data":"{}"}}"#, "00".repeat(64));
    let odd = r#"{"quote":"0"}"#.to_owned();
    let empty = r#"{"quote":""}"#.to_owned();
    let faults = [other, odd, empty].map(Fault::Body);
    let agent = Agent::start(&socket(&folder), Script::new(1, 1).with_faults(faults)).unwrap();
    let tee = client(agent.endpoint(), LIMIT);
    let ask = || block_on(tee.quote(&[9; 64])).unwrap();
    assert!(
        ask()
            .unwrap_err()
            .to_string()
            .contains("another report_data")
    );
    assert!(matches!(ask(), Err(TeeError::Shape { .. })));
    assert!(matches!(ask(), Err(TeeError::Shape { .. })));
    let quote = ask().unwrap();
    assert!(quote.quote.ends_with(&[9; 64]));
    assert_eq!(quote.event_log, "[]");
}

#[test]
fn a_missing_socket_a_folder_a_file_and_a_socket_without_an_agent_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let endpoint = socket(&folder);
    let path = folder.path().join("agent.sock");
    let missing = info_at(&endpoint).unwrap_err();
    assert!(matches!(missing, TeeError::Missing { .. }) && missing.is_transient());
    assert_names_the_endpoint(&missing, &endpoint);

    std::fs::create_dir(&path).unwrap();
    let error = info_at(&endpoint).unwrap_err();
    assert!(
        matches!(
            error,
            TeeError::NotASocket {
                found: "a folder",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!error.is_transient(), "a mount of nothing stays one");
    std::fs::remove_dir(&path).unwrap();

    std::fs::write(&path, "").unwrap();
    let error = info_at(&endpoint).unwrap_err();
    assert!(
        matches!(
            error,
            TeeError::NotASocket {
                found: "a regular file",
                ..
            }
        ),
        "{error:?}"
    );
    std::fs::remove_file(&path).unwrap();

    refuse(&path).unwrap();
    let error = info_at(&endpoint).unwrap_err();
    assert!(
        matches!(error, TeeError::Refused { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert_names_the_endpoint(&error, &endpoint);

    let below = AgentEndpoint::Unix(path.join("deeper"));
    let error = info_at(&below).unwrap_err();
    assert!(matches!(error, TeeError::NotASocket { .. }), "{error:?}");
}

#[test]
fn a_closed_port_refuses() {
    let endpoint = free_port();
    let error = info_at(&endpoint).unwrap_err();
    assert!(
        matches!(error, TeeError::Refused { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert_names_the_endpoint(&error, &endpoint);
}

#[test]
fn each_fault_of_an_agent_has_its_own_error_and_only_those_that_pass_are_tried_again() {
    let error = info_with(Fault::Cut);
    assert!(
        matches!(error, TeeError::Broken { .. }) && error.is_transient(),
        "{error:?}"
    );
    let error = info_with(Fault::Garbage);
    assert!(
        matches!(error, TeeError::NotHttp { .. }) && !error.is_transient(),
        "{error:?}"
    );
    let error = info_with(Fault::Shape);
    assert!(
        matches!(error, TeeError::Shape { .. }) && !error.is_transient(),
        "{error:?}"
    );
    let error = info_with(Fault::Huge);
    assert!(
        error.to_string().contains("more than 2097152 bytes"),
        "{error}"
    );
    for (status, transient) in [
        (500, true),
        (503, true),
        (400, true),
        (429, true),
        (403, false),
    ] {
        let error = info_with(Fault::Status(status));
        let text = error.to_string();
        let shown = format!("status {status} and \"as the script says\"");
        assert!(text.contains(&shown), "{text}");
        assert_eq!(error.is_transient(), transient, "{text}");
    }
    let error = info_with(Fault::Status(404));
    assert!(
        error
            .to_string()
            .contains("(dstack OS has this call since 0.5)"),
        "{error}"
    );
    assert!(!error.is_transient());
}

#[test]
fn an_answer_that_takes_too_long_is_not_waited_for() {
    let folder = TempDir::new().unwrap();
    let fault = Fault::Slow(Duration::from_secs(600));
    let agent = Agent::start(&socket(&folder), Script::new(1, 1).with_faults([fault])).unwrap();
    let tee = client(agent.endpoint(), Duration::from_millis(50));
    let error = block_on(tee.info()).unwrap().unwrap_err();
    assert!(
        matches!(error, TeeError::Slow { limit_ms: 50, .. }),
        "{error:?}"
    );
    assert!(error.is_transient());
    assert_names_the_endpoint(&error, agent.endpoint());
}

#[test]
fn ids_that_are_not_hexadecimal_are_refused_and_shown_quoted_and_shortened() {
    for (body, shown) in [
        (
            r#"{"app_id":"ab\ncd","instance_id":""}"#,
            r#"app_id = "ab\ncd""#,
        ),
        (r#"{"app_id":"","instance_id":"ab"}"#, "an empty app_id"),
        (r#"{"app_id":"ab"}"#, "JSON with other fields"),
        ("nonsense", "no JSON"),
        ("", "no JSON"),
    ] {
        let text = info_with(Fault::Body(body.to_owned())).to_string();
        assert!(text.contains(shown), "{text}");
    }
    let long = format!(r#"{{"app_id":"{}","instance_id":""}}"#, "z".repeat(100_000));
    assert!(info_with(Fault::Body(long)).to_string().len() < 500);
}

#[test]
fn an_answer_with_a_key_that_is_wrong_is_described_without_the_key() {
    let key = "c0ffee".repeat(10);
    let folder = TempDir::new().unwrap();
    let bodies = [
        format!(r#"{{"key":"{key}"}}"#),
        format!(r#"{{"key":"{key}00zz"}}"#),
        format!(r#"{{"key":["{key}"]}}"#),
        format!(r#"{{"kay":"{key}"}}"#),
        format!(r#"{{"key":"{key}"#),
        format!(r#""{key}""#),
        format!(r#"{{"key":"{}"}}"#, "0".repeat(64)),
    ];
    let tries = bodies.len();
    let faults = bodies.map(Fault::Body);
    let agent = Agent::start(&socket(&folder), Script::new(1, 1).with_faults(faults)).unwrap();
    let tee = client(agent.endpoint(), LIMIT);
    for _ in 0..tries {
        let error = block_on(tee.key("a", "b")).unwrap().unwrap_err();
        assert!(matches!(error, TeeError::Shape { .. }), "{error:?}");
        let said = format!("{error} {error:?}");
        assert!(!said.contains("c0ffee"), "{said}");
        assert_names_the_endpoint(&error, agent.endpoint());
    }
    assert_eq!(agent.faults_left(), 0);
}

#[test]
fn names_of_keys_that_would_need_escaping_are_refused_before_anybody_is_asked() {
    let plain = Plain::new(Zeroizing::new([1; 32]), "app".to_owned());
    for name in ["", "a b", "a\"b", "ä", &"x".repeat(129)] {
        let error = block_on(plain.key(name, "b")).unwrap().unwrap_err();
        assert!(matches!(error, TeeError::KeyName { .. }), "{error:?}");
        assert!(block_on(plain.key("a", name)).unwrap().is_err());
    }
}

#[test]
fn a_machine_without_a_tee_has_keys_of_its_file_and_no_quote() {
    let plain = Plain::new(Zeroizing::new([1; 32]), "app".to_owned());
    let key = |path, purpose| *block_on(plain.key(path, purpose)).unwrap().unwrap();
    assert_eq!(
        *crate::hex::encode(&key("a", "b")),
        "f9af13f66052a36670f0b25711a545b7c666e9db0d861fd1c35df7586bd9138d"
    );
    assert_ne!(key("a", "b"), key("a", "c"));
    assert_ne!(key("a", "b"), key("b", "b"));
    let error = block_on(plain.quote(&[0; 64])).unwrap().unwrap_err();
    assert!(matches!(error, TeeError::Unsupported { .. }));
    assert_eq!(format!("{plain:?}"), r#"Plain { app_id: "app", .. }"#);
}

#[test]
fn an_endpoint_is_an_absolute_path_or_a_server() {
    for text in ["unix:/var/run/dstack.sock", "http://10.0.0.1:8090"] {
        assert_eq!(text.parse::<AgentEndpoint>().unwrap().to_string(), text);
    }
    let long = format!("unix:/{}", "x".repeat(107));
    for text in [
        "",
        "unix:",
        "unix:dstack.sock",
        "/var/run/dstack.sock",
        "https://a:1",
        &long,
    ] {
        let error = text.parse::<AgentEndpoint>().unwrap_err().to_string();
        assert!(
            error.contains("expected unix:/var/run/dstack.sock"),
            "{error}"
        );
    }
}
