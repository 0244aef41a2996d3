//! Two nodes and a broker in one process, over the sockets of the operating system.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::SplitNet;
use holdfast_core::config::{
    self, AllowRule, Config, PathPolicy, PeerConfig, TurnCredentials, TurnTransport,
};
use holdfast_core::entropy::Seed;
use holdfast_core::identity::Identity;
use holdfast_core::status::LinkState;
use holdfast_core::types::Vip;
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::{Client, Endpoint, Method, StatusCode, Stop};
use holdfast_io::mesh::{DRAIN_DEFAULT, MeshError, MeshOptions, NodeStatus, run_mesh};
use holdfast_io::net::{DatagramEvent, DatagramSocket, Listener, Net, Stream, UDP_PAYLOAD_MAX};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, RealStream, block_on};
use holdfast_io::spawn::{Spawn, Task};
use holdfast_servers::broker::BrokerLimits;
use holdfast_servers::relay::{TurnOptions, TurnServer};
use holdfast_servers::rendezvous::{Rendezvous, RendezvousOptions};
use holdfast_servers::turn::SharedSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};

/// Longer than anything here takes, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(20);
/// A TCP port that is forwarded.
const TCP: u16 = 7001;
/// A UDP port that is forwarded.
const UDP: u16 = 7002;

/// One running node.
struct Node {
    net: SplitNet,
    admin: Endpoint,
    stop: watch::Sender<bool>,
    result: Rc<RefCell<Option<Result<(), MeshError>>>>,
    ended: Rc<Notify>,
    _task: Task,
}

fn name(n: u8) -> holdfast_core::types::PeerId {
    format!("node-{n}").parse().unwrap()
}

fn vip(n: u8) -> Vip {
    Vip::new(n.into()).unwrap()
}

fn config(n: u8, world: u8) -> Config {
    let identity = |n: u8| Identity::from_seed([10 * world + n; 32]);
    let peers = [1, 2].into_iter().filter(|peer| *peer != n);
    Config {
        id: name(n),
        vip: vip(n),
        identity: identity(n),
        peers: peers
            .map(|peer| PeerConfig {
                id: name(peer),
                vip: vip(peer),
                key: identity(peer).public(),
            })
            .collect(),
        allow: vec![
            AllowRule {
                port: TCP,
                udp: false,
            },
            AllowRule {
                port: UDP,
                udp: true,
            },
        ],
        udp_port: 0,
        stun: Vec::new(),
        turn: Vec::new(),
        paths: Default::default(),
        congestion: Default::default(),
        limits: Default::default(),
    }
}

impl Node {
    /// Start node `n` of a test; `world` keeps tests apart that run at one time.
    fn start(world: u8, n: u8, broker: &Endpoint) -> Node {
        Node::start_with(world, n, broker, |_| {})
    }

    fn start_with(world: u8, n: u8, broker: &Endpoint, adapt: impl Fn(&mut Config)) -> Node {
        let net = SplitNet {
            n: 4 * world + n,
            interface: [127, 90, world, n].into(),
        };
        let admin: SocketAddr = ([127, 90, world, n], 7090).into();
        let mut config = config(n, world);
        adapt(&mut config);
        let options = MeshOptions {
            forward: config.allow.clone(),
            config,
            seed: holdfast_io::real::os_seed().unwrap(),
            listen: (net.interface, 0).into(),
            brokers: vec![broker.clone()],
            admin: Some(admin),
            dumps: None,
            drain: DRAIN_DEFAULT,
            late_servers: None,
            version: "test".to_owned(),
        };
        let (sender, stop) = Stop::new();
        let (result, ended) = (Rc::new(RefCell::new(None)), Rc::new(Notify::new()));
        let (tell, end) = (result.clone(), ended.clone());
        let task = RealSpawn.spawn("node", async move {
            let outcome = run_mesh(options, net, RealClock, RealSpawn, stop).await;
            *tell.borrow_mut() = Some(outcome);
            end.notify_one();
        });
        Node {
            net,
            admin: format!("http://{admin}").parse().unwrap(),
            stop: sender,
            result,
            ended,
            _task: task,
        }
    }

    async fn page(&self, path: &str) -> io::Result<(StatusCode, Bytes)> {
        let mut client = Client::new(RealNet, RealClock, RealSpawn, self.admin.clone());
        let answer = client.request(Method::GET, path, Bytes::new(), 1 << 20, PATIENCE);
        answer.await.map_err(io::Error::other)
    }

    async fn status(&self) -> io::Result<NodeStatus> {
        let (_, body) = self.page("/status").await?;
        serde_json::from_slice(&body).map_err(io::Error::other)
    }

    async fn up(&self) {
        until(async || {
            let status = self.status().await;
            status.is_ok_and(|s| s.mesh.links.iter().all(|l| l.state == LinkState::Up))
        })
        .await;
    }

    /// What applications of this node see at `peer`'s virtual address.
    fn at(&self, peer: u8, port: u16) -> SocketAddr {
        self.net.real((vip(peer).addr(), port).into())
    }

    async fn connect(&self, peer: u8) -> RealStream {
        RealNet.connect(None, self.at(peer, TCP)).await.unwrap()
    }

    async fn stop(&self) {
        self.stop.send(true).unwrap();
        // Nobody waits for the limit when there is nothing left to say.
        let ended = timeout(&RealClock, DRAIN_DEFAULT / 2, self.ended.notified());
        ended.await.unwrap();
        self.result.borrow_mut().take().unwrap().unwrap();
    }
}

async fn broker() -> (Endpoint, Task) {
    common::alone();
    // What a failed test prints.
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
    let _ = log.with_ansi(false).with_test_writer().try_init();
    let options = RendezvousOptions {
        // Not 127.0.0.1, which is another one for each node.
        listen: "127.90.0.1:0".parse().unwrap(),
        limits: BrokerLimits::default(),
        turn: None,
    };
    let seed = Seed::new([1; 32]);
    let broker = Rendezvous::bind(options, RealNet, RealClock, RealSpawn, seed);
    let broker = broker.await.unwrap();
    let endpoint = format!("http://{}", broker.broker_addr().unwrap());
    let task = RealSpawn.spawn("broker", async move {
        let (_switch, stop) = Stop::new();
        broker.run(stop).await;
    });
    (endpoint.parse().unwrap(), task)
}

/// A TURN server on UDP and TCP that relays on a public address, as seen by itself. Returns
/// where its clients find it.
async fn turn_server(world: u8, secret: &str) -> (SocketAddr, Task) {
    let net = SplitNet {
        n: 4 * world,
        interface: [203, 0, 113, 9].into(),
    };
    let secret = SharedSecret::new(secret.as_bytes().to_vec()).unwrap();
    let listen = (net.interface, 3478).into();
    let options = TurnOptions::on(listen, secret);
    let seed = Seed::new([2; 32]);
    let server = TurnServer::bind(options, net, RealClock, RealSpawn, seed);
    let server = server.await.unwrap();
    let task = RealSpawn.spawn("turn", async move {
        let (_switch, stop) = Stop::new();
        server.run(stop).await;
    });
    (net.real(listen), task)
}

fn turn_config(addr: SocketAddr, transport: TurnTransport, secret: &str) -> config::TurnServer {
    config::TurnServer {
        addr,
        transport,
        credentials: TurnCredentials::Shared {
            secret: secret.to_owned().into(),
        },
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(&RealClock, PATIENCE, future).await.unwrap()
}

/// Wait for a condition that something else brings about.
///
/// It is polled: what is waited for happens in the kernel or behind an admin page.
async fn until(condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            RealClock.sleep(Duration::from_millis(5)).await;
        }
    };
    within(wait).await;
}

/// Two nodes with their link up.
async fn pair(world: u8) -> (Node, Node, (Endpoint, Task)) {
    let broker = broker().await;
    let (one, two) = (
        Node::start(world, 1, &broker.0),
        Node::start(world, 2, &broker.0),
    );
    one.up().await;
    two.up().await;
    (one, two, broker)
}

fn pattern(len: usize, salt: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ salt)
        .collect()
}

#[test]
fn bytes_cross_both_ways_with_half_close_and_the_peers_address() {
    block_on(async {
        let (one, two, _broker) = pair(1).await;
        let service = two.net.listen((vip(2).addr(), TCP).into()).await.unwrap();
        let (request, answer) = (pattern(3 << 20, 1), pattern(5 << 20, 2));
        let (sent, expected) = (request.clone(), answer.clone());
        let client = async {
            let mut tcp = one.connect(2).await;
            tcp.write_all(&sent).await.unwrap();
            tcp.shutdown().await.unwrap();
            let mut got = Vec::new();
            tcp.read_to_end(&mut got).await.unwrap();
            assert!(got == expected, "the answer differs");
        };
        let server = async {
            let (mut tcp, from) = service.accept().await.unwrap();
            assert_eq!(from.ip(), two.at(1, 0).ip());
            let mut got = Vec::new();
            tcp.read_to_end(&mut got).await.unwrap();
            assert!(got == request, "the request differs");
            tcp.write_all(&answer).await.unwrap();
            tcp.shutdown().await.unwrap();
        };
        within(async { tokio::join!(client, server) }).await;
        until(async || {
            let (one, two) = (one.status().await.unwrap(), two.status().await.unwrap());
            one.connections == 0 && two.connections == 0
        })
        .await;
        one.stop().await;
        two.stop().await;
    })
    .unwrap();
}

#[test]
fn a_service_on_loopback_only_is_found_and_a_closed_port_is_a_reset() {
    block_on(async {
        let (one, two, _broker) = pair(2).await;
        let mut refused = one.connect(2).await;
        let read = within(refused.read(&mut [0; 8])).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let service = two.net.listen(([127, 0, 0, 1], TCP).into()).await.unwrap();
        let mut client = one.connect(2).await;
        let (mut server, _) = within(service.accept()).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut buf = [0; 4];
        within(server.read_exact(&mut buf)).await.unwrap();
        assert_eq!(&buf, b"ping");
    })
    .unwrap();
}

#[test]
fn a_reset_crosses_in_both_directions() {
    block_on(async {
        let (one, two, _broker) = pair(3).await;
        let service = two.net.listen((vip(2).addr(), TCP).into()).await.unwrap();
        for server_resets in [false, true] {
            let mut client = one.connect(2).await;
            let (mut server, _) = within(service.accept()).await.unwrap();
            client.write_all(b"x").await.unwrap();
            within(server.read_exact(&mut [0; 1])).await.unwrap();
            let (gone, mut left) = match server_resets {
                true => (server, client),
                false => (client, server),
            };
            gone.reset_on_drop().unwrap();
            drop(gone);
            let read = within(left.read(&mut [0; 8])).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    })
    .unwrap();
}

#[test]
fn datagrams_keep_their_boundaries_and_their_senders_port() {
    block_on(async {
        let (one, two, _broker) = pair(4).await;
        let service = two
            .net
            .bind_datagram((vip(2).addr(), UDP).into())
            .await
            .unwrap();
        let client = RealNet.bind_datagram(one.net.real(([127, 50, 0, 1], 7777).into()));
        let client = client.await.unwrap();
        let mut buf = vec![0; UDP_PAYLOAD_MAX];
        for len in [1, 1200, 9000, UDP_PAYLOAD_MAX] {
            let payload = pattern(len, len as u8);
            client.send_to(&payload, one.at(2, UDP)).await.unwrap();
            let event = within(service.recv(&mut buf)).await.unwrap();
            let from: SocketAddr = (vip(1).addr(), 7777).into();
            assert_eq!(event, DatagramEvent::Data { len, from });
            assert!(buf[..len] == payload, "{len} bytes differ");
            service.send_to(&payload, from).await.unwrap();
            let event = within(client.recv(&mut buf)).await.unwrap();
            assert_eq!(
                event,
                DatagramEvent::Data {
                    len,
                    from: one.at(2, UDP)
                }
            );
            assert!(buf[..len] == payload, "{len} bytes differ on the way back");
        }
    })
    .unwrap();
}

#[test]
fn a_udp_service_on_loopback_only_is_found_after_a_refusal() {
    block_on(async {
        let (one, two, _broker) = pair(9).await;
        let service = two
            .net
            .bind_datagram(([127, 0, 0, 1], UDP).into())
            .await
            .unwrap();
        let client = RealNet.bind_datagram(one.net.real(([127, 50, 0, 1], 0).into()));
        let client = client.await.unwrap();
        let mut buf = vec![0; UDP_PAYLOAD_MAX];
        let arrived = async { service.recv(&mut buf).await.unwrap() };
        // A datagram may be lost to the refusal that shows the way.
        let asking = async {
            loop {
                client.send_to(b"ask", one.at(2, UDP)).await.unwrap();
                RealClock.sleep(Duration::from_millis(20)).await;
            }
        };
        let event = within(async {
            tokio::select! {
                event = arrived => event,
                () = asking => unreachable!("it asks for ever"),
            }
        });
        let DatagramEvent::Data { len: 3, from } = event.await else {
            panic!("three bytes were sent");
        };
        service.send_to(b"answer", from).await.unwrap();
        let event = within(client.recv(&mut buf)).await.unwrap();
        assert_eq!(
            event,
            DatagramEvent::Data {
                len: 6,
                from: one.at(2, UDP)
            }
        );
    })
    .unwrap();
}

#[test]
fn a_turn_server_relays_over_udp_and_over_tcp() {
    const SECRET: &str = "a secret of the TURN server";
    block_on(async {
        let broker = broker().await;
        let (turn, _server) = turn_server(11, SECRET).await;
        for (n, transport) in [(1, TurnTransport::Udp), (2, TurnTransport::Tcp)] {
            let node = Node::start_with(11, n, &broker.0, |config| {
                config.turn = vec![turn_config(turn, transport, SECRET)];
            });
            until(async || {
                let status = node.status().await;
                status.is_ok_and(|s| s.mesh.relays.iter().any(|r| r.state == "ready"))
            })
            .await;
            node.stop().await;
        }
    })
    .unwrap();
}

#[test]
fn relayed_paths_carry_bytes_over_udp_and_over_tcp() {
    const SECRET: &str = "a secret of the TURN server";
    for (world, transport) in [(15, TurnTransport::Udp), (16, TurnTransport::Tcp)] {
        block_on(async {
            let broker = broker().await;
            let (turn, _server) = turn_server(world, SECRET).await;
            let relay_only = |config: &mut Config| {
                config.paths = PathPolicy::RelayOnly;
                config.turn = vec![turn_config(turn, transport, SECRET)];
            };
            let one = Node::start_with(world, 1, &broker.0, relay_only);
            let two = Node::start_with(world, 2, &broker.0, relay_only);
            one.up().await;
            two.up().await;
            let status = one.status().await.unwrap();
            assert_eq!(status.mesh.links[0].selected().unwrap().class, "relay");
            let service = two.net.listen((vip(2).addr(), TCP).into()).await.unwrap();
            let mut client = one.connect(2).await;
            let (mut server, _) = within(service.accept()).await.unwrap();
            let sent = pattern(2 << 20, 7);
            let mut got = Vec::new();
            let send = async {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let (_, read) =
                within(async { tokio::join!(send, server.read_to_end(&mut got)) }).await;
            read.unwrap();
            assert!(got == sent, "bytes differ over {transport:?}");
            // A node that stops waits for open connections.
            drop((client, server));
            one.stop().await;
            two.stop().await;
        })
        .unwrap();
    }
}

#[test]
fn a_reader_that_stopped_holds_up_nobody_else() {
    block_on(async {
        let (one, two, _broker) = pair(13).await;
        let service = two.net.listen((vip(2).addr(), TCP).into()).await.unwrap();
        let mut stuck = Vec::new();
        for _ in 0..20 {
            let mut client = one.connect(2).await;
            let (server, _) = within(service.accept()).await.unwrap();
            // Until nothing more fits anywhere on the way.
            let chunk = vec![0; 64 << 10];
            let fill = async { while client.write_all(&chunk).await.is_ok() {} };
            let quiet = Duration::from_millis(100);
            assert!(timeout(&RealClock, quiet, fill).await.is_err());
            stuck.push((client, server));
        }
        let mut client = one.connect(2).await;
        let (mut server, _) = within(service.accept()).await.unwrap();
        let sent = pattern(1 << 20, 3);
        let mut got = vec![0; sent.len()];
        let both = async { tokio::join!(client.write_all(&sent), server.read_exact(&mut got)) };
        within(both).await.1.unwrap();
        assert!(got == sent, "bytes differ");
        drop(stuck);
        until(async || two.status().await.unwrap().connections == 1).await;
    })
    .unwrap();
}

#[test]
fn hundreds_of_connections_come_and_go_and_none_is_left() {
    const CONNECTIONS: usize = 300;
    block_on(async {
        let (one, two, _broker) = pair(14).await;
        let service = two.net.listen((vip(2).addr(), TCP).into()).await.unwrap();
        let _echo = RealSpawn.spawn("echo", async move {
            loop {
                let (mut tcp, _) = service.accept().await.unwrap();
                let echo = RealSpawn.spawn("echo", async move {
                    let mut bytes = Vec::new();
                    tcp.read_to_end(&mut bytes).await.unwrap();
                    tcp.write_all(&bytes).await.unwrap();
                });
                echo.detach();
            }
        });
        let mut clients = Vec::new();
        for n in 0..CONNECTIONS {
            let mut client = one.connect(2).await;
            client.write_all(&pattern(1000 + n, 5)).await.unwrap();
            clients.push(client);
        }
        for (n, mut client) in clients.into_iter().enumerate() {
            client.shutdown().await.unwrap();
            let mut bytes = Vec::new();
            within(client.read_to_end(&mut bytes)).await.unwrap();
            assert!(bytes == pattern(1000 + n, 5), "connection {n}");
        }
        until(async || {
            let (one, two) = (one.status().await.unwrap(), two.status().await.unwrap());
            one.connections == 0 && two.connections == 0
        })
        .await;
    })
    .unwrap();
}

#[test]
fn a_process_on_a_forwarded_port_is_named_and_everything_else_works() {
    block_on(async {
        let broker = broker().await;
        let one = Node::start(5, 1, &broker.0);
        let hog = RealNet.listen(one.at(2, TCP)).await.unwrap();
        let two = Node::start(5, 2, &broker.0);
        one.up().await;
        let clashes = one.status().await.unwrap().clashes;
        assert_eq!(clashes.len(), 1, "{clashes:?}");
        assert_eq!(clashes[0].addr, (vip(2).addr(), TCP).into());
        drop(hog);
        until(async || one.status().await.unwrap().clashes.is_empty()).await;
        let service = two.net.listen((vip(2).addr(), TCP).into()).await.unwrap();
        let _client = one.connect(2).await;
        within(service.accept()).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_node_that_stops_says_goodbye_and_one_that_starts_again_is_recognised() {
    block_on(async {
        let (one, two, broker) = pair(6).await;
        two.stop().await;
        until(async || one.status().await.unwrap().mesh.links[0].state != LinkState::Up).await;
        let mut refused = one.connect(2).await;
        let read = within(refused.read(&mut [0; 8])).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        drop(two);
        let _two = Node::start(6, 2, &broker.0);
        one.up().await;
    })
    .unwrap();
}

#[test]
fn the_admin_page_answers_and_is_ready_only_with_a_broker() {
    block_on(async {
        common::alone();
        let dead: Endpoint = "http://127.0.0.1:1".parse().unwrap();
        let alone = Node::start(7, 1, &dead);
        until(async || alone.page("/healthz").await.is_ok()).await;
        let (status, body) = alone.page("/readyz").await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(String::from_utf8_lossy(&body).contains("no broker has answered yet"));
        let (one, _two, _broker) = pair(8).await;
        assert_eq!(one.page("/readyz").await.unwrap().0, StatusCode::OK);
        let (_, metrics) = one.page("/metrics").await.unwrap();
        let metrics = String::from_utf8(metrics.to_vec()).unwrap();
        assert!(metrics.contains("holdfast_link_state{peer=\"node-2\",state=\"up\"} 1\n"));
        let (status, _) = one.page("/recorder").await.unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!(one.page("/nothing").await.unwrap().0, StatusCode::NOT_FOUND);
    })
    .unwrap();
}
