//! Server-reflexive addresses: what STUN servers (RFC 8489) see of our one socket.
//!
//! Asked often at first, because nobody else can start before an answer; then seldom, to
//! keep the NAT's mapping alive and to notice when it changes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use turn_client_proto::types::stun::attribute::XorMappedAddress;
use turn_client_proto::types::stun::message::{BINDING, Message, MessageClass};

use crate::entropy::{Entropy, Seed};

/// First repeat of an unanswered request; they double up to [`REPEAT_LAST`].
const REPEAT_FIRST: Duration = Duration::from_millis(100);
/// Repeats to a silent server are this far apart in the end.
const REPEAT_LAST: Duration = Duration::from_secs(5);
/// Requests to an answering server. RFC 4787 REQ-5 lets a mapping die after 2 minutes, and
/// NATs after 30 s are common.
const REFRESH: Duration = Duration::from_secs(15);
/// An answer may be this late.
const ANSWER_MAX: Duration = Duration::from_secs(5);

const MAGIC_COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();

/// Whether a datagram is STUN rather than QUIC or ChannelData: the first two bits are zero
/// and the magic cookie is in its place (RFC 8489 section 5, RFC 7983 section 7).
pub fn is_stun(data: &[u8]) -> bool {
    data.len() >= 20 && data[0] & 0xc0 == 0 && data[4..8] == MAGIC_COOKIE
}

/// The transaction id of a STUN message.
pub fn transaction_id(data: &[u8]) -> Option<[u8; 12]> {
    data.get(8..20)?.try_into().ok()
}

/// A client of one STUN server.
#[derive(Debug)]
pub struct Stun {
    server: SocketAddr,
    entropy: Entropy,
    pending: VecDeque<([u8; 12], Instant)>,
    send_at: Instant,
    repeat: Duration,
    mapped: Option<SocketAddr>,
}

impl Stun {
    /// A client that asks at once.
    pub fn new(server: SocketAddr, seed: &Seed, now: Instant) -> Stun {
        Stun {
            server,
            entropy: seed.fork("stun").rng(),
            pending: VecDeque::new(),
            send_at: now,
            repeat: REPEAT_FIRST,
            mapped: None,
        }
    }

    /// The server's address.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Our address as the server saw it last.
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// Ask again from scratch: our own address changed.
    pub fn restart(&mut self, now: Instant) {
        self.pending.clear();
        self.mapped = None;
        self.send_at = now;
        self.repeat = REPEAT_FIRST;
    }

    /// Ask at once, and often until answered: our mapping, or UDP itself, is in doubt.
    pub fn ask_now(&mut self, now: Instant) {
        self.send_at = now;
        self.repeat = REPEAT_FIRST;
    }

    /// When [`Stun::poll`] has something.
    pub fn deadline(&self) -> Instant {
        self.send_at
    }

    /// The next request, when it is due.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.send_at {
            return None;
        }
        self.pending.retain(|(_, at)| now < *at + ANSWER_MAX);
        let id: [u8; 12] = self.entropy.bytes();
        self.pending.push_back((id, now));
        self.send_at = now + self.repeat;
        self.repeat = (self.repeat * 2).min(REPEAT_LAST);
        // A Binding request without attributes: type, length 0, cookie, transaction.
        Some([&[0, 1, 0, 0], &MAGIC_COOKIE[..], &id[..]].concat())
    }

    /// A STUN message from the server. `None`: not an answer of ours. Otherwise whether our
    /// mapped address is news.
    pub fn handle(&mut self, now: Instant, data: &[u8]) -> Option<bool> {
        let id = transaction_id(data)?;
        let pending = self.pending.iter().position(|(asked, _)| *asked == id)?;
        self.pending.remove(pending);
        let message = Message::from_bytes(data).ok()?;
        if !message.has_method(BINDING) || message.class() != MessageClass::Success {
            return Some(false);
        }
        let mapped = message
            .attribute::<XorMappedAddress>()
            .ok()?
            .addr(message.transaction_id());
        self.pending.clear();
        self.send_at = now + REFRESH;
        self.repeat = REPEAT_FIRST;
        let news = self.mapped != Some(mapped);
        self.mapped = Some(mapped);
        Some(news)
    }
}
