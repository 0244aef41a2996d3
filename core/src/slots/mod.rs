//! The claim of a stable ordinal: one entry of the KV per slot, owned with a lease.
//!
//! States, invariants and the entry's format: `docs/membership.md`. The decisions are in
//! [`Slots`]; what it has seen of others, and for how long a lease counts, in `table.rs`.

mod claim;
mod entry;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use claim::Slots;

use crate::kv::{Failure, Request, Response};

/// Most slots of one role.
pub const SLOTS_MAX: usize = 254;
/// The life of an owner who cannot renew, unless configured.
pub const LEASE: Duration = Duration::from_secs(600);

/// Shortest lease: below it the calls of its renewals would be most of a KV's work.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// This part of its lease an owner does not use: what runs under its name has that long to end
/// before another may have the slot. Half a minute of ten.
pub const STOP_PART: u32 = 20;
/// Longest lease: so long a slot of a machine that is gone is kept from others.
pub const LEASE_MAX: Duration = Duration::from_secs(86_400);
/// Longest instance id.
pub const INSTANCE_LEN_MAX: usize = 128;
/// Longest cluster name: with the rest of the key it stays far below [`crate::kv::KEY_LEN_MAX`].
pub const CLUSTER_LEN_MAX: usize = 128;
/// Most that clocks may be said to differ, in parts per thousand: beyond it a lease counts for
/// three times its length.
pub const DRIFT_PER_MILLE_MAX: u32 = 500;

/// An ordinal of a role.
pub type Slot = u16;

/// How a slot is claimed.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name: the entries are `cluster/<cluster>/slots/<ordinal>`.
    pub cluster: String,
    /// Who claims: the same at every start of one machine.
    pub instance: String,
    /// The ordinals to choose from, each once, ascending.
    pub slots: Vec<Slot>,
    /// Own this one, with or without a KV.
    pub pinned: Option<Slot>,
    /// How long an owner lives who cannot renew.
    pub lease: Duration,
    /// By how many parts in a thousand clocks may differ in rate.
    pub drift_per_mille: u32,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nothing to choose from.
    #[error("there is no slot to claim")]
    NoSlots,
    /// More than [`SLOTS_MAX`].
    #[error("{found} slots: expected at most {SLOTS_MAX}")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// One ordinal twice, or out of order.
    #[error("slot {0} is there twice, or out of order")]
    NotAscending(Slot),
    /// The pinned one is not among them.
    #[error("slot {0} is pinned, and not among those of the peer list")]
    PinUnknown(Slot),
    /// An instance id that cannot be one: 1 to 128 printable ASCII characters without spaces.
    #[error("instance id {0:?} is not valid")]
    Instance(String),
    /// A cluster name that would change the key.
    #[error("cluster name {0:?} is not valid: expected letters, digits, '-', '_' or '.'")]
    Cluster(String),
    /// A lease too short to be renewed, or longer than a day.
    #[error("a lease of {0:?}: expected 1 s to 24 h")]
    Lease(Duration),
    /// Clocks as bad as that bound nothing.
    #[error(
        "clocks that differ by {0} parts in a thousand: expected at most {DRIFT_PER_MILLE_MAX}"
    )]
    Drift(u32),
}

impl Config {
    /// What is wrong with it, if something is.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.slots.is_empty() {
            return Err(ConfigError::NoSlots);
        }
        if self.slots.len() > SLOTS_MAX {
            let found = self.slots.len();
            return Err(ConfigError::TooMany { found });
        }
        if let Some(pair) = self.slots.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(ConfigError::NotAscending(pair[1]));
        }
        if let Some(pin) = self.pinned.filter(|pin| !self.slots.contains(pin)) {
            return Err(ConfigError::PinUnknown(pin));
        }
        if !entry::is_instance(&self.instance) {
            let shown = self.instance.chars().take(INSTANCE_LEN_MAX).collect();
            return Err(ConfigError::Instance(shown));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let is_name = (1..=CLUSTER_LEN_MAX).contains(&self.cluster.len());
        if !is_name || !self.cluster.bytes().all(allowed) {
            let shown = self.cluster.chars().take(CLUSTER_LEN_MAX).collect();
            return Err(ConfigError::Cluster(shown));
        }
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.lease) {
            return Err(ConfigError::Lease(self.lease));
        }
        if self.drift_per_mille > DRIFT_PER_MILLE_MAX {
            return Err(ConfigError::Drift(self.drift_per_mille));
        }
        Ok(())
    }

    /// How long an owner lives after the last renewal that it has sent.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.lease - self.lease / STOP_PART
    }

    /// How the keys of all slots begin.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("cluster/{}/slots/", self.cluster)
    }

    /// The key of one slot.
    #[must_use]
    pub fn key(&self, slot: Slot) -> String {
        format!("cluster/{}/slots/{slot}", self.cluster)
    }
}

/// Names a call of the KV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The KV answered, or did not in time. Each call is answered once.
    Answer {
        /// Which call.
        call: CallId,
        /// What it said.
        result: Result<Response, Failure>,
    },
    /// Give the slot back, so that another instance may have it at once. We own it no longer
    /// from here on; the machine is done when [`Slots::state`] is [`State::Retired`], which it is
    /// at once when there is nothing to give back.
    Retire,
}

/// What to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the KV. Reads that wait may take as long as they say.
    Call {
        /// To answer with.
        call: CallId,
        /// What.
        request: Request,
    },
    /// Something that others act on.
    Event(Event),
}

/// Something that others act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// We own this slot from now on.
    Owned {
        /// Which.
        slot: Slot,
        /// It was ours before this start.
        rejoined: bool,
    },
    /// We own it no longer. The machine does nothing more.
    Lost {
        /// Which.
        slot: Slot,
        /// Why.
        why: Loss,
    },
    /// It was given back ([`Input::Retire`]), or that was tried for as long as makes sense: then
    /// it is free after the lease. The machine does nothing more.
    Retired {
        /// Which.
        slot: Slot,
    },
    /// Nothing can be had yet, or not be renewed; tried again. Told when the reason changes.
    Waiting(Obstacle),
}

/// Why a slot was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// It could not be renewed in time.
    #[error("the lease is over: the KV did not confirm a renewal in time")]
    LeaseOver,
    /// Another instance has it.
    #[error("instance {0} owns it")]
    Taken(String),
    /// Another process of this instance has it: two machines have one identity.
    #[error("another run of this instance owns it: do two machines share an identity?")]
    Duplicate,
    /// Somebody wrote something else there.
    #[error("its entry was deleted or overwritten")]
    Overwritten,
}

/// Why nothing can be had yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The KV does not answer.
    #[error("the KV does not answer: {0}")]
    Unreachable(String),
    /// The KV refuses us.
    #[error("the KV refuses us: {0}")]
    Forbidden(String),
    /// All slots are owned.
    #[error("all {0} slots are owned")]
    AllTaken(usize),
}

/// Where the claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Reads who owns what.
    Looking,
    /// A compare-and-set is on its way, or its outcome unknown.
    Claiming,
    /// Live owner.
    Owning,
    /// No longer.
    Lost,
    /// Given back.
    Retired,
}

/// One slot, as last seen, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SlotView {
    /// Which.
    pub slot: Slot,
    /// The instance that owns it, if one does.
    pub owner: Option<String>,
    /// For how long its lease still counts with us, milliseconds; `None` without a lease.
    pub lease_ms: Option<u64>,
    /// What is strange about the entry.
    pub problem: Option<String>,
}
