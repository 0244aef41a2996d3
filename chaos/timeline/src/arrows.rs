//! Which datagram arrived where.
//!
//! In a simulation's trace every datagram has the hash of its content: what arrives with the hash
//! and length of what was sent elsewhere before is that, the oldest first. What a relay wraps has
//! another hash behind it, and a batch has one hash for all of it; those are matched by address,
//! length and time, and marked as probable.

use std::collections::{BTreeMap, VecDeque};

use crate::collect::Packet;

/// The longest that a datagram is on its way.
const FLIGHT_MAX_NS: u64 = 10_000_000_000;
/// How many alike datagrams in flight are looked at: honest ones are all different.
const ALIKE_MAX: usize = 16;
/// Datagrams of one batch that are expected to arrive: no system sends more at once.
const SEGMENTS_MAX: u64 = 64;
/// What a TURN server puts before a datagram: RFC 8656 section 12.4.
const CHANNEL_HEADER_LEN: u64 = 4;
/// How much longer than the fastest a datagram is on its way, when that is guessed: a queue, and
/// the detour by a relay.
const SLACK_NS: u64 = 60_000_000;

/// Whose an address is, as a lane sees it.
pub type Book = BTreeMap<(usize, String), usize>;

/// Tell each packet that was sent where it arrived. They are in order of time; the book has what
/// nodes said of their paths.
pub fn find(packets: &mut [Packet], book: Book) {
    let mut matcher = Matcher {
        book,
        fastest: BTreeMap::new(),
        is_known: vec![false; packets.len()],
    };
    matcher.by_hash(packets);
    matcher.by_length(packets);
}

struct Matcher {
    book: Book,
    /// From lane to lane, the shortest time on the way.
    fastest: BTreeMap<(usize, usize), u64>,
    /// Which packets that arrived have a sender.
    is_known: Vec<bool>,
}

/// A datagram that has not arrived yet.
struct Flying {
    sent: usize,
    lane: usize,
    t_ns: u64,
}

impl Matcher {
    fn by_hash(&mut self, packets: &mut [Packet]) {
        let mut flying: BTreeMap<(u64, u64), VecDeque<usize>> = BTreeMap::new();
        for n in 0..packets.len() {
            let packet = &packets[n];
            let (t_ns, lane, message) = (packet.t_ns, packet.lane, &packet.message);
            if message.hash == 0 {
                continue;
            }
            let key = (message.hash, message.len);
            if message.is_tx {
                flying.entry(key).or_default().push_back(n);
                continue;
            }
            let Some(sent) = flying.get_mut(&key) else {
                continue;
            };
            while (sent.front()).is_some_and(|s| t_ns - packets[*s].t_ns > FLIGHT_MAX_NS) {
                sent.pop_front();
            }
            let mut oldest = sent.iter().take(ALIKE_MAX);
            let elsewhere = oldest.position(|s| packets[*s].lane != lane);
            if let Some(from) = elsewhere.and_then(|at| sent.remove(at)) {
                self.learn(&packets[from], packet);
                self.is_known[n] = true;
                packets[from].arrived = Some(n);
            }
        }
    }

    fn learn(&mut self, sent: &Packet, arrived: &Packet) {
        let there = (sent.lane, sent.message.address.clone());
        self.book.insert(there, arrived.lane);
        let here = (arrived.lane, arrived.message.address.clone());
        self.book.insert(here, sent.lane);
        let time = arrived.t_ns - sent.t_ns;
        let fastest = self
            .fastest
            .entry((sent.lane, arrived.lane))
            .or_insert(time);
        *fastest = time.min(*fastest);
    }

    fn by_length(&self, packets: &mut [Packet]) {
        let mut flying: BTreeMap<(usize, u64), VecDeque<Flying>> = BTreeMap::new();
        for n in 0..packets.len() {
            let packet = &packets[n];
            let (t_ns, lane, message) = (packet.t_ns, packet.lane, &packet.message);
            if message.hash == 0 {
                continue;
            }
            let known = self.book.get(&(lane, message.address.clone()));
            if message.is_tx {
                let (None, Some(to)) = (packet.arrived, known) else {
                    continue;
                };
                for len in lengths(message.len, message.segment) {
                    let sent = flying.entry((*to, len)).or_default();
                    sent.push_back(Flying {
                        sent: n,
                        lane,
                        t_ns,
                    });
                }
                continue;
            }
            if self.is_known[n] {
                continue;
            }
            let relayed = message.len.saturating_sub(CHANNEL_HEADER_LEN);
            let wanted = match known {
                Some(_) => message.len,
                None => relayed,
            };
            let Some(sent) = flying.get_mut(&(lane, wanted)) else {
                continue;
            };
            let is_lost = |one: &Flying| {
                let fastest = self.fastest.get(&(one.lane, lane)).copied();
                t_ns - one.t_ns > 2 * fastest.unwrap_or(SLACK_NS) + SLACK_NS
            };
            while sent.front().is_some_and(is_lost) {
                sent.pop_front();
            }
            let is_sender = |one: &Flying| known.is_none_or(|known| one.lane == *known);
            let at = sent.iter().take(ALIKE_MAX).position(is_sender);
            if let Some(one) = at.and_then(|at| sent.remove(at)) {
                let sent = &mut packets[one.sent];
                if sent.arrived.is_none() {
                    (sent.arrived, sent.is_guess) = (Some(n), true);
                }
            }
        }
    }
}

/// How long each datagram of a batch is.
fn lengths(len: u64, segment: u64) -> impl Iterator<Item = u64> {
    let segment = if segment == 0 { len.max(1) } else { segment };
    let whole = (len / segment).min(SEGMENTS_MAX);
    let rest = Some(len % segment).filter(|rest| *rest > 0);
    (0..whole).map(move |_| segment).chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::Message;

    fn packet(t_ms: u64, lane: usize, is_tx: bool, address: &str, len: u64, hash: u64) -> Packet {
        Packet {
            t_ns: t_ms * 1_000_000,
            line: 0,
            lane,
            message: Message {
                is_tx,
                address: address.to_owned(),
                len,
                segment: len.min(100),
                hash,
            },
            arrived: None,
            is_guess: false,
        }
    }

    fn arrows(mut packets: Vec<Packet>, book: Book) -> Vec<(usize, usize, bool)> {
        find(&mut packets, book);
        let found = packets.iter().enumerate();
        found
            .filter_map(|(n, p)| Some((n, p.arrived?, p.is_guess)))
            .collect()
    }

    #[test]
    fn a_datagram_arrives_where_its_hash_does_and_not_at_its_sender() {
        let packets = vec![
            packet(0, 0, true, "b", 60, 7),
            packet(1, 0, false, "x", 60, 7),
            packet(9, 1, false, "a", 60, 7),
            packet(9, 1, false, "a", 60, 8),
        ];
        assert_eq!(arrows(packets, Book::new()), [(0, 2, false)]);
    }

    #[test]
    fn a_batch_is_followed_once_addresses_are_known_and_a_lost_one_is_left_behind() {
        let packets = vec![
            packet(0, 0, true, "b", 60, 7),
            packet(10, 1, false, "a", 60, 7),
            packet(1_000, 0, true, "b", 300, 1),
            packet(2_000, 0, true, "b", 300, 2),
            packet(2_010, 1, false, "a", 100, 3),
            packet(2_010, 1, false, "a", 100, 4),
        ];
        assert_eq!(arrows(packets, Book::new()), [(0, 1, false), (3, 4, true)]);
    }

    #[test]
    fn what_a_relay_wraps_is_followed_to_the_peer_whose_path_it_is() {
        let packets = vec![
            packet(0, 0, true, "relay", 80, 1),
            packet(20, 1, false, "turn", 84, 2),
        ];
        let book = Book::from([((0, "relay".to_owned()), 1)]);
        assert_eq!(arrows(packets, book), [(0, 1, true)]);
    }
}
