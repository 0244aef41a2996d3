use super::*;
use crate::nat::NatConfig;
use crate::testing::SplitMix;
use crate::{LinkConfig, Loss, Ratio};
use std::net::Ipv4Addr;
use std::num::NonZeroU64;

const MS: Duration = Duration::from_millis(1);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn home(public: &str) -> NatConfig {
    NatConfig::home(public.parse().expect("an IPv4 address"))
}

/// A network with its draws and a sequence number as payload.
struct World {
    network: Network<u32>,
    draw: SplitMix,
    now: Duration,
}

impl World {
    fn new() -> Self {
        Self {
            network: Network::new(),
            draw: SplitMix(1),
            now: Duration::ZERO,
        }
    }

    fn host(&mut self, uplink: Uplink, addresses: &[&str]) -> HostId {
        let addresses: Vec<_> = addresses.iter().map(|text| ip(text)).collect();
        let links = Links::symmetric(LinkConfig::with_delay(MS));
        self.network
            .add_host(uplink, &addresses, links)
            .expect("a sound topology")
    }

    fn nat(&mut self, uplink: Uplink, config: NatConfig) -> NatId {
        self.network
            .add_nat(uplink, config, Links::ideal())
            .expect("a sound topology")
    }

    fn send(&mut self, from: HostId, src: SocketAddr, dst: SocketAddr, payload: u32) {
        let packet = Packet {
            protocol: Protocol::Udp,
            src,
            dst,
            len_bytes: 100,
            payload,
        };
        self.network.send(self.now, from, packet, &mut self.draw);
    }

    /// Lets everything in flight land; the clock follows.
    fn settle(&mut self) -> Vec<Delivery<u32>> {
        let mut deliveries = Vec::new();
        while let Some(next) = self.network.deadline() {
            self.now = next;
            self.network.poll(next, &mut self.draw, &mut deliveries);
        }
        deliveries
    }

    /// Sends one packet and says who got it, from where.
    fn probe(
        &mut self,
        from: HostId,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Option<(HostId, SocketAddr)> {
        self.send(from, src, dst, 0);
        let deliveries = self.settle();
        assert!(deliveries.len() <= 1, "{deliveries:?}");
        deliveries
            .first()
            .map(|delivery| (delivery.to, delivery.packet.src))
    }
}

const SERVER: &str = "198.51.100.1";

/// A server on the core and one host behind one home NAT.
fn one_home() -> (World, HostId, HostId, NatId) {
    let mut world = World::new();
    let server = world.host(Uplink::Core, &[SERVER]);
    let nat = world.nat(Uplink::Core, home("203.0.113.1"));
    let client = world.host(Uplink::Behind(nat), &["10.0.0.2"]);
    (world, server, client, nat)
}

#[test]
fn a_host_behind_a_nat_is_seen_under_its_public_address_and_can_be_answered() {
    let (mut world, server, client, _) = one_home();
    let seen = world.probe(client, at("10.0.0.2:5000"), at("198.51.100.1:80"));
    assert_eq!(seen, Some((server, at("203.0.113.1:5000"))));
    assert_eq!(world.now, 2 * MS);
    let answer = world.probe(server, at("198.51.100.1:80"), at("203.0.113.1:5000"));
    assert_eq!(answer, Some((client, at("198.51.100.1:80"))));
    assert_eq!(
        world.probe(server, at("198.51.100.1:81"), at("203.0.113.1:5000")),
        None
    );
    assert_eq!(world.network.drops().nat_inbound, 1);
}

#[test]
fn a_flush_of_the_nat_moves_the_flow_to_another_public_port() {
    let (mut world, server, client, nat) = one_home();
    let (src, dst) = (at("10.0.0.2:5000"), at("198.51.100.1:80"));
    let before = world.probe(client, src, dst).expect("delivered");
    world.network.nat_mut(nat).flush();
    assert_eq!(world.probe(server, dst, before.1), None);
    let after = world.probe(client, src, dst).expect("delivered");
    assert_ne!(before.1, after.1);
    assert_eq!(world.probe(server, dst, after.1), Some((client, dst)));
}

#[test]
fn a_renumbered_nat_answers_only_under_its_new_address() {
    let (mut world, server, client, nat) = one_home();
    let (src, dst) = (at("10.0.0.2:5000"), at("198.51.100.1:80"));
    let before = world.probe(client, src, dst).expect("delivered").1;
    world
        .network
        .renumber_nat(nat, Ipv4Addr::new(203, 0, 113, 99))
        .expect("a free address");
    assert_eq!(world.probe(server, dst, before), None);
    assert_eq!(
        world.probe(client, src, dst).expect("delivered").1.ip(),
        ip("203.0.113.99")
    );
}

#[test]
fn a_mapping_expires_in_the_time_of_the_world() {
    let (mut world, server, client, _) = one_home();
    let (src, dst) = (at("10.0.0.2:5000"), at("198.51.100.1:80"));
    let public = world.probe(client, src, dst).expect("delivered").1;
    world.now += Duration::from_secs(29);
    assert!(world.probe(server, dst, public).is_some());
    world.now += Duration::from_secs(2);
    assert_eq!(world.probe(server, dst, public), None);
}

#[test]
fn two_translations_happen_behind_a_carrier_nat() {
    let mut world = World::new();
    let server = world.host(Uplink::Core, &[SERVER]);
    let carrier = world.nat(Uplink::Core, home("203.0.113.1"));
    let inner = world.nat(Uplink::Behind(carrier), home("100.64.0.7"));
    let client = world.host(Uplink::Behind(inner), &["192.168.0.2"]);
    let neighbour = world.host(Uplink::Behind(carrier), &["100.64.0.8"]);
    let src = at("192.168.0.2:5000");
    let seen = world.probe(client, src, at("198.51.100.1:80"));
    assert_eq!(seen, Some((server, at("203.0.113.1:5000"))));
    let seen = world.probe(client, src, at("100.64.0.8:80"));
    assert_eq!(seen, Some((neighbour, at("100.64.0.7:5000"))));
    let answer = world.probe(server, at("198.51.100.1:80"), at("203.0.113.1:5000"));
    assert_eq!(answer, Some((client, at("198.51.100.1:80"))));
    // A private address is nowhere on the core.
    assert_eq!(world.probe(server, at("198.51.100.1:80"), src), None);
    assert_eq!(world.network.drops().no_route, 1);
}

#[test]
fn hosts_on_one_lan_reach_each_other_privately_unless_isolated() {
    for isolated in [false, true] {
        let mut world = World::new();
        let nat = world.nat(
            Uplink::Core,
            NatConfig {
                isolated,
                ..home("203.0.113.1")
            },
        );
        let a = world.host(Uplink::Behind(nat), &["10.0.0.2"]);
        let b = world.host(Uplink::Behind(nat), &["10.0.0.3"]);
        let got = world.probe(a, at("10.0.0.2:1"), at("10.0.0.3:2"));
        assert_eq!(got, (!isolated).then_some((b, at("10.0.0.2:1"))));
        assert_eq!(world.network.direct_path_possible(a, b), !isolated);
    }
}

#[test]
fn a_hairpin_shows_public_addresses_even_on_an_isolated_lan() {
    let mut world = World::new();
    let server = world.host(Uplink::Core, &[SERVER]);
    let config = NatConfig {
        isolated: true,
        hairpinning: true,
        ..home("203.0.113.1")
    };
    let nat = world.nat(Uplink::Core, config);
    let a = world.host(Uplink::Behind(nat), &["10.0.0.2"]);
    let b = world.host(Uplink::Behind(nat), &["10.0.0.3"]);
    let (sa, sb, dst) = (
        at("10.0.0.2:1111"),
        at("10.0.0.3:2222"),
        at("198.51.100.1:80"),
    );
    let pa = world.probe(a, sa, dst).expect("delivered").1;
    let pb = world.probe(b, sb, dst).expect("delivered").1;
    assert_eq!(
        world.probe(a, sa, pb),
        None,
        "b has not opened its filter yet"
    );
    assert_eq!(world.probe(b, sb, pa), Some((a, pb)));
    assert_eq!(world.probe(a, sa, pb), Some((b, pa)));
    assert!(world.network.direct_path_possible(a, b));
    assert!(world.network.direct_path_possible(a, server));
}

#[test]
fn simultaneous_packets_punch_two_port_restricted_nats() {
    let mut world = World::new();
    let nat_a = world.nat(Uplink::Core, home("203.0.113.1"));
    let nat_b = world.nat(Uplink::Core, home("203.0.113.2"));
    let a = world.host(Uplink::Behind(nat_a), &["10.0.0.2"]);
    let b = world.host(Uplink::Behind(nat_b), &["10.0.0.2"]);
    // Both leave at once and cross on the core: each opens the way for the other.
    for (host, peer) in [(a, "203.0.113.2:5000"), (b, "203.0.113.1:5000")] {
        world.send(host, at("10.0.0.2:5000"), at(peer), 0);
    }
    let got: Vec<_> = world.settle().iter().map(|delivery| delivery.to).collect();
    assert_eq!(got, [b, a]);
}

#[test]
fn a_one_way_cut_stops_one_direction_and_spares_a_relay() {
    let mut world = World::new();
    let relay = world.host(Uplink::Core, &[SERVER]);
    let a = world.host(Uplink::Core, &["198.51.100.2"]);
    let b = world.host(Uplink::Core, &["198.51.100.3"]);
    let (ra, aa, ba) = (
        at("198.51.100.1:1"),
        at("198.51.100.2:1"),
        at("198.51.100.3:1"),
    );
    // A packet in flight is lost as well.
    world.send(a, aa, ba, 0);
    world.network.cut(a, b);
    assert_eq!(world.settle(), []);
    assert_eq!(world.probe(b, ba, aa), Some((a, ba)));
    assert_eq!(world.probe(a, aa, ra), Some((relay, aa)));
    assert_eq!(world.probe(relay, ra, ba), Some((b, ra)));
    assert!(!world.network.direct_path_possible(a, b));
    world.network.heal_all();
    assert_eq!(world.probe(a, aa, ba), Some((b, aa)));
    assert_eq!(world.network.drops().cut, 1);
}

#[test]
fn an_address_can_be_cut_off_in_either_direction() {
    let (mut world, server, client, _) = one_home();
    let (src, dst) = (at("10.0.0.2:5000"), at("198.51.100.1:80"));
    let public = world.probe(client, src, dst).expect("delivered").1;
    world
        .network
        .cut_remote(client, dst.ip(), Direction::Inbound);
    assert!(world.probe(client, src, dst).is_some());
    assert_eq!(world.probe(server, dst, public), None);
    world
        .network
        .heal_remote(client, dst.ip(), Direction::Inbound);
    world
        .network
        .cut_remote(client, dst.ip(), Direction::Outbound);
    assert_eq!(world.probe(client, src, dst), None);
    assert!(world.probe(server, dst, public).is_some());
}

#[test]
fn a_black_hole_on_an_access_link_is_one_way() {
    let (mut world, server, client, _) = one_home();
    let (src, dst) = (at("10.0.0.2:5000"), at("198.51.100.1:80"));
    let public = world.probe(client, src, dst).expect("delivered").1;
    let (up, _) = world.network.host_links_mut(client);
    up.update(2 * MS, |config| config.blackhole = true);
    assert_eq!(world.probe(client, src, dst), None);
    assert!(world.probe(server, dst, public).is_some());
    assert!(!world.network.direct_path_possible(client, server));
}

#[test]
fn a_roaming_host_loses_its_old_addresses_and_is_reached_at_its_new_ones() {
    let (mut world, server, client, _) = one_home();
    let other = world.nat(Uplink::Core, home("203.0.113.9"));
    let dst = at("198.51.100.1:80");
    let public = world
        .probe(client, at("10.0.0.2:5000"), dst)
        .expect("delivered")
        .1;
    world.send(server, dst, public, 0);
    world
        .network
        .move_host(client, Uplink::Behind(other), &[ip("10.9.0.5")])
        .expect("free");
    assert_eq!(world.settle(), [], "in flight to the old address");
    assert_eq!(world.probe(client, at("10.0.0.2:5000"), dst), None);
    assert_eq!(world.network.drops().bad_source, 1);
    let seen = world.probe(client, at("10.9.0.5:5000"), dst);
    assert_eq!(seen, Some((server, at("203.0.113.9:5000"))));
}

#[test]
fn a_host_with_two_addresses_uses_both() {
    let mut world = World::new();
    let server = world.host(Uplink::Core, &[SERVER, "2001:db8::1"]);
    let client = world.host(Uplink::Core, &["198.51.100.2", "2001:db8::2"]);
    for (src, dst) in [
        ("198.51.100.2:1", "198.51.100.1:80"),
        ("[2001:db8::2]:1", "[2001:db8::1]:80"),
    ] {
        assert_eq!(
            world.probe(client, at(src), at(dst)),
            Some((server, at(src)))
        );
        assert_eq!(
            world.probe(server, at(dst), at(src)),
            Some((client, at(dst)))
        );
    }
}

#[test]
fn ipv6_passes_a_nat_only_where_it_is_routed() {
    for ipv6_routed in [false, true] {
        let mut world = World::new();
        let server_nat = NatConfig {
            ipv6_routed: true,
            ..NatConfig::symmetric(Ipv4Addr::new(203, 0, 113, 2))
        };
        let server_nat = world.nat(Uplink::Core, server_nat);
        let server = world.host(Uplink::Behind(server_nat), &["2001:db8:1::1"]);
        let carrier = world.nat(
            Uplink::Core,
            NatConfig {
                ipv6_routed: true,
                ..home("203.0.113.1")
            },
        );
        let inner = NatConfig {
            ipv6_routed,
            ..NatConfig::symmetric(Ipv4Addr::new(100, 64, 0, 1))
        };
        let inner = world.nat(Uplink::Behind(carrier), inner);
        let client = world.host(Uplink::Behind(inner), &["2001:db8:2::2"]);
        let (src, dst) = (at("[2001:db8:2::2]:1"), at("[2001:db8:1::1]:2"));
        assert_eq!(
            world.probe(client, src, dst),
            ipv6_routed.then_some((server, src))
        );
        assert_eq!(
            world.probe(server, dst, src),
            ipv6_routed.then_some((client, dst))
        );
        assert_eq!(
            world.network.direct_path_possible(client, server),
            ipv6_routed
        );
    }
}

#[test]
fn a_shared_bottleneck_queues_the_packets_of_all_hosts() {
    let mut world = World::new();
    world.host(Uplink::Core, &[SERVER]);
    let rate = LinkConfig {
        rate_bits_per_s: NonZeroU64::new(800_000),
        ..LinkConfig::IDEAL
    };
    let wan = Links {
        up: rate,
        down: LinkConfig::IDEAL,
    };
    let nat = world
        .network
        .add_nat(Uplink::Core, home("203.0.113.1"), wan)
        .expect("free");
    let a = world.host(Uplink::Behind(nat), &["10.0.0.2"]);
    let b = world.host(Uplink::Behind(nat), &["10.0.0.3"]);
    // 100 bytes at 800 kbit/s take 1 ms on the shared link.
    for (host, src) in [(a, "10.0.0.2:1"), (b, "10.0.0.3:1"), (a, "10.0.0.2:1")] {
        world.send(host, at(src), at("198.51.100.1:80"), 0);
    }
    let times: Vec<_> = world.settle().iter().map(|delivery| delivery.at).collect();
    assert_eq!(times, [3 * MS, 4 * MS, 5 * MS]);
}

#[test]
fn duplicates_and_losses_of_a_path_follow_its_pipelines() {
    let mut world = World::new();
    let a = world.host(Uplink::Core, &["198.51.100.2"]);
    let b = world.host(Uplink::Core, &["198.51.100.3"]);
    let (up, _) = world.network.host_links_mut(a);
    up.update(Duration::ZERO, |config| config.duplicate = Ratio::ALWAYS);
    world.send(a, at("198.51.100.2:1"), at("198.51.100.3:1"), 7);
    let got = world.settle();
    assert_eq!(
        got.iter()
            .map(|d| (d.to, d.packet.payload))
            .collect::<Vec<_>>(),
        [(b, 7), (b, 7)]
    );
    let (_, down) = world.network.host_links_mut(b);
    down.update(Duration::ZERO, |config| {
        config.loss = Loss::Bernoulli(Ratio::ALWAYS)
    });
    assert_eq!(
        world.probe(a, at("198.51.100.2:1"), at("198.51.100.3:1")),
        None
    );
}

#[test]
fn unsound_topologies_are_refused_by_name() {
    let mut world = World::new();
    let nat = world.nat(Uplink::Core, home("203.0.113.1"));
    let host = world.host(Uplink::Core, &[SERVER]);
    let add =
        |network: &mut Network<u32>, uplink, ip| network.add_host(uplink, &[ip], Links::ideal());
    let taken = ip("203.0.113.1");
    assert_eq!(
        add(&mut world.network, Uplink::Core, taken),
        Err(TopologyError::AddressTaken(taken))
    );
    assert_eq!(
        world.network.move_host(host, Uplink::Core, &[taken]),
        Err(TopologyError::AddressTaken(taken))
    );
    assert_eq!(world.network.addresses(host), [ip(SERVER)]);
    assert!(
        add(&mut world.network, Uplink::Behind(nat), taken).is_ok(),
        "another segment"
    );
    let unknown = NatId(99);
    assert_eq!(
        add(&mut world.network, Uplink::Behind(unknown), taken),
        Err(TopologyError::UnknownNat(unknown))
    );
    let twice = [ip("10.0.0.9"), ip("10.0.0.9")];
    assert_eq!(
        world
            .network
            .add_host(Uplink::Behind(nat), &twice, Links::ideal()),
        Err(TopologyError::AddressTaken(twice[0]))
    );
    let mut uplink = Uplink::Behind(nat);
    let error = (0..=NAT_DEPTH_MAX)
        .find_map(|_| {
            match world
                .network
                .add_nat(uplink, home("10.0.0.99"), Links::ideal())
            {
                Ok(nat) => {
                    uplink = Uplink::Behind(nat);
                    None
                }
                Err(error) => Some(error),
            }
        })
        .expect("the chain is limited");
    assert_eq!(error, TopologyError::TooMany("NATs in a chain"));
}

/// One generator per stream, forked by its label.
struct Forked(BTreeMap<Stream, SplitMix>);

impl Streams for Forked {
    fn of(&mut self, stream: Stream) -> &mut dyn crate::Draw {
        let label = stream.to_string();
        let seed = label
            .bytes()
            .fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        self.0.entry(stream).or_insert(SplitMix(seed))
    }
}

#[test]
fn with_forked_streams_a_new_impairment_leaves_the_losses_elsewhere_unchanged() {
    let losses_of_b = |duplicate| {
        let lossy = LinkConfig {
            loss: Loss::Bernoulli(Ratio::of(1, 3)),
            ..LinkConfig::IDEAL
        };
        let mut network = Network::<u32>::new();
        let mut draws = Forked(BTreeMap::new());
        let mut host = |ip, up| {
            let links = Links {
                up,
                down: LinkConfig::IDEAL,
            };
            network.add_host(Uplink::Core, &[ip], links).expect("free")
        };
        let target = host(ip(SERVER), LinkConfig::IDEAL);
        let a = host(ip("198.51.100.2"), LinkConfig { duplicate, ..lossy });
        let b = host(ip("198.51.100.3"), lossy);
        let mut deliveries = Vec::new();
        for payload in 0..100 {
            for (from, src) in [(a, "198.51.100.2:1"), (b, "198.51.100.3:1")] {
                let (src, dst, protocol) = (at(src), at("198.51.100.1:1"), Protocol::Udp);
                let packet = Packet {
                    protocol,
                    src,
                    dst,
                    len_bytes: 100,
                    payload,
                };
                network.send(Duration::ZERO, from, packet, &mut draws);
            }
            network.poll(Duration::ZERO, &mut draws, &mut deliveries);
        }
        assert!(deliveries.iter().all(|delivery| delivery.to == target));
        let of_b = deliveries.into_iter().filter(|delivery| delivery.from == b);
        of_b.map(|delivery| delivery.packet.payload)
            .collect::<Vec<_>>()
    };
    let clean = losses_of_b(Ratio::NEVER);
    assert!((40..95).contains(&clean.len()));
    assert_eq!(clean, losses_of_b(Ratio::of(1, 2)));
}

#[test]
fn the_labels_of_streams_name_device_and_purpose() {
    let labels = [Stream::HostUp(HostId(3)), Stream::NatPorts(NatId(1))].map(|s| s.to_string());
    assert_eq!(labels, ["host/3/up", "nat/1/ports"]);
}
