//! Datagrams from anyone, on the node's socket: from strangers and from its servers.
#![no_main]

use std::time::{Duration, Instant};

use bytes::BytesMut;
use holdfast_core::config::{
    Config, Congestion, Limits, PathPolicy, PeerConfig, TurnCredentials, TurnServer, TurnTransport,
};
use holdfast_core::entropy::Seed;
use holdfast_core::identity::Identity;
use holdfast_core::mesh::{Input, Mesh, Received};
use holdfast_core::time::Now;
use holdfast_core::types::Vip;

const SERVER: &str = "203.0.113.10:3478";

fn node(now: Now) -> Mesh {
    let key = |n: u8| Identity::from_seed([n; 32]);
    let server = SERVER.parse().expect("an address");
    let config = Config {
        id: "a".parse().expect("a name"),
        vip: Vip::new(1).expect("in range"),
        identity: key(1),
        peers: vec![PeerConfig {
            id: "b".parse().expect("a name"),
            vip: Vip::new(2).expect("in range"),
            key: key(2).public(),
        }],
        allow: vec![],
        udp_port: 5000,
        stun: vec![server],
        turn: vec![TurnServer {
            addr: server,
            transport: TurnTransport::Udp,
            credentials: TurnCredentials::Shared { secret: "secret".to_string().into() },
        }],
        paths: PathPolicy::All,
        congestion: Congestion::Bbr,
        limits: Limits::default(),
    };
    Mesh::new(config, Seed::new([0; 32]), now).expect("a valid configuration")
}

// The first byte of each datagram says where it comes from, the second how long it is.
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut now = Now { mono: Instant::now(), unix: Duration::from_secs(1_700_000_000) };
    let mut node = node(now);
    node.handle(now, Input::LocalAddresses(vec!["10.0.0.1".parse().expect("an address")]));
    let mut rest = data;
    while let [kind, len, tail @ ..] = rest {
        let (datagram, after) = tail.split_at(tail.len().min(usize::from(*len) * 4));
        rest = after;
        let from = if kind & 1 == 0 { SERVER } else { "198.51.100.1:7" };
        let meta = Received { from: from.parse().expect("an address"), to: None, ecn: kind >> 6 };
        if kind & 2 == 0 {
            node.handle_datagram(now, meta, BytesMut::from(datagram));
        } else {
            node.handle(now, Input::Signal(datagram.to_vec()));
        }
        now = now.plus(Duration::from_millis(50));
        node.handle_deadline(now);
        let mut buf = Vec::new();
        while node.poll_transmit(now, &mut buf, 10).is_some() {
            buf.clear();
        }
        while node.poll_output().is_some() {}
    }
});
