//! The broker, asked over HTTP.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::entropy::Seed;
use holdfast_core::identity::Identity;
use holdfast_core::rendezvous::ENVELOPE_LEN_MAX;
use holdfast_core::signal::envelope::seal;
use holdfast_core::types::Incarnation;
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::{self, Method, StatusCode, Stop};
use holdfast_io::net::Net;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_io::signal_http::{PollAnswer, decode_answer};
use holdfast_io::spawn::Spawn;
use holdfast_servers::broker::BrokerLimits;
use holdfast_servers::relay::TurnOptions;
use holdfast_servers::rendezvous::{Rendezvous, RendezvousOptions};
use holdfast_servers::turn::SharedSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{oneshot, watch};

/// Bound on every wait of a test.
const PATIENCE: Duration = Duration::from_secs(10);

struct Broker {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<()>,
}

impl Broker {
    async fn start(seed: u8, limits: BrokerLimits) -> Broker {
        let loopback = "127.0.0.1:0".parse().unwrap();
        let secret = SharedSecret::new(b"secret".to_vec()).unwrap();
        let options = RendezvousOptions {
            listen: loopback,
            limits,
            turn: Some(TurnOptions::on(loopback, secret)),
        };
        let seed = Seed::new([seed; 32]);
        let rendezvous = Rendezvous::bind(options, RealNet, RealClock, RealSpawn, seed)
            .await
            .unwrap();
        let addr = rendezvous.broker_addr().unwrap();
        let (stop, stopping) = Stop::new();
        let (end, ended) = oneshot::channel();
        let running = async move {
            rendezvous.run(stopping).await;
            let _ = end.send(());
        };
        RealSpawn.spawn("broker under test", running).detach();
        Broker { addr, stop, ended }
    }

    fn client(&self) -> Client {
        let endpoint = format!("http://{}", self.addr).parse().unwrap();
        Client(http::Client::new(RealNet, RealClock, RealSpawn, endpoint))
    }
}

struct Client(http::Client<RealNet, RealClock, RealSpawn>);

impl Client {
    async fn ask(&mut self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
        let body = Bytes::from(body);
        let asked = self.0.request(method, path, body, 1 << 20, PATIENCE);
        asked.await.unwrap()
    }

    async fn get(&mut self, path: &str) -> (StatusCode, Bytes) {
        self.ask(Method::GET, path, Vec::new()).await
    }

    async fn post(&mut self, envelope: Vec<u8>) -> StatusCode {
        self.ask(Method::POST, "/v1/signal", envelope).await.0
    }

    async fn poll(&mut self, who: &Identity, query: &str) -> PollAnswer {
        let path = format!("/v1/signal/{}?{query}", who.public());
        let (status, body) = self.get(&path).await;
        assert_eq!(status, StatusCode::OK);
        decode_answer(&body).unwrap()
    }

    async fn counter(&mut self, name: &str) -> u64 {
        let (_, body) = self.get("/metrics").await;
        let text = String::from_utf8(body.to_vec()).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// Wait, within bounds, until a counter has a value.
    async fn await_counter(&mut self, name: &str, value: u64) {
        let reached = async {
            while self.counter(name).await != value {
                RealClock.sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(&RealClock, PATIENCE, reached).await.unwrap();
    }
}

fn alice() -> Identity {
    Identity::from_seed([1; 32])
}

fn bob() -> Identity {
    Identity::from_seed([2; 32])
}

fn envelope(sequence: u64) -> Vec<u8> {
    let mut entropy = Seed::new([sequence as u8; 32]).rng();
    let incarnation = Incarnation([7; 16]);
    let unix = Duration::from_secs(1_700_000_000);
    let content = b"hello";
    seal(
        &alice(),
        bob().public(),
        incarnation,
        sequence,
        unix,
        content,
        &mut entropy,
    )
}

fn run(test: impl Future<Output = ()>) {
    block_on(async { timeout(&RealClock, PATIENCE * 3, test).await.unwrap() }).unwrap();
}

#[test]
fn a_waiting_poll_is_answered_as_soon_as_an_envelope_is_posted() {
    run(async {
        let broker = Broker::start(1, BrokerLimits::default()).await;
        let (mut reader, mut writer) = (broker.client(), broker.client());
        let owner = bob();
        let polling = reader.poll(&owner, "wait=25");
        let posting = async {
            writer
                .await_counter("holdfast_broker_polls_waiting", 1)
                .await;
            assert_eq!(writer.post(envelope(1)).await, StatusCode::NO_CONTENT);
        };
        let (answer, ()) = tokio::join!(polling, posting);
        assert_eq!(answer.envelopes, [envelope(1)]);
    });
}

#[test]
fn a_cursor_gives_only_what_is_newer_and_that_of_another_run_starts_over() {
    run(async {
        let broker = Broker::start(1, BrokerLimits::default()).await;
        let mut client = broker.client();
        client.post(envelope(1)).await;
        let first = client.poll(&bob(), "wait=0").await;
        let after = holdfast_io::signal_http::cursor_to_text(first.cursor);
        let query = format!("wait=0&after={after}");
        assert!(client.poll(&bob(), &query).await.envelopes.is_empty());
        let restarted = Broker::start(2, BrokerLimits::default()).await;
        let mut client = restarted.client();
        client.post(envelope(2)).await;
        assert_eq!(client.poll(&bob(), &query).await.envelopes, [envelope(2)]);
    });
}

#[test]
fn what_is_no_envelope_is_refused_with_the_status_that_says_why() {
    run(async {
        let broker = Broker::start(1, BrokerLimits::default()).await;
        let mut client = broker.client();
        assert_eq!(
            client.post(b"nonsense".to_vec()).await,
            StatusCode::BAD_REQUEST
        );
        let mut forged = envelope(1);
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(client.post(forged).await, StatusCode::BAD_REQUEST);
        let large = vec![0; ENVELOPE_LEN_MAX + 1];
        assert_eq!(client.post(large).await, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(client.get("/v1/signal/zz").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(client.get("/nowhere").await.0, StatusCode::NOT_FOUND);
        assert_eq!(
            client.get("/v1/signal").await.0,
            StatusCode::METHOD_NOT_ALLOWED
        );
        let post = client.ask(Method::POST, "/metrics", Vec::new()).await;
        assert_eq!(post.0, StatusCode::METHOD_NOT_ALLOWED);
    });
}

#[test]
fn a_client_that_asks_too_often_is_told_so() {
    run(async {
        let broker = Broker::start(1, BrokerLimits::default()).await;
        let mut client = broker.client();
        // Far more than any burst that is allowed, and faster than it refills.
        for _ in 0..20_000 {
            if client.post(b"x".to_vec()).await == StatusCode::TOO_MANY_REQUESTS {
                assert!(client.counter("holdfast_broker_refused_rate_limited").await > 0);
                return;
            }
        }
        panic!("no limit was reached");
    });
}

#[test]
fn a_poll_whose_client_goes_away_is_forgotten() {
    run(async {
        let broker = Broker::start(1, BrokerLimits::default()).await;
        let mut watcher = broker.client();
        let mut leaver = RealNet.connect(None, broker.addr).await.unwrap();
        let request = format!(
            "GET /v1/signal/{}?wait=25 HTTP/1.1\r\nhost: broker\r\n\r\n",
            bob().public()
        );
        leaver.write_all(request.as_bytes()).await.unwrap();
        watcher
            .await_counter("holdfast_broker_polls_waiting", 1)
            .await;
        drop(leaver);
        watcher
            .await_counter("holdfast_broker_polls_waiting", 0)
            .await;
    });
}

#[test]
fn a_connection_that_sends_no_request_is_closed() {
    run(async {
        let limits = BrokerLimits {
            idle: Duration::from_millis(100),
            ..BrokerLimits::default()
        };
        let broker = Broker::start(1, limits).await;
        let mut slow = RealNet.connect(None, broker.addr).await.unwrap();
        slow.write_all(b"GET /healthz HTTP/1.1\r\nx").await.unwrap();
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    });
}

#[test]
fn one_address_cannot_take_all_connections() {
    run(async {
        let limits = BrokerLimits {
            connections_per_source_max: 2,
            ..BrokerLimits::default()
        };
        let broker = Broker::start(1, limits).await;
        let mut client = broker.client();
        assert_eq!(client.get("/healthz").await.0, StatusCode::OK);
        let second = RealNet.connect(None, broker.addr).await.unwrap();
        let mut third = RealNet.connect(None, broker.addr).await.unwrap();
        let closed = third.read(&mut [0]).await;
        assert!(matches!(closed, Ok(0) | Err(_)));
        let elsewhere = "127.0.0.2".parse().unwrap();
        let mut other = RealNet.connect(Some(elsewhere), broker.addr).await.unwrap();
        other
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: b\r\n\r\n")
            .await
            .unwrap();
        let mut status = [0; 12];
        other.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        drop(second);
    });
}

#[test]
fn status_shows_broker_and_turn() {
    run(async {
        let broker = Broker::start(1, BrokerLimits::default()).await;
        let mut client = broker.client();
        client.post(envelope(1)).await;
        let (status, body) = client.get("/status").await;
        assert_eq!(status, StatusCode::OK);
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["broker"]["mailboxes"], 1);
        assert_eq!(json["turn"]["allocations"], 0);
        assert_eq!(json["turn"]["counters"]["bindings"], 0);
        assert_eq!(client.counter("holdfast_turn_allocations_now").await, 0);
    });
}

#[test]
fn a_stop_ends_everything_within_a_moment() {
    run(async {
        let broker = Broker::start(1, BrokerLimits::default()).await;
        let mut client = broker.client();
        assert_eq!(client.get("/healthz").await.0, StatusCode::OK);
        broker.stop.send(true).unwrap();
        broker.ended.await.unwrap();
        let again = RealNet.connect(None, broker.addr).await;
        assert!(again.is_err(), "nobody listens any more");
    });
}
