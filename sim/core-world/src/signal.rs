//! A node's signaling client: all brokers at once, each with a queue of its own.
//!
//! It does what `holdfast_io::signal` does, by the same times, as a machine over a
//! [`Stack`]: four connections of each broker post, one polls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::bucket::{Bucket, Rate};
use holdfast_core::config::PEERS_MAX;
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::identity::PublicKey;
use holdfast_core::rendezvous::Cursor;

use crate::clock::origin;
use crate::tcp::{ConnId, SocketEvent, Stack};
use crate::wire::{Answer, Request};

// These are holdfast-io's, under the same names.
const POLL_WAIT: Duration = Duration::from_secs(25);
const POLL_GRACE: Duration = Duration::from_secs(10);
const POST_LIMIT: Duration = Duration::from_secs(10);
const POSTERS: usize = 4;
const POST_IDLE_MAX: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const QUICK_ANSWER: Duration = Duration::from_millis(50);
const DELIVERIES: Rate = Rate {
    burst: 512,
    every: Duration::from_millis(10),
};
const NEWS_PAUSE_FIRST: Duration = Duration::from_millis(20);
const NEWS_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A moment, by the world's time for sockets and by the node's own for pauses.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The world's.
    pub world: Duration,
    /// The node's.
    pub local: Duration,
}

/// The client of one node.
#[derive(Debug)]
pub struct SignalClient {
    mailbox: PublicKey,
    brokers: Vec<Broker>,
    conns: BTreeMap<ConnId, (usize, usize)>,
    deadline: Option<Duration>,
}

#[derive(Debug)]
struct Broker {
    addr: SocketAddr,
    outbox: Outbox,
    /// Its latest request failed.
    failing: bool,
    posters: [Poster; POSTERS],
    poller: Poller,
}

/// The newest envelope per receiver, in the order in which receivers came.
#[derive(Debug, Default)]
struct Outbox {
    order: VecDeque<PublicKey>,
    envelopes: BTreeMap<PublicKey, Bytes>,
    in_flight: BTreeSet<PublicKey>,
}

#[derive(Debug)]
struct Poster {
    line: Line,
    backoff: Backoff,
    doing: Posting,
}

#[derive(Debug)]
enum Posting {
    Idle {
        since: Duration,
    },
    Asking {
        to: PublicKey,
        envelope: Bytes,
        until: Duration,
    },
    Resting {
        until: Duration,
    },
}

#[derive(Debug)]
struct Poller {
    line: Line,
    backoff: Backoff,
    doing: Polling,
    after: Option<Cursor>,
    wait: Duration,
    bucket: Bucket,
    news_pause: Duration,
    latest: BTreeSet<Bytes>,
}

#[derive(Clone, Copy, Debug)]
enum Polling {
    Resting { until: Duration },
    Asking { since: Duration, until: Duration },
}

/// A connection that is made when it is needed, and what of an answer has arrived.
#[derive(Debug, Default)]
struct Line {
    conn: Option<ConnId>,
    unsent: Bytes,
    inbox: BytesMut,
}

/// Pauses that double, drawn from their upper half.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    jitter: Entropy,
}

impl SignalClient {
    /// Poll `mailbox` at all `brokers` from now on.
    #[must_use]
    pub fn new(
        brokers: &[SocketAddr],
        mailbox: PublicKey,
        seed: &Seed,
        local: Duration,
    ) -> SignalClient {
        let broker = |(n, addr): (usize, &SocketAddr)| {
            let backoff = |what: String| Backoff {
                next: BACKOFF_FIRST,
                jitter: seed.fork(&format!("signal/{n}/{what}")).rng(),
            };
            Broker {
                addr: *addr,
                outbox: Outbox::default(),
                failing: false,
                posters: std::array::from_fn(|poster| Poster {
                    line: Line::default(),
                    backoff: backoff(format!("post/{poster}")),
                    doing: Posting::Idle { since: local },
                }),
                poller: Poller {
                    line: Line::default(),
                    backoff: backoff("poll".to_owned()),
                    doing: Polling::Resting { until: local },
                    after: None,
                    // The first poll does not wait, so that a broker is soon known to work.
                    wait: Duration::ZERO,
                    bucket: Bucket::new(DELIVERIES, origin() + local),
                    news_pause: NEWS_PAUSE_FIRST,
                    latest: BTreeSet::new(),
                },
            }
        };
        SignalClient {
            mailbox,
            brokers: brokers.iter().enumerate().map(broker).collect(),
            conns: BTreeMap::new(),
            deadline: Some(local),
        }
    }

    /// Post an envelope to all brokers.
    pub fn post(&mut self, at: Moment, stack: &mut Stack, to: PublicKey, envelope: &Bytes) {
        for broker in &mut self.brokers {
            broker.outbox.push(to, envelope.clone());
        }
        self.drive(at, stack);
    }

    /// The machine's addresses are other ones now: connections may be dead without knowing.
    pub fn network_changed(&mut self, at: Moment, stack: &mut Stack) {
        for conn in std::mem::take(&mut self.conns).into_keys() {
            stack.abort(conn);
        }
        for broker in &mut self.brokers {
            for poster in &mut broker.posters {
                poster.line = Line::default();
                poster.backoff.next = BACKOFF_FIRST;
                poster.give_back(&mut broker.outbox, at.local);
            }
            broker.poller.line = Line::default();
            broker.poller.backoff.next = BACKOFF_FIRST;
            broker.poller.wait = Duration::ZERO;
            broker.poller.doing = Polling::Resting { until: at.local };
        }
        self.drive(at, stack);
    }

    /// Whether no envelope waits for a broker that may take it.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        let waits = |broker: &Broker| {
            !broker.outbox.in_flight.is_empty() || !broker.outbox.order.is_empty()
        };
        !self
            .brokers
            .iter()
            .any(|broker| waits(broker) && !broker.failing)
    }

    /// When to call [`SignalClient::handle_deadline`], in local time.
    #[must_use]
    pub const fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// A pause or a limit may be over. Returns whether one was.
    pub fn handle_deadline(&mut self, at: Moment, stack: &mut Stack) -> bool {
        let is_due = self.deadline.is_some_and(|due| due <= at.local);
        if is_due {
            self.drive(at, stack);
        }
        is_due
    }

    /// A connection did something. Returns whether it is one of ours; `deliver` gets the
    /// envelopes that came.
    pub fn handle_socket(
        &mut self,
        at: Moment,
        stack: &mut Stack,
        conn: ConnId,
        event: SocketEvent,
        deliver: &mut Vec<Bytes>,
    ) -> bool {
        let Some(&(broker, slot)) = self.conns.get(&conn) else {
            return false;
        };
        let line = self.brokers[broker].line(slot);
        match event {
            SocketEvent::Connected | SocketEvent::Writable => line.flush(at, stack),
            SocketEvent::Readable | SocketEvent::Closed => {
                while let Some(bytes) = stack.read(conn) {
                    line.inbox.extend_from_slice(&bytes);
                }
                match Answer::decode(&mut line.inbox) {
                    Ok(Some(answer)) => self.answered(at, (broker, slot), answer, deliver),
                    Ok(None) => {}
                    Err(_) => self.failed(at, stack, (broker, slot)),
                }
            }
            SocketEvent::Accepted { .. } => {}
        }
        if event == SocketEvent::Closed {
            self.hang_up(at, stack, (broker, slot));
            if self.brokers[broker].is_asking(slot) {
                self.failed(at, stack, (broker, slot));
            }
        }
        self.drive(at, stack);
        true
    }

    /// Begin what can be begun, give up what took too long.
    fn drive(&mut self, at: Moment, stack: &mut Stack) {
        for broker in 0..self.brokers.len() {
            for slot in 0..=POSTERS {
                if self.brokers[broker].is_overdue(slot, at.local) {
                    self.failed(at, stack, (broker, slot));
                }
                if self.brokers[broker].is_idle_too_long(slot, at.local) {
                    self.hang_up(at, stack, (broker, slot));
                }
                if let Some(request) = self.next_request(broker, slot, at.local) {
                    self.ask(at, stack, (broker, slot), &request);
                }
            }
        }
        self.deadline = self.brokers.iter().filter_map(Broker::deadline).min();
    }

    fn next_request(&mut self, n: usize, slot: usize, local: Duration) -> Option<Request> {
        let broker = &mut self.brokers[n];
        let Some(poster) = broker.posters.get_mut(slot) else {
            let poller = &mut broker.poller;
            if !matches!(poller.doing, Polling::Resting { until } if until <= local) {
                return None;
            }
            poller.doing = Polling::Asking {
                since: local,
                until: local + poller.wait + POLL_GRACE,
            };
            return Some(Request::Poll {
                mailbox: self.mailbox,
                after: poller.after,
                wait: poller.wait,
            });
        };
        match poster.doing {
            Posting::Resting { until } if until <= local => {
                poster.doing = Posting::Idle { since: local };
            }
            Posting::Idle { .. } => {}
            Posting::Resting { .. } | Posting::Asking { .. } => return None,
        }
        let (to, envelope) = broker.outbox.take()?;
        poster.doing = Posting::Asking {
            to,
            envelope: envelope.clone(),
            until: local + POST_LIMIT,
        };
        Some(Request::Post(envelope))
    }

    fn ask(&mut self, at: Moment, stack: &mut Stack, (n, slot): (usize, usize), request: &Request) {
        let broker = &mut self.brokers[n];
        let addr = broker.addr;
        let line = broker.line(slot);
        line.unsent = request.encode();
        line.inbox.clear();
        match line.conn {
            Some(_) => line.flush(at, stack),
            None => {
                let conn = stack.connect(at.world, addr);
                line.conn = Some(conn);
                self.conns.insert(conn, (n, slot));
            }
        }
    }

    fn hang_up(&mut self, at: Moment, stack: &mut Stack, (n, slot): (usize, usize)) {
        let line = std::mem::take(self.brokers[n].line(slot));
        if let Some(conn) = line.conn {
            self.conns.remove(&conn);
            stack.close(at.world, conn);
        }
    }

    /// A request got no good answer: the connection is left, and the next try is later.
    fn failed(&mut self, at: Moment, stack: &mut Stack, (n, slot): (usize, usize)) {
        self.hang_up(at, stack, (n, slot));
        let broker = &mut self.brokers[n];
        broker.failing = true;
        match broker.posters.get_mut(slot) {
            Some(poster) => {
                poster.give_back(&mut broker.outbox, at.local);
                poster.rest(at.local);
            }
            None => broker.poller.rest(at.local),
        }
    }

    fn answered(
        &mut self,
        at: Moment,
        (n, slot): (usize, usize),
        answer: Answer,
        deliver: &mut Vec<Bytes>,
    ) {
        let broker = &mut self.brokers[n];
        let Some(poster) = broker.posters.get_mut(slot) else {
            broker.failing = !matches!(answer, Answer::Messages(..));
            return broker.poller.answered(at.local, answer, deliver);
        };
        let doing = std::mem::replace(&mut poster.doing, Posting::Idle { since: at.local });
        let Posting::Asking { to, envelope, .. } = doing else {
            return;
        };
        match answer {
            Answer::Posted => {
                broker.failing = false;
                broker.outbox.in_flight.remove(&to);
                poster.backoff.next = BACKOFF_FIRST;
            }
            Answer::Refused { is_final: true } => {
                broker.failing = true;
                broker.outbox.in_flight.remove(&to);
                poster.rest(at.local);
            }
            Answer::Refused { is_final: false } | Answer::Messages(..) => {
                broker.failing = true;
                broker.outbox.put_back(to, envelope);
                poster.rest(at.local);
            }
        }
    }
}

impl Broker {
    fn line(&mut self, slot: usize) -> &mut Line {
        match self.posters.get_mut(slot) {
            Some(poster) => &mut poster.line,
            None => &mut self.poller.line,
        }
    }

    fn is_asking(&self, slot: usize) -> bool {
        match self.posters.get(slot) {
            Some(poster) => matches!(poster.doing, Posting::Asking { .. }),
            None => matches!(self.poller.doing, Polling::Asking { .. }),
        }
    }

    fn is_overdue(&self, slot: usize, local: Duration) -> bool {
        match self.posters.get(slot).map(|poster| &poster.doing) {
            Some(Posting::Asking { until, .. }) => *until <= local,
            Some(_) => false,
            None => matches!(self.poller.doing, Polling::Asking { until, .. } if until <= local),
        }
    }

    /// A node that is at peace holds no more than its poll at each broker.
    fn is_idle_too_long(&self, slot: usize, local: Duration) -> bool {
        self.posters
            .get(slot)
            .and_then(Poster::idle_until)
            .is_some_and(|until| until <= local)
    }

    fn deadline(&self) -> Option<Duration> {
        let poll = match self.poller.doing {
            Polling::Resting { until } | Polling::Asking { until, .. } => until,
        };
        let posts = self.posters.iter().filter_map(|poster| match poster.doing {
            Posting::Idle { .. } => poster.idle_until(),
            Posting::Asking { until, .. } | Posting::Resting { until } => Some(until),
        });
        posts.chain([poll]).min()
    }
}

impl Poster {
    fn idle_until(&self) -> Option<Duration> {
        match self.doing {
            Posting::Idle { since } if self.line.conn.is_some() => Some(since + POST_IDLE_MAX),
            _ => None,
        }
    }

    fn give_back(&mut self, outbox: &mut Outbox, local: Duration) {
        let idle = Posting::Idle { since: local };
        if let Posting::Asking { to, envelope, .. } = std::mem::replace(&mut self.doing, idle) {
            outbox.put_back(to, envelope);
        }
    }

    fn rest(&mut self, local: Duration) {
        self.doing = Posting::Resting {
            until: local + self.backoff.next(),
        };
    }
}

impl Poller {
    fn rest(&mut self, local: Duration) {
        self.doing = Polling::Resting {
            until: local + self.backoff.next(),
        };
    }

    fn answered(&mut self, local: Duration, answer: Answer, deliver: &mut Vec<Bytes>) {
        let Polling::Asking { since, .. } = self.doing else {
            return;
        };
        let Answer::Messages(cursor, envelopes) = answer else {
            return self.rest(local);
        };
        let long = self.wait.is_zero() || local >= since + QUICK_ANSWER;
        self.wait = POLL_WAIT;
        self.after = Some(cursor);
        if envelopes.is_empty() {
            if long {
                self.backoff.next = BACKOFF_FIRST;
                self.doing = Polling::Resting { until: local };
            } else {
                self.rest(local);
            }
            return;
        }
        self.backoff.next = BACKOFF_FIRST;
        let new = envelopes
            .iter()
            .any(|envelope| !self.latest.contains(envelope));
        let allowed = |_: &&Bytes| self.bucket.take(origin() + local);
        let before = deliver.len();
        deliver.extend(envelopes.iter().filter(allowed).cloned());
        let dropped = envelopes.len() - (deliver.len() - before);
        self.latest = envelopes.into_iter().collect();
        if new && dropped == 0 {
            self.news_pause = NEWS_PAUSE_FIRST;
        }
        // A broker that answers without end gets no busy loop.
        self.doing = Polling::Resting {
            until: local + self.news_pause,
        };
        self.news_pause = (self.news_pause * 2).min(NEWS_PAUSE_MAX);
    }
}

impl Line {
    fn flush(&mut self, at: Moment, stack: &mut Stack) {
        if let Some(conn) = self.conn {
            let taken = stack.write(at.world, conn, &self.unsent);
            drop(self.unsent.split_to(taken));
        }
    }
}

impl Outbox {
    fn push(&mut self, to: PublicKey, envelope: Bytes) {
        if self.envelopes.insert(to, envelope).is_none() {
            self.order.push_back(to);
        }
        while self.order.len() > PEERS_MAX {
            if let Some(to) = self.order.pop_front() {
                self.envelopes.remove(&to);
            }
        }
    }

    fn take(&mut self) -> Option<(PublicKey, Bytes)> {
        let free = |to: &PublicKey| !self.in_flight.contains(to);
        let to = self.order.remove(self.order.iter().position(free)?)?;
        let envelope = self.envelopes.remove(&to)?;
        self.in_flight.insert(to);
        Some((to, envelope))
    }

    fn put_back(&mut self, to: PublicKey, envelope: Bytes) {
        self.in_flight.remove(&to);
        if !self.envelopes.contains_key(&to) {
            self.order.push_front(to);
            self.envelopes.insert(to, envelope);
        }
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(BACKOFF_MAX);
        let half_us = (full.as_micros() as u64 / 2).max(1);
        Duration::from_micros(half_us + self.jitter.below(half_us))
    }
}
