//! Consul's client against servers that fail in every way: what is said of it afterwards.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::{Clock, timeout};
use holdfast_io::kv::consul::{Config, ConfigError, Consul, Token};
use holdfast_io::kv::{
    Condition, Consistency, Determinacy, Failure, FailureKind, Kv, Request, Response, Wait,
};
use holdfast_io::net::{Listener, Net};
use holdfast_io::real::{RealClock, RealListener, RealNet, RealSpawn, RealStream, block_on};
use holdfast_io::spawn::{Spawn, Task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

/// Longer than anything here takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time limit of calls that run into it.
const SHORT: Duration = Duration::from_millis(600);

type TestConsul = Consul<RealNet, RealClock, RealSpawn>;

/// What a server does with a connection.
#[derive(Clone, Debug)]
enum Does {
    /// Closes it at once: a request may be sent before that is noticed, or not.
    Close,
    /// Reads a request and closes.
    ReadAndClose,
    /// Reads a request and says nothing.
    KeepSilent,
    /// Reads a request, writes this, and closes.
    Say(Vec<u8>),
    /// Answers every request with this, as long as they come.
    Answer(Vec<u8>),
    /// Reads a request and writes for ever.
    Flood(&'static [u8]),
}

/// A server that does one thing per connection, and the last one for ever.
struct Server {
    addr: SocketAddr,
    requests: Rc<RefCell<Vec<String>>>,
    _task: Task,
}

impl Server {
    async fn start(does: impl IntoIterator<Item = Does>) -> Server {
        let listener = listen().await;
        let addr = listener.local_addr().unwrap();
        let requests = Rc::new(RefCell::new(Vec::new()));
        let seen = requests.clone();
        let mut does: VecDeque<Does> = does.into_iter().collect();
        let task = RealSpawn.spawn("scripted server", async move {
            let mut connections = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let now = match does.len() {
                    1 => does[0].clone(),
                    _ => does.pop_front().expect("a server does something"),
                };
                let serving = serve(stream, now, seen.clone());
                connections.push(RealSpawn.spawn("scripted connection", serving));
            }
        });
        Server {
            addr,
            requests,
            _task: task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn asked(&self) -> usize {
        self.requests.borrow().len()
    }
}

async fn listen() -> RealListener {
    RealNet
        .listen("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap()
}

async fn serve(mut stream: RealStream, does: Does, seen: Rc<RefCell<Vec<String>>>) {
    if matches!(does, Does::Close) {
        return;
    }
    while let Some(request) = read_request(&mut stream).await {
        seen.borrow_mut().push(request);
        match &does {
            Does::Close | Does::ReadAndClose => return,
            Does::KeepSilent => std::future::pending().await,
            Does::Say(text) => {
                let _ = stream.write_all(text).await;
                return;
            }
            Does::Answer(text) => {
                if stream.write_all(text).await.is_err() {
                    return;
                }
            }
            Does::Flood(text) => while stream.write_all(text).await.is_ok() {},
        }
    }
}

/// The head and the body of a request, as text.
async fn read_request(stream: &mut RealStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let header = |line: &str| {
                Some(
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse()
                        .unwrap(),
                )
            };
            let length: usize = head.lines().find_map(header).unwrap_or(0);
            if body.len() >= length {
                return Some(text);
            }
        }
        let mut buf = [0; 4096];
        match stream.read(&mut buf).await {
            Ok(len) if len > 0 => read.extend_from_slice(&buf[..len]),
            _ => return None,
        }
    }
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nX-Consul-Index: 7\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}

fn yes() -> Does {
    Does::Answer(answer("200 OK", "true"))
}

fn entry() -> Does {
    let body =
        r#"[{"Key":"k","Value":"aGk=","Flags":0,"CreateIndex":3,"ModifyIndex":5,"LockIndex":0}]"#;
    Does::Answer(answer("200 OK", body))
}

fn config(urls: &[String]) -> Config {
    Config::new(urls.iter().map(|url| url.parse().unwrap()).collect())
}

fn client(config: Config) -> TestConsul {
    Consul::new(RealNet, RealClock, RealSpawn, config).unwrap()
}

fn hasty(urls: &[String]) -> TestConsul {
    let mut config = config(urls);
    config.limit = SHORT;
    client(config)
}

fn write() -> Request {
    Request::put("k", "v", Condition::Any)
}

async fn failed(consul: &TestConsul, request: Request) -> Failure {
    consul.call(request).await.unwrap_err()
}

fn test<F: Future<Output = ()>>(body: F) {
    block_on(timeout(&RealClock, PATIENCE, body))
        .unwrap()
        .expect("the test ends in time");
}

/// An address where nobody listens.
async fn nobody() -> String {
    format!("http://{}", listen().await.local_addr().unwrap())
}

#[test]
fn a_write_that_failed_says_whether_it_may_have_happened() {
    use Determinacy::{Determinate, Indeterminate};
    use FailureKind::{Busy, Forbidden, Garbled, Invalid, Unavailable};
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntr".to_vec();
    let endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let huge = answer("200 OK", &"x".repeat(100_000));
    let html = answer("200 OK", "<html>Welcome</html>");
    test(async {
        for (does, determinacy, kind) in [
            (Does::ReadAndClose, Indeterminate, Unavailable),
            (Does::KeepSilent, Indeterminate, Unavailable),
            (
                Does::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
                Indeterminate,
                Garbled,
            ),
            (
                Does::Say(b"\0\xff\r\n\r\n".to_vec()),
                Indeterminate,
                Garbled,
            ),
            (Does::Say(cut), Indeterminate, Unavailable),
            (Does::Say(endless), Indeterminate, Unavailable),
            (Does::Say(huge), Indeterminate, Garbled),
            (Does::Say(html), Indeterminate, Garbled),
            (Does::Flood(b"HTTP/1.1 200 OK\r\n"), Indeterminate, Garbled),
            (
                Does::Say(answer("500 Oh", "No cluster leader")),
                Indeterminate,
                Unavailable,
            ),
            (Does::Say(answer("502 Oh", "")), Indeterminate, Unavailable),
            (Does::Say(answer("503 Oh", "")), Indeterminate, Unavailable),
            (Does::Say(answer("504 Oh", "")), Indeterminate, Unavailable),
            (Does::Say(answer("307 Go", "")), Indeterminate, Garbled),
            (
                Does::Say(answer("429 Slow", "rate limit exceeded")),
                Determinate,
                Busy,
            ),
            (
                Does::Say(answer("403 No", "Permission denied")),
                Determinate,
                Forbidden,
            ),
            (
                Does::Say(answer("400 No", "Missing key name")),
                Determinate,
                Invalid,
            ),
        ] {
            let server = Server::start([does.clone()]).await;
            let failure = failed(&hasty(&[server.url()]), write()).await;
            let found = (failure.determinacy, failure.kind);
            assert_eq!(found, (determinacy, kind), "{does:?}: {failure}");
            assert!(failure.message.contains(&server.url()), "{failure}");
        }
        let failure = failed(&hasty(&[nobody().await]), write()).await;
        assert_eq!(
            (failure.determinacy, failure.kind),
            (Determinate, Unavailable)
        );
        assert!(failure.message.contains("refused"), "{failure}");
    });
}

#[test]
fn a_write_that_may_have_happened_is_never_sent_again() {
    test(async {
        for does in [
            Does::ReadAndClose,
            Does::KeepSilent,
            Does::Say(answer("500 Oh", "No cluster leader")),
            Does::Say(answer("429 Slow", "rate limit exceeded")),
            Does::Say(b"HTTP/1.1 2".to_vec()),
        ] {
            let (bad, good) = (
                Server::start([does.clone()]).await,
                Server::start([yes()]).await,
            );
            let consul = hasty(&[bad.url(), good.url()]);
            failed(&consul, write()).await;
            assert!(bad.asked() <= 1, "{does:?}");
            assert_eq!(good.asked(), 0, "{does:?}");
            // But the next call, whatever it is, begins at the other server.
            assert_eq!(consul.call(write()).await, Ok(Response::Done(true)));
            assert_eq!((bad.asked() <= 1, good.asked()), (true, 1), "{does:?}");
        }
    });
}

#[test]
fn a_write_that_was_not_sent_goes_to_the_next_server_and_stays_there() {
    test(async {
        let good = Server::start([yes()]).await;
        let consul = client(config(&[nobody().await, nobody().await, good.url()]));
        for _ in 0..3 {
            assert_eq!(consul.call(write()).await, Ok(Response::Done(true)));
            assert_eq!(consul.current().to_string(), good.url());
        }
        assert_eq!(good.asked(), 3);
    });
}

#[test]
fn a_read_goes_to_the_next_server_whatever_is_wrong_with_the_first() {
    test(async {
        for does in [
            Does::Close,
            Does::ReadAndClose,
            Does::KeepSilent,
            Does::Say(answer("500 Oh", "No cluster leader")),
            Does::Say(answer("429 Slow", "")),
            Does::Say(answer("200 OK\r\nX-Consul-Knownleader: false", "[]")),
            Does::Say(b"garbage\r\n\r\n".to_vec()),
        ] {
            let (bad, good) = (
                Server::start([does.clone()]).await,
                Server::start([entry()]).await,
            );
            let consul = hasty(&[bad.url(), good.url()]);
            let Ok(Response::Entry { index, entry }) = consul.call(Request::get("k")).await else {
                panic!("{does:?}: the other server was not asked");
            };
            assert_eq!((index, entry.unwrap().value), (7, "hi".into()));
        }
    });
}

#[test]
fn a_refusal_is_the_same_everywhere_and_asked_once() {
    test(async {
        for status in ["403 No", "400 No"] {
            let bad = Server::start([Does::Say(answer(status, ""))]).await;
            let good = Server::start([entry()]).await;
            failed(&hasty(&[bad.url(), good.url()]), Request::get("k")).await;
            assert_eq!((bad.asked(), good.asked()), (1, 0), "{status}");
        }
    });
}

#[test]
fn when_all_fail_each_is_named_and_it_is_over_in_time() {
    test(async {
        let (silent, closing) = (Server::start([Does::KeepSilent]).await, nobody().await);
        let consul = hasty(&[silent.url(), closing.clone(), silent.url()]);
        let began = RealClock.now().mono;
        let failure = failed(&consul, Request::get("k")).await;
        let took = RealClock.now().mono - began;
        assert!(took < SHORT * 3, "{took:?}");
        assert!(failure.message.contains(&silent.url()) && failure.message.contains(&closing));
        assert!(failure.message.contains("no answer within"), "{failure}");
    });
}

#[test]
fn a_kept_connection_that_the_server_closed_costs_a_read_nothing() {
    test(async {
        let once = Does::Say(match entry() {
            Does::Answer(text) => text,
            _ => unreachable!("it answers"),
        });
        let server = Server::start([once]).await;
        let consul = client(config(&[server.url()]));
        for _ in 0..4 {
            assert!(consul.call(Request::get("k")).await.is_ok());
        }
    });
}

#[test]
fn the_token_is_sent_and_never_shown() {
    test(async {
        let token = "2f8a-very-secret";
        let server = Server::start([Does::Say(answer(
            "403 No",
            "ACL not found: 2f8a-very-secret",
        ))])
        .await;
        let mut config = config(&[server.url()]);
        config.token = Some(Token::new(&Zeroizing::new(token.to_owned())).unwrap());
        assert!(!format!("{config:?}").contains(token));
        let failure = failed(&client(config), write()).await;
        assert_eq!(failure.kind, FailureKind::Forbidden);
        assert!(failure.message.contains("ACL not found: ***"), "{failure}");
        assert!(server.requests.borrow()[0].contains(&format!("x-consul-token: {token}")));
    });
}

#[test]
fn reads_that_wait_leave_room_for_others() {
    test(async {
        let silent = Server::start([Does::KeepSilent]).await;
        let mut config = config(&[silent.url()]);
        config.limit = PATIENCE;
        let consul = Rc::new(client(config));
        let watches: Vec<Task> = (0..100)
            .map(|_| {
                let consul = consul.clone();
                RealSpawn.spawn("watch", async move {
                    let wait = Some(Wait {
                        after: 1,
                        at_most: PATIENCE,
                    });
                    let request = Request::Get {
                        key: "watched".to_owned(),
                        consistency: Consistency::Default,
                        wait,
                    };
                    let _ = consul.call(request).await;
                })
            })
            .collect();
        let others: Vec<Task> = (0..4)
            .map(|_| {
                let consul = consul.clone();
                RealSpawn.spawn("write", async move { drop(consul.call(write()).await) })
            })
            .collect();
        let count = |what: &str| {
            let requests = silent.requests.borrow();
            requests.iter().filter(|r| r.starts_with(what)).count()
        };
        while count("PUT") < 4 || count("GET") < 32 {
            RealClock.sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(count("GET"), 32, "more connections than permitted");
        drop((watches, others));
    });
}

#[test]
fn a_call_that_is_dropped_leaves_no_half_used_connection() {
    test(async {
        let server = Server::start([Does::KeepSilent, yes()]).await;
        let consul = client(config(&[server.url()]));
        let dropped = Cell::new(false);
        let call = timeout(&RealClock, Duration::from_millis(100), consul.call(write()));
        dropped.set(call.await.is_err());
        assert!(dropped.get());
        assert_eq!(consul.call(write()).await, Ok(Response::Done(true)));
    });
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let new = |config| Consul::new(RealNet, RealClock, RealSpawn, config).err();
    let found = new(config(&[]));
    assert_eq!(found, Some(ConfigError::Addresses { found: 0 }));
    let many: Vec<String> = (1..=17).map(|port| format!("http://a:{port}")).collect();
    assert_eq!(
        new(config(&many)),
        Some(ConfigError::Addresses { found: 17 })
    );
    let secure = new(config(&["https://a:1".to_owned()]))
        .unwrap()
        .to_string();
    assert!(
        secure.contains("https://a:1") && secure.contains("ca_file"),
        "{secure}"
    );
    let mut hasty = config(&["http://a:1".to_owned()]);
    hasty.limit = Duration::ZERO;
    assert_eq!(new(hasty), Some(ConfigError::NoTime));
}

#[test]
fn an_agents_words_are_read_as_they_come() {
    test(async {
        let members = r#"[{"Name":"a","Addr":"127.50.0.2","Port":8301,"Status":1,"Tags":{"role":"consul"}},
            {"Name":"b","Addr":"127.50.0.3","Port":8301,"Status":4,"Tags":null}]"#;
        let server = Server::start([Does::Answer(answer("200 OK", members))]).await;
        let consul = client(config(&[server.url()]));
        let members = consul.agent().members().await.unwrap();
        let found: Vec<_> = members
            .iter()
            .map(|m| (m.is_alive(), m.is_server()))
            .collect();
        assert_eq!(found, [(true, true), (false, false)]);
        let failure = consul.agent().leader().await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Garbled);
        assert!(failure.message.contains("/v1/status/leader"), "{failure}");
    });
}
