//! Two nodes and a broker in one process, over the sockets of the operating system.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::SplitNet;
use holdfast_core::config::{AllowRule, Config, PeerConfig};
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
use holdfast_servers::rendezvous::{Rendezvous, RendezvousOptions};
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
        let net = SplitNet {
            n: 10 * world + n,
            interface: [127, 90, world, n].into(),
        };
        let admin: SocketAddr = ([127, 90, world, n], 7090).into();
        let config = config(n, world);
        let options = MeshOptions {
            forward: config.allow.clone(),
            config,
            seed: holdfast_io::real::os_seed().unwrap(),
            listen: (net.interface, 0).into(),
            brokers: vec![broker.clone()],
            admin: Some(admin),
            dumps: None,
            drain: DRAIN_DEFAULT,
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
        within(self.ended.notified()).await;
        self.result.borrow_mut().take().unwrap().unwrap();
    }
}

async fn broker() -> (Endpoint, Task) {
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

async fn within<F: Future>(future: F) -> F::Output {
    timeout(&RealClock, PATIENCE, future).await.unwrap()
}

/// Wait for a condition that something else brings about.
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
            assert_eq!(IpAddr::from(from.ip()), two.at(1, 0).ip());
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
