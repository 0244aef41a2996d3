//! The client of another implementation gets what it wants.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use holdfast_servers::turn::{Credentials, Input, TcpId};
use stun_proto::Instant;
use stun_proto::agent::Transmit;
use turn_client_proto::api::{TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::udp::TurnClientUdp;
use turn_types::prelude::DelayedTransmitBuild;
use turn_types::{TransportType, TurnCredentials};

use crate::world::*;

const CLIENT: &str = "198.51.100.7:4000";
const SERVER: &str = "192.0.2.1:3478";
const PEER: &str = "203.0.113.9:9000";
const STREAM: TcpId = TcpId(1);

struct Foreign<C> {
    client: C,
    received: Vec<Vec<u8>>,
    events: Vec<String>,
    allocated: Option<std::net::SocketAddr>,
}

impl<C: TurnClientApi> Foreign<C> {
    fn new(client: C, world: &mut World) -> Foreign<C> {
        if client.transport() == TransportType::Tcp {
            world.input(Input::TcpConnected {
                client: STREAM,
                from: addr(CLIENT),
            });
        }
        Foreign {
            client,
            received: Vec::new(),
            events: Vec::new(),
            allocated: None,
        }
    }

    fn now(world: &World) -> Instant {
        let since = world.now.mono.duration_since(world.start);
        Instant::from_nanos(since.as_nanos() as i64)
    }

    fn out(&self, world: &mut World, data: Vec<u8>) {
        match self.client.transport() {
            TransportType::Udp => world.datagram(addr(CLIENT), data),
            TransportType::Tcp => world.input(Input::TcpBytes {
                client: STREAM,
                data,
            }),
        }
    }

    fn take(&mut self, world: &mut World, data: Vec<u8>) {
        let transport = self.client.transport();
        let transmit = Transmit::new(data, transport, addr(SERVER), addr(CLIENT));
        if let TurnRecvRet::PeerData(data) = self.client.recv(transmit, Self::now(world)) {
            assert_eq!(data.peer, addr(PEER));
            self.received.push(data.data().to_vec());
        }
        while let Some(data) = self.client.poll_recv(Self::now(world)) {
            self.received.push(data.data().to_vec());
        }
    }

    /// Let client and server talk until both are content.
    fn settle(&mut self, world: &mut World) {
        loop {
            let mut busy = false;
            // The client paces its requests.
            if let TurnPollRet::WaitUntil(at) = self.client.poll(Self::now(world)) {
                let pause = at.duration_since(Self::now(world));
                if !pause.is_zero() && pause < Duration::from_secs(1) {
                    world.advance(pause);
                    busy = true;
                }
            }
            while let Some(transmit) = self.client.poll_transmit(Self::now(world)) {
                self.out(world, transmit.data.as_ref().to_vec());
                busy = true;
            }
            for (_, data) in std::mem::take(&mut world.to_clients) {
                self.take(world, data);
                busy = true;
            }
            for (_, data) in std::mem::take(&mut world.to_streams) {
                self.take(world, data);
                busy = true;
            }
            while let Some(event) = self.client.poll_event() {
                if let TurnEvent::AllocationCreated(_, relayed) = event {
                    self.allocated = Some(relayed);
                }
                self.events.push(format!("{event:?}"));
            }
            if !busy {
                return;
            }
        }
    }

    fn send(&mut self, world: &mut World, payload: &[u8]) {
        let transmit = self
            .client
            .send_to(TransportType::Udp, addr(PEER), payload, Self::now(world))
            .unwrap()
            .unwrap();
        let data = transmit.data.build();
        self.out(world, data);
    }
}

fn config_of(credentials: &Credentials) -> TurnConfig {
    TurnConfig::new(TurnCredentials::new(
        &credentials.username,
        &credentials.password,
    ))
}

fn udp(world: &mut World, credentials: &Credentials) -> Foreign<TurnClientUdp> {
    let client = TurnClientUdp::allocate(addr(CLIENT), addr(SERVER), config_of(credentials));
    Foreign::new(client, world)
}

fn tcp(world: &mut World, credentials: &Credentials) -> Foreign<TurnClientTcp> {
    let client = TurnClientTcp::allocate(addr(CLIENT), addr(SERVER), config_of(credentials));
    Foreign::new(client, world)
}

/// Allocate, permit, echo by indications, bind a channel, echo by channel.
fn relays_both_ways<C: TurnClientApi>(world: &mut World, mut client: Foreign<C>) {
    client.settle(world);
    let relayed = client.allocated.expect("allocated");
    let now = Foreign::<C>::now(world);
    client
        .client
        .create_permission(TransportType::Udp, addr(PEER).ip(), now)
        .unwrap();
    client.settle(world);
    echo(world, &mut client, relayed, b"by indication...");
    let now = Foreign::<C>::now(world);
    client
        .client
        .bind_channel(TransportType::Udp, addr(PEER), now)
        .unwrap();
    client.settle(world);
    assert!(
        client
            .events
            .iter()
            .any(|e| e.starts_with("ChannelCreated")),
        "{:?}",
        client.events
    );
    echo(world, &mut client, relayed, b"by channel..");
    // The client refreshes everything by itself for as long as it is polled.
    for _ in 0..100 {
        world.advance(Duration::from_secs(20));
        client.settle(world);
    }
    echo(world, &mut client, relayed, b"half an hour later..");
    let now = Foreign::<C>::now(world);
    client.client.delete(now).unwrap();
    client.settle(world);
    assert_eq!(world.server.allocations(), 0);
}

fn echo<C: TurnClientApi>(
    world: &mut World,
    client: &mut Foreign<C>,
    relayed: std::net::SocketAddr,
    payload: &[u8],
) {
    client.send(world, payload);
    let (port, to, data) = world.to_peers.pop().expect("relayed to the peer");
    assert_eq!((port, to, &data[..]), (relayed.port(), addr(PEER), payload));
    world.input(Input::PeerDatagram {
        port,
        from: to,
        data,
    });
    client.settle(world);
    assert_eq!(client.received.pop().as_deref(), Some(payload));
}

#[test]
fn it_relays_both_ways_over_udp() {
    let mut world = World::new();
    let credentials = world.credentials("a");
    let client = udp(&mut world, &credentials);
    relays_both_ways(&mut world, client);
}

#[test]
fn it_relays_both_ways_over_tcp() {
    let mut world = World::new();
    let credentials = world.credentials("a");
    let client = tcp(&mut world, &credentials);
    relays_both_ways(&mut world, client);
}

#[test]
fn it_gives_up_when_its_password_is_wrong() {
    let mut world = World::new();
    let mut credentials = world.credentials("a");
    credentials.password.push('x');
    let mut client = udp(&mut world, &credentials);
    client.settle(&mut world);
    for _ in 0..10 {
        world.advance(Duration::from_secs(10));
        client.settle(&mut world);
    }
    assert_eq!(client.allocated, None);
    // One request and its retransmissions (RFC 8489 section 6.2.1): the challenge repeats the
    // nonce that it used, so it does not start over.
    assert!(world.server.counters().credentials_wrong <= 7);
    assert_eq!(world.server.counters().challenges, 1);
}
