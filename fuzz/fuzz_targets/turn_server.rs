//! Datagrams and TCP streams from anyone, at the TURN server.
#![no_main]

use std::time::{Duration, Instant};

use holdfast_core::entropy::Seed;
use holdfast_core::time::Now;
use holdfast_servers::turn::{Config, Input, Limits, SharedSecret, TcpId, TurnMachine};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut now = Now { mono: Instant::now(), unix: Duration::from_secs(1_700_000_000) };
    let config = Config {
        relay_ip: "203.0.113.10".parse().expect("an address"),
        relay_ports: 50_000..=50_100,
        realm: "fuzz".into(),
        secret: SharedSecret::new(b"secret".to_vec()).expect("a secret"),
        loopback_peers: false,
        limits: Limits::default(),
    };
    let mut server = TurnMachine::new(config, Seed::new([0; 32]), now).expect("a valid configuration");
    let from = "198.51.100.1:7".parse().expect("an address");
    let client = TcpId(1);
    server.handle(now, Input::TcpConnected { client, from });
    let mut rest = data;
    while let [kind, len, tail @ ..] = rest {
        let (bytes, after) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = after;
        let data = bytes.to_vec();
        let input = match kind & 1 {
            0 => Input::Datagram { from, data },
            _ => Input::TcpBytes { client, data },
        };
        server.handle(now, input);
        now = now.plus(Duration::from_secs(u64::from(kind >> 2)));
        server.handle_deadline(now);
        while server.poll_output().is_some() {}
    }
});
