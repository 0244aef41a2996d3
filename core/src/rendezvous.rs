//! The signaling broker's mailboxes.
//!
//! A broker is untrusted: what passes through it is sealed to the receiver and signed by the
//! sender, and the worst it can do is to withhold. A mailbox is named by its owner's public
//! key and holds, per sender, only the latest envelope, because every envelope is a full
//! snapshot of what its sender has to say: stale candidates cannot pile up, and a fresh
//! message is never lost behind an old one.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::entropy::Seed;
use crate::identity::PublicKey;
use crate::time::Now;

/// Largest accepted envelope, in bytes.
pub const ENVELOPE_LEN_MAX: usize = 4096;
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
pub struct Mailboxes {}

#[allow(unused_variables, reason = "the bodies follow")]
impl Mailboxes {
    /// An empty broker.
    pub fn new(seed: Seed, now: Now) -> Mailboxes {
        Mailboxes {}
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, input: Input) {}

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {}

    /// When to call [`Mailboxes::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// What to answer.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// Counters for `/metrics`: name and value.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
