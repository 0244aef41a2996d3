//! Which datagram arrived where.
//!
//! In a simulation's trace every datagram has the hash of its content: what arrives with the hash
//! and length of what was sent elsewhere before is that, the oldest first. What a relay wraps or
//! unwraps has another hash on the way, and a batch has one hash for all of it; such messages
//! stay marks without an arrow, rather than arrows to the wrong place.

use std::collections::{BTreeMap, VecDeque};

use crate::collect::Packet;

/// The longest that a datagram is on its way.
const FLIGHT_MAX_NS: u64 = 10_000_000_000;
/// How many alike datagrams in flight are looked at: honest ones are all different.
const ALIKE_MAX: usize = 16;

/// Tell each packet that was sent where it arrived. They are in order of time.
pub fn find(packets: &mut [Packet]) {
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
        while sent
            .front()
            .is_some_and(|s| t_ns - packets[*s].t_ns > FLIGHT_MAX_NS)
        {
            sent.pop_front();
        }
        let mut oldest = sent.iter().take(ALIKE_MAX);
        let elsewhere = oldest.position(|s| packets[*s].lane != lane);
        if let Some(from) = elsewhere.and_then(|at| sent.remove(at)) {
            packets[from].arrived = Some(n);
        }
    }
}
