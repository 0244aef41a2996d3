//! The entries of slots in Consul, seen from the public network through the coordinators' gateways.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_plan::SlotOwner;
use serde::Deserialize;

use super::watch::Seen;
use super::{CLUSTER_NAME, KV_PORT};
use crate::agent::Clock;
use crate::http;

/// How long a read waits at Consul for a change.
const WAIT: &str = "1s";
/// How long a read may take: the wait, Consul's jitter of a sixteenth of it, and an election.
const READ_LIMIT: Duration = Duration::from_secs(3);
/// How long to rest after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long a gateway may take to say who leads.
const LEADER_LIMIT: Duration = Duration::from_millis(500);

/// A change of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When: of a renewal the earliest time that it may have been, else the latest. So whoever
    /// takes a slot never seems to have waited shorter than it did.
    pub at: Duration,
    /// Its key.
    pub key: String,
    /// The slot, when the key is one of a slot.
    pub slot: Option<u16>,
    /// The index of the change.
    pub index: u64,
    /// Whose it is then.
    pub owner: Option<SlotOwner>,
    /// Whose it was before.
    pub before: Option<SlotOwner>,
    /// It was deleted.
    pub is_gone: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    modify_index: u64,
    value: Option<String>,
}

/// The entries, as last read.
#[derive(Debug, Default)]
struct Known {
    index: u64,
    entries: BTreeMap<String, (u64, Option<SlotOwner>)>,
    read_at: Duration,
    told_at: Duration,
}

/// Tell every change until the flag is set.
pub fn look_on(gateways: &[Ipv4Addr], clock: Clock, seen: &Sender<Seen>, over: &AtomicBool) {
    let mut known = Known::default();
    let mut turn = 0;
    let mut waits = false;
    while !over.load(Ordering::SeqCst) {
        let at = SocketAddr::from((gateways[turn % gateways.len()], KV_PORT));
        let index = if waits { known.index } else { 0 };
        let prefix = prefix();
        let path = format!("/v1/kv/{prefix}?recurse&index={index}&wait={WAIT}");
        let read = http::get(at, &path, READ_LIMIT);
        let read = read.ok().filter(|read| [200, 404].contains(&read.status));
        let found = read.and_then(|read| {
            let index = read.number("X-Consul-Index")?;
            let pairs = match read.status {
                404 => Vec::new(),
                _ => serde_json::from_str(&read.body).ok()?,
            };
            Some((index, pairs))
        });
        waits = found.is_some();
        match found {
            Some((index, pairs)) => {
                for change in known.changes(clock.now(), index, pairs) {
                    // The world that nobody listens to any more is ending.
                    let _ = seen.send(Seen::Change(change));
                }
            }
            None => {
                turn += 1;
                thread::sleep(RETRY_AFTER);
            }
        }
    }
}

impl Known {
    fn changes(&mut self, now: Duration, index: u64, pairs: Vec<Pair>) -> Vec<Change> {
        // A server that lags behind tells what is known.
        if index < self.index {
            return Vec::new();
        }
        self.index = index;
        let mut changes: Vec<Change> = Vec::new();
        let mut there = BTreeMap::new();
        for pair in pairs {
            let owner = pair.value.as_deref().and_then(owner);
            let before = self.entries.get(&pair.key);
            if before.is_none_or(|(known, _)| *known < pair.modify_index) {
                let before = before.and_then(|(_, owner)| owner.clone());
                let (key, index) = (pair.key.clone(), pair.modify_index);
                changes.push(self.change(now, key, index, owner.clone(), before));
            }
            there.insert(pair.key, (pair.modify_index, owner));
        }
        for (key, (_, before)) in std::mem::replace(&mut self.entries, there) {
            if !self.entries.contains_key(&key) {
                let gone = self.change(now, key, index, None, before);
                changes.push(Change {
                    is_gone: true,
                    ..gone
                });
            }
        }
        self.read_at = now;
        changes.sort_by_key(|change| change.index);
        for change in &mut changes {
            change.at = change.at.max(self.told_at);
            self.told_at = change.at;
        }
        changes
    }

    fn change(
        &self,
        now: Duration,
        key: String,
        index: u64,
        owner: Option<SlotOwner>,
        before: Option<SlotOwner>,
    ) -> Change {
        let name = |owner: &Option<SlotOwner>| owner.as_ref().map(|o| o.instance.clone());
        let is_renewal = before.is_some() && name(&before) == name(&owner);
        let ordinal = key.strip_prefix(&prefix());
        Change {
            at: if is_renewal { self.read_at } else { now },
            slot: ordinal.and_then(|ordinal| ordinal.parse().ok()),
            key,
            index,
            owner,
            before,
            is_gone: false,
        }
    }
}

fn prefix() -> String {
    format!("cluster/{CLUSTER_NAME}/slots/")
}

/// Whose an entry is, by its text: the format of `docs/membership.md`.
fn owner(value: &str) -> Option<SlotOwner> {
    SlotOwner::of_entry(&STANDARD.decode(value).ok()?)
}

/// The slot of the coordinator that leads, as the first gateway that knows one says: the last
/// octet of its virtual address.
pub fn leader(gateways: &[Ipv4Addr]) -> Option<u16> {
    gateways.iter().find_map(|gateway| {
        let at = SocketAddr::from((*gateway, KV_PORT));
        let answer = http::get(at, "/v1/status/leader", LEADER_LIMIT).ok()?;
        let text: String = serde_json::from_str(&answer.body).ok()?;
        let leader: SocketAddr = text.parse().ok()?;
        match leader.ip() {
            std::net::IpAddr::V4(ip) => Some(u16::from(ip.octets()[3])),
            std::net::IpAddr::V6(_) => None,
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn pair(slot: u16, index: u64, instance: &str) -> Pair {
        let text = format!(
            r#"{{"holdfast":1,"instance":"{instance}","run":"r","beat":1,"lease_ms":1000}}"#
        );
        Pair {
            key: format!("cluster/{CLUSTER_NAME}/slots/{slot}"),
            modify_index: index,
            value: Some(STANDARD.encode(text)),
        }
    }

    #[test]
    fn a_renewal_is_told_early_and_a_change_of_owner_late() {
        let second = Duration::from_secs(1);
        let mut known = Known::default();
        let claimed = known.changes(second, 5, vec![pair(4, 5, "a")]);
        let renewed = known.changes(second * 2, 6, vec![pair(4, 6, "a")]);
        let taken = known.changes(second * 3, 7, vec![pair(4, 7, "b")]);
        let gone = known.changes(second * 4, 8, Vec::new());
        let times = [claimed, renewed, taken, gone].map(|changes| changes[0].clone());
        let at: Vec<Duration> = times.iter().map(|change| change.at).collect();
        assert_eq!(at, [second, second, second * 3, second * 4]);
        assert_eq!(times[2].before.as_ref().unwrap().instance, "a");
        assert!(times[3].is_gone);
        assert_eq!(times[3].slot, Some(4));
    }

    #[test]
    fn a_server_that_lags_behind_changes_nothing() {
        let mut known = Known::default();
        known.changes(Duration::ZERO, 6, vec![pair(4, 6, "a")]);
        assert_eq!(known.changes(Duration::ZERO, 5, vec![pair(4, 5, "b")]), []);
    }
}
