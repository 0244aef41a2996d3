//! The TURN server, used by the client of another implementation over real sockets.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use holdfast_core::entropy::Seed;
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::Stop;
use holdfast_io::net::{DatagramEvent, DatagramSocket, Net, Stream};
use holdfast_io::real::{RealClock, RealDatagram, RealNet, RealSpawn, RealStream, block_on};
use holdfast_io::spawn::{Spawn, Task};
use holdfast_servers::relay::{TurnMonitor, TurnOptions, TurnServer};
use holdfast_servers::turn::SharedSecret;
use stun_proto::agent::Transmit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use turn_client_proto::api::{TurnClientApi, TurnConfig, TurnEvent, TurnRecvRet};
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::udp::TurnClientUdp;
use turn_types::prelude::DelayedTransmitBuild;
use turn_types::{TransportType, TurnCredentials};

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    addr: SocketAddr,
    monitor: TurnMonitor,
    _stop: watch::Sender<bool>,
    _task: Task,
}

fn secret() -> SharedSecret {
    SharedSecret::new(b"shared with whoever hands out credentials".to_vec()).unwrap()
}

async fn start(tcp: bool) -> Server {
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut options = TurnOptions::on(listen, secret());
    options.loopback_peers = true;
    let seed = Seed::new([3; 32]);
    let server = TurnServer::bind(options, RealNet, RealClock, RealSpawn, seed)
        .await
        .unwrap();
    let addr = if tcp {
        server.tcp_addr()
    } else {
        server.udp_addr()
    };
    let monitor = server.monitor();
    let (stop, stopping) = Stop::new();
    let task = RealSpawn.spawn("server under test", server.run(stopping));
    Server {
        addr: addr.unwrap(),
        monitor,
        _stop: stop,
        _task: task,
    }
}

enum Socket {
    Udp(RealDatagram),
    Tcp(RealStream),
}

struct Client<C> {
    turn: C,
    socket: Socket,
    server: SocketAddr,
    started: Instant,
    relayed: Option<SocketAddr>,
    channel: bool,
    permission: bool,
    received: Vec<Vec<u8>>,
}

fn config() -> TurnConfig {
    let expires = RealClock.now().unix + Duration::from_secs(60);
    let credentials = secret().credentials("a", expires);
    TurnConfig::new(TurnCredentials::new(
        &credentials.username,
        &credentials.password,
    ))
}

async fn udp_client(server: SocketAddr) -> Client<TurnClientUdp> {
    let socket = RealNet
        .bind_datagram("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let local = socket.local_addr().unwrap();
    let turn = TurnClientUdp::allocate(local, server, config());
    Client::new(turn, Socket::Udp(socket), server)
}

async fn tcp_client(server: SocketAddr) -> Client<TurnClientTcp> {
    let socket = RealNet.connect(None, server).await.unwrap();
    let local = socket.local_addr().unwrap();
    let turn = TurnClientTcp::allocate(local, server, config());
    Client::new(turn, Socket::Tcp(socket), server)
}

impl<C: TurnClientApi> Client<C> {
    fn new(turn: C, socket: Socket, server: SocketAddr) -> Client<C> {
        Client {
            turn,
            socket,
            server,
            started: Instant::now(),
            relayed: None,
            channel: false,
            permission: false,
            received: Vec::new(),
        }
    }

    fn now(&self) -> stun_proto::Instant {
        stun_proto::Instant::from_nanos(self.started.elapsed().as_nanos() as i64)
    }

    async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.turn);
            self.turn.poll(self.now());
            while let Some(transmit) = self.turn.poll_transmit(self.now()) {
                self.out(transmit.data.as_ref()).await;
            }
            self.take_events();
            let mut buf = vec![0; 65_536];
            let received = timeout(&RealClock, Duration::from_millis(10), self.read(&mut buf));
            if let Ok(len) = received.await {
                buf.truncate(len);
                self.take(buf);
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.turn.poll_event() {
            match event {
                TurnEvent::AllocationCreated(_, relayed) => self.relayed = Some(relayed),
                TurnEvent::PermissionCreated(..) => self.permission = true,
                TurnEvent::ChannelCreated(..) => self.channel = true,
                other => panic!("{other:?}"),
            }
        }
    }

    fn take(&mut self, data: Vec<u8>) {
        let (transport, local) = (self.turn.transport(), self.turn.local_addr());
        let now = self.now();
        let transmit = Transmit::new(data, transport, self.server, local);
        if let TurnRecvRet::PeerData(data) = self.turn.recv(transmit, now) {
            self.received.push(data.data().to_vec());
        }
        while let Some(data) = self.turn.poll_recv(now) {
            self.received.push(data.data().to_vec());
        }
        self.take_events();
    }

    async fn read(&mut self, buf: &mut [u8]) -> usize {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.read(buf).await.unwrap(),
            Socket::Udp(socket) => loop {
                if let DatagramEvent::Data { len, .. } = socket.recv(buf).await.unwrap() {
                    return len;
                }
            },
        }
    }

    async fn out(&mut self, data: &[u8]) {
        match &mut self.socket {
            Socket::Tcp(stream) => stream.write_all(data).await.unwrap(),
            Socket::Udp(socket) => socket.send_to(data, self.server).await.unwrap(),
        }
    }

    async fn send(&mut self, to: SocketAddr, payload: &[u8]) {
        let now = self.now();
        let sent = self.turn.send_to(TransportType::Udp, to, payload, now);
        let data = sent.unwrap().unwrap().data.build();
        self.out(&data).await;
    }
}

/// Allocate, bind a channel to a peer on loopback and send payloads there and back.
async fn echoes<C: TurnClientApi>(server: Server, mut client: Client<C>) {
    let peer = RealNet
        .bind_datagram("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let peer_addr = peer.local_addr().unwrap();
    client.until(|client| client.relayed.is_some()).await;
    let now = client.now();
    client
        .turn
        .create_permission(TransportType::Udp, peer_addr.ip(), now)
        .unwrap();
    client.until(|client| client.permission).await;
    for channel in [false, true] {
        if channel {
            let now = client.now();
            client
                .turn
                .bind_channel(TransportType::Udp, peer_addr, now)
                .unwrap();
            client.until(|client| client.channel).await;
        }
        for len in [4, 1200, 60_000] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            client.send(peer_addr, &payload).await;
            let mut buf = vec![0; 65_536];
            let DatagramEvent::Data { len, from } = peer.recv(&mut buf).await.unwrap() else {
                panic!("no closed port is involved");
            };
            assert_eq!(&buf[..len], payload);
            assert_eq!(Some(from), client.relayed);
            peer.send_to(&payload, from).await.unwrap();
            client.until(|client| !client.received.is_empty()).await;
            assert_eq!(client.received.pop().unwrap(), payload);
        }
    }
    assert_eq!(server.monitor.counters().to_peers, 6);
    assert_eq!(server.monitor.counters().to_clients, 6);
    let now = client.now();
    client.turn.delete(now).unwrap();
    client.until(|_| server.monitor.allocations() == 0).await;
}

#[test]
fn a_udp_client_reaches_a_peer_and_hears_from_it() {
    block_on(async {
        let server = start(false).await;
        let client = udp_client(server.addr).await;
        timeout(&RealClock, PATIENCE, echoes(server, client))
            .await
            .unwrap();
    })
    .unwrap();
}

#[test]
fn a_tcp_client_reaches_a_peer_and_hears_from_it() {
    block_on(async {
        let server = start(true).await;
        let client = tcp_client(server.addr).await;
        timeout(&RealClock, PATIENCE, echoes(server, client))
            .await
            .unwrap();
    })
    .unwrap();
}

#[test]
fn a_tcp_client_that_leaves_takes_its_allocation_along() {
    block_on(async {
        let server = start(true).await;
        let mut client = tcp_client(server.addr).await;
        client.until(|client| client.relayed.is_some()).await;
        assert_eq!(server.monitor.allocations(), 1);
        drop(client);
        let gone = async {
            while server.monitor.allocations() + server.monitor.tcp_clients() > 0 {
                RealClock.sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(&RealClock, PATIENCE, gone).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_tcp_connection_that_speaks_something_else_is_closed() {
    block_on(async {
        let server = start(true).await;
        let mut stream = RealNet.connect(None, server.addr).await.unwrap();
        stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        let closed = timeout(&RealClock, PATIENCE, stream.read(&mut [0]))
            .await
            .unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)));
        assert_eq!(server.monitor.counters().malformed, 1);
    })
    .unwrap();
}
