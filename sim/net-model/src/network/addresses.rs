//! Building and rebuilding the topology: who is attached where, under which address.

use super::{
    ADDRESS_COUNT_MAX, HOST_COUNT_MAX, Host, HostId, Links, NAT_COUNT_MAX, NAT_DEPTH_MAX,
    NatDevice, NatId, Network, Owner, TopologyError, Uplink,
};
use crate::nat::{Nat, NatConfig};
use crate::pipeline::Pipeline;
use std::net::{IpAddr, Ipv4Addr};

impl<P: Clone> Network<P> {
    /// Attaches a NAT; `wan` is its link on the outside.
    ///
    /// # Errors
    /// When the public address is taken on the outer segment, the outer NAT is unknown, or a
    /// limit is reached.
    pub fn add_nat(
        &mut self,
        uplink: Uplink,
        config: NatConfig,
        wan: Links,
    ) -> Result<NatId, TopologyError> {
        self.check_segment(uplink)?;
        if self.nats.len() >= NAT_COUNT_MAX {
            return Err(TopologyError::TooMany("NATs"));
        }
        if self.nats_above(uplink).count() >= NAT_DEPTH_MAX {
            return Err(TopologyError::TooMany("NATs in a chain"));
        }
        let id = NatId(u32::try_from(self.nats.len()).expect("below NAT_COUNT_MAX"));
        self.claim(uplink, &[IpAddr::V4(config.public_ip)], Owner::Nat(id))?;
        self.nats.push(NatDevice {
            uplink,
            nat: Nat::new(config),
            up: Pipeline::new(wan.up),
            down: Pipeline::new(wan.down),
        });
        Ok(id)
    }

    /// Attaches a host with these addresses; `links` is its access link.
    ///
    /// # Errors
    /// When an address is taken on the segment, the NAT is unknown, or a limit is reached.
    pub fn add_host(
        &mut self,
        uplink: Uplink,
        addresses: &[IpAddr],
        links: Links,
    ) -> Result<HostId, TopologyError> {
        self.check_segment(uplink)?;
        if self.hosts.len() >= HOST_COUNT_MAX {
            return Err(TopologyError::TooMany("hosts"));
        }
        let id = HostId(u32::try_from(self.hosts.len()).expect("below HOST_COUNT_MAX"));
        self.claim(uplink, addresses, Owner::Host(id))?;
        self.hosts.push(Host {
            uplink,
            addresses: addresses.to_vec(),
            up: Pipeline::new(links.up),
            down: Pipeline::new(links.down),
        });
        Ok(id)
    }

    /// The host roams: another segment, other addresses. Nothing changes on an error, which
    /// is one of [`Network::add_host`].
    ///
    /// # Errors
    /// As [`Network::add_host`], or an unknown host.
    pub fn move_host(
        &mut self,
        host: HostId,
        uplink: Uplink,
        addresses: &[IpAddr],
    ) -> Result<(), TopologyError> {
        self.check_segment(uplink)?;
        let old = self
            .hosts
            .get(host.index())
            .ok_or(TopologyError::UnknownHost(host))?;
        let (old_uplink, old_addresses) = (old.uplink, old.addresses.clone());
        self.release(old_uplink, &old_addresses);
        if let Err(error) = self.claim(uplink, addresses, Owner::Host(host)) {
            self.claim(old_uplink, &old_addresses, Owner::Host(host))
                .expect("these addresses were its own until now");
            return Err(error);
        }
        let host = &mut self.hosts[host.index()];
        host.uplink = uplink;
        host.addresses = addresses.to_vec();
        Ok(())
    }

    /// The NAT gets another public address, as after a reconnect; its mappings are gone.
    ///
    /// # Errors
    /// When the address is taken on the outer segment, or the NAT is unknown.
    pub fn renumber_nat(&mut self, nat: NatId, public_ip: Ipv4Addr) -> Result<(), TopologyError> {
        let device = self
            .nats
            .get_mut(nat.index())
            .ok_or(TopologyError::UnknownNat(nat))?;
        let (uplink, old) = (device.uplink, IpAddr::V4(device.nat.config().public_ip));
        self.claim(uplink, &[IpAddr::V4(public_ip)], Owner::Nat(nat))?;
        self.release(uplink, &[old]);
        self.nats[nat.index()].nat.renumber(public_ip);
        Ok(())
    }

    /// A NAT.
    ///
    /// # Panics
    /// When the id belongs to another network; the accessors below do the same.
    #[must_use]
    pub fn nat(&self, nat: NatId) -> &Nat {
        &self.nats[nat.index()].nat
    }

    /// A NAT, to flush it or to block UDP.
    #[must_use]
    pub fn nat_mut(&mut self, nat: NatId) -> &mut Nat {
        &mut self.nats[nat.index()].nat
    }

    /// The outer link of a NAT: up, down.
    #[must_use]
    pub fn nat_links_mut(&mut self, nat: NatId) -> (&mut Pipeline, &mut Pipeline) {
        let device = &mut self.nats[nat.index()];
        (&mut device.up, &mut device.down)
    }

    /// The access link of a host: up, down.
    #[must_use]
    pub fn host_links_mut(&mut self, host: HostId) -> (&mut Pipeline, &mut Pipeline) {
        let host = &mut self.hosts[host.index()];
        (&mut host.up, &mut host.down)
    }

    /// The access link of a host: up, down.
    #[must_use]
    pub fn host_links(&self, host: HostId) -> (&Pipeline, &Pipeline) {
        let host = &self.hosts[host.index()];
        (&host.up, &host.down)
    }

    /// The addresses of a host.
    #[must_use]
    pub fn addresses(&self, host: HostId) -> &[IpAddr] {
        &self.hosts[host.index()].addresses
    }

    /// The segment that a host is attached to.
    #[must_use]
    pub fn uplink(&self, host: HostId) -> Uplink {
        self.hosts[host.index()].uplink
    }

    /// All hosts, in order of creation.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> {
        (0..self.hosts.len()).map(|i| HostId(u32::try_from(i).expect("below HOST_COUNT_MAX")))
    }

    /// The NATs between a segment and the core, the innermost first.
    pub(crate) fn nats_above(&self, segment: Uplink) -> impl Iterator<Item = NatId> {
        let above = |segment: Uplink| match segment {
            Uplink::Core => None,
            Uplink::Behind(nat) => Some(nat),
        };
        std::iter::successors(above(segment), move |nat| {
            above(self.nats[nat.index()].uplink)
        })
    }

    /// The segment that the outside of a NAT is attached to.
    pub(crate) fn outside(&self, nat: NatId) -> Uplink {
        self.nats[nat.index()].uplink
    }

    /// Whether a host's own link carries nothing in one direction.
    pub(crate) fn is_dead(&self, host: HostId) -> bool {
        let (up, down) = self.host_links(host);
        up.config().blackhole || down.config().blackhole
    }

    /// Whether a NAT's outer link carries nothing in one direction.
    pub(crate) fn is_wan_dead(&self, nat: NatId) -> bool {
        let device = &self.nats[nat.index()];
        device.up.config().blackhole || device.down.config().blackhole
    }

    pub(crate) fn passes_udp(&self, nat: NatId) -> bool {
        !self.nat(nat).config().udp_blocked && !self.is_wan_dead(nat)
    }

    pub(crate) fn is_isolated(&self, segment: Uplink) -> bool {
        match segment {
            Uplink::Core => false,
            Uplink::Behind(nat) => self.nats[nat.index()].nat.config().isolated,
        }
    }

    /// What a packet on `segment` meets next on its way down to `ip`; `None` to go up.
    pub(super) fn next_hop(&self, segment: Uplink, ip: IpAddr) -> Option<Owner> {
        if let Some(owner) = self.owners.get(&(segment, ip)) {
            return Some(*owner);
        }
        if ip.is_ipv4() {
            return None;
        }
        // IPv6 is routed, not translated: look for the NAT below which the address lives.
        let host = self
            .hosts
            .iter()
            .find(|host| host.addresses.contains(&ip))?;
        self.nats_above(host.uplink)
            .find(|nat| self.nats[nat.index()].uplink == segment)
            .map(Owner::Nat)
    }

    pub(crate) fn is_pair_cut(&self, from: HostId, to: HostId) -> bool {
        self.cuts.blocks_pair(from, to)
    }

    fn check_segment(&self, uplink: Uplink) -> Result<(), TopologyError> {
        match uplink {
            Uplink::Behind(nat) if nat.index() >= self.nats.len() => {
                Err(TopologyError::UnknownNat(nat))
            }
            Uplink::Core | Uplink::Behind(_) => Ok(()),
        }
    }

    fn claim(&mut self, at: Uplink, ips: &[IpAddr], owner: Owner) -> Result<(), TopologyError> {
        if ips.len() > ADDRESS_COUNT_MAX {
            return Err(TopologyError::TooMany("addresses"));
        }
        for (i, ip) in ips.iter().enumerate() {
            if self.owners.contains_key(&(at, *ip)) || ips[..i].contains(ip) {
                return Err(TopologyError::AddressTaken(*ip));
            }
        }
        self.owners.extend(ips.iter().map(|ip| ((at, *ip), owner)));
        Ok(())
    }

    fn release(&mut self, at: Uplink, ips: &[IpAddr]) {
        for ip in ips {
            let owner = self.owners.remove(&(at, *ip));
            assert!(owner.is_some(), "{ip} was owned by nobody");
        }
    }
}
