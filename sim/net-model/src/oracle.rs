//! Which direct paths must be found, told from the topology alone.
//!
//! The question is whether two ICE agents (RFC 8445) that gather host candidates and one
//! server-reflexive candidate from a STUN server in the core can validate a pair without a
//! relay. A chain of NATs counts as one NAT with the strictest mapping and the strictest
//! filtering of the chain; a host on the core counts as endpoint-independent in both.
//!
//! | mappings of the two sides | a direct path exists |
//! |---|---|
//! | both endpoint-independent | always |
//! | one endpoint-independent | unless that side filters by address and port: it would have to know a port that is only chosen when the other side sends |
//! | none endpoint-independent | when one side filters endpoint-independently, the other not by address and port, and not both map by address and port: somebody's packet to the stale reflexive port must get in, the answer from a fresh port too, and the chase of fresh ports must end |
//!
//! Before that: hosts on one segment see each other unless it is isolated; a host on a
//! segment above the other is reached by its own address, unless that segment is isolated;
//! IPv6 on both sides is routed end to end; hosts that share their outermost NAT need it to
//! hairpin; and a NAT that blocks UDP ends every path through it.

use crate::nat::{Filtering, Mapping, NatConfig};
use crate::network::{HostId, Network, Uplink};

/// What a chain of NATs amounts to.
#[derive(Clone, Copy)]
struct Behaviour {
    mapping: Mapping,
    filtering: Filtering,
}

impl<P: Clone> Network<P> {
    /// Whether two hosts must find a direct UDP path, by the table of [`crate::oracle`].
    ///
    /// Pair cuts and black holes on access links and NATs count at once; rates, loss, MTUs
    /// and cuts of single addresses do not. For chains that mix different NATs the answer may
    /// err towards `false`, never towards `true`.
    #[must_use]
    pub fn direct_path_possible(&self, a: HostId, b: HostId) -> bool {
        if self.is_pair_cut(a, b) || self.is_pair_cut(b, a) || self.is_dead(a) || self.is_dead(b) {
            return false;
        }
        let (up_a, up_b) = (self.uplink(a), self.uplink(b));
        self.sees(up_a, up_b)
            || self.sees(up_b, up_a)
            || self.ipv6_path_possible(a, b)
            || self.punching_possible(up_a, up_b)
    }

    /// Whether a host on `low` reaches one on `high`, the same segment or one above it, by
    /// its own address.
    fn sees(&self, low: Uplink, high: Uplink) -> bool {
        let mut segment = low;
        let mut passable = true;
        for nat in self.nats_above(low) {
            if segment == high {
                break;
            }
            passable &= self.passes_udp(nat);
            segment = self.outside(nat);
        }
        segment == high && passable && !self.is_isolated(high)
    }

    fn ipv6_path_possible(&self, a: HostId, b: HostId) -> bool {
        let routed = |host: HostId| {
            self.addresses(host).iter().any(std::net::IpAddr::is_ipv6)
                && self
                    .nats_above(self.uplink(host))
                    .all(|nat| self.nat(nat).config().ipv6_routed && !self.is_wan_dead(nat))
        };
        // Below a common NAT the path turns there: only what the two do not share matters,
        // and an isolated segment stops it.
        let turn = self.common_segment(self.uplink(a), self.uplink(b));
        routed(a) && routed(b) && !self.is_isolated(turn)
    }

    fn punching_possible(&self, a: Uplink, b: Uplink) -> bool {
        let shared = match (self.nats_above(a).last(), self.nats_above(b).last()) {
            (Some(x), Some(y)) if x == y => Some(x),
            _ => None,
        };
        if shared.is_some_and(|nat| !self.nat(nat).config().hairpinning) {
            return false;
        }
        match (self.behaviour(a), self.behaviour(b)) {
            (Some(a), Some(b)) => can_punch(a, b),
            _ => false,
        }
    }

    /// What the chain above a segment amounts to; `None` when UDP cannot pass it.
    fn behaviour(&self, segment: Uplink) -> Option<Behaviour> {
        let open = Behaviour {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::EndpointIndependent,
        };
        self.nats_above(segment).try_fold(open, |chain, nat| {
            let NatConfig {
                mapping, filtering, ..
            } = *self.nat(nat).config();
            self.passes_udp(nat).then_some(Behaviour {
                mapping: chain.mapping.max(mapping),
                filtering: chain.filtering.max(filtering),
            })
        })
    }

    fn common_segment(&self, a: Uplink, b: Uplink) -> Uplink {
        let above_b: Vec<_> = self.nats_above(b).collect();
        self.nats_above(a)
            .find(|nat| above_b.contains(nat))
            .map_or(Uplink::Core, Uplink::Behind)
    }
}

/// The table of the module's description.
fn can_punch(a: Behaviour, b: Behaviour) -> bool {
    use Filtering::{AddressAndPortDependent as PortFiltered, EndpointIndependent as Unfiltered};
    use Mapping::{AddressAndPortDependent as PerPort, EndpointIndependent as Stable};
    match (a.mapping, b.mapping) {
        (Stable, Stable) => true,
        (Stable, _) => a.filtering != PortFiltered,
        (_, Stable) => b.filtering != PortFiltered,
        (PerPort, PerPort) => false,
        _ => {
            let one_open = a.filtering == Unfiltered || b.filtering == Unfiltered;
            one_open && a.filtering != PortFiltered && b.filtering != PortFiltered
        }
    }
}

#[cfg(test)]
mod tests;
