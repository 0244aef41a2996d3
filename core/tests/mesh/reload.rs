//! Another configuration for a node that runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::config::{
    AllowRule, Config, ConfigError, Congestion, Limits, PathPolicy, PeerConfig, TurnCredentials,
    TurnServer, TurnTransport,
};
use holdfast_core::identity::{Identity, PublicKey};
use holdfast_core::mesh::{
    Input, Mesh, Output, Read, Received, ReloadError, Reloaded, ResetReason,
};
use holdfast_core::status::LinkState;
use holdfast_core::time::Now;
use holdfast_core::types::{LinkId, StreamId, Vip};
use proptest::prelude::*;

use crate::world::{origin, seeded};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const UDP_PORT: u16 = 4500;
const SERVER: [u8; 4] = [203, 0, 113, 10];

/// A node of a cluster of which anybody may be told anything at any time.
struct Node {
    mesh: Mesh,
    resets: Vec<(StreamId, ResetReason)>,
    incoming: Vec<StreamId>,
    servers_asked: u32,
}

/// Nodes on one network, 1 ms apart, with a broker that passes everything on at once.
struct Lan {
    now: Now,
    nodes: Vec<Node>,
    /// By whose mailbox it is.
    mailboxes: BTreeMap<[u8; 32], usize>,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::from([192, 0, 2, node as u8 + 1]), UDP_PORT)
}

/// The key of a node, of which it may have several in its life.
fn key(node: usize, version: u8) -> Identity {
    Identity::from_seed([node as u8 * 16 + version; 32])
}

fn peer(node: usize, version: u8) -> PeerConfig {
    PeerConfig {
        id: format!("n{node}").parse().unwrap(),
        vip: Vip::new(node as u16 + 1).unwrap(),
        key: key(node, version).public(),
    }
}

fn rule(port: u16) -> AllowRule {
    AllowRule { port, udp: true }
}

fn config(node: usize, peers: &[usize]) -> Config {
    let own = peer(node, 0);
    Config {
        id: own.id,
        vip: own.vip,
        identity: key(node, 0),
        peers: peers.iter().map(|n| peer(*n, 0)).collect(),
        allow: vec![rule(80)],
        udp_port: UDP_PORT,
        stun: Vec::new(),
        turn: Vec::new(),
        paths: PathPolicy::All,
        congestion: Congestion::Cubic,
        limits: Limits::default(),
    }
}

impl Lan {
    fn new(peers: &[&[usize]]) -> Lan {
        let now = Now {
            mono: origin(),
            unix: SECOND * 1_700_000_000,
        };
        let mut lan = Lan {
            now,
            nodes: Vec::new(),
            mailboxes: BTreeMap::new(),
        };
        for (node, peers) in peers.iter().enumerate() {
            let seed = seeded(node as u8);
            let mut mesh = Mesh::new(config(node, peers), seed, now).unwrap();
            mesh.handle(now, Input::LocalAddresses(vec![address(node).ip()]));
            lan.mailboxes
                .insert(*key(node, 0).public().as_bytes(), node);
            lan.nodes.push(Node {
                mesh,
                resets: Vec::new(),
                incoming: Vec::new(),
                servers_asked: 0,
            });
        }
        lan
    }

    /// Every link that two nodes both want is up.
    fn settled(peers: &[&[usize]]) -> Lan {
        let mut lan = Lan::new(peers);
        for (a, others) in peers.iter().enumerate() {
            for b in others.iter().filter(|b| peers[**b].contains(&a)) {
                lan.until_up(a, *b);
            }
        }
        lan
    }

    fn run(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while self.now.mono < end {
            let mut datagrams = Vec::new();
            let mut signals = Vec::new();
            for node in 0..self.nodes.len() {
                self.step(node, &mut datagrams, &mut signals);
            }
            self.now = self.now.plus(MS);
            for (to, envelope) in signals {
                self.signal(&to, envelope);
            }
            for (node, meta, data) in datagrams {
                self.nodes[node].mesh.handle_datagram(self.now, meta, data);
            }
        }
    }

    fn signal(&mut self, to: &PublicKey, envelope: Vec<u8>) {
        if let Some(node) = self.mailboxes.get(to.as_bytes()) {
            let input = Input::Signal(envelope);
            self.nodes[*node].mesh.handle(self.now, input);
        }
    }

    fn step(
        &mut self,
        node: usize,
        datagrams: &mut Vec<(usize, Received, BytesMut)>,
        signals: &mut Vec<(PublicKey, Vec<u8>)>,
    ) {
        let this = &mut self.nodes[node];
        if this
            .mesh
            .deadline()
            .is_some_and(|(at, _)| at <= self.now.mono)
        {
            this.mesh.handle_deadline(self.now);
        }
        let mut buf = Vec::new();
        while let Some(out) = this.mesh.poll_transmit(self.now, &mut buf, 8) {
            let to = (0..8).find(|n| address(*n) == out.to);
            this.servers_asked += u32::from(out.to.ip() == IpAddr::from(SERVER));
            let meta = Received {
                from: address(node),
                to: Some(out.to.ip()),
                ecn: out.ecn,
            };
            for packet in buf.chunks(out.segment_size.unwrap_or(out.len)) {
                datagrams.extend(to.map(|to| (to, meta, BytesMut::from(packet))));
            }
            buf.clear();
        }
        while let Some(output) = this.mesh.poll_output() {
            match output {
                Output::Signal { to, envelope } => signals.push((to, envelope)),
                Output::Incoming { stream, .. } => this.incoming.push(stream),
                Output::Reset { stream, reason } => this.resets.push((stream, reason)),
                _ => {}
            }
        }
    }

    fn link(&self, a: usize, b: usize) -> Option<LinkId> {
        let mut links = self.nodes[a].mesh.links();
        let name = peer(b, 0).id;
        links.find(|(_, id, _)| **id == name).map(|(link, ..)| link)
    }

    fn state(&self, a: usize, b: usize) -> Option<LinkState> {
        self.nodes[a].mesh.link_state(self.link(a, b)?)
    }

    fn until_up(&mut self, a: usize, b: usize) {
        let up = Some(LinkState::Up);
        let mut left = 5000;
        while self.state(a, b) != up || self.state(b, a) != up {
            self.run(MS);
            left -= 1;
            assert!(left > 0, "{:?} {:?}", self.state(a, b), self.state(b, a));
        }
    }

    fn reload(&mut self, node: usize, config: Config) -> Result<Reloaded, ReloadError> {
        self.nodes[node].mesh.reload(self.now, config)
    }

    fn open(&mut self, a: usize, b: usize, port: u16) -> StreamId {
        let link = self.link(a, b).unwrap();
        self.nodes[a]
            .mesh
            .stream_open(self.now, link, port)
            .unwrap()
    }

    /// `text` goes over the stream and arrives, and so does the answer.
    fn assert_flows(&mut self, a: usize, b: usize, stream: StreamId, text: &'static str) {
        let (from, there) = (&mut self.nodes[a], text.as_bytes());
        let chunks = &mut [Bytes::from_static(there)];
        from.mesh.stream_write(self.now, stream, chunks).unwrap();
        self.run(MS * 20);
        let far = *self.nodes[b].incoming.last().expect("it arrived");
        let read = self.nodes[b].mesh.stream_read(self.now, far, 100);
        assert_eq!(read, Ok(Read::Data(Bytes::from_static(there))));
        let chunks = &mut [Bytes::from_static(b"and back")];
        let far_mesh = &mut self.nodes[b].mesh;
        far_mesh.stream_write(self.now, far, chunks).unwrap();
        self.run(MS * 20);
        let read = self.nodes[a].mesh.stream_read(self.now, stream, 100);
        assert_eq!(read, Ok(Read::Data(Bytes::from_static(b"and back"))));
    }

    /// All that a node says of itself.
    fn shown(&self, node: usize) -> String {
        format!("{:?}", self.nodes[node].mesh.status(self.now))
    }

    fn sessions(&self, a: usize, b: usize) -> u32 {
        let name = peer(b, 0).id;
        let status = self.nodes[a].mesh.status(self.now);
        let link = status.links.iter().find(|link| link.peer == name);
        link.unwrap().sessions
    }
}

#[test]
fn a_stream_on_a_link_that_did_not_change_goes_on_while_another_peer_leaves_and_one_comes() {
    let mut lan = Lan::settled(&[&[1, 2], &[0], &[0], &[0]]);
    let stays = lan.open(0, 1, 80);
    lan.assert_flows(0, 1, stays, "before");
    let goes = lan.open(0, 2, 80);
    lan.assert_flows(0, 2, goes, "soon to be gone");
    let (old, far) = (lan.link(0, 2).unwrap(), lan.nodes[2].incoming[0]);

    let reloaded = lan.reload(0, config(0, &[1, 3])).unwrap();
    let named = |lan: &Lan, n| (lan.link(0, n).unwrap(), peer(n, 0).id, peer(n, 0).vip);
    assert_eq!(reloaded.added, [named(&lan, 3)]);
    assert_eq!(reloaded.removed, [(old, peer(2, 0).id, peer(2, 0).vip)]);
    assert_eq!((reloaded.kept, reloaded.allow_changed), (1, false));
    assert_ne!(lan.link(0, 3), Some(old), "its number rests");

    // Who was taken out is told at once, at both ends.
    lan.run(MS * 20);
    assert_eq!(lan.nodes[0].resets, [(goes, ResetReason::LinkDown)]);
    assert_eq!(lan.nodes[2].resets, [(far, ResetReason::LinkDown)]);
    assert_eq!(lan.state(2, 0), Some(LinkState::Idle));
    assert_eq!(lan.nodes[0].mesh.link_state(old), None);
    let opened = lan.nodes[0].mesh.stream_open(lan.now, old, 80);
    assert!(opened.is_err());
    let written = lan.nodes[0].mesh.stream_write(lan.now, goes, &mut []);
    assert!(written.is_err());

    lan.until_up(0, 3);
    let new = lan.open(0, 3, 80);
    lan.assert_flows(0, 3, new, "hello");
    lan.assert_flows(0, 1, stays, "after");
    assert_eq!((lan.sessions(0, 1), lan.sessions(1, 0)), (1, 1));
    lan.run(SECOND * 10);
    lan.assert_flows(0, 1, stays, "much later");
    assert_eq!(
        lan.state(2, 0),
        Some(LinkState::Idle),
        "nobody speaks to it"
    );
    assert_eq!(lan.nodes[0].mesh.status(lan.now).links.len(), 2);
}

#[test]
fn a_peer_that_was_taken_out_and_comes_back_is_up_again_at_once() {
    let mut lan = Lan::settled(&[&[1], &[0]]);
    for round in 0..3 {
        lan.reload(0, config(0, &[])).unwrap();
        lan.run(MS * 500);
        assert_eq!(lan.state(1, 0), Some(LinkState::Idle));
        lan.reload(0, config(0, &[1])).unwrap();
        let start = lan.now.mono;
        lan.until_up(0, 1);
        let took = lan.now.mono - start;
        assert!(took < SECOND * 3, "{took:?} in round {round}");
        let stream = lan.open(1, 0, 80);
        lan.assert_flows(1, 0, stream, "again");
    }
}

#[test]
fn the_number_of_a_link_that_is_gone_is_used_again_after_a_rest_and_its_streams_are_not() {
    let mut lan = Lan::settled(&[&[1], &[0]]);
    let old = lan.open(0, 1, 80);
    lan.reload(0, config(0, &[])).unwrap();
    lan.run(SECOND * 70);
    lan.reload(0, config(0, &[1])).unwrap();
    assert_eq!(lan.link(0, 1), Some(old.link));
    lan.until_up(0, 1);
    let new = lan.open(0, 1, 80);
    assert_ne!(old, new);
    assert!(lan.nodes[0].mesh.stream_read(lan.now, old, 1).is_err());
    lan.assert_flows(0, 1, new, "new");
}

#[test]
fn a_peer_with_another_key_gets_another_link_and_its_former_self_none() {
    let mut lan = Lan::settled(&[&[1, 2], &[0], &[0]]);
    let stays = lan.open(0, 2, 80);
    lan.assert_flows(0, 2, stays, "before");
    let mut changed = config(0, &[1, 2]);
    changed.peers[0] = peer(1, 1);
    let reloaded = lan.reload(0, changed).unwrap();
    assert_eq!((reloaded.added.len(), reloaded.removed.len()), (1, 1));
    lan.run(SECOND * 5);
    assert_eq!(lan.state(0, 1), Some(LinkState::Signaling));
    assert_eq!(lan.state(1, 0), Some(LinkState::Idle), "it has the old key");

    // The peer starts again, with the new one.
    let mut renewed = config(1, &[0]);
    renewed.identity = key(1, 1);
    let mut mesh = Mesh::new(renewed, seeded(77), lan.now).unwrap();
    mesh.handle(lan.now, Input::LocalAddresses(vec![address(1).ip()]));
    lan.nodes[1].mesh = mesh;
    lan.mailboxes.insert(*key(1, 1).public().as_bytes(), 1);
    lan.until_up(0, 1);
    lan.assert_flows(0, 2, stays, "after");
}

#[test]
fn a_port_that_is_no_longer_allowed_takes_no_new_streams_and_keeps_those_that_are_open() {
    let mut lan = Lan::settled(&[&[1], &[0]]);
    let open = lan.open(1, 0, 80);
    lan.assert_flows(1, 0, open, "before");
    let mut other = config(0, &[1]);
    other.allow = vec![rule(81)];
    let reloaded = lan.reload(0, other).unwrap();
    assert!(reloaded.allow_changed);
    lan.assert_flows(1, 0, open, "after");
    let refused = lan.open(1, 0, 80);
    lan.run(MS * 20);
    assert_eq!(lan.nodes[1].resets, [(refused, ResetReason::NotAllowed)]);
    let allowed = lan.open(1, 0, 81);
    lan.assert_flows(1, 0, allowed, "the new one");
}

#[test]
fn a_wrong_configuration_is_refused_as_a_whole() {
    let mut lan = Lan::settled(&[&[1], &[0]]);
    let stream = lan.open(0, 1, 80);
    lan.assert_flows(0, 1, stream, "before");
    let before = lan.shown(0);
    let mut twice = config(0, &[2, 3, 3]);
    twice.allow = vec![rule(0)];
    let problems = vec![
        ConfigError::DuplicatePeer { id: peer(3, 0).id },
        ConfigError::PortZero,
    ];
    assert_eq!(lan.reload(0, twice), Err(ReloadError::Config(problems)));
    for (change, what) in [
        ((|c| c.udp_port = 1) as fn(&mut Config), "the UDP port"),
        (|c| c.identity = key(0, 1), "its key"),
        (|c| c.vip = Vip::new(99).unwrap(), "its virtual address"),
        (|c| c.limits.mtu_max = 1300, "a limit"),
        (|c| c.congestion = Congestion::Bbr, "congestion control"),
    ] {
        let mut other = config(0, &[2]);
        change(&mut other);
        assert_eq!(lan.reload(0, other), Err(ReloadError::Fixed(what)));
    }
    assert_eq!(lan.shown(0), before);
    lan.assert_flows(0, 1, stream, "after");
    lan.nodes[0].mesh.handle(lan.now, Input::Goodbye);
    assert_eq!(lan.reload(0, config(0, &[1])), Err(ReloadError::Stopping));
}

#[test]
fn the_same_configuration_changes_nothing() {
    let mut lan = Lan::settled(&[&[1], &[0]]);
    lan.run(SECOND);
    let before = lan.shown(0);
    let reloaded = lan.reload(0, config(0, &[1])).unwrap();
    let nothing = Reloaded {
        kept: 1,
        ..Reloaded::default()
    };
    assert_eq!(reloaded, nothing);
    assert_eq!(lan.shown(0), before);
}

#[test]
fn servers_come_and_go_and_links_stay() {
    let mut lan = Lan::settled(&[&[1], &[0]]);
    let stream = lan.open(0, 1, 80);
    lan.assert_flows(0, 1, stream, "before");
    let server = SocketAddr::new(IpAddr::from(SERVER), 3478);
    let mut with = config(0, &[1]);
    with.stun = vec![server];
    with.turn = vec![TurnServer {
        addr: server,
        transport: TurnTransport::Udp,
        credentials: TurnCredentials::Shared {
            secret: "secret".to_owned().into(),
        },
    }];
    lan.reload(0, with).unwrap();
    lan.run(SECOND);
    assert!(lan.nodes[0].servers_asked > 2);
    assert_eq!(lan.nodes[0].mesh.status(lan.now).relays.len(), 1);
    lan.reload(0, config(0, &[1])).unwrap();
    lan.run(MS * 10);
    lan.nodes[0].servers_asked = 0;
    lan.run(SECOND * 30);
    assert_eq!(lan.nodes[0].servers_asked, 0);
    assert_eq!(lan.nodes[0].mesh.status(lan.now).relays.len(), 0);
    lan.assert_flows(0, 1, stream, "after");
}

#[test]
fn a_node_that_was_reloaded_stops_like_any_other() {
    let mut lan = Lan::settled(&[&[1, 2], &[0], &[0]]);
    lan.reload(0, config(0, &[1])).unwrap();
    lan.nodes[0].mesh.handle(lan.now, Input::Goodbye);
    lan.run(SECOND * 3);
    assert!(lan.nodes[0].mesh.is_drained());
    assert_eq!(lan.state(1, 0), Some(LinkState::Idle));
    assert_eq!(lan.state(2, 0), Some(LinkState::Idle));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nodes 0 and 1 always want each other. Everybody else comes and goes at random, each as one
    /// end sees it.
    #[test]
    fn whatever_is_reloaded_what_both_ends_want_in_the_end_is_up_and_what_stayed_was_not_touched(
        reloads in prop::collection::vec((0usize..4, 0u8..16, 0u32..400), 0..40),
    ) {
        let all: [&[usize]; 4] = [&[1, 2, 3], &[0, 2, 3], &[0, 1, 3], &[0, 1, 2]];
        let mut lan = Lan::settled(&all);
        let stream = lan.open(0, 1, 80);
        lan.assert_flows(0, 1, stream, "before");
        let far = lan.nodes[1].incoming.clone();
        for (node, mask, ms) in reloads {
            let stays = |peer: &&usize| node + **peer == 1 || mask >> **peer & 1 == 1;
            let peers: Vec<usize> = all[node].iter().filter(stays).copied().collect();
            lan.reload(node, config(node, &peers)).unwrap();
            lan.run(MS * ms);
        }
        for (node, peers) in all.into_iter().enumerate() {
            lan.reload(node, config(node, peers)).unwrap();
        }
        for (node, peers) in all.into_iter().enumerate() {
            peers.iter().for_each(|peer| lan.until_up(node, *peer));
        }
        prop_assert_eq!((lan.sessions(0, 1), lan.sessions(1, 0)), (1, 1));
        lan.nodes[1].incoming = far;
        lan.assert_flows(0, 1, stream, "after");
    }
}
