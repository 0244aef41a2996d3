use super::Filtering as F;
use super::Mapping as M;
use super::*;
use crate::testing::SplitMix;

const MAPPINGS: [M; 3] = [
    M::EndpointIndependent,
    M::AddressDependent,
    M::AddressAndPortDependent,
];
const FILTERINGS: [F; 3] = [
    F::EndpointIndependent,
    F::AddressDependent,
    F::AddressAndPortDependent,
];
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const UDP: Protocol = Protocol::Udp;
const START: Duration = Duration::ZERO;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn inside(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 5000))
}

fn remote(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, host], port))
}

fn nat(edit: impl FnOnce(&mut NatConfig)) -> Nat {
    let mut config = NatConfig::new(PUBLIC, M::EndpointIndependent, F::AddressAndPortDependent);
    edit(&mut config);
    Nat::new(config)
}

fn out(nat: &mut Nat, now: Duration, src: SocketAddr, dst: SocketAddr) -> Option<SocketAddr> {
    nat.outbound(now, UDP, src, dst, &mut SplitMix(1))
}

#[test]
fn every_combination_maps_and_filters_as_rfc_4787_says() {
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            let mut nat = Nat::new(NatConfig::new(PUBLIC, mapping, filtering));
            let first = out(&mut nat, START, inside(2), remote(1, 80)).expect("mapped");
            let same_ip = out(&mut nat, START, inside(2), remote(1, 81)).expect("mapped");
            let other_ip = out(&mut nat, START, inside(2), remote(2, 80)).expect("mapped");
            assert_eq!(
                first == same_ip,
                mapping != M::AddressAndPortDependent,
                "{mapping:?}"
            );
            assert_eq!(
                first == other_ip,
                mapping == M::EndpointIndependent,
                "{mapping:?}"
            );

            let mut admits = |src| nat.inbound(START, UDP, src, first) == Some(inside(2));
            let case = (mapping, filtering);
            assert!(admits(remote(1, 80)), "{case:?}");
            assert_eq!(
                admits(remote(1, 99)),
                filtering != F::AddressAndPortDependent,
                "{case:?}"
            );
            assert_eq!(
                admits(remote(9, 80)),
                filtering == F::EndpointIndependent,
                "{case:?}"
            );
        }
    }
}

#[test]
fn a_mapping_lives_until_its_expiry_and_not_longer() {
    let mut nat = nat(|_| {});
    let public = out(&mut nat, START, inside(2), remote(1, 80)).expect("mapped");
    let just_before = s(30) - Duration::from_nanos(1);
    assert_eq!(
        nat.inbound(just_before, UDP, remote(1, 80), public),
        Some(inside(2))
    );
    assert_eq!(nat.inbound(s(30), UDP, remote(1, 80), public), None);
    let next = nat.outbound(s(30), UDP, inside(2), remote(1, 80), &mut SplitMix(2));
    assert_ne!(next, Some(public));
}

#[test]
fn outbound_packets_refresh_a_mapping_and_inbound_ones_only_where_configured() {
    for inbound_refresh in [false, true] {
        let mut nat = nat(|config| config.inbound_refresh = inbound_refresh);
        let public = out(&mut nat, START, inside(2), remote(1, 80)).expect("mapped");
        assert_eq!(out(&mut nat, s(20), inside(2), remote(1, 80)), Some(public));
        assert!(nat.inbound(s(40), UDP, remote(1, 80), public).is_some());
        assert_eq!(
            nat.inbound(s(60), UDP, remote(1, 80), public).is_some(),
            inbound_refresh
        );
    }
}

#[test]
fn a_permission_expires_by_itself_while_others_keep_the_mapping_alive() {
    let mut nat = nat(|_| {});
    let public = out(&mut nat, START, inside(2), remote(1, 80)).expect("mapped");
    assert_eq!(out(&mut nat, s(20), inside(2), remote(2, 80)), Some(public));
    assert_eq!(nat.inbound(s(35), UDP, remote(1, 80), public), None);
    assert_eq!(
        nat.inbound(s(35), UDP, remote(2, 80), public),
        Some(inside(2))
    );
}

#[test]
fn the_internal_port_is_kept_only_when_preserved_and_free() {
    let mut plain = nat(|_| {});
    assert_ne!(
        out(&mut plain, START, inside(2), remote(1, 80)).map(|a| a.port()),
        Some(5000)
    );
    let mut preserving = nat(|config| config.port_preservation = true);
    assert_eq!(
        out(&mut preserving, START, inside(2), remote(1, 80)).map(|a| a.port()),
        Some(5000)
    );
    let second = out(&mut preserving, START, inside(3), remote(1, 80)).expect("mapped");
    assert_ne!(second.port(), 5000);
    assert_eq!(
        preserving.inbound(START, UDP, remote(1, 80), second),
        Some(inside(3))
    );
}

#[test]
fn a_preserved_port_is_taken_over_from_an_expired_mapping() {
    let mut nat = nat(|config| config.port_preservation = true);
    assert!(out(&mut nat, START, inside(2), remote(1, 80)).is_some());
    assert_eq!(
        out(&mut nat, s(30), inside(3), remote(1, 80)).map(|a| a.port()),
        Some(5000)
    );
    assert_eq!(nat.mapping_count(), 1);
}

#[test]
fn after_a_flush_old_ports_are_dead_and_flows_get_other_ones() {
    for port_preservation in [false, true] {
        let mut nat = nat(|config| config.port_preservation = port_preservation);
        let before = out(&mut nat, START, inside(2), remote(1, 80)).expect("mapped");
        nat.flush();
        nat.flush();
        assert_eq!(nat.inbound(START, UDP, remote(1, 80), before), None);
        let after = out(&mut nat, START, inside(2), remote(1, 80)).expect("mapped");
        assert_ne!(before, after);
        assert_eq!(nat.inbound(START, UDP, remote(1, 80), before), None);
    }
}

#[test]
fn hairpinning_shows_the_external_source_and_obeys_the_filter() {
    let mut draw = SplitMix(1);
    let mut pinning = nat(|config| {
        config.hairpinning = true;
        config.filtering = F::EndpointIndependent;
    });
    let a = out(&mut pinning, START, inside(2), remote(1, 80)).expect("mapped");
    let b = out(&mut pinning, START, inside(3), remote(1, 80)).expect("mapped");
    assert_eq!(
        pinning.hairpin(START, UDP, inside(2), b, &mut draw),
        Some((a, inside(3)))
    );

    let mut strict = nat(|config| config.hairpinning = true);
    let a = out(&mut strict, START, inside(2), remote(1, 80)).expect("mapped");
    let b = out(&mut strict, START, inside(3), remote(1, 80)).expect("mapped");
    assert_eq!(strict.hairpin(START, UDP, inside(2), b, &mut draw), None);
    assert_eq!(
        strict.hairpin(START, UDP, inside(3), a, &mut draw),
        Some((b, inside(2)))
    );
}

#[test]
fn without_hairpinning_nothing_turns_around() {
    let mut nat = nat(|config| config.filtering = F::EndpointIndependent);
    let b = out(&mut nat, START, inside(3), remote(1, 80)).expect("mapped");
    assert_eq!(
        nat.hairpin(START, UDP, inside(2), b, &mut SplitMix(1)),
        None
    );
}

#[test]
fn blocked_udp_stops_both_directions_and_leaves_tcp_alone() {
    let mut nat = nat(|_| {});
    let public = out(&mut nat, START, inside(2), remote(1, 80)).expect("mapped");
    nat.set_udp_blocked(true);
    assert_eq!(out(&mut nat, START, inside(2), remote(1, 80)), None);
    assert_eq!(nat.inbound(START, UDP, remote(1, 80), public), None);
    let tcp = Protocol::Tcp;
    let public = nat
        .outbound(START, tcp, inside(2), remote(1, 443), &mut SplitMix(1))
        .expect("mapped");
    assert_eq!(
        nat.inbound(s(3600), tcp, remote(1, 443), public),
        Some(inside(2))
    );
}

#[test]
fn no_two_internal_endpoints_ever_share_a_public_port() {
    for mapping in MAPPINGS {
        let mut nat = nat(|config| {
            config.mapping = mapping;
            config.port_preservation = true;
        });
        let mut draw = SplitMix(11);
        let mut owners = BTreeMap::new();
        for _ in 0..5000 {
            let src = inside(u8::try_from(draw.below(200)).expect("below 200"));
            let dst = remote(u8::try_from(draw.below(20)).expect("below 20"), 80);
            let public = nat.outbound(START, UDP, src, dst, &mut draw).expect("room");
            assert_eq!(*owners.entry(public).or_insert(src), src);
            assert_eq!(nat.inbound(START, UDP, dst, public), Some(src));
        }
    }
}

#[test]
fn a_full_table_refuses_new_flows_until_old_ones_expire() {
    let mut nat = nat(|config| config.mapping_count_max = 2);
    assert!(out(&mut nat, START, inside(2), remote(1, 80)).is_some());
    assert!(out(&mut nat, START, inside(3), remote(1, 80)).is_some());
    assert_eq!(out(&mut nat, s(10), inside(4), remote(1, 80)), None);
    assert_eq!(nat.refused_count(), 1);
    assert!(out(&mut nat, s(10), inside(2), remote(1, 80)).is_some());
    assert!(out(&mut nat, s(35), inside(4), remote(1, 80)).is_some());
    assert_eq!(nat.mapping_count(), 2);
}

#[test]
fn the_largest_table_still_finds_ports_after_a_reboot() {
    let mut nat = nat(|config| config.mapping = M::AddressAndPortDependent);
    let mut draw = SplitMix(4);
    for _ in 0..2 {
        for port in 1..=u16::try_from(MAPPING_COUNT_LIMIT).expect("below 2^16") {
            assert!(
                nat.outbound(START, UDP, inside(2), remote(1, port), &mut draw)
                    .is_some()
            );
        }
        assert_eq!(
            nat.outbound(START, UDP, inside(2), remote(2, 1), &mut draw),
            None
        );
        nat.flush();
    }
}

#[test]
fn permissions_are_bounded_and_the_stalest_goes_first() {
    let mut nat = nat(|_| {});
    let public = out(&mut nat, START, inside(2), remote(1, 1)).expect("mapped");
    for i in 0..u16::try_from(PERMISSION_COUNT_LIMIT).expect("below 2^16") {
        out(&mut nat, s(1), inside(2), remote(2, 1 + i));
    }
    assert_eq!(nat.inbound(s(1), UDP, remote(1, 1), public), None);
    assert_eq!(
        nat.inbound(s(1), UDP, remote(2, 1), public),
        Some(inside(2))
    );
}

#[test]
fn ipv6_and_foreign_destinations_are_not_translated() {
    let mut nat = nat(|_| {});
    assert_eq!(
        out(
            &mut nat,
            START,
            endpoint("[2001:db8::1]:1"),
            endpoint("[2001:db8::2]:1")
        ),
        None
    );
    assert_eq!(nat.inbound(START, UDP, remote(1, 1), remote(2, 2)), None);
}
