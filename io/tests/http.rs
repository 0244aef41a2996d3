//! The HTTP server and client against each other, over the sockets of the operating system.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_io::clock::timeout;
use holdfast_io::http::{
    Client, ClientError, Method, Request, Response, ServerLimits, StatusCode, Stop, serve,
};
use holdfast_io::net::{Listener, Net};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, RealStream, block_on};
use holdfast_io::spawn::{Spawn, Task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};

/// Longer than anything here takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(10);

type TestClient = Client<RealNet, RealClock, RealSpawn>;

/// A server for one test; it ends when dropped.
struct Server {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    ended: Rc<Notify>,
    _task: Task,
}

impl Server {
    async fn start<H, F>(limits: ServerLimits, handler: H) -> Server
    where
        H: Fn(Request) -> F + 'static,
        F: Future<Output = Response> + 'static,
    {
        let listener = RealNet
            .listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, stop) = Stop::new();
        let ended = Rc::new(Notify::new());
        let end = ended.clone();
        let task = RealSpawn.spawn("server", async move {
            serve(listener, RealClock, RealSpawn, limits, stop, handler).await;
            end.notify_one();
        });
        Server {
            addr,
            stop: sender,
            ended,
            _task: task,
        }
    }

    fn client(&self) -> TestClient {
        let endpoint = format!("http://{}", self.addr).parse().unwrap();
        Client::new(RealNet, RealClock, RealSpawn, endpoint)
    }

    async fn connect(&self) -> RealStream {
        RealNet.connect(None, self.addr).await.unwrap()
    }
}

async fn get(client: &mut TestClient, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
    client
        .request(Method::GET, path, Bytes::new(), 1024, PATIENCE)
        .await
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(&RealClock, PATIENCE, future).await.unwrap()
}

#[test]
fn requests_of_one_client_share_a_connection_and_carry_everything() {
    block_on(async {
        let sources = Rc::new(RefCell::new(Vec::new()));
        let seen = sources.clone();
        let server = Server::start(ServerLimits::default(), move |request| {
            seen.borrow_mut().push(request.source);
            let query = request.query.unwrap_or_default();
            let text = format!("{} {} {query} ", request.method, request.path);
            let body = [text.as_bytes(), &request.body].concat();
            async move { Response::text(StatusCode::OK, body) }
        })
        .await;
        let mut client = server.client();
        for round in 0..3 {
            let body = Bytes::from(format!("body {round}"));
            let request = client.request(Method::POST, "/a?b=c", body, 1024, PATIENCE);
            let (status, answer) = request.await.unwrap();
            assert_eq!(status, StatusCode::OK);
            assert_eq!(answer, format!("POST /a b=c body {round}"));
        }
        let sources = sources.borrow();
        assert!(
            sources.iter().all(|source| *source == sources[0]),
            "{sources:?}"
        );
    })
    .unwrap();
}

#[test]
fn a_kept_connection_that_the_server_closed_is_replaced_without_an_error() {
    block_on(async {
        let limits = ServerLimits {
            idle: Duration::from_millis(20),
            ..ServerLimits::default()
        };
        let ok = |_| async { Response::empty(StatusCode::OK) };
        let server = Server::start(limits, ok).await;
        let mut client = server.client();
        get(&mut client, "/").await.unwrap();
        // A connection that is as idle as the client's shows when the limit has passed.
        let mut other = server.connect().await;
        assert_eq!(within(other.read(&mut [0; 8])).await.unwrap(), 0);
        get(&mut client, "/").await.unwrap();
    })
    .unwrap();
}

#[test]
fn bodies_beyond_their_limit_are_refused_on_both_sides() {
    block_on(async {
        let limits = ServerLimits {
            body_len_max: 100,
            ..ServerLimits::default()
        };
        let large = |_| async { Response::text(StatusCode::OK, vec![b'x'; 2000]) };
        let server = Server::start(limits, large).await;
        let mut client = server.client();
        let body = Bytes::from(vec![0; 101]);
        let request = client.request(Method::POST, "/", body, 1024, PATIENCE);
        assert_eq!(request.await.unwrap().0, StatusCode::PAYLOAD_TOO_LARGE);
        let answer = get(&mut client, "/").await;
        assert!(
            matches!(answer, Err(ClientError::TooLarge { limit: 1024 })),
            "{answer:?}"
        );
    })
    .unwrap();
}

#[test]
fn a_client_that_sends_its_headers_slowly_is_cut_off() {
    block_on(async {
        let limits = ServerLimits {
            idle: Duration::from_millis(30),
            ..ServerLimits::default()
        };
        let ok = |_| async { Response::empty(StatusCode::OK) };
        let server = Server::start(limits, ok).await;
        let mut slow = server.connect().await;
        slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        // A reset is as good as an end.
        let _ = within(slow.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    })
    .unwrap();
}

#[test]
fn a_handler_is_dropped_when_its_client_goes_away() {
    struct Guard(Rc<Notify>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    block_on(async {
        let (entered, dropped) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (enter, gone) = (entered.clone(), dropped.clone());
        let server = Server::start(ServerLimits::default(), move |_| {
            let guard = Guard(gone.clone());
            enter.notify_one();
            async move {
                pending::<()>().await;
                drop(guard);
                Response::empty(StatusCode::OK)
            }
        })
        .await;
        let mut client = server.connect().await;
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        within(entered.notified()).await;
        drop(client);
        within(dropped.notified()).await;
    })
    .unwrap();
}

#[test]
fn a_server_that_stops_finishes_what_is_in_flight_and_accepts_nothing_more() {
    block_on(async {
        let (entered, release) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (enter, wait) = (entered.clone(), release.clone());
        let server = Server::start(ServerLimits::default(), move |_| {
            enter.notify_one();
            let wait = wait.clone();
            async move {
                wait.notified().await;
                Response::text(StatusCode::OK, "done")
            }
        })
        .await;
        let answered = Rc::new(Cell::new(None));
        let (mut client, answer) = (server.client(), answered.clone());
        let finished = Rc::new(Notify::new());
        let finish = finished.clone();
        let _request = RealSpawn.spawn("request", async move {
            answer.set(Some(get(&mut client, "/").await.unwrap().1));
            finish.notify_one();
        });
        within(entered.notified()).await;
        server.stop.send(true).unwrap();
        let refused = async {
            while RealNet.connect(None, server.addr).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        within(refused).await;
        release.notify_one();
        within(server.ended.notified()).await;
        within(finished.notified()).await;
        assert_eq!(answered.take().unwrap(), "done");
    })
    .unwrap();
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    block_on(async {
        let limits = ServerLimits {
            connections_max: 1,
            ..ServerLimits::default()
        };
        let ok = |_| async { Response::empty(StatusCode::OK) };
        let server = Server::start(limits, ok).await;
        let (mut first, mut second) = (server.client(), server.client());
        get(&mut first, "/").await.unwrap();
        let short = Duration::from_millis(50);
        let blocked = second.request(Method::GET, "/", Bytes::new(), 1024, short);
        assert!(matches!(blocked.await, Err(ClientError::Elapsed(_))));
        drop(first);
        get(&mut second, "/").await.unwrap();
    })
    .unwrap();
}
