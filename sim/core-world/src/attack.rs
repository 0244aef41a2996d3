//! Attackers and strangers: somebody outside of the cluster who knows what is public.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use holdfast_core::entropy::Seed;
use holdfast_core::identity::{Identity, PublicKey};
use holdfast_core::mesh::{Input, Mesh};
use holdfast_core::signal::envelope::seal;
use holdfast_core::signal::snapshot::{Challenge, Snapshot};
use holdfast_core::simulation::forged_goodbye;
use holdfast_core::types::Incarnation;
use holdfast_net_model::{HostId, Links, TopologyError, Uplink};
use holdfast_plan::{Attack, UDP_PORT};

use crate::engine::World;
use crate::play::Player;

/// Where attackers and strangers are.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
/// Keys under which foreign envelopes are posted: above what one mailbox remembers.
const FOREIGN_KEYS: u64 = 400;
/// Envelopes of garbage.
const GARBAGE: usize = 100;
/// Longest datagram of a stranger: what any path carries.
const DATAGRAM_MAX: usize = 1400;
impl Player<'_> {
    /// What an outsider writes is posted at every broker; and as no broker is trusted, the node
    /// is handed the same by one that checks nothing.
    pub(crate) fn attack(&mut self, node: usize, attack: Attack) {
        let mailbox = self.world.nodes[node].mailbox();
        let seen = self
            .world
            .posted
            .iter()
            .filter(|posted| posted.to == mailbox);
        let seen: Vec<Vec<u8>> = seen.map(|posted| posted.envelope.to_vec()).collect();
        let envelopes = match attack {
            Attack::Replay => seen,
            Attack::Corrupt => seen.into_iter().map(|e| self.corrupted(e)).collect(),
            Attack::Foreign => self.foreign(mailbox, &seen),
            Attack::Garbage => (0..GARBAGE).map(|_| self.garbage()).collect(),
        };
        for envelope in envelopes {
            self.world.post_anywhere(STRANGER.into(), &envelope);
            if !self.world.nodes[node].paused {
                let hand_over = |mesh: &mut Mesh, now| {
                    mesh.handle(now, Input::Signal(envelope));
                };
                self.world.call(node, hand_over);
            }
        }
    }

    fn corrupted(&mut self, mut envelope: Vec<u8>) -> Vec<u8> {
        let at = self.entropy.below(envelope.len().max(1) as u64) as usize;
        let bit = self.entropy.below(8);
        if let Some(byte) = envelope.get_mut(at) {
            *byte ^= 1 << bit;
        }
        envelope
    }

    fn garbage(&mut self) -> Vec<u8> {
        let len = self.entropy.below(2048) as usize;
        let mut bytes = vec![0; len];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// Snapshots under keys of nobody, and goodbyes in the name of whoever wrote before.
    fn foreign(&mut self, mailbox: PublicKey, seen: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let unix = self.world.true_now().unix;
        let mut envelopes = Vec::new();
        for _ in 0..FOREIGN_KEYS {
            let content = Snapshot {
                challenge: Challenge(self.entropy.bytes()),
                goodbye: false,
                offers: Vec::new(),
                candidates: Vec::new(),
            };
            let us = Identity::from_seed(self.entropy.bytes());
            let run = Incarnation(self.entropy.bytes());
            let content = content.encode();
            envelopes.push(seal(
                &us,
                mailbox,
                run,
                1,
                unix,
                &content,
                &mut self.entropy,
            ));
        }
        for recorded in seen {
            let seed = Seed::new(self.entropy.bytes());
            envelopes.extend(forged_goodbye(recorded, &seed));
        }
        envelopes
    }

    /// Datagrams to the node's socket, from outside through its NATs where these let them in.
    pub(crate) fn strangers(&mut self, node: usize, count: u32) {
        let to = self.world.nodes[node].ip;
        for n in 0..count {
            let mut bytes = self.garbage();
            match (n % 3, bytes.as_mut_slice()) {
                // A STUN Binding request, and a QUIC Initial, as far as anyone could tell.
                (0, [a, b, _, _, c, d, e, f, ..]) => {
                    [*a, *b] = [0, 1];
                    [*c, *d, *e, *f] = [0x21, 0x12, 0xa4, 0x42];
                }
                (1, [a, b, c, d, e, ..]) => [*a, *b, *c, *d, *e] = [0xc3, 0, 0, 0, 1],
                _ => {}
            }
            bytes.truncate(DATAGRAM_MAX);
            let from = SocketAddr::new(STRANGER.into(), 1024 + (n % 60_000) as u16);
            self.world
                .stranger_datagram(self.stranger, node, from, to.into(), &bytes);
        }
        self.world.flush();
    }
}

impl World {
    /// The host of strangers.
    pub(crate) fn add_stranger(&mut self, ip: IpAddr) -> Result<HostId, TopologyError> {
        self.net.add_host(Uplink::Core, &[ip], Links::ideal())
    }

    /// A stranger sends to the node from outside, and to every mapping that its NATs have.
    fn stranger_datagram(
        &mut self,
        stranger: HostId,
        node: usize,
        from: SocketAddr,
        to: IpAddr,
        bytes: &[u8],
    ) {
        if let Uplink::Behind(nat) = self.net.uplink(self.nodes[node].host) {
            let public = self.net.nat(nat).config().public_ip;
            self.send_udp(
                stranger,
                from,
                SocketAddr::new(public.into(), UDP_PORT),
                bytes,
            );
            // Most NATs let nobody in; somebody inside, or a mapping that filters nothing, would.
            self.node_datagram(node, from, to, bytes.into());
        } else {
            self.send_udp(stranger, from, SocketAddr::new(to, UDP_PORT), bytes);
        }
    }
}
