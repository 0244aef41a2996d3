#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod patroni;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use holdfast_core::entropy::Seed;
use holdfast_io::net::Net;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::store::{Config, Limits};
use super::*;

/// Bound on every wait of a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a thread of its own.
struct Running {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Running {
        Running::with(Config::default(), KvOptions::default())
    }

    fn with(config: Config, options: KvOptions) -> Running {
        Running::make(options, move |now| {
            Store::new(config, Seed::new([5; 32]), now).unwrap()
        })
    }

    fn make<J, F>(options: KvOptions, store: F) -> Running
    where
        J: Journal + 'static,
        F: FnOnce(holdfast_io::clock::Now) -> Store<J> + Send + 'static,
    {
        let (tell, told) = mpsc::channel();
        let (stop, stopping) = Stop::new();
        let thread = std::thread::spawn(move || {
            let running = async move {
                let loopback = "127.0.0.1:0".parse().unwrap();
                let listener = RealNet.listen(loopback).await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let store = store(RealClock.now());
                serve_kv(listener, options, store, RealClock, RealSpawn, stopping).await;
            };
            block_on(running).unwrap();
        });
        Running {
            addr: told.recv_timeout(PATIENCE).unwrap(),
            stop,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.addr, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let len = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: kv\r\nconnection: close\r\n{headers}\
             content-length: {len}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses what it reads does not read all of it.
        let _ = stream.write_all(body);
        stream
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Got {
        Got::read(self.send(method, path, "", body.as_bytes()))
    }

    fn get(&self, path: &str) -> Got {
        self.ask("GET", path, "")
    }

    fn put(&self, path: &str, body: &str) -> Got {
        self.ask("PUT", path, body)
    }

    fn session(&self) -> String {
        let body =
            r#"{"name":"x","checks":[],"lockdelay":"0.001s","behavior":"delete","ttl": "15.0s"}"#;
        let got = self.put("/v1/session/create", body).json();
        got["ID"].as_str().unwrap().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the server panicked"
            );
        }
    }
}

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn read(mut stream: TcpStream) -> Got {
        let mut all = Vec::new();
        let mut part = [0; 65536];
        loop {
            match stream.read(&mut part) {
                Ok(0) | Err(_) => break,
                Ok(len) => all.extend_from_slice(&part[..len]),
            }
        }
        let end = all.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.expect("an answer has a head");
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        Got {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: all[end + 4..].to_vec(),
        }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    fn index(&self) -> u64 {
        self.header("x-consul-index").unwrap().parse().unwrap()
    }
}

#[test]
fn an_entry_is_written_and_read_in_consuls_words() {
    let server = Running::start();
    assert_eq!(
        server.put("/v1/kv/a/b%20c?flags=42", "hello").text(),
        "true"
    );
    let got = server.get("/v1/kv/a/b%20c");
    assert_eq!(
        got.text(),
        r#"[{"LockIndex":0,"Key":"a/b c","Flags":42,"Value":"aGVsbG8=","CreateIndex":2,"ModifyIndex":2}]"#
    );
    assert_eq!(got.header("content-type"), Some("application/json"));
    assert_eq!(got.index(), 2);
    assert_eq!(got.header("x-consul-knownleader"), Some("true"));
    assert_eq!(got.header("x-consul-lastcontact"), Some("0"));
    server.put("/v1/kv/empty", "");
    assert_eq!(server.get("/v1/kv/empty").json()[0]["Value"], Value::Null);
}

#[test]
fn a_missing_entry_is_404_with_an_index_to_wait_with() {
    let server = Running::start();
    for path in ["/v1/kv/none", "/v1/kv/none?recurse", "/v1/kv/none?keys"] {
        let got = server.get(path);
        assert_eq!((got.status, got.text()), (404, ""), "{path}");
        assert!(got.index() > 0);
    }
    assert_eq!(server.get("/v1/kv/?keys").json(), json!([]));
}

#[test]
fn conditions_decide_whether_a_write_is_done() {
    let server = Running::start();
    assert_eq!(server.put("/v1/kv/a?cas=0", "1").text(), "true");
    assert_eq!(server.put("/v1/kv/a?cas=0", "1").text(), "false");
    let index = server.get("/v1/kv/a").index();
    let path = format!("/v1/kv/a?cas={index}");
    assert_eq!(server.put(&path, "2").text(), "true");
    assert_eq!(server.put(&path, "3").text(), "false");
    assert_eq!(server.ask("DELETE", &path, "").text(), "false");
    assert_eq!(server.ask("DELETE", "/v1/kv/a?cas=0", "").text(), "false");
    let path = format!("/v1/kv/a?cas={}", server.get("/v1/kv/a").index());
    assert_eq!(server.ask("DELETE", &path, "").text(), "true");
    assert_eq!(server.get("/v1/kv/a").status, 404);
}

#[test]
fn lists_keys_and_raw_values_are_served() {
    let server = Running::start();
    for key in ["a/1", "a/2/x", "a/2/y", "b"] {
        server.put(&format!("/v1/kv/{key}"), key);
    }
    let list = server.get("/v1/kv/a/?recurse=1").json();
    let keys = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|entry| entry["Key"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys(&list), ["a/1", "a/2/x", "a/2/y"]);
    assert_eq!(
        server.get("/v1/kv/a/?keys").json(),
        json!(["a/1", "a/2/x", "a/2/y"])
    );
    let cut = server.get("/v1/kv/a/?keys&separator=/").json();
    assert_eq!(cut, json!(["a/1", "a/2/"]));
    let raw = server.get("/v1/kv/b?raw");
    assert_eq!(
        (raw.text(), raw.header("x-content-type-options")),
        ("b", Some("nosniff"))
    );
    assert_eq!(server.ask("DELETE", "/v1/kv/a?recurse", "").text(), "true");
    assert_eq!(server.get("/v1/kv/a/?recurse").status, 404);
    assert_eq!(server.get("/v1/kv/b").status, 200);
}

#[test]
fn a_read_waits_for_its_key_and_no_longer_than_it_said() {
    let server = Running::start();
    server.put("/v1/kv/a", "1");
    let index = server.get("/v1/kv/a").index();
    let waiting = server.send("GET", &format!("/v1/kv/a?index={index}&wait=60s"), "", b"");
    server.put("/v1/kv/b", "1");
    server.put("/v1/kv/a", "2");
    let woken = Got::read(waiting);
    assert_eq!(woken.json()[0]["Value"], "Mg==");
    assert!(woken.index() > index);
    let path = format!("/v1/kv/a?index={}&wait=50ms", woken.index());
    let over = server.get(&path);
    assert_eq!((over.status, over.index()), (200, woken.index()));
}

#[test]
fn a_session_lives_as_consul_shows_it() {
    let server = Running::start();
    let id = server.session();
    assert_eq!(id.len(), 36);
    let path = format!("/v1/kv/lock?acquire={id}");
    assert_eq!(server.put(&path, "me").text(), "true");
    assert_eq!(server.get("/v1/kv/lock").json()[0]["Session"], id.as_str());
    let other = server.session();
    let taken = format!("/v1/kv/lock?acquire={other}");
    assert_eq!(server.put(&taken, "you").text(), "false");
    let renewed = server.put(&format!("/v1/session/renew/{id}"), "").json();
    let info = server.get(&format!("/v1/session/info/{id}"));
    assert_eq!(renewed, info.json());
    let info = &info.json()[0];
    assert_eq!((&info["ID"], &info["TTL"]), (&json!(id), &json!("15s")));
    assert_eq!(
        (&info["Behavior"], &info["LockDelay"]),
        (&json!("delete"), &json!(1_000_000))
    );
    assert_eq!(
        server
            .get("/v1/session/list")
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let node = |name: &str| server.get(&format!("/v1/session/node/{name}")).json();
    assert_eq!(node("holdfast").as_array().unwrap().len(), 2);
    assert_eq!(node("other"), json!([]));
    assert_eq!(
        server.put(&format!("/v1/session/destroy/{id}"), "").text(),
        "true"
    );
    assert_eq!(server.get("/v1/kv/lock").status, 404);
    assert_eq!(
        server.get(&format!("/v1/session/info/{id}")).json(),
        json!([])
    );
    let gone = server.put(&format!("/v1/session/renew/{id}"), "");
    assert_eq!(gone.status, 404);
    assert_eq!(gone.text(), format!("Session id '{id}' not found"));
}

#[test]
fn what_patroni_reads_from_a_500_is_said_in_consuls_words() {
    let server = Running::start();
    let got = server.put("/v1/kv/lock?acquire=nobody", "me");
    assert_eq!(
        (got.status, got.text()),
        (500, r#"invalid session "nobody""#)
    );
    let got = server.put("/v1/session/create", r#"{"TTL":"5s"}"#);
    assert_eq!(got.status, 500);
    assert!(
        got.text().starts_with("Invalid Session TTL"),
        "{}",
        got.text()
    );
    let about = server.get("/v1/agent/self").json();
    assert_eq!(about["Config"]["SessionTTLMin"], 10_000_000_000_u64);
}

#[test]
fn without_the_token_nothing_is_told_but_who_leads() {
    let options = KvOptions {
        token: Some("secret".into()),
        ..KvOptions::default()
    };
    let server = Running::with(Config::default(), options);
    let status = |headers: &str, path: &str| {
        let got = Got::read(server.send("PUT", path, headers, b"1"));
        (got.status, got.text().to_owned())
    };
    for wrong in [
        "",
        "x-consul-token: secre\r\n",
        "authorization: Bearer wrong\r\n",
    ] {
        let (code, said) = status(wrong, "/v1/kv/a");
        assert_eq!(code, 403);
        assert!(
            said.starts_with("Permission denied") && !said.contains("secret"),
            "{said}"
        );
    }
    for right in [
        "x-consul-token: secret\r\n",
        "authorization: Bearer secret\r\n",
    ] {
        assert_eq!(status(right, "/v1/kv/a"), (200, "true".into()));
    }
    assert_eq!(status("", "/v1/kv/a?token=secret"), (200, "true".into()));
    let leader = server.get("/v1/status/leader").json();
    assert_eq!(leader, server.addr.to_string());
    assert_eq!(server.get("/v1/status/peers").json(), json!([leader]));
}

#[test]
fn a_service_is_registered_found_checked_and_removed() {
    let server = Running::start();
    let body = json!({
        "ID": "db-1", "Name": "db", "Address": "127.50.0.4", "Port": 5432,
        "Tags": ["replica"], "Meta": {"slot": "4"},
        "Checks": [{"TCP": "127.50.0.4:5432", "Interval": "10s", "Timeout": "2s"}, {"TTL": "30s"}],
    });
    let register = "/v1/agent/service/register?replace-existing-checks=true";
    assert_eq!(server.put(register, &body.to_string()).status, 200);
    let services = server.get("/v1/agent/services").json();
    assert_eq!(services["db-1"]["Service"], "db");
    assert_eq!(services["db-1"]["Port"], 5432);
    let index = server.get("/v1/health/service/db").index();
    let passing = "/v1/health/service/db?passing=1";
    assert_eq!(
        server.get(passing).json(),
        json!([]),
        "nobody vouched for it"
    );
    assert_eq!(
        server.put("/v1/agent/check/pass/service:db-1:2", "").status,
        200
    );
    let found = server.get(passing);
    assert!(found.index() > index);
    assert_eq!(found.json()[0]["Service"]["Address"], "127.50.0.4");
    assert_eq!(found.json()[0]["Checks"][1]["Status"], "passing");
    assert_eq!(
        server.get("/v1/catalog/services").json(),
        json!({"db": ["replica"]})
    );
    assert_eq!(
        server.get("/v1/catalog/service/db").json()[0]["ServiceID"],
        "db-1"
    );
    assert_eq!(
        server.get("/v1/health/service/db?tag=master").json(),
        json!([])
    );
    assert_eq!(
        server.put("/v1/agent/service/deregister/db-1", "").status,
        200
    );
    assert_eq!(
        server.put("/v1/agent/service/deregister/db-1", "").status,
        404
    );
    assert_eq!(server.get("/v1/agent/services").json(), json!({}));
}

#[test]
fn config_entries_and_intentions_are_given_back_as_they_came() {
    let server = Running::start();
    let entry = r#"{"Kind":"service-defaults","Name":"db","Protocol":"tcp"}"#;
    assert_eq!(server.put("/v1/config", entry).text(), "true");
    let got = server.get("/v1/config/service-defaults/db").json();
    assert_eq!(
        (&got["Protocol"], &got["Name"]),
        (&json!("tcp"), &json!("db"))
    );
    assert_eq!(
        server
            .get("/v1/config/service-defaults")
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(server.get("/v1/config/service-defaults/other").status, 404);
    let on = |verb: &str, source: &str| {
        format!("/v1/connect/intentions/{verb}?source={source}&destination=db")
    };
    let allowed = |source: &str| server.get(&on("check", source)).json()["Allowed"] == true;
    assert!(allowed("web"));
    assert_eq!(
        server.put(&on("exact", "*"), r#"{"Action":"deny"}"#).text(),
        "true"
    );
    assert!(!allowed("web"));
    assert_eq!(
        server
            .put(&on("exact", "web"), r#"{"Action":"allow"}"#)
            .text(),
        "true"
    );
    assert!(allowed("web") && !allowed("other"));
    assert_eq!(
        server.get("/v1/agent/services").json(),
        json!({}),
        "these are no services"
    );
}

#[test]
fn whatever_is_sent_is_answered_and_the_server_goes_on() {
    let server = Running::start();
    let long = "k".repeat(513);
    let many = "a=1&".repeat(100);
    for (method, path, body, status) in [
        ("GET", "/", "", 404),
        ("GET", "/v1/", "", 404),
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/v1/kv/", "", 400),
        ("PUT", "/v1/kv/", "", 400),
        ("DELETE", "/v1/kv/", "", 400),
        ("POST", "/v1/kv/a", "", 405),
        ("GET", "/v1/kv/%ff", "", 400),
        ("GET", "/v1/kv/a?x=%ff", "", 400),
        ("GET", "/v1/kv/a?index=x", "", 400),
        ("GET", "/v1/kv/a?index=1&wait=forever", "", 400),
        ("GET", "/v1/kv/a?stale&consistent", "", 400),
        ("PUT", "/v1/kv/a?cas=-1", "", 400),
        ("PUT", "/v1/kv/a?cas=1&acquire=x", "", 400),
        ("PUT", "/v1/kv/a?flags=18446744073709551616", "", 400),
        ("PUT", &format!("/v1/kv/{long}"), "", 400),
        ("GET", &format!("/v1/kv/a?{many}"), "", 400),
        ("PUT", "/v1/session/create", "{", 400),
        ("PUT", "/v1/session/create", "[]", 400),
        ("PUT", "/v1/session/create", r#"{"TTL":7}"#, 400),
        ("PUT", "/v1/session/create", r#"{"LockDelay":-1}"#, 400),
        (
            "PUT",
            "/v1/session/create",
            r#"{"Behavior":"explode"}"#,
            400,
        ),
        ("PUT", "/v1/session/renew/", "", 400),
        ("PUT", "/v1/session/renew/x", "", 404),
        ("GET", "/v1/session/create", "", 405),
        ("PUT", "/v1/agent/service/register", "{}", 400),
        (
            "PUT",
            "/v1/agent/service/register",
            r#"{"Name":"a","Port":70000}"#,
            400,
        ),
        (
            "PUT",
            "/v1/agent/service/register",
            r#"{"Name":"a","Tags":7}"#,
            400,
        ),
        ("PUT", "/v1/agent/check/pass/none", "", 404),
        ("PUT", "/v1/agent/check/update/none", "{}", 400),
        ("GET", "/v1/health/service/", "", 404),
        ("PUT", "/v1/config", "{}", 400),
        ("PUT", "/v1/config", "nothing", 400),
        ("GET", "/v1/config", "", 405),
        ("PUT", "/v1/connect/intentions/exact?source=a", "{}", 400),
        (
            "GET",
            "/v1/connect/intentions/other?source=a&destination=b",
            "",
            405,
        ),
    ] {
        let got = server.ask(method, path, body);
        assert_eq!(got.status, status, "{method} {path} {body}: {}", got.text());
    }
    let large = vec![b'v'; VALUE_LEN_MAX + 1];
    assert_eq!(
        Got::read(server.send("PUT", "/v1/kv/a", "", &large)).status,
        413
    );
    assert_eq!(
        Got::read(server.send("PUT", "/v1/kv/a", "", &large[1..])).status,
        200
    );
    for garbage in [&b"\0\0\0\0\r\n\r\n"[..], b"GET\r\n\r\n", &[0xff; 40_000]] {
        let mut stream = server.connect();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
    }
    assert_eq!(server.put("/v1/kv/a", "1").text(), "true");
}

#[test]
fn who_dawdles_loses_the_connection_and_holds_nobody_up() {
    let options = KvOptions {
        idle: Duration::from_millis(300),
        connections_max: 8,
        connections_per_source_max: 2,
        ..KvOptions::default()
    };
    let server = Running::with(Config::default(), options);
    let silent = server.connect();
    let mut halting = server.connect();
    halting.write_all(b"GET /v1/kv/a HT").unwrap();
    // Both places of this source are taken, so this one is turned away.
    let mut third = server.connect();
    assert_ne!(third.read(&mut [0; 64]).unwrap_or(0), 64);
    for mut stream in [silent, halting] {
        let begun = Instant::now();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(begun.elapsed() < PATIENCE, "it was never closed");
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"));
    }
    assert_eq!(server.get("/v1/kv/a").status, 404);
}

#[test]
fn who_hangs_up_while_waiting_leaves_room_for_the_next() {
    let config = Config {
        limits: Limits {
            waiting_max: 1,
            ..Limits::default()
        },
        ..Config::default()
    };
    let server = Running::with(config, KvOptions::default());
    server.put("/v1/kv/a", "1");
    let index = server.get("/v1/kv/a").index();
    let path = format!("/v1/kv/a?index={index}&wait=20ms");
    let waiting = server.send("GET", &format!("/v1/kv/a?index={index}&wait=600s"), "", b"");
    let until = Instant::now() + PATIENCE;
    let ask_until = |status: u16| {
        while server.get(&path).status != status {
            assert!(Instant::now() < until, "it never became {status}");
        }
    };
    ask_until(429);
    drop(waiting);
    ask_until(200);
}

#[test]
fn what_was_answered_over_http_is_there_after_a_restart() {
    use super::super::disk::Disk;
    let name = format!("holdfast-kv-http-{}.redb", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let serve = || {
        let path = path.clone();
        Running::make(KvOptions::default(), move |now| {
            let (disk, state) = Disk::open(&path).unwrap();
            let seed = Seed::new([6; 32]);
            Store::with_journal(Config::default(), seed, now, state, disk).unwrap()
        })
    };
    let first = serve();
    let session = first.session();
    first.put(&format!("/v1/kv/lock?acquire={session}"), "me");
    first.put("/v1/kv/a?flags=7", "1");
    first.put("/v1/agent/service/register", r#"{"Name":"db"}"#);
    let before = (
        first.get("/v1/kv/?recurse").json(),
        first.get("/v1/agent/services").json(),
    );
    drop(first);
    let second = serve();
    let after = (
        second.get("/v1/kv/?recurse").json(),
        second.get("/v1/agent/services").json(),
    );
    assert_eq!(before, after);
    assert_eq!(
        second
            .put(&format!("/v1/session/renew/{session}"), "")
            .status,
        200
    );
    drop(second);
    std::fs::remove_file(&path).unwrap();
}
