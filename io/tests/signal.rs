//! The signaling client against brokers that misbehave.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use holdfast_core::entropy::Seed;
use holdfast_core::identity::{Identity, PublicKey};
use holdfast_core::rendezvous::Cursor;
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::{Endpoint, Method, Response, ServerLimits, StatusCode, Stop, serve};
use holdfast_io::net::{Listener, Net};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_io::signal::Signaling;
use holdfast_io::signal_http::{Route, encode_answer};
use holdfast_io::spawn::{Spawn, Task};

/// Longer than anything here takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// A broker whose answers a test decides.
#[derive(Default)]
struct Script {
    /// Answers to posts; 204 when there is none left.
    posts: RefCell<Vec<StatusCode>>,
    /// Bodies of the posts that were taken.
    taken: RefCell<Vec<Vec<u8>>>,
    /// Answers to polls; then polls hang.
    polls: RefCell<Vec<Response>>,
    /// The cursors that polls brought.
    cursors: RefCell<Vec<Option<Cursor>>>,
}

async fn broker(script: Rc<Script>) -> (Endpoint, Task) {
    let listener = RealNet
        .listen("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let task = RealSpawn.spawn("broker", async move {
        let (_switch, stop) = Stop::new();
        let limits = ServerLimits::default();
        let handler = move |request: holdfast_io::http::Request| {
            let script = script.clone();
            async move {
                let query = request.query.as_deref();
                match Route::parse(&request.method, &request.path, query).unwrap() {
                    Route::Post => script.post(request.body.to_vec()),
                    Route::Poll { after, .. } => script.poll(after).await,
                }
            }
        };
        serve(listener, RealClock, RealSpawn, limits, stop, handler).await;
    });
    (endpoint.parse().unwrap(), task)
}

impl Script {
    fn post(&self, body: Vec<u8>) -> Response {
        let mut posts = self.posts.borrow_mut();
        let status = match posts.is_empty() {
            true => StatusCode::NO_CONTENT,
            false => posts.remove(0),
        };
        if status == StatusCode::NO_CONTENT {
            self.taken.borrow_mut().push(body);
        }
        Response::empty(status)
    }

    async fn poll(&self, after: Option<Cursor>) -> Response {
        self.cursors.borrow_mut().push(after);
        if self.polls.borrow().is_empty() {
            std::future::pending::<()>().await;
        }
        self.polls.borrow_mut().remove(0)
    }
}

fn key(n: u8) -> PublicKey {
    Identity::from_seed([n; 32]).public()
}

type Heard = Rc<RefCell<Vec<Vec<u8>>>>;

fn client(endpoints: &[Endpoint]) -> (Signaling, Heard) {
    let heard = Heard::default();
    let hear = heard.clone();
    let signaling = Signaling::start(
        (RealNet, RealClock, RealSpawn),
        endpoints,
        key(1),
        &Seed::new([3; 32]),
        Rc::new(move |envelope| hear.borrow_mut().push(envelope)),
    );
    (signaling, heard)
}

async fn until(condition: impl Fn() -> bool) {
    let turns = Cell::new(0u64);
    let wait = poll_fn(|cx| {
        turns.set(turns.get() + 1);
        cx.waker().wake_by_ref();
        match condition() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    });
    timeout(&RealClock, PATIENCE, wait).await.unwrap();
}

#[test]
fn envelopes_go_to_every_broker_and_a_dead_one_delays_nobody() {
    block_on(async {
        let script = Rc::new(Script::default());
        let (endpoint, _task) = broker(script.clone()).await;
        let dead = "http://127.0.0.1:1".parse().unwrap();
        let (signaling, _) = client(&[dead, endpoint]);
        signaling.post(key(2), b"hello".to_vec());
        until(|| *script.taken.borrow() == [b"hello".to_vec()]).await;
        until(|| signaling.is_flushed()).await;
        let status = signaling.status(RealClock.now().mono);
        assert!(!status[0].reachable && status[0].last_error.is_some());
        assert_eq!((status[1].reachable, status[1].posted), (true, 1));
        assert!(signaling.has_answer());
    })
    .unwrap();
}

#[test]
fn a_post_is_tried_again_until_it_is_taken_unless_it_never_can_be() {
    block_on(async {
        let script = Rc::new(Script::default());
        *script.posts.borrow_mut() = vec![
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::NO_CONTENT,
            StatusCode::BAD_REQUEST,
        ];
        let (endpoint, _task) = broker(script.clone()).await;
        let (signaling, _) = client(&[endpoint]);
        signaling.post(key(2), b"first".to_vec());
        until(|| script.taken.borrow().len() == 1).await;
        signaling.post(key(2), b"malformed".to_vec());
        until(|| script.posts.borrow().is_empty()).await;
        signaling.post(key(2), b"last".to_vec());
        until(|| script.taken.borrow().len() == 2).await;
        assert_eq!(
            *script.taken.borrow(),
            [b"first".to_vec(), b"last".to_vec()]
        );
    })
    .unwrap();
}

#[test]
fn polls_follow_the_cursor_and_survive_nonsense() {
    block_on(async {
        let cursor = Cursor { run: 7, seq: 2 };
        let answer = encode_answer(cursor, &[b"one".to_vec(), b"two".to_vec()]);
        let script = Rc::new(Script::default());
        *script.polls.borrow_mut() = vec![
            Response::text(StatusCode::OK, "<html>"),
            Response::empty(StatusCode::INTERNAL_SERVER_ERROR),
            Response::json(StatusCode::OK, answer),
        ];
        let (endpoint, _task) = broker(script.clone()).await;
        let (_signaling, heard) = client(&[endpoint]);
        until(|| script.cursors.borrow().len() == 4).await;
        assert_eq!(*heard.borrow(), [b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(*script.cursors.borrow(), [None, None, None, Some(cursor)]);
    })
    .unwrap();
}

#[test]
fn after_a_change_of_network_every_broker_is_asked_again_at_once() {
    block_on(async {
        let script = Rc::new(Script::default());
        let (endpoint, _task) = broker(script.clone()).await;
        let (signaling, _) = client(&[endpoint]);
        // Polls hang: without the change the second one comes after half a minute.
        for polls in 1..4 {
            until(|| script.cursors.borrow().len() == polls).await;
            signaling.network_changed();
        }
        until(|| script.cursors.borrow().len() == 4).await;
    })
    .unwrap();
}

#[test]
fn a_method_that_is_not_part_of_the_protocol_is_refused() {
    let route = Route::parse(&Method::DELETE, "/v1/signal", None);
    assert_eq!(route.unwrap_err().status(), StatusCode::METHOD_NOT_ALLOWED);
}
