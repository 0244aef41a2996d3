//! Why the sidecar ended, and with which exit code.

use holdfast_core::slots::Loss;
use holdfast_core::types::PeerId;

/// Why the sidecar could not start or go on. Exit codes: `docs/membership.md`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that no retry mends. Exit code 1.
    #[error("{0}")]
    Failure(String),
    /// The configuration contradicts itself. Exit code 2.
    #[error("{0}")]
    Config(String),
    /// The claimed ordinal belongs to no peer. Exit code 2.
    #[error("{0} is not in the peer list: add it, or correct role and ordinal")]
    UnknownPeer(PeerId),
    /// All slots stayed owned for longer than `slots.patience`. Exit code 3.
    #[error(
        "no free slot within {patience_s} s: {why}; add an ordinal to the peer list, or end an \
         instance"
    )]
    NoSlot {
        /// How long it was waited for, seconds.
        patience_s: u64,
        /// What stood in the way last.
        why: String,
    },
    /// The slot is another's, or the lease is over. Exit code 4.
    #[error("the slot {slot} was lost: {why}")]
    SlotLost {
        /// Which.
        slot: u16,
        /// Why.
        why: Loss,
    },
    /// The TEE does not answer, or not with what it should. Exit code 5.
    #[error("{0}")]
    Tee(String),
    /// The KV refuses the token. Exit code 6.
    #[error("the KV refuses us: {0}; check the ACL token")]
    KvRefused(String),
}

impl Error {
    /// The exit code of the process.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Error::Failure(_) => 1,
            Error::Config(_) | Error::UnknownPeer(_) => 2,
            Error::NoSlot { .. } => 3,
            Error::SlotLost { .. } => 4,
            Error::Tee(_) => 5,
            Error::KvRefused(_) => 6,
        }
    }
}
