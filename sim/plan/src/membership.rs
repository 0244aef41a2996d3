//! Who claims a slot, and what an observer sees of it.
//!
//! In a plan with a [`Membership`] every node of the cluster is an *instance*: a machine with a
//! disk that claims one of the slots before it has a peer id.

use std::time::Duration;

use holdfast_core::slots::Slots;
use holdfast_core::status::LinkState;
use holdfast_core::time::Now;
use serde::Serialize;

use crate::NodeIndex;

/// The end of an owner's life is found to a microsecond.
const PRECISION: Duration = Duration::from_micros(1);

/// The claim of slots, and what it is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The ordinals that are claimed, ascending.
    pub slots: Vec<u16>,
    /// How long an owner lives who cannot renew.
    pub lease: Duration,
    /// By how many parts in a thousand nodes take clocks to differ in rate.
    pub drift_per_mille: u32,
    /// By node.
    pub instances: Vec<Instance>,
    /// An owner runs a mesh under the peer id of its slot, [`worker`], with the other slots as its
    /// peers, for as long as it owns it.
    pub mesh: bool,
}

/// The peer id of who owns that slot.
#[must_use]
pub fn worker(slot: u16) -> String {
    format!("worker-{slot}")
}

/// One node's part in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Where its instance id comes from.
    pub identity: Identity,
    /// It owns this slot, with or without a KV.
    pub pinned: Option<u16>,
}

/// Where an instance id comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// It is drawn once, and kept in a file.
    #[default]
    Disk,
    /// The TEE tells it: the same after the loss of the disk.
    Tee,
}

/// Something that an observer of the claims saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotEntry {
    /// When, from the start of the world.
    #[serde(rename = "t_ns", serialize_with = "crate::journal::nanos")]
    pub at: Duration,
    /// At which node; of a change of the KV, who asked for it.
    pub node: Option<NodeIndex>,
    /// What.
    #[serde(flatten)]
    pub what: SlotSeen,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
pub enum SlotSeen {
    /// A process knows who it is, and begins to claim.
    Identity {
        /// Its instance id.
        instance: String,
        /// It was drawn just now: nothing usable was on the disk.
        is_new: bool,
    },
    /// Nothing can be had yet.
    SlotWaiting {
        /// Why.
        why: String,
    },
    /// The process owns a slot.
    SlotOwned {
        /// Which.
        slot: u16,
        /// For whom.
        instance: String,
        /// It says that it was its own before.
        rejoined: bool,
        /// Writes that this run needed for it.
        tries: u64,
    },
    /// It owns it no longer.
    SlotLost {
        /// Which.
        slot: u16,
        /// Why.
        why: String,
    },
    /// It gave it back.
    SlotRetired {
        /// Which.
        slot: u16,
    },
    /// A process was live as the owner of a slot: it would have acted as one, or will when it
    /// goes on in time, had it stood still.
    SlotLive {
        /// Which.
        slot: u16,
        /// As whom.
        instance: String,
        /// From its claim on.
        #[serde(serialize_with = "crate::journal::nanos")]
        from: Duration,
        /// Until it stopped, or its lease was over by its own clock; in the world's time.
        #[serde(serialize_with = "crate::journal::nanos")]
        until: Duration,
    },
    /// How an owner's link with the owner of another slot was when the run ended.
    SlotLink {
        /// The other's.
        slot: u16,
        /// Its state.
        state: LinkState,
    },
    /// An entry of the KV changed.
    SlotEntry {
        /// Its key.
        key: String,
        /// The ordinal, when the key is one of a slot.
        slot: Option<u16>,
        /// The index of the change.
        index: u64,
        /// Whose it is from then on.
        owner: Option<SlotOwner>,
        /// It was deleted.
        is_gone: bool,
    },
}

/// The owner as an entry names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotOwner {
    /// Its instance id.
    pub instance: String,
    /// Which run of it.
    pub run: String,
    /// Its lease, milliseconds.
    pub lease_ms: u64,
}

impl SlotOwner {
    /// Whose an entry is, by its text: the format of `docs/membership.md`, read without core's help.
    #[must_use]
    pub fn of_entry(value: &[u8]) -> Option<SlotOwner> {
        let json: serde_json::Value = serde_json::from_slice(value).ok()?;
        Some(SlotOwner {
            instance: json.get("instance")?.as_str()?.to_owned(),
            run: json.get("run")?.as_str()?.to_owned(),
            lease_ms: json.get("lease_ms")?.as_u64()?,
        })
    }
}

/// For how long the machine calls itself the owner if nothing happens, by its own clock; `None`
/// when there is no end to it.
#[must_use]
pub fn owns_for(slots: &Slots, now: Now, lease: Duration) -> Option<Duration> {
    let owns = |after: Duration| slots.owned(now.plus(after)).is_some();
    let (mut is, mut is_not) = (Duration::ZERO, lease + lease);
    if owns(is_not) {
        return None;
    }
    while is_not - is > PRECISION {
        let middle = is + (is_not - is) / 2;
        match owns(middle) {
            true => is = middle,
            false => is_not = middle,
        }
    }
    Some(is_not)
}
