//! One fault of each kind.

use std::net::Ipv4Addr;

use holdfast_core::entropy::Entropy;
use holdfast_net_model::{LinkConfig, Links, Loss, Order, Ratio};
use holdfast_plan::{Attack, Place};
use std::time::Duration;

use super::{Drawing, choose, plain};
use crate::scenario::format::{Fault, FaultKind, SwarmKind};
use crate::scenario::values::{Directions, LinkText, Offset, Share, Time, When, Wire};

/// How long faults last, in milliseconds: from hardly noticed to longer than a path is held.
const SHORT_MS: (u64, u64) = (10, 500);
const USUAL_MS: (u64, u64) = (100, 8_000);
const LONG_MS: (u64, u64) = (1_000, 25_000);
/// A process has the time to say so.
const RETIRE_MS: (u64, u64) = (5_500, 20_000);
/// Losses in percent, from a bad day to all but gone.
const LOSSES: [u32; 6] = [1, 5, 20, 50, 90, 99];
/// How far clocks jump, in milliseconds: within the expiry of messages, and it has no say.
const JUMPS_MS: [i64; 6] = [-3_600_000, -60_000, -1_000, 1_000, 60_000, 3_600_000];
/// Where roaming nodes and renumbered NATs have their addresses: beyond all defaults.
const FREE_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 201);
const FREE_PUBLIC_COUNT: u64 = 50;
/// Datagrams from strangers.
const STRANGERS_MAX: u64 = 300;

impl Drawing<'_> {
    /// A fault of that kind; `None` when nothing there can have it.
    pub(super) fn one(&self, kind: SwarmKind, rng: &mut Entropy) -> Option<Fault> {
        match kind {
            SwarmKind::Cut => self.cut(rng),
            SwarmKind::Loss | SwarmKind::Delay | SwarmKind::Blackhole => self.link(kind, rng),
            SwarmKind::Flush => {
                let at = When::At(Time(self.at(rng)));
                self.at_nat(plain(FaultKind::Flush, at, None), rng)
            }
            SwarmKind::Renumber => {
                let fault = self.lasting(FaultKind::Renumber, LONG_MS, rng)?;
                let fault = self.at_nat(fault, rng)?;
                let nat = self
                    .topology
                    .nats
                    .iter()
                    .find(|n| Some(&n.name) == fault.nat.as_ref())?;
                let free = (nat.place == Place::Public).then(|| self.free_public(rng))??;
                Some(Fault {
                    address: Some(free),
                    ..fault
                })
            }
            SwarmKind::UdpBlocked => {
                let fault = self.lasting(FaultKind::UdpBlocked, LONG_MS, rng)?;
                self.at_nat(fault, rng)
            }
            SwarmKind::Crash => {
                let fault = self.lasting(FaultKind::Crash, USUAL_MS, rng)?;
                self.at_node(fault, rng)
            }
            SwarmKind::Restart => {
                let fault = self.lasting(FaultKind::Stop, SHORT_MS, rng)?;
                self.at_node(fault, rng)
            }
            SwarmKind::Wipe => {
                let fault = self.lasting(FaultKind::Wipe, USUAL_MS, rng)?;
                self.at_node(fault, rng)
            }
            SwarmKind::Retire => {
                let fault = self.lasting(FaultKind::Retire, RETIRE_MS, rng)?;
                self.at_node(fault, rng)
            }
            SwarmKind::KvLeader => self.lasting(FaultKind::KvLeader, USUAL_MS, rng),
            SwarmKind::KvCut => {
                let lasts = self.usual_or_longer(rng);
                let fault = self.lasting(FaultKind::KvCut, lasts, rng)?;
                match rng.below(3) {
                    0 => Some(fault),
                    _ => self.at_node(fault, rng),
                }
            }
            SwarmKind::KvLoss => {
                let fault = self.lasting(FaultKind::KvLoss, LONG_MS, rng)?;
                let mut share = |max: u64| Ratio::new(10 * rng.below(max) as u32, 100).map(Share);
                Some(Fault {
                    lose: share(6),
                    late: share(4),
                    ..fault
                })
            }
            SwarmKind::Pause => {
                // As without leases where there are none.
                let lasts = match self.file.membership {
                    Some(_) => self.usual_or_longer(rng),
                    None => self.usual_or_long(rng),
                };
                let fault = self.lasting(FaultKind::Pause, lasts, rng)?;
                self.at_node(fault, rng)
            }
            SwarmKind::Roam => self.roam(rng),
            SwarmKind::Broker => {
                let fault = self.lasting(FaultKind::Broker, LONG_MS, rng)?;
                let brokers = u64::from(self.topology.servers.brokers);
                Some(Fault {
                    broker: Some(1 + rng.below(brokers) as u8),
                    ..fault
                })
            }
            SwarmKind::BrokerLoss => {
                let fault = self.lasting(FaultKind::BrokerLoss, LONG_MS, rng)?;
                let mut share = |max: u64| Ratio::new(10 * rng.below(max) as u32, 100).map(Share);
                Some(Fault {
                    lose: share(10),
                    repeat: share(6),
                    ..fault
                })
            }
            SwarmKind::Turn => self.lasting(FaultKind::Turn, LONG_MS, rng),
            SwarmKind::ClockStep => {
                let fault = self.instant(FaultKind::ClockStep, rng)?;
                Some(Fault {
                    by: choose(&JUMPS_MS, rng).map(Offset),
                    ..fault
                })
            }
            SwarmKind::Attack => {
                let fault = self.instant(FaultKind::Attack, rng)?;
                let attacks = [
                    Attack::Replay,
                    Attack::Corrupt,
                    Attack::Foreign,
                    Attack::Garbage,
                ];
                Some(Fault {
                    attack: choose(&attacks, rng),
                    ..fault
                })
            }
            SwarmKind::Strangers => {
                let fault = self.instant(FaultKind::Strangers, rng)?;
                Some(Fault {
                    count: Some(1 + rng.below(STRANGERS_MAX) as u32),
                    ..fault
                })
            }
        }
    }

    /// Mostly usual, now and then longer than anything is held for.
    fn usual_or_long(&self, rng: &mut Entropy) -> (u64, u64) {
        match rng.below(6) {
            0 => LONG_MS,
            _ => USUAL_MS,
        }
    }

    /// With leases the longest is longer than they are.
    fn usual_or_longer(&self, rng: &mut Entropy) -> (u64, u64) {
        let lease = self.file.membership.as_ref().and_then(|m| m.lease);
        match (rng.below(3), lease) {
            (0, Some(lease)) => {
                let lease_ms = u64::try_from(lease.0.as_millis()).unwrap_or(u64::MAX / 2);
                (lease_ms / 2, lease_ms.saturating_mul(2).max(1))
            }
            _ => self.usual_or_long(rng),
        }
    }

    fn lasting(&self, kind: FaultKind, lasts: (u64, u64), rng: &mut Entropy) -> Option<Fault> {
        let (at, lasts) = self.times(lasts, rng)?;
        Some(plain(kind, at, Some(lasts)))
    }

    fn instant(&self, kind: FaultKind, rng: &mut Entropy) -> Option<Fault> {
        let at = When::At(Time(self.at(rng)));
        self.at_node(plain(kind, at, None), rng)
    }

    fn at_node(&self, fault: Fault, rng: &mut Entropy) -> Option<Fault> {
        let node = self.node(fault.at.from(), rng)?;
        Some(Fault {
            node: Some(self.topology.node(node).name.clone()),
            ..fault
        })
    }

    fn at_nat(&self, fault: Fault, rng: &mut Entropy) -> Option<Fault> {
        let nat = self.nat(rng)?;
        Some(Fault {
            nat: Some(self.topology.nats[nat].name.clone()),
            ..fault
        })
    }

    fn cut(&self, rng: &mut Entropy) -> Option<Fault> {
        let lasts = self.usual_or_long(rng);
        let fault = self.lasting(FaultKind::Cut, lasts, rng)?;
        let nodes: Vec<_> = self.nodes(fault.at.from()).collect();
        let a = choose(&nodes, rng)?;
        let others: Vec<_> = nodes.into_iter().filter(|node| *node != a).collect();
        let b = choose(&others, rng)?;
        let [a, b] = [a, b].map(|node| self.topology.node(node).name.clone());
        let both = rng.below(2) == 0;
        Some(Fault {
            between: both.then(|| [a.clone(), b.clone()]),
            from: (!both).then_some(a),
            to: (!both).then_some(b),
            ..fault
        })
    }

    fn link(&self, kind: SwarmKind, rng: &mut Entropy) -> Option<Fault> {
        let lasts = self.usual_or_long(rng);
        let fault = self.lasting(FaultKind::Link, lasts, rng)?;
        let node = self.node(fault.at.from(), rng)?;
        let spec = self.topology.node(node);
        let worse = |config: LinkConfig, rng: &mut Entropy| match kind {
            SwarmKind::Loss => {
                let percent = choose(&LOSSES, rng).unwrap_or(1);
                let loss = Loss::Bernoulli(Ratio::of(percent, 100));
                LinkConfig { loss, ..config }
            }
            SwarmKind::Delay => {
                let more = Duration::from_millis(20 + rng.below(400));
                let order = [Order::Preserved, Order::Free][rng.below(2) as usize];
                LinkConfig {
                    delay: config.delay + more,
                    jitter: more / 2,
                    order,
                    ..config
                }
            }
            _ => LinkConfig {
                blackhole: true,
                ..config
            },
        };
        let Links { up, down } = spec.links;
        let (mut each, which) = (
            Directions {
                up: None,
                down: None,
            },
            rng.below(3),
        );
        if which != 1 {
            each.up = Some(Wire(worse(up, rng)));
        }
        if which != 0 {
            each.down = Some(Wire(worse(down, rng)));
        }
        Some(Fault {
            device: Some(spec.name.clone()),
            link: Some(LinkText::Each(each)),
            ..fault
        })
    }

    fn roam(&self, rng: &mut Entropy) -> Option<Fault> {
        let fault = self.lasting(FaultKind::Move, LONG_MS, rng)?;
        let node = self.node(fault.at.from(), rng)?;
        let spec = self.topology.node(node);
        let nats = self.topology.nats.len();
        // One more than there are NATs: the public network.
        let to = rng.below(nats as u64 + 1) as usize;
        let (behind, address) = match self.topology.nats.get(to) {
            Some(nat) => {
                let inside = Ipv4Addr::new(10, to as u8 + 1, 200, node.0 as u8 + 1);
                (Some(nat.name.clone()), inside)
            }
            None => (None, self.free_public(rng)?),
        };
        let here = self.file.node[node.index()].behind == behind;
        (!here).then(|| Fault {
            node: Some(spec.name.clone()),
            behind,
            address: Some(address),
            ..fault
        })
    }

    /// A public address that nothing has and no fault of the file gives.
    fn free_public(&self, rng: &mut Entropy) -> Option<Ipv4Addr> {
        let first = u32::from(FREE_PUBLIC);
        let address = Ipv4Addr::from(first + rng.below(FREE_PUBLIC_COUNT) as u32);
        let nodes = self.topology.nodes.iter().map(|node| node.address);
        let nats = self.topology.nats.iter().map(|nat| nat.config.public_ip);
        let given = self.file.fault.iter().filter_map(|fault| fault.address);
        let taken = nodes.chain(nats).chain(given).any(|other| other == address);
        (!taken).then_some(address)
    }
}
