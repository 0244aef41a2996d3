//! The signaling broker's mailboxes.
//!
//! A broker is untrusted: what passes through it is sealed to the receiver and signed by the
//! sender, and the worst it can do is to withhold. A mailbox is named by its owner's public
//! key and holds, per sender, only the latest envelope, because every envelope is a full
//! snapshot of what its sender has to say: stale candidates cannot pile up, and a fresh
//! message is never lost behind an old one.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bucket::{Bucket, Rate};
use crate::entropy::Seed;
use crate::identity::PublicKey;
use crate::signal::envelope::Envelope;
use crate::status::Queue;
use crate::time::Now;
use crate::types::Incarnation;

/// Largest accepted envelope, in bytes.
pub const ENVELOPE_LEN_MAX: usize = 4096;
/// Most mailboxes of one broker.
const MAILBOXES_MAX: usize = 4096;
/// Most senders that one mailbox remembers: a cluster's peers, and some strangers.
const SENDERS_MAX: usize = 320;
/// Most envelopes in all: 4 KiB each make 256 MiB.
const LETTERS_MAX: usize = 65_536;
/// When the broker is full, a source with more envelopes than this makes room for another.
const LETTERS_PER_SOURCE_FAIR: usize = 1024;
/// Most polls that wait at a time.
const WAITING_MAX: usize = 16_384;
/// Most of them from one source: a whole cluster behind one NAT, several times over.
const WAITING_PER_SOURCE_MAX: usize = 1024;
/// Most source addresses whose rate is watched.
const SOURCES_MAX: usize = 16_384;
/// Requests that one source may make at once. Many nodes share one provider's address.
const REQUESTS: Rate = Rate {
    burst: 600,
    every: Duration::from_millis(10),
};
/// An unfetched envelope is dropped after this time: its sender repeats itself if it lives.
const KEEP: Duration = Duration::from_secs(60);
/// How often expired envelopes are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Longest time a poll may wait.
pub const POLL_WAIT_MAX: Duration = Duration::from_secs(30);

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A client posted an envelope.
    Post {
        /// Names this request in [`Output`].
        ticket: u64,
        /// Where the request came from, for the rate limit.
        source: IpAddr,
        /// The envelope; it names its sender and its receiver.
        envelope: Vec<u8>,
    },
    /// A client waits for what is newer than its cursor.
    Poll {
        /// Names this request in [`Output`].
        ticket: u64,
        /// Where the request came from, for the rate limit.
        source: IpAddr,
        /// Whose mailbox.
        mailbox: PublicKey,
        /// The cursor of the previous answer, or nothing at first.
        after: Option<Cursor>,
        /// How long to wait when there is nothing new, at most [`POLL_WAIT_MAX`].
        wait: Duration,
    },
    /// The client of this request went away.
    Cancel {
        /// The request.
        ticket: u64,
    },
}

/// Something to answer. Each ticket that was not cancelled is answered once.
#[derive(Debug)]
pub enum Output {
    /// The envelope of this ticket is in its mailbox.
    Posted {
        /// The request.
        ticket: u64,
    },
    /// What the mailbox holds that is newer than the cursor; empty when the wait ran out.
    Messages {
        /// The request.
        ticket: u64,
        /// To pass on with the next poll.
        cursor: Cursor,
        /// Envelopes, oldest first.
        envelopes: Vec<Arc<[u8]>>,
    },
    /// The request was refused.
    Refused {
        /// The request.
        ticket: u64,
        /// Why.
        reason: Refusal,
    },
}

/// A place in the order of a broker's envelopes. Another run of the broker does not
/// recognise it and starts from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Names the run of the broker.
    pub run: u64,
    /// Counts its envelopes.
    pub seq: u64,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no envelope, or its signature is not its sender's.
    #[error("not a signed envelope")]
    Malformed,
    /// The source asked too often.
    #[error("too many requests")]
    RateLimited,
    /// The broker holds as much as it may.
    #[error("the broker is full")]
    Full,
}

/// The broker's mailboxes.
///
/// Invariants: a mailbox holds at most one envelope per sender; every envelope in it carries
/// a valid signature of that sender; each ticket is answered once or cancelled.
pub struct Mailboxes {
    run: u64,
    seq: u64,
    boxes: BTreeMap<PublicKey, Mailbox>,
    waiting: BTreeMap<u64, Waiter>,
    sources: BTreeMap<IpAddr, Bucket>,
    letters: Letters,
    outputs: VecDeque<Output>,
    swept_at: Instant,
    counts: Counts,
}

#[derive(Default)]
struct Mailbox {
    letters: BTreeMap<PublicKey, Letter>,
}

struct Letter {
    source: IpAddr,
    incarnation: Incarnation,
    sequence: u64,
    seq: u64,
    at: Instant,
    bytes: Arc<[u8]>,
}

struct Waiter {
    source: IpAddr,
    mailbox: PublicKey,
    after: u64,
    until: Instant,
}

/// How many envelopes there are, by the source that posted them.
#[derive(Default)]
struct Letters {
    total: usize,
    by_source: BTreeMap<IpAddr, usize>,
}

impl Letters {
    fn add(&mut self, source: IpAddr) {
        self.total += 1;
        *self.by_source.entry(source).or_default() += 1;
    }

    fn forget(&mut self, source: IpAddr) {
        if let Some(count) = self.by_source.get_mut(&source) {
            self.total -= 1;
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    fn drop_source(&mut self, source: IpAddr) {
        self.total -= self.by_source.remove(&source).unwrap_or_default();
    }

    fn greediest(&self) -> Option<(IpAddr, usize)> {
        let most = self.by_source.iter().max_by_key(|(_, count)| **count)?;
        Some((*most.0, *most.1))
    }
}

#[derive(Default)]
struct Counts {
    evicted: u64,
    posted: u64,
    polled: u64,
    malformed: u64,
    rate_limited: u64,
    full: u64,
    expired: u64,
}

impl Mailboxes {
    /// An empty broker.
    pub fn new(seed: Seed, now: Now) -> Mailboxes {
        Mailboxes {
            run: seed.fork("broker/run").rng().u64(),
            seq: 0,
            boxes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            sources: BTreeMap::new(),
            letters: Letters::default(),
            outputs: VecDeque::new(),
            swept_at: now.mono,
            counts: Counts::default(),
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Post {
                ticket,
                source,
                envelope,
            } => {
                let answer = match self.post(now.mono, network(source), envelope) {
                    Ok(()) => Output::Posted { ticket },
                    Err(reason) => Output::Refused { ticket, reason },
                };
                self.outputs.push_back(answer);
            }
            Input::Poll {
                ticket,
                source,
                mailbox,
                after,
                wait,
            } => {
                let after = after.filter(|cursor| cursor.run == self.run);
                let source = network(source);
                let waiter = Waiter {
                    source,
                    mailbox,
                    after: after.map_or(0, |cursor| cursor.seq),
                    until: now.mono + wait.min(POLL_WAIT_MAX),
                };
                self.poll(now.mono, ticket, waiter);
            }
            Input::Cancel { ticket } => {
                self.waiting.remove(&ticket);
            }
        }
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        let due: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiter)| waiter.until <= now.mono)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in due {
            self.answer(ticket);
        }
        if now.mono >= self.swept_at + SWEEP_EVERY {
            self.sweep(now.mono);
        }
    }

    /// When to call [`Mailboxes::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let poll = self.waiting.values().map(|waiter| waiter.until).min();
        let sweep = (!self.boxes.is_empty() || !self.sources.is_empty())
            .then(|| self.swept_at + SWEEP_EVERY);
        [(poll, "a poll's wait ends"), (sweep, "envelopes expire")]
            .into_iter()
            .filter_map(|(at, why)| Some((at?, why)))
            .min_by_key(|(at, _)| *at)
    }

    /// What to answer.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Counters and gauges for `/metrics`: name and value.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("mailboxes", self.boxes.len() as u64),
            ("polls_waiting", self.waiting.len() as u64),
            ("envelopes_posted", self.counts.posted),
            ("polls_answered", self.counts.polled),
            ("refused_malformed", self.counts.malformed),
            ("refused_rate_limited", self.counts.rate_limited),
            ("refused_full", self.counts.full),
            ("envelopes_expired", self.counts.expired),
            ("sources_evicted", self.counts.evicted),
        ]
    }

    /// Everything of the broker that can fill, and how full it is.
    pub fn queues(&self) -> Vec<Queue> {
        let fullest = self.boxes.values().map(|mailbox| mailbox.letters.len());
        vec![
            Queue::new("broker/mailboxes", self.boxes.len(), MAILBOXES_MAX),
            Queue::new("broker/senders", fullest.max().unwrap_or(0), SENDERS_MAX),
            Queue::new("broker/envelopes", self.letters.total, LETTERS_MAX),
            Queue::new("broker/polls", self.waiting.len(), WAITING_MAX),
            Queue::new("broker/sources", self.sources.len(), SOURCES_MAX),
        ]
    }

    fn post(&mut self, now: Instant, source: IpAddr, bytes: Vec<u8>) -> Result<(), Refusal> {
        self.take_token(now, source)?;
        let Ok(envelope) = Envelope::parse(&bytes) else {
            self.counts.malformed += 1;
            return Err(Refusal::Malformed);
        };
        let (sender, receiver) = (envelope.sender, envelope.receiver);
        let run = (envelope.incarnation, envelope.sequence);
        if self.is_recording(sender, receiver, run) {
            // Accepted and without effect: a replay does not displace what came after it.
            return Ok(());
        }
        self.make_room(source, receiver)?;
        self.seq += 1;
        let letter = Letter {
            source,
            incarnation: run.0,
            sequence: run.1,
            seq: self.seq,
            at: now,
            bytes: bytes.into(),
        };
        let mailbox = self.boxes.entry(receiver).or_default();
        if let Some(old) = mailbox.letters.insert(sender, letter) {
            self.letters.forget(old.source);
        }
        self.letters.add(source);
        if mailbox.letters.len() > SENDERS_MAX && !planted!(UnboundedMailbox) {
            // Strangers may write to anyone; the one that was silent longest makes room.
            let oldest = mailbox.letters.iter().min_by_key(|(_, letter)| letter.seq);
            let oldest = *oldest.expect("more than the limit is not none").0;
            if let Some(old) = mailbox.letters.remove(&oldest) {
                self.letters.forget(old.source);
            }
        }
        assert!(mailbox.letters.len() <= SENDERS_MAX || planted!(UnboundedMailbox));
        self.counts.posted += 1;
        self.wake(receiver);
        Ok(())
    }

    /// Whether the mailbox holds a later word of the same run.
    fn is_recording(
        &self,
        sender: PublicKey,
        receiver: PublicKey,
        (incarnation, sequence): (Incarnation, u64),
    ) -> bool {
        let letters = self.boxes.get(&receiver).map(|mailbox| &mailbox.letters);
        let known = letters.and_then(|letters| letters.get(&sender));
        known.is_some_and(|known| known.incarnation == incarnation && known.sequence > sequence)
    }

    /// A full broker serves whoever takes little of it: one source cannot shut it to others.
    fn make_room(&mut self, source: IpAddr, receiver: PublicKey) -> Result<(), Refusal> {
        let boxes_full = self.boxes.len() >= MAILBOXES_MAX && !self.boxes.contains_key(&receiver);
        let full = boxes_full || self.letters.total >= LETTERS_MAX;
        if !full || planted!(UnboundedMailbox) {
            return Ok(());
        }
        let greedy = self
            .letters
            .greediest()
            .filter(|(greedy, count)| *greedy != source && *count > LETTERS_PER_SOURCE_FAIR);
        let Some((greedy, _)) = greedy else {
            self.counts.full += 1;
            return Err(Refusal::Full);
        };
        for mailbox in self.boxes.values_mut() {
            mailbox.letters.retain(|_, letter| letter.source != greedy);
        }
        self.boxes.retain(|_, mailbox| !mailbox.letters.is_empty());
        self.letters.drop_source(greedy);
        self.counts.evicted += 1;
        Ok(())
    }

    fn poll(&mut self, now: Instant, ticket: u64, waiter: Waiter) {
        let neighbours = self.waiting.values().filter(|w| w.source == waiter.source);
        let crowded = neighbours.count() >= WAITING_PER_SOURCE_MAX;
        let refusal = match self.take_token(now, waiter.source) {
            Err(reason) => Some(reason),
            Ok(()) if crowded || self.waiting.len() >= WAITING_MAX => {
                self.counts.full += 1;
                Some(Refusal::Full)
            }
            Ok(()) => None,
        };
        if let Some(reason) = refusal {
            self.outputs.push_back(Output::Refused { ticket, reason });
            return;
        }
        let mailbox = waiter.mailbox;
        self.waiting.insert(ticket, waiter);
        self.wake(mailbox);
    }

    /// Answer the polls of a mailbox that have something to read.
    fn wake(&mut self, owner: PublicKey) {
        let Some(mailbox) = self.boxes.get(&owner) else {
            return;
        };
        let newest = mailbox.letters.values().map(|letter| letter.seq).max();
        let ready: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiter)| waiter.mailbox == owner && newest > Some(waiter.after))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in ready {
            self.answer(ticket);
        }
    }

    fn answer(&mut self, ticket: u64) {
        let Some(waiter) = self.waiting.remove(&ticket) else {
            return;
        };
        let letters = self.boxes.get(&waiter.mailbox);
        let mut news: Vec<&Letter> = letters
            .into_iter()
            .flat_map(|mailbox| mailbox.letters.values())
            .filter(|letter| letter.seq > waiter.after)
            .collect();
        news.sort_by_key(|letter| letter.seq);
        self.counts.polled += 1;
        self.outputs.push_back(Output::Messages {
            ticket,
            cursor: Cursor {
                run: self.run,
                seq: news.last().map_or(waiter.after, |letter| letter.seq),
            },
            envelopes: news.iter().map(|letter| letter.bytes.clone()).collect(),
        });
    }

    fn take_token(&mut self, now: Instant, source: IpAddr) -> Result<(), Refusal> {
        if !self.sources.contains_key(&source) && self.sources.len() >= SOURCES_MAX {
            self.counts.full += 1;
            return Err(Refusal::Full);
        }
        let full = Bucket::new(REQUESTS, now);
        if !self.sources.entry(source).or_insert(full).take(now) {
            if planted!(UnboundedMailbox) {
                return Ok(());
            }
            self.counts.rate_limited += 1;
            return Err(Refusal::RateLimited);
        }
        Ok(())
    }

    /// Forget envelopes that nobody fetched in time, and sources with a full bucket.
    fn sweep(&mut self, now: Instant) {
        self.swept_at = now;
        for mailbox in self.boxes.values_mut() {
            let old = mailbox
                .letters
                .extract_if(.., |_, letter| now >= letter.at + KEEP);
            for (_, letter) in old {
                self.letters.forget(letter.source);
                self.counts.expired += 1;
            }
        }
        self.boxes.retain(|_, mailbox| !mailbox.letters.is_empty());
        self.sources.retain(|_, bucket| !bucket.is_full(now));
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 network of 64 bits, of which any
/// host has as many addresses as it likes.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests;
