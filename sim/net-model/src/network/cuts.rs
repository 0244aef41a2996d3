//! Explicit faults between hosts: who cannot hear whom.

use super::{HostId, Network};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Seen from a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What the host sends.
    Outbound,
    /// What the host receives.
    Inbound,
}

#[derive(Clone, Debug)]
pub(super) struct Cuts {
    pairs: BTreeSet<(HostId, HostId)>,
    remotes: BTreeSet<(HostId, IpAddr, Direction)>,
}

impl Cuts {
    pub(super) const fn new() -> Self {
        Self {
            pairs: BTreeSet::new(),
            remotes: BTreeSet::new(),
        }
    }

    pub(super) fn blocks_pair(&self, from: HostId, to: HostId) -> bool {
        self.pairs.contains(&(from, to))
    }

    pub(super) fn blocks_remote(&self, host: HostId, remote: IpAddr, direction: Direction) -> bool {
        !self.remotes.is_empty() && self.remotes.contains(&(host, remote, direction))
    }
}

impl<P: Clone> Network<P> {
    /// Black hole from one host to another, one way; packets in flight are lost too. What
    /// travels through a third host, such as a relay, passes.
    pub fn cut(&mut self, from: HostId, to: HostId) {
        self.cuts.pairs.insert((from, to));
    }

    /// Undoes [`Network::cut`].
    pub fn heal(&mut self, from: HostId, to: HostId) {
        self.cuts.pairs.remove(&(from, to));
    }

    /// [`Network::cut`] in both directions.
    pub fn cut_both(&mut self, a: HostId, b: HostId) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// Undoes [`Network::cut_both`].
    pub fn heal_both(&mut self, a: HostId, b: HostId) {
        self.heal(a, b);
        self.heal(b, a);
    }

    /// Black hole between a host and an address as that host sees it.
    pub fn cut_remote(&mut self, host: HostId, remote: IpAddr, direction: Direction) {
        self.cuts.remotes.insert((host, remote, direction));
    }

    /// Undoes [`Network::cut_remote`].
    pub fn heal_remote(&mut self, host: HostId, remote: IpAddr, direction: Direction) {
        self.cuts.remotes.remove(&(host, remote, direction));
    }

    /// Undoes every cut. Pipelines keep their own black holes.
    pub fn heal_all(&mut self) {
        self.cuts = Cuts::new();
    }
}
