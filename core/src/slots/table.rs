//! Who owns which slot, as far as reads have told, and since when we know.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::entry::Holder;
use super::{Config, Slot};
use crate::kv::Entry;

/// One slot's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) holder: Holder,
    pub(super) index: u64,
    /// When an answer first showed this index: its lease counts from here with us.
    pub(super) since: Instant,
    /// Somebody changed it while we watched.
    pub(super) changed: bool,
}

/// The entries of all slots that we may choose from; a slot that is not in it has none.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    seen: BTreeMap<Slot, Seen>,
    /// To wait with; 0 when there is none.
    pub(super) index: u64,
}

impl Table {
    pub(super) fn get(&self, slot: Slot) -> Option<&Seen> {
        self.seen.get(&slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Seen)> {
        self.seen.iter().map(|(slot, seen)| (*slot, seen))
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        self.seen.remove(&slot);
    }

    /// Take over what a read of all slots has told. Other keys below the prefix are not ours to
    /// judge.
    pub(super) fn update(&mut self, config: &Config, now: Instant, index: u64, entries: &[Entry]) {
        let prefix = config.prefix();
        let mut before = std::mem::take(&mut self.seen);
        for entry in entries {
            let ordinal = entry.key.strip_prefix(&prefix).and_then(ordinal);
            let Some(slot) = ordinal.filter(|slot| config.slots.binary_search(slot).is_ok()) else {
                continue;
            };
            let seen = seen(now, entry, before.remove(&slot));
            self.seen.insert(slot, seen);
        }
        // An index that went back belongs to a KV that was restored: waiting for the old one
        // could last for ever.
        self.index = if index < self.index { 0 } else { index };
    }
}

/// An ordinal as we write it: `07` and `+7` are other keys.
fn ordinal(text: &str) -> Option<Slot> {
    let slot: Slot = text.parse().ok()?;
    (slot.to_string() == text).then_some(slot)
}

fn seen(now: Instant, entry: &Entry, before: Option<Seen>) -> Seen {
    let mut holder = Holder::parse(&entry.value);
    if entry.modify_index == 0 {
        // It could not be named in a condition.
        let problem = "the KV gave it the index 0".into();
        holder = Holder::Strange { problem };
    }
    match before {
        Some(before) if before.index == entry.modify_index && before.holder == holder => before,
        before => Seen {
            holder,
            index: entry.modify_index,
            since: now,
            changed: before.is_some(),
        },
    }
}

/// How long another instance's entry has to be seen unchanged until its owner has certainly
/// stopped: it was set before we saw it, its owner's clock may be slow by ρ and ours fast by ρ,
/// so `lease · (1+ρ)/(1−ρ)` by ours.
///
/// The lease that counts is the one that the entry names, not ours: its owner lives by that,
/// even if this cluster's configuration has changed since. It is at most 24 hours
/// ([`Holder::parse`]), so nothing that is in an entry keeps a slot for longer.
pub(super) fn counted(lease: Duration, drift_per_mille: u32) -> Duration {
    if planted!(StealEarly) {
        return lease / 2;
    }
    // Rounded up, and the limits of both factors leave room in a Duration.
    lease * (1000 + drift_per_mille) / (1000 - drift_per_mille) + Duration::from_nanos(1)
}

impl Seen {
    /// When the slot is free to us: `None` for an entry that never expires.
    pub(super) fn over_at(&self, drift_per_mille: u32) -> Option<Instant> {
        match &self.holder {
            Holder::Leased { lease, .. } => Some(self.since + counted(*lease, drift_per_mille)),
            Holder::Plain { .. } | Holder::Strange { .. } => None,
        }
    }

    pub(super) fn is_of(&self, instance: &str) -> bool {
        self.holder.instance() == Some(instance)
    }

    /// The beat, when this run wrote it.
    pub(super) fn beat_of(&self, instance: &str, run: &str) -> Option<u64> {
        match &self.holder {
            Holder::Leased {
                instance: i,
                run: r,
                beat,
                ..
            } if i == instance && r == run => Some(*beat),
            _ => None,
        }
    }

    /// The beat, whoever wrote it.
    pub(super) fn beat(&self) -> u64 {
        match &self.holder {
            Holder::Leased { beat, .. } => *beat,
            _ => 0,
        }
    }
}
