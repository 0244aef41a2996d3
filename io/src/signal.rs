//! The signaling client: all brokers at once, each with a queue of its own.
//!
//! An envelope goes to every broker, and every broker is polled: whichever works first wins,
//! and a broker that is away costs nothing but its own retries. A queue holds the newest
//! envelope per receiver, because each is a full snapshot and replaces the one before.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_core::bucket::{Bucket, Rate};
use holdfast_core::config::PEERS_MAX;
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::identity::PublicKey;
use holdfast_core::rendezvous::Cursor;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::http::{Client, ClientError, Endpoint, Method, StatusCode};
use crate::net::Net;
use crate::signal_http::{ANSWER_LEN_MAX, AnswerError, PollAnswer, Route, decode_answer};
use crate::spawn::{Spawn, Task};

/// Most brokers.
pub const BROKERS_MAX: usize = 8;
/// How long a poll asks the broker to wait: below the 30 s after which middleboxes and
/// brokers give up.
const POLL_WAIT: Duration = Duration::from_secs(25);
/// What the answer may take beyond the wait.
const POLL_GRACE: Duration = Duration::from_secs(10);
/// Longest time for a post.
const POST_LIMIT: Duration = Duration::from_secs(10);
/// Posts to one broker at one time: a node that starts has something to say to every peer.
const POSTERS: usize = 4;
/// Silence after which a poster's connection is closed.
const POST_IDLE_MAX: Duration = Duration::from_secs(5);
/// First pause after a failure; doubled each time, and drawn from its upper half.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An empty answer that comes sooner than this was not a long poll: rest before the next.
const QUICK_ANSWER: Duration = Duration::from_millis(50);
/// Envelopes of one broker that are delivered before other tasks get their turn: each costs
/// a signature check.
const DELIVERIES_PER_TURN: usize = 8;
/// Envelopes of one broker that are delivered: at once two for each peer of a full cluster,
/// then 100 per second.
const DELIVERIES: Rate = Rate {
    burst: 512,
    every: Duration::from_millis(10),
};
/// Pause after an answer with envelopes; doubled while answers bring nothing new.
const NEWS_PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Longest such pause.
const NEWS_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Characters of an error that are kept and logged.
const ERROR_LEN_MAX: usize = 200;
/// Largest answer to a post that is read.
const POST_ANSWER_LEN_MAX: usize = 4096;

/// What is known of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// Its URL.
    pub url: String,
    /// Whether its latest answer was a good one.
    pub reachable: bool,
    /// Milliseconds since its latest good answer, when there was one.
    pub answered_ms: Option<u64>,
    /// Envelopes that it took.
    pub posted: u64,
    /// Envelopes that it handed over.
    pub received: u64,
    /// Of these, envelopes that were dropped because they were too many in a short time.
    #[serde(default)]
    pub dropped: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Envelopes that wait for it.
    pub queued: usize,
    /// Its latest failure.
    pub last_error: Option<String>,
}

/// The signaling client of one node.
pub struct Signaling {
    brokers: Vec<Rc<Broker>>,
    networks: watch::Sender<u64>,
    _tasks: Vec<Task>,
}

struct Broker {
    endpoint: Endpoint,
    outbox: RefCell<Outbox>,
    posted_something: Notify,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    reachable: bool,
    answered: Option<Instant>,
    posted: u64,
    received: u64,
    dropped: u64,
    failures: u64,
    last_error: Option<String>,
}

/// The newest envelope per receiver, in the order in which receivers came.
#[derive(Default)]
struct Outbox {
    order: VecDeque<PublicKey>,
    envelopes: BTreeMap<PublicKey, Bytes>,
    /// Receivers with an envelope on its way: a newer one waits, so that it arrives later.
    in_flight: BTreeSet<PublicKey>,
}

impl Outbox {
    fn push(&mut self, to: PublicKey, envelope: Bytes) {
        if self.envelopes.insert(to, envelope).is_none() {
            self.order.push_back(to);
        }
        // A node has no more peers than this, so what falls out is nobody's.
        while self.order.len() > PEERS_MAX {
            if let Some(to) = self.order.pop_front() {
                self.envelopes.remove(&to);
            }
        }
    }

    /// Take the next envelope; [`Outbox::landed`] or [`Outbox::put_back`] follows.
    fn take(&mut self) -> Option<(PublicKey, Bytes)> {
        let free = |to: &PublicKey| !self.in_flight.contains(to);
        let to = self.order.remove(self.order.iter().position(free)?)?;
        let envelope = self.envelopes.remove(&to)?;
        self.in_flight.insert(to);
        Some((to, envelope))
    }

    /// What was taken needs no other try.
    fn landed(&mut self, to: PublicKey) {
        self.in_flight.remove(&to);
    }

    /// Put back what could not be posted, unless something newer has come.
    fn put_back(&mut self, to: PublicKey, envelope: Bytes) {
        self.in_flight.remove(&to);
        if !self.envelopes.contains_key(&to) {
            self.order.push_front(to);
            self.envelopes.insert(to, envelope);
        }
    }
}

/// A request that did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the broker answered {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl Failure {
    /// Whether the same request would fail for ever.
    fn is_final(&self) -> bool {
        matches!(
            self,
            Failure::Status(StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE)
        )
    }
}

/// What is the same for all tasks of one client.
#[derive(Clone)]
struct Parts<N, C, S> {
    net: N,
    clock: C,
    spawn: S,
}

impl Signaling {
    /// Poll `mailbox` at all `endpoints` from now on; `deliver` is called with every
    /// envelope. It ends when the value is dropped.
    pub fn start<N: Net, C: Clock, S: Spawn>(
        (net, clock, spawn): (N, C, S),
        endpoints: &[Endpoint],
        mailbox: PublicKey,
        seed: &Seed,
        deliver: Rc<dyn Fn(Vec<u8>)>,
    ) -> Signaling {
        let parts = Parts { net, clock, spawn };
        let brokers: Vec<Rc<Broker>> = endpoints
            .iter()
            .take(BROKERS_MAX)
            .map(|endpoint| Rc::new(Broker::new(endpoint.clone())))
            .collect();
        let mut tasks = Vec::new();
        let (networks, network) = watch::channel(0);
        for (index, broker) in brokers.iter().enumerate() {
            let jitter = |what: &str| seed.fork(&format!("signal/{index}/{what}")).rng();
            for poster in 0..POSTERS {
                let jitter = jitter(&format!("post/{poster}"));
                let network = network.clone();
                let post = post_for_ever(parts.clone(), broker.clone(), jitter, network);
                tasks.push(parts.spawn.spawn("signal post", post));
            }
            let (polls, deliver) = (jitter("poll"), deliver.clone());
            let poller = Poller {
                client: parts.client(broker),
                clock: parts.clock.clone(),
                broker: broker.clone(),
                mailbox,
                backoff: Backoff::new(polls),
                after: None,
                wait: Duration::ZERO,
                bucket: Bucket::new(DELIVERIES, parts.clock.now().mono),
                news_pause: NEWS_PAUSE_FIRST,
                latest: BTreeSet::new(),
                deliver,
            };
            let poll = poller.run(network.clone());
            tasks.push(parts.spawn.spawn("signal poll", poll));
        }
        Signaling {
            brokers,
            networks,
            _tasks: tasks,
        }
    }

    /// The machine's addresses are other ones now: connections may be dead without knowing.
    /// All are left, and all brokers are asked again at once.
    pub fn network_changed(&self) {
        self.networks.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Post an envelope to all brokers.
    pub fn post(&self, to: PublicKey, envelope: Vec<u8>) {
        let envelope = Bytes::from(envelope);
        for broker in &self.brokers {
            broker.outbox.borrow_mut().push(to, envelope.clone());
            broker.posted_something.notify_one();
        }
    }

    /// Whether no envelope waits any more for a broker that may take it: one whose latest
    /// request failed is not waited for.
    pub fn is_flushed(&self) -> bool {
        !self.brokers.iter().any(|broker| {
            let state = broker.state.borrow();
            let failing = !state.reachable && state.failures > 0;
            let outbox = broker.outbox.borrow();
            let waits = !outbox.in_flight.is_empty() || !outbox.order.is_empty();
            waits && !failing
        })
    }

    /// Whether any broker has ever answered.
    pub fn has_answer(&self) -> bool {
        self.brokers
            .iter()
            .any(|broker| broker.state.borrow().answered.is_some())
    }

    /// What is known of each broker.
    pub fn status(&self, now: Instant) -> Vec<BrokerStatus> {
        self.brokers.iter().map(|b| b.status(now)).collect()
    }
}

impl Broker {
    fn new(endpoint: Endpoint) -> Broker {
        Broker {
            endpoint,
            outbox: RefCell::default(),
            posted_something: Notify::new(),
            state: RefCell::default(),
        }
    }

    fn succeeded(&self, now: Instant) {
        let mut state = self.state.borrow_mut();
        if !state.reachable {
            tracing::info!(broker = %self.endpoint, "the broker answers");
        }
        state.reachable = true;
        state.answered = Some(now);
    }

    fn failed(&self, what: &'static str, error: &Failure) {
        let mut state = self.state.borrow_mut();
        let error: String = error.to_string().chars().take(ERROR_LEN_MAX).collect();
        if state.reachable || state.failures == 0 {
            tracing::warn!(broker = %self.endpoint, %error, "{what} failed; trying again");
        } else {
            tracing::debug!(broker = %self.endpoint, %error, "{what} failed again");
        }
        state.reachable = false;
        state.failures += 1;
        state.last_error = Some(error);
    }

    /// What becomes of an envelope that was not taken.
    fn give_back(&self, to: PublicKey, envelope: Bytes, error: &Failure) {
        let mut outbox = self.outbox.borrow_mut();
        match error.is_final() {
            true => outbox.landed(to),
            false => outbox.put_back(to, envelope),
        }
    }

    fn status(&self, now: Instant) -> BrokerStatus {
        let state = self.state.borrow();
        BrokerStatus {
            url: self.endpoint.to_string(),
            reachable: state.reachable,
            answered_ms: state.answered.map(|at| ms_between(at, now)),
            posted: state.posted,
            received: state.received,
            dropped: state.dropped,
            failures: state.failures,
            queued: self.outbox.borrow().order.len(),
            last_error: state.last_error.clone(),
        }
    }
}

fn ms_between(from: Instant, to: Instant) -> u64 {
    let ms = to.saturating_duration_since(from).as_millis();
    u64::try_from(ms).unwrap_or(u64::MAX)
}

async fn post_for_ever<N: Net, C: Clock, S: Spawn>(
    parts: Parts<N, C, S>,
    broker: Rc<Broker>,
    jitter: Entropy,
    mut network: watch::Receiver<u64>,
) {
    let mut client = parts.client(&broker);
    let mut backoff = Backoff::new(jitter);
    loop {
        let next = broker.outbox.borrow_mut().take();
        let Some((to, envelope)) = next else {
            rest(&parts.clock, &broker, &mut client, &mut network).await;
            continue;
        };
        let posted = tokio::select! {
            biased;
            () = changed(&mut network) => None,
            posted = post(&mut client, envelope.clone()) => Some(posted),
        };
        match posted {
            Some(Ok(())) => {
                broker.outbox.borrow_mut().landed(to);
                broker.state.borrow_mut().posted += 1;
                broker.succeeded(parts.clock.now().mono);
                backoff.reset();
            }
            Some(Err(error)) => {
                broker.failed("posting an envelope", &error);
                broker.give_back(to, envelope, &error);
                tokio::select! {
                    biased;
                    () = changed(&mut network) => backoff.reset(),
                    () = parts.clock.sleep(backoff.next()) => {}
                }
            }
            None => {
                broker.outbox.borrow_mut().put_back(to, envelope);
                client.disconnect();
                backoff.reset();
            }
        }
    }
}

/// Wait for something to post. The connection is kept for a moment only: a node that is at
/// peace holds no more than its poll at each broker.
async fn rest<N: Net, C: Clock, S: Spawn>(
    clock: &C,
    broker: &Broker,
    client: &mut Client<N, C, S>,
    network: &mut watch::Receiver<u64>,
) {
    let mut idle = clock.sleep(POST_IDLE_MAX);
    loop {
        tokio::select! {
            biased;
            () = broker.posted_something.notified() => return,
            () = changed(network) => client.disconnect(),
            () = &mut idle, if client.is_connected() => client.disconnect(),
        }
    }
}

/// Wait for another change of the network.
async fn changed(network: &mut watch::Receiver<u64>) {
    if network.changed().await.is_err() {
        // The client is about to be dropped, and its tasks with it.
        std::future::pending::<()>().await;
    }
}

async fn post<N: Net, C: Clock, S: Spawn>(
    client: &mut Client<N, C, S>,
    envelope: Bytes,
) -> Result<(), Failure> {
    let path = Route::Post.path_and_query();
    let answer = client.request(
        Method::POST,
        &path,
        envelope,
        POST_ANSWER_LEN_MAX,
        POST_LIMIT,
    );
    match answer.await? {
        (StatusCode::NO_CONTENT, _) => Ok(()),
        (status, _) => Err(Failure::Status(status)),
    }
}

/// What polls one broker.
struct Poller<N, C, S> {
    client: Client<N, C, S>,
    clock: C,
    broker: Rc<Broker>,
    mailbox: PublicKey,
    backoff: Backoff,
    after: Option<Cursor>,
    /// The first poll does not wait, so that a broker is soon known to work.
    wait: Duration,
    bucket: Bucket,
    news_pause: Duration,
    /// The envelopes of the latest answer that had any.
    latest: BTreeSet<Vec<u8>>,
    deliver: Rc<dyn Fn(Vec<u8>)>,
}

impl<N: Net, C: Clock, S: Spawn> Poller<N, C, S> {
    async fn run(mut self, mut network: watch::Receiver<u64>) {
        loop {
            tokio::select! {
                biased;
                () = changed(&mut network) => {
                    self.client.disconnect();
                    self.backoff.reset();
                    self.wait = Duration::ZERO;
                }
                () = self.turn() => {}
            }
        }
    }

    /// One poll and the pause after it. Dropped half way, it costs no envelope: the cursor
    /// moves when an answer has been delivered.
    async fn turn(&mut self) {
        let asked = self.clock.now().mono;
        match poll(&mut self.client, self.mailbox, self.after, self.wait).await {
            Ok(answer) => {
                let now = self.clock.now().mono;
                self.broker.succeeded(now);
                self.broker.state.borrow_mut().received += answer.envelopes.len() as u64;
                let long = self.wait.is_zero() || now >= asked + QUICK_ANSWER;
                self.wait = POLL_WAIT;
                if !answer.envelopes.is_empty() {
                    self.backoff.reset();
                    self.deliver_all(answer).await;
                    return;
                }
                self.after = Some(answer.cursor);
                if long {
                    self.backoff.reset();
                } else {
                    self.clock.sleep(self.backoff.next()).await;
                }
            }
            Err(error) => {
                self.broker.failed("polling for envelopes", &error);
                if matches!(error, Failure::Status(StatusCode::BAD_REQUEST)) {
                    // A cursor that this broker cannot read.
                    self.after = None;
                }
                self.clock.sleep(self.backoff.next()).await;
            }
        }
    }
}

impl<N: Net, C: Clock, S: Spawn> Poller<N, C, S> {
    /// Deliver what is allowed, then pause: a broker that answers without end gets neither
    /// the whole processor nor a busy loop.
    async fn deliver_all(&mut self, answer: PollAnswer) {
        let PollAnswer { cursor, envelopes } = answer;
        let new = envelopes.iter().any(|e| !self.latest.contains(e));
        let (mut latest, mut dropped) = (BTreeSet::new(), 0);
        for (index, envelope) in envelopes.into_iter().enumerate() {
            if index % DELIVERIES_PER_TURN == DELIVERIES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            if self.bucket.take(self.clock.now().mono) {
                (self.deliver)(envelope.clone());
            } else {
                dropped += 1;
            }
            latest.insert(envelope);
        }
        self.after = Some(cursor);
        self.latest = latest;
        self.broker.state.borrow_mut().dropped += dropped;
        if new && dropped == 0 {
            self.news_pause = NEWS_PAUSE_FIRST;
        }
        self.clock.sleep(self.news_pause).await;
        self.news_pause = (self.news_pause * 2).min(NEWS_PAUSE_MAX);
    }
}

async fn poll<N: Net, C: Clock, S: Spawn>(
    client: &mut Client<N, C, S>,
    mailbox: PublicKey,
    after: Option<Cursor>,
    wait: Duration,
) -> Result<PollAnswer, Failure> {
    let route = Route::Poll {
        mailbox,
        wait,
        after,
    };
    let (path, limit) = (route.path_and_query(), wait + POLL_GRACE);
    let answer = client.request(Method::GET, &path, Bytes::new(), ANSWER_LEN_MAX, limit);
    match answer.await? {
        (StatusCode::OK, body) => Ok(decode_answer(&body)?),
        (status, _) => Err(Failure::Status(status)),
    }
}

impl<N: Net, C: Clock, S: Spawn> Parts<N, C, S> {
    fn client(&self, broker: &Broker) -> Client<N, C, S> {
        Client::new(
            self.net.clone(),
            self.clock.clone(),
            self.spawn.clone(),
            broker.endpoint.clone(),
        )
    }
}

/// Pauses that double, with jitter so that nodes do not come back all at once.
struct Backoff {
    next: Duration,
    jitter: Entropy,
}

impl Backoff {
    fn new(jitter: Entropy) -> Backoff {
        Backoff {
            next: BACKOFF_FIRST,
            jitter,
        }
    }

    fn reset(&mut self) {
        self.next = BACKOFF_FIRST;
    }

    fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(BACKOFF_MAX);
        let half_us = u64::try_from(full.as_micros() / 2)
            .unwrap_or(u64::MAX)
            .max(1);
        Duration::from_micros(half_us + self.jitter.below(half_us))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::real::RealClock;
    use holdfast_core::identity::Identity;

    fn key(n: u8) -> PublicKey {
        Identity::from_seed([n; 32]).public()
    }

    #[test]
    fn a_newer_envelope_replaces_the_queued_one_and_never_overtakes_the_older() {
        let envelope = Bytes::from_static;
        let mut outbox = Outbox::default();
        outbox.push(key(1), envelope(b"old"));
        outbox.push(key(2), envelope(b"two"));
        outbox.push(key(1), envelope(b"new"));
        assert_eq!(outbox.take(), Some((key(1), envelope(b"new"))));
        outbox.push(key(1), envelope(b"newer"));
        assert_eq!(outbox.take(), Some((key(2), envelope(b"two"))));
        assert_eq!(
            outbox.take(),
            None,
            "an older one is on its way to the same receiver"
        );
        outbox.put_back(key(1), envelope(b"new"));
        assert_eq!(outbox.take(), Some((key(1), envelope(b"newer"))));
        outbox.put_back(key(1), envelope(b"newer"));
        assert_eq!(outbox.take(), Some((key(1), envelope(b"newer"))));
        outbox.landed(key(1));
        outbox.landed(key(2));
        assert_eq!(outbox.take(), None);
        assert!(outbox.in_flight.is_empty() && outbox.envelopes.is_empty());
    }

    #[test]
    fn a_burst_is_delivered_and_then_a_hundred_envelopes_each_second() {
        let start = RealClock.now().mono;
        let mut bucket = Bucket::new(DELIVERIES, start);
        let mut taken = |at_ms| {
            let now = start + Duration::from_millis(at_ms);
            (0..2 * DELIVERIES.burst)
                .filter(|_| bucket.take(now))
                .count()
        };
        assert_eq!(taken(0), 512);
        assert_eq!(taken(9), 0);
        assert_eq!(taken(10), 1);
        assert_eq!(taken(1015), 100);
        assert_eq!(taken(1020), 1);
        assert_eq!(taken(1 << 40), 512);
    }

    #[test]
    fn pauses_double_up_to_their_limit_and_never_vanish() {
        let mut backoff = Backoff::new(Seed::new([5; 32]).rng());
        let mut full = BACKOFF_FIRST;
        for _ in 0..10 {
            let pause = backoff.next();
            assert!(pause >= full / 2 && pause < full, "{pause:?} of {full:?}");
            full = (full * 2).min(BACKOFF_MAX);
        }
        assert_eq!(full, BACKOFF_MAX);
        backoff.reset();
        assert!(backoff.next() < BACKOFF_FIRST);
    }
}
