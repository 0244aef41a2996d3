//! A network address translator with the behaviours of RFC 4787 (UDP) and RFC 5382 (TCP).
//!
//! One public IPv4 address; every mapping has a public port of its own, so ports are never
//! overloaded (RFC 4787 REQ-3) and a mapping is found by its public port alone.

use crate::Draw;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// UDP mappings die this long after the last refresh. RFC 4787 REQ-5 asks for two minutes;
/// what is deployed often has 30 s, and a design must live with that.
pub const MAPPING_EXPIRY_DEFAULT: Duration = Duration::from_secs(30);

/// Established TCP mappings live at least 2 h 4 min (RFC 5382 REQ-5).
pub const MAPPING_EXPIRY_TCP_DEFAULT: Duration = Duration::from_secs(7440);

/// Most mappings of one NAT and protocol. Twice as many still leave free ports, so a port
/// can always be found that neither a mapping nor the memory of a reboot holds.
pub const MAPPING_COUNT_LIMIT: usize = 30_000;

/// Most remote endpoints that one mapping admits; the stalest makes room.
pub const PERMISSION_COUNT_LIMIT: usize = 4096;

/// Public ports below this one are never chosen at random (RFC 4787 REQ-3 a).
const PORT_MIN: u16 = 1024;

/// The transport a packet uses. A NAT keeps a table for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Segments, as far as an address translator cares.
    Tcp,
}

/// Which packets from one internal endpoint share a mapping (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapping {
    /// All of them, whatever the destination.
    EndpointIndependent,
    /// Those to one remote address.
    AddressDependent,
    /// Those to one remote address and port ("symmetric").
    AddressAndPortDependent,
}

/// Which packets from outside a mapping admits (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    /// All of them.
    EndpointIndependent,
    /// Those from an address that the internal endpoint sent to.
    AddressDependent,
    /// Those from an address and port that the internal endpoint sent to.
    AddressAndPortDependent,
}

/// How a NAT behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// The address that the outside sees.
    pub public_ip: Ipv4Addr,
    /// Which packets share a mapping.
    pub mapping: Mapping,
    /// Which packets get in.
    pub filtering: Filtering,
    /// Uses the internal port outside too when it is free.
    pub port_preservation: bool,
    /// Lets two hosts inside talk through their public addresses (RFC 4787 REQ-9).
    pub hairpinning: bool,
    /// Keeps hosts inside from reaching each other directly (client isolation).
    pub isolated: bool,
    /// Drops all UDP in both directions.
    pub udp_blocked: bool,
    /// Routes IPv6 without translation or filter; otherwise there is no IPv6 behind it.
    pub ipv6_routed: bool,
    /// A UDP mapping or permission dies this long after its last refresh.
    pub mapping_expiry: Duration,
    /// The same for TCP.
    pub mapping_expiry_tcp: Duration,
    /// Inbound packets refresh the mapping too; outbound ones always do (RFC 4787 REQ-6).
    pub inbound_refresh: bool,
    /// Most mappings per protocol, capped at [`MAPPING_COUNT_LIMIT`]; new flows are dropped
    /// while the table is full.
    pub mapping_count_max: usize,
}

impl NatConfig {
    /// A NAT with these behaviours: ports not preserved, no hairpinning, not isolated,
    /// expiry after 30 s, a table as large as allowed.
    #[must_use]
    pub const fn new(public_ip: Ipv4Addr, mapping: Mapping, filtering: Filtering) -> Self {
        Self {
            public_ip,
            mapping,
            filtering,
            port_preservation: false,
            hairpinning: false,
            isolated: false,
            udp_blocked: false,
            ipv6_routed: false,
            mapping_expiry: MAPPING_EXPIRY_DEFAULT,
            mapping_expiry_tcp: MAPPING_EXPIRY_TCP_DEFAULT,
            inbound_refresh: false,
            mapping_count_max: MAPPING_COUNT_LIMIT,
        }
    }

    /// The common home router: endpoint-independent mapping, address-and-port-dependent
    /// filtering, ports preserved (what Linux masquerading does).
    #[must_use]
    pub const fn home(public_ip: Ipv4Addr) -> Self {
        Self {
            port_preservation: true,
            ..Self::new(
                public_ip,
                Mapping::EndpointIndependent,
                Filtering::AddressAndPortDependent,
            )
        }
    }

    /// The hard case: address-and-port-dependent in both ("symmetric NAT").
    #[must_use]
    pub const fn symmetric(public_ip: Ipv4Addr) -> Self {
        Self::new(
            public_ip,
            Mapping::AddressAndPortDependent,
            Filtering::AddressAndPortDependent,
        )
    }
}

/// The part of a destination that a mapping depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Towards {
    Anyone,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

type Key = (Protocol, SocketAddr, Towards);

#[derive(Clone, Debug)]
struct Entry {
    internal: SocketAddr,
    towards: Towards,
    refreshed_at: Duration,
    /// Remote endpoints that were sent to, and when last.
    permissions: BTreeMap<SocketAddr, Duration>,
}

/// A NAT: configuration and translation tables.
#[derive(Clone, Debug)]
pub struct Nat {
    config: NatConfig,
    entries: BTreeMap<(Protocol, u16), Entry>,
    ports: BTreeMap<Key, u16>,
    /// Ports that were mapped when the NAT last rebooted: not handed out again, so that a
    /// reboot is always visible from outside, even with port preservation.
    burnt: BTreeSet<(Protocol, u16)>,
    refused_count: u64,
}

impl Nat {
    /// A NAT with empty tables.
    #[must_use]
    pub const fn new(config: NatConfig) -> Self {
        Self {
            config,
            entries: BTreeMap::new(),
            ports: BTreeMap::new(),
            burnt: BTreeSet::new(),
            refused_count: 0,
        }
    }

    /// How it behaves.
    #[must_use]
    pub const fn config(&self) -> &NatConfig {
        &self.config
    }

    /// Mappings in the table, those that have expired but were not asked for included.
    #[must_use]
    pub fn mapping_count(&self) -> usize {
        self.entries.len()
    }

    /// Flows refused because the table was full.
    #[must_use]
    pub const fn refused_count(&self) -> u64 {
        self.refused_count
    }

    /// Blocks or admits UDP; the mappings stay.
    pub const fn set_udp_blocked(&mut self, blocked: bool) {
        self.config.udp_blocked = blocked;
    }

    /// Forgets every mapping, as a reboot does. The next mapping of every flow gets another
    /// public port.
    pub fn flush(&mut self) {
        if !self.entries.is_empty() {
            self.burnt = std::mem::take(&mut self.entries).into_keys().collect();
            self.ports.clear();
        }
    }

    /// Gives the NAT another public address and forgets every mapping.
    pub(crate) fn renumber(&mut self, public_ip: Ipv4Addr) {
        self.config.public_ip = public_ip;
        self.flush();
    }

    /// A packet from `src` inside to `dst` outside: the source that the outside sees, or
    /// `None` when the packet is dropped (UDP blocked, no IPv4, table full).
    pub fn outbound(
        &mut self,
        now: Duration,
        protocol: Protocol,
        src: SocketAddr,
        dst: SocketAddr,
        draw: &mut dyn Draw,
    ) -> Option<SocketAddr> {
        if !self.admits(protocol) || !src.is_ipv4() || !dst.is_ipv4() {
            return None;
        }
        let towards = self.towards(dst);
        let port = match self.live_port(now, (protocol, src, towards)) {
            Some(port) => port,
            None => self.create(now, (protocol, src, towards), draw)?,
        };
        let entry = self
            .entries
            .get_mut(&(protocol, port))
            .expect("every port of the index has its entry");
        assert_eq!(
            entry.internal, src,
            "two internal endpoints share public port {port}"
        );
        entry.refreshed_at = now;
        entry.permit(now, dst);
        Some(self.public(port))
    }

    /// A packet from `src` outside to `dst`, a public endpoint of this NAT: the internal
    /// endpoint that it belongs to, or `None` when it is dropped (UDP blocked, no mapping,
    /// filtered).
    pub fn inbound(
        &mut self,
        now: Duration,
        protocol: Protocol,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Option<SocketAddr> {
        if !self.admits(protocol) || dst.ip() != self.config.public_ip {
            return None;
        }
        let expiry = self.expiry(protocol);
        let (filtering, refresh) = (self.config.filtering, self.config.inbound_refresh);
        let entry = self.entries.get_mut(&(protocol, dst.port()))?;
        if is_expired(now, entry.refreshed_at, expiry)
            || !entry.accepts(now, expiry, filtering, src)
        {
            return None;
        }
        if refresh {
            entry.refreshed_at = entry.refreshed_at.max(now);
            if let Some(at) = entry.permissions.get_mut(&src) {
                *at = now.max(*at);
            }
        }
        let internal = entry.internal;
        let key = (protocol, internal, entry.towards);
        assert_eq!(
            self.ports.get(&key),
            Some(&dst.port()),
            "an entry without its index"
        );
        Some(internal)
    }

    /// A packet from `src` inside to `dst`, a public endpoint of this very NAT: the source
    /// that the receiver sees (the external one, RFC 4787 REQ-9 a) and the receiver inside.
    /// `None` without hairpinning, or when either half is dropped.
    pub fn hairpin(
        &mut self,
        now: Duration,
        protocol: Protocol,
        src: SocketAddr,
        dst: SocketAddr,
        draw: &mut dyn Draw,
    ) -> Option<(SocketAddr, SocketAddr)> {
        if !self.config.hairpinning {
            return None;
        }
        let external = self.outbound(now, protocol, src, dst, draw)?;
        let internal = self.inbound(now, protocol, external, dst)?;
        Some((external, internal))
    }

    fn admits(&self, protocol: Protocol) -> bool {
        protocol != Protocol::Udp || !self.config.udp_blocked
    }

    const fn expiry(&self, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::Udp => self.config.mapping_expiry,
            Protocol::Tcp => self.config.mapping_expiry_tcp,
        }
    }

    const fn public(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.config.public_ip), port)
    }

    const fn towards(&self, dst: SocketAddr) -> Towards {
        match self.config.mapping {
            Mapping::EndpointIndependent => Towards::Anyone,
            Mapping::AddressDependent => Towards::Address(dst.ip()),
            Mapping::AddressAndPortDependent => Towards::Endpoint(dst),
        }
    }

    /// The port of a live mapping; an expired one is removed.
    fn live_port(&mut self, now: Duration, key: Key) -> Option<u16> {
        let port = *self.ports.get(&key)?;
        let entry = &self.entries[&(key.0, port)];
        if !is_expired(now, entry.refreshed_at, self.expiry(key.0)) {
            return Some(port);
        }
        self.remove(key, port);
        None
    }

    fn create(&mut self, now: Duration, key: Key, draw: &mut dyn Draw) -> Option<u16> {
        let (protocol, internal, towards) = key;
        let count_max = self.config.mapping_count_max.min(MAPPING_COUNT_LIMIT);
        if self.count(protocol) >= count_max {
            self.sweep(now);
        }
        if self.count(protocol) >= count_max {
            self.refused_count += 1;
            return None;
        }
        let port = self.choose_port(now, protocol, internal.port(), draw);
        let entry = Entry {
            internal,
            towards,
            refreshed_at: now,
            permissions: BTreeMap::new(),
        };
        let previous = self.entries.insert((protocol, port), entry);
        assert!(
            previous.is_none(),
            "public port {port} was handed out twice"
        );
        let previous = self.ports.insert(key, port);
        assert!(previous.is_none(), "a flow has two public ports");
        assert_eq!(self.entries.len(), self.ports.len());
        Some(port)
    }

    fn choose_port(
        &mut self,
        now: Duration,
        protocol: Protocol,
        internal: u16,
        draw: &mut dyn Draw,
    ) -> u16 {
        if self.config.port_preservation && self.is_free(now, protocol, internal) {
            return internal;
        }
        let span = u64::from(u16::MAX - PORT_MIN) + 1;
        let start = draw.below(span);
        (0..span)
            .map(|i| PORT_MIN + u16::try_from((start + i) % span).expect("below 2^16 - 1024"))
            .find(|port| self.is_free(now, protocol, *port))
            .expect("mappings and burnt ports together are fewer than ports")
    }

    /// Whether nobody holds the port; an expired holder loses it.
    fn is_free(&mut self, now: Duration, protocol: Protocol, port: u16) -> bool {
        if self.burnt.contains(&(protocol, port)) {
            return false;
        }
        let Some(entry) = self.entries.get(&(protocol, port)) else {
            return true;
        };
        if !is_expired(now, entry.refreshed_at, self.expiry(protocol)) {
            return false;
        }
        self.remove((protocol, entry.internal, entry.towards), port);
        true
    }

    fn count(&self, protocol: Protocol) -> usize {
        // The common case needs no walk: a table that is not full in total is not full.
        let total = self.entries.len();
        if total < self.config.mapping_count_max.min(MAPPING_COUNT_LIMIT) {
            return total;
        }
        self.entries
            .range((protocol, 0)..=(protocol, u16::MAX))
            .count()
    }

    fn sweep(&mut self, now: Duration) {
        let dead: Vec<_> = self
            .entries
            .iter()
            .filter(|((protocol, _), entry)| {
                is_expired(now, entry.refreshed_at, self.expiry(*protocol))
            })
            .map(|((protocol, port), entry)| ((*protocol, entry.internal, entry.towards), *port))
            .collect();
        for (key, port) in dead {
            self.remove(key, port);
        }
    }

    fn remove(&mut self, key: Key, port: u16) {
        let entry = self.entries.remove(&(key.0, port));
        let index = self.ports.remove(&key);
        assert!(
            entry.is_some() && index == Some(port),
            "table and index disagree on {port}"
        );
    }
}

impl Entry {
    fn permit(&mut self, now: Duration, remote: SocketAddr) {
        if self.permissions.len() >= PERMISSION_COUNT_LIMIT
            && !self.permissions.contains_key(&remote)
        {
            let stalest = self
                .permissions
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(remote, _)| *remote);
            if let Some(stalest) = stalest {
                self.permissions.remove(&stalest);
            }
        }
        self.permissions.insert(remote, now);
    }

    fn accepts(
        &self,
        now: Duration,
        expiry: Duration,
        filtering: Filtering,
        src: SocketAddr,
    ) -> bool {
        let is_live = |at: &Duration| !is_expired(now, *at, expiry);
        match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                let whole = SocketAddr::new(src.ip(), 0)..=SocketAddr::new(src.ip(), u16::MAX);
                self.permissions.range(whole).any(|(_, at)| is_live(at))
            }
            Filtering::AddressAndPortDependent => self.permissions.get(&src).is_some_and(is_live),
        }
    }
}

/// A state that was refreshed at `at` is dead from exactly `expiry` later.
fn is_expired(now: Duration, at: Duration, expiry: Duration) -> bool {
    now.saturating_sub(at) >= expiry
}

#[cfg(test)]
mod tests;
