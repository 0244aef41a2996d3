//! Hosts, the devices between them, and the packets in flight.
//!
//! The topology is a tree. Its root is the public core; every NAT has an outside (the core
//! or the inside of another NAT) and an inside where hosts and further NATs live. A packet
//! climbs from its sender until a segment knows the destination, then descends:
//!
//! host, up pipeline → NAT (translates), up pipeline → … core … → down pipeline, NAT
//! (translates, filters) → down pipeline, host
//!
//! Every step happens at its own virtual time, so a NAT judges a packet by the state that
//! it has when the packet arrives there, not when it was sent. Two hosts that punch holes
//! at the same time therefore succeed or fail as they would outside of the model.

mod addresses;
mod cuts;
mod flights;
mod streams;

use crate::Fate;
use crate::nat::{Nat, Protocol};
use crate::pipeline::{LinkConfig, Pipeline};
use cuts::Cuts;
pub use cuts::Direction;
use flights::Flights;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
pub use streams::{Stream, Streams};

/// Most hosts of one network: far above what a scenario needs, low enough to catch a loop.
pub const HOST_COUNT_MAX: usize = 10_000;
/// Most NATs of one network.
pub const NAT_COUNT_MAX: usize = 10_000;
/// Most NATs between a host and the core; real paths have two, seldom three.
pub const NAT_DEPTH_MAX: usize = 8;
/// Most addresses of one host.
pub const ADDRESS_COUNT_MAX: usize = 16;
/// Most packets in flight; a world that exceeds it has a runaway sender.
pub const IN_FLIGHT_COUNT_MAX: usize = 1 << 20;

/// A host of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u32);

/// A NAT of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatId(u32);

impl HostId {
    /// Position in order of creation, from 0.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl NatId {
    /// Position in order of creation, from 0.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The segment that a host or the outside of a NAT is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uplink {
    /// The public network.
    Core,
    /// The inside of a NAT.
    Behind(NatId),
}

/// The two directions of a link, as seen from its lower end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Away from the host or the inside of the NAT.
    pub up: LinkConfig,
    /// Towards the host or the inside of the NAT.
    pub down: LinkConfig,
}

impl Links {
    /// No impairment.
    #[must_use]
    pub const fn ideal() -> Self {
        Self::symmetric(LinkConfig::IDEAL)
    }

    /// The same in both directions. A packet between two hosts passes two links, so half
    /// of a wanted one-way delay belongs here.
    #[must_use]
    pub const fn symmetric(config: LinkConfig) -> Self {
        Self {
            up: config,
            down: config,
        }
    }
}

/// A packet as its holder sees it: NATs rewrite `src` and `dst` on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<P> {
    /// The transport.
    pub protocol: Protocol,
    /// Where it comes from.
    pub src: SocketAddr,
    /// Where it goes to.
    pub dst: SocketAddr,
    /// Length on the wire, for rates, queues and MTUs.
    pub len_bytes: u32,
    /// Whatever the caller wants to travel along; cloned for a duplicate.
    pub payload: P,
}

/// A packet that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<P> {
    /// When.
    pub at: Duration,
    /// Who gets it.
    pub to: HostId,
    /// Who sent it: for oracles, the receiver cannot know.
    pub from: HostId,
    /// The packet as the receiver sees it.
    pub packet: Packet<P>,
}

/// Packets that vanished between pipelines, by cause. Pipelines count their own drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkDrops {
    /// The sender does not own the source address (any more).
    pub bad_source: u64,
    /// Nobody owns the destination address.
    pub no_route: u64,
    /// Client isolation.
    pub isolated: u64,
    /// A NAT refused it on its way out.
    pub nat_outbound: u64,
    /// A NAT refused it on its way in.
    pub nat_inbound: u64,
    /// A NAT does not hairpin, or filtered the hairpin.
    pub nat_hairpin: u64,
    /// An explicit cut.
    pub cut: u64,
    /// Too many packets in flight.
    pub overload: u64,
}

impl NetworkDrops {
    /// All of them together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.bad_source
            + self.no_route
            + self.isolated
            + self.nat_outbound
            + self.nat_inbound
            + self.nat_hairpin
            + self.cut
            + self.overload
    }
}

/// Why a topology cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyError {
    /// Something on this segment has the address already: choose another.
    AddressTaken(IpAddr),
    /// No host of this id: ids belong to the network that made them.
    UnknownHost(HostId),
    /// No NAT of this id: ids belong to the network that made them.
    UnknownNat(NatId),
    /// A limit of this module, named by the text.
    TooMany(&'static str),
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressTaken(ip) => write!(f, "{ip} is taken on its segment: choose another"),
            Self::UnknownHost(id) => write!(f, "no host {}: use ids of this network", id.0),
            Self::UnknownNat(id) => write!(f, "no NAT {}: use ids of this network", id.0),
            Self::TooMany(what) => write!(f, "more {what} than the network model allows"),
        }
    }
}

impl std::error::Error for TopologyError {}

#[derive(Clone, Debug)]
struct Host {
    uplink: Uplink,
    addresses: Vec<IpAddr>,
    up: Pipeline,
    down: Pipeline,
}

#[derive(Clone, Debug)]
struct NatDevice {
    uplink: Uplink,
    nat: Nat,
    up: Pipeline,
    down: Pipeline,
}

/// What owns an address on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Host(HostId),
    Nat(NatId),
}

/// Where a packet is when its time comes.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// On a segment, to be routed. Client isolation spares what the router itself sends.
    Segment { segment: Uplink, from_router: bool },
    /// At the outside of a NAT, on its way in.
    Outside(NatId),
    /// At a host.
    Host(HostId),
}

#[derive(Clone, Debug)]
struct Flight<P> {
    from: HostId,
    stage: Stage,
    packet: Packet<P>,
}

/// Hosts, NATs and the packets between them.
///
/// Call [`Network::send`] when a host sends, sleep until [`Network::deadline`], then
/// [`Network::poll`] for what has arrived. Poll up to `now` before sending at `now`.
#[derive(Clone, Debug)]
pub struct Network<P> {
    hosts: Vec<Host>,
    nats: Vec<NatDevice>,
    owners: BTreeMap<(Uplink, IpAddr), Owner>,
    cuts: Cuts,
    /// Ordered by arrival, then by the order of sending.
    in_flight: Flights<Flight<P>>,
    drops: NetworkDrops,
}

impl<P: Clone> Default for Network<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Clone> Network<P> {
    /// An empty core.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            hosts: Vec::new(),
            nats: Vec::new(),
            owners: BTreeMap::new(),
            cuts: Cuts::new(),
            in_flight: Flights::new(),
            drops: NetworkDrops {
                bad_source: 0,
                no_route: 0,
                isolated: 0,
                nat_outbound: 0,
                nat_inbound: 0,
                nat_hairpin: 0,
                cut: 0,
                overload: 0,
            },
        }
    }

    /// A packet leaves `from`. Drops are silent, as on a real network; see
    /// [`Network::drops`] and the counters of the pipelines.
    pub fn send(
        &mut self,
        now: Duration,
        from: HostId,
        packet: Packet<P>,
        draws: &mut dyn Streams,
    ) {
        let Some(host) = self.hosts.get_mut(from.index()) else {
            self.drops.bad_source += 1;
            return;
        };
        if !host.addresses.contains(&packet.src.ip()) {
            self.drops.bad_source += 1;
            return;
        }
        if self
            .cuts
            .blocks_remote(from, packet.dst.ip(), Direction::Outbound)
        {
            self.drops.cut += 1;
            return;
        }
        let stage = Stage::Segment {
            segment: host.uplink,
            from_router: false,
        };
        let fate = host
            .up
            .offer(now, packet.len_bytes, draws.of(Stream::HostUp(from)));
        self.launch(
            fate,
            Box::new(Flight {
                from,
                stage,
                packet,
            }),
        );
    }

    /// When something moves next: the time to poll at. Not every move ends in a delivery.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.in_flight.next_at()
    }

    /// Moves everything that is due at `now`, each at its own time, and appends what has
    /// arrived to `deliveries` in order of arrival.
    pub fn poll(
        &mut self,
        now: Duration,
        draws: &mut dyn Streams,
        deliveries: &mut Vec<Delivery<P>>,
    ) {
        while let Some((at, flight)) = self.in_flight.take_due(now) {
            match flight.stage {
                Stage::Segment {
                    segment,
                    from_router,
                } => {
                    self.route(at, segment, from_router, flight, draws);
                }
                Stage::Outside(nat) => self.enter(at, nat, flight),
                Stage::Host(host) => deliveries.extend(self.arrive(at, host, *flight)),
            }
        }
    }

    /// Packets between two devices at present.
    #[must_use]
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Packets that vanished between pipelines.
    #[must_use]
    pub const fn drops(&self) -> &NetworkDrops {
        &self.drops
    }

    fn launch(&mut self, fate: Fate, flight: Box<Flight<P>>) {
        match fate {
            Fate::Dropped(_) => {}
            Fate::Once(at) => self.schedule(at, flight),
            Fate::Twice(at, again) => {
                self.schedule(at, flight.clone());
                self.schedule(again, flight);
            }
        }
    }

    fn schedule(&mut self, at: Duration, flight: Box<Flight<P>>) {
        if self.in_flight.len() >= IN_FLIGHT_COUNT_MAX {
            self.drops.overload += 1;
            return;
        }
        self.in_flight.add(at, flight);
    }

    fn route(
        &mut self,
        now: Duration,
        segment: Uplink,
        from_router: bool,
        mut flight: Box<Flight<P>>,
        draws: &mut dyn Streams,
    ) {
        let owner = self.next_hop(segment, flight.packet.dst.ip());
        let is_isolated = self.is_isolated(segment) && !from_router;
        let len_bytes = flight.packet.len_bytes;
        match (owner, segment) {
            (Some(_), _) if is_isolated => self.drops.isolated += 1,
            (Some(Owner::Host(host)), _) => {
                flight.stage = Stage::Host(host);
                let draw = draws.of(Stream::HostDown(host));
                let fate = self.hosts[host.index()].down.offer(now, len_bytes, draw);
                self.launch(fate, flight);
            }
            (Some(Owner::Nat(nat)), _) => {
                flight.stage = Stage::Outside(nat);
                let draw = draws.of(Stream::NatDown(nat));
                let fate = self.nats[nat.index()].down.offer(now, len_bytes, draw);
                self.launch(fate, flight);
            }
            (None, Uplink::Core) => self.drops.no_route += 1,
            // The router sent it down and nobody is there: sending it up again would loop.
            (None, Uplink::Behind(_)) if from_router => self.drops.no_route += 1,
            (None, Uplink::Behind(nat)) => self.leave(now, nat, flight, draws),
        }
    }

    /// From the inside of a NAT outwards, or back inside by a hairpin.
    fn leave(
        &mut self,
        now: Duration,
        id: NatId,
        mut flight: Box<Flight<P>>,
        draws: &mut dyn Streams,
    ) {
        let NatDevice {
            nat, up, uplink, ..
        } = &mut self.nats[id.index()];
        let packet = &mut flight.packet;
        let draw = draws.of(Stream::NatPorts(id));
        if packet.dst.ip() == nat.config().public_ip {
            let Some(pair) = nat.hairpin(now, packet.protocol, packet.src, packet.dst, draw) else {
                self.drops.nat_hairpin += 1;
                return;
            };
            (packet.src, packet.dst) = pair;
            return self.route(now, Uplink::Behind(id), true, flight, draws);
        }
        if packet.dst.is_ipv4() {
            let Some(src) = nat.outbound(now, packet.protocol, packet.src, packet.dst, draw) else {
                self.drops.nat_outbound += 1;
                return;
            };
            packet.src = src;
        } else if !nat.config().ipv6_routed {
            self.drops.nat_outbound += 1;
            return;
        }
        flight.stage = Stage::Segment {
            segment: *uplink,
            from_router: false,
        };
        let fate = up.offer(now, flight.packet.len_bytes, draws.of(Stream::NatUp(id)));
        self.launch(fate, flight);
    }

    /// From the outside of a NAT inwards.
    fn enter(&mut self, now: Duration, id: NatId, mut flight: Box<Flight<P>>) {
        let nat = &mut self.nats[id.index()].nat;
        let packet = &mut flight.packet;
        if packet.dst.is_ipv4() {
            let Some(dst) = nat.inbound(now, packet.protocol, packet.src, packet.dst) else {
                self.drops.nat_inbound += 1;
                return;
            };
            packet.dst = dst;
        } else if !nat.config().ipv6_routed {
            self.drops.nat_inbound += 1;
            return;
        }
        flight.stage = Stage::Segment {
            segment: Uplink::Behind(id),
            from_router: true,
        };
        self.schedule(now, flight);
    }

    fn arrive(&mut self, at: Duration, to: HostId, flight: Flight<P>) -> Option<Delivery<P>> {
        let Flight { from, packet, .. } = flight;
        if !self.hosts[to.index()].addresses.contains(&packet.dst.ip()) {
            self.drops.no_route += 1; // it roamed while the packet was in flight
            return None;
        }
        if self.cuts.blocks_pair(from, to)
            || self
                .cuts
                .blocks_remote(to, packet.src.ip(), Direction::Inbound)
        {
            self.drops.cut += 1;
            return None;
        }
        Some(Delivery {
            at,
            to,
            from,
            packet,
        })
    }
}

#[cfg(test)]
mod tests;
