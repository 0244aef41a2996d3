//! One stream of randomness per device, so that an edit at one place does not shift the
//! draws at every other.

use super::{HostId, NatId};
use crate::Draw;
use std::fmt;

/// What a network draws for. Its text (`host/3/up`) is a label to fork a seed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// The access link of a host, away from it.
    HostUp(HostId),
    /// The access link of a host, towards it.
    HostDown(HostId),
    /// The outer link of a NAT, away from it.
    NatUp(NatId),
    /// The outer link of a NAT, towards it.
    NatDown(NatId),
    /// The choice of public ports by a NAT.
    NatPorts(NatId),
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostUp(host) => write!(f, "host/{}/up", host.index()),
            Self::HostDown(host) => write!(f, "host/{}/down", host.index()),
            Self::NatUp(nat) => write!(f, "nat/{}/up", nat.index()),
            Self::NatDown(nat) => write!(f, "nat/{}/down", nat.index()),
            Self::NatPorts(nat) => write!(f, "nat/{}/ports", nat.index()),
        }
    }
}

/// Where a network finds its randomness. Every [`Draw`] is one stream for all purposes; a
/// harness that wants independent ones keeps a map and forks on first use.
pub trait Streams {
    /// The generator of this stream, the same at every call.
    fn of(&mut self, stream: Stream) -> &mut dyn Draw;
}

impl<D: Draw> Streams for D {
    fn of(&mut self, _: Stream) -> &mut dyn Draw {
        self
    }
}
