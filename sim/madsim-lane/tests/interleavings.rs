//! What holds in whatever order tasks run.
#![cfg(madsim)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_core::config::{AllowRule, Config, Congestion, Limits, PathPolicy, PeerConfig};
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::identity::ClusterSecret;
use holdfast_core::types::{PeerId, Vip};
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::Stop;
use holdfast_io::mesh::{MeshOptions, run_mesh};
use holdfast_io::net::{Listener, Net};
use holdfast_io::spawn::{Spawn, Task};
use holdfast_madsim_lane::net::{Hub, LaneNet};
use holdfast_madsim_lane::runtime::{LaneClock, LaneSpawn};
use holdfast_servers::broker::BrokerLimits;
use holdfast_servers::rendezvous::{RendezvousOptions, run_rendezvous};
use madsim::runtime::Runtime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

const PORT: u16 = 9007;
const LEN: usize = 200_000;
/// Nothing takes longer: what does has missed a wake-up.
const LIMIT: Duration = Duration::from_secs(30);
const SEEDS: u64 = 100;

/// Run `test` in many orders, and say how many there are in a second.
fn over_seeds<F: Future<Output = ()>>(name: &str, test: impl Fn(u64) -> F) {
    let began = Instant::now();
    for seed in 0..SEEDS {
        let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.set_time_limit(Duration::from_secs(600));
        runtime.block_on(test(seed));
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{name}: {SEEDS} seeds, {:.1} in a second",
        SEEDS as f64 / took
    );
}

struct Node {
    net: LaneNet,
    spawn: LaneSpawn,
    stop: watch::Sender<bool>,
    ended: Rc<RefCell<Option<bool>>>,
    task: Option<Task>,
}

struct World {
    tasks: LaneSpawn,
    nodes: Vec<Node>,
    hub: Rc<Hub>,
    stop_broker: watch::Sender<bool>,
    broker_tasks: LaneSpawn,
    _kept: Vec<Task>,
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn options(n: u16, seed: &Seed) -> MeshOptions {
    let secret = ClusterSecret::new(vec![5; 32]).unwrap();
    let id = |n: u16| format!("n{n}").parse::<PeerId>().unwrap();
    let (me, other) = (id(n), id(3 - n));
    let rule = AllowRule {
        port: PORT,
        udp: true,
    };
    MeshOptions {
        config: Config {
            vip: Vip::new(n).unwrap(),
            identity: secret.identity(&me),
            peers: vec![PeerConfig {
                vip: Vip::new(3 - n).unwrap(),
                key: secret.identity(&other).public(),
                id: other,
            }],
            id: me,
            allow: vec![rule],
            udp_port: 5000,
            stun: Vec::new(),
            turn: Vec::new(),
            paths: PathPolicy::All,
            congestion: Congestion::default(),
            limits: Limits::default(),
        },
        seed: seed.fork(&format!("node {n}")),
        listen: addr("0.0.0.0:5000"),
        brokers: vec!["http://203.0.113.10:7000".parse().unwrap()],
        forward: vec![rule],
        admin: None,
        dumps: None,
        drain: Duration::from_secs(5),
        late_servers: None,
        version: "lane".to_owned(),
    }
}

fn world(seed: u64) -> (World, Entropy) {
    let mut bytes = [1; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let seed = Seed::new(bytes);
    let hub = Rc::<Hub>::default();
    let tasks = LaneSpawn::default();
    let mut kept = vec![tasks.spawn("wire", hub.clone().carry())];
    let (stop_broker, stop) = Stop::new();
    let broker_tasks = LaneSpawn::default();
    let broker = RendezvousOptions {
        listen: addr("203.0.113.10:7000"),
        limits: BrokerLimits::default(),
        turn: None,
    };
    let net = LaneNet::new(&hub, [203, 0, 113, 10].into());
    let (own, broker_seed) = (broker_tasks.clone(), seed.fork("broker"));
    kept.push(tasks.spawn("broker", async move {
        run_rendezvous(broker, net, LaneClock, own, broker_seed, stop)
            .await
            .unwrap();
    }));
    let nodes = (1..=2).map(|n| {
        let net = LaneNet::new(&hub, [203, 0, 113, 20 + n as u8].into());
        let spawn = LaneSpawn::default();
        let (stop_node, stop) = Stop::new();
        let ended = Rc::new(RefCell::new(None));
        let (options, told) = (options(n, &seed), ended.clone());
        let (own_net, own_spawn) = (net.clone(), spawn.clone());
        let task = tasks.spawn("node", async move {
            let result = run_mesh(options, own_net, LaneClock, own_spawn, stop).await;
            *told.borrow_mut() = Some(result.is_ok());
        });
        Node {
            net,
            spawn,
            stop: stop_node,
            ended,
            task: Some(task),
        }
    });
    let nodes: Vec<Node> = nodes.collect();
    let net = nodes[1].net.clone();
    kept.push(tasks.spawn("echo", async move {
        let listener = net.listen(addr("127.50.0.2:9007")).await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut all = vec![0; 10_000];
            while let Ok(len @ 1..) = stream.read(&mut all).await {
                if stream.write_all(&all[..len]).await.is_err() {
                    break;
                }
            }
            let _ = stream.shutdown().await;
        }
    }));
    let world = World {
        tasks,
        nodes,
        hub,
        stop_broker,
        broker_tasks,
        _kept: kept,
    };
    (world, seed.fork("test").rng())
}

fn pattern() -> Vec<u8> {
    (0..LEN).map(|n| (n ^ (n >> 8)) as u8).collect()
}

/// A conversation through both nodes; an error when a stream breaks.
async fn echo(net: &LaneNet) -> std::io::Result<Vec<u8>> {
    let stream = net.connect(None, addr("127.50.0.2:9007")).await?;
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        write.write_all(&pattern()).await?;
        write.shutdown().await
    };
    let reading = async {
        let mut all = Vec::new();
        read.read_to_end(&mut all).await?;
        Ok(all)
    };
    let ((), all) = tokio::try_join!(sending, reading)?;
    Ok(all)
}

/// The same, again and again until the link is there.
async fn echo_at_last(net: &LaneNet) -> Vec<u8> {
    let trying = async {
        loop {
            match echo(net).await {
                Ok(all) => return all,
                Err(_) => LaneClock.sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(&LaneClock, LIMIT, trying)
        .await
        .expect("progress within the limit")
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            LaneClock.sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(&LaneClock, LIMIT, waiting).await.expect(what);
}

#[test]
fn every_byte_arrives_and_a_shutdown_ends_every_task_in_any_order() {
    over_seeds("bytes and shutdown", |seed| async move {
        let (world, _) = world(seed);
        assert!(
            echo_at_last(&world.nodes[0].net).await == pattern(),
            "seed {seed}"
        );
        for node in &world.nodes {
            node.stop.send(true).unwrap();
        }
        for node in &world.nodes {
            until("the node ends", || *node.ended.borrow() == Some(true)).await;
            until("its tasks end", || node.spawn.live() == 0).await;
        }
        assert_eq!(world.hub.ports(), 0);
        world.stop_broker.send(true).unwrap();
        until("the broker's tasks end", || world.broker_tasks.live() == 0).await;
        drop(world.tasks);
    });
}

#[test]
fn a_node_that_is_dropped_half_way_leaves_nothing_and_its_peer_still_ends_when_told() {
    over_seeds("drop", |seed| async move {
        let (mut world, mut entropy) = world(seed);
        let net = world.nodes[0].net.clone();
        let talking = net.clone();
        let client = world.tasks.spawn("client", async move {
            loop {
                let _ = echo(&talking).await;
                LaneClock.sleep(Duration::from_millis(5)).await;
            }
        });
        LaneClock
            .sleep(Duration::from_micros(entropy.below(1_500_000)))
            .await;
        drop(world.nodes[0].task.take());
        let node = &world.nodes[0];
        until("its tasks end", || node.spawn.live() == 0).await;
        drop(client);
        drop(net);
        until("nothing refers to it", || node.net.users() == 1).await;
        assert_eq!(
            world.hub.ports(),
            1,
            "seed {seed}: only the peer's socket is left"
        );
        // Its addresses are free again.
        drop(node.net.listen(addr("127.50.0.2:9007")).await.unwrap());
        node.net
            .bind_datagram(addr("127.50.0.2:9007"))
            .await
            .unwrap();
        // The peer is told to stop, and does.
        world.nodes[1].stop.send(true).unwrap();
        until("the peer ends", || {
            *world.nodes[1].ended.borrow() == Some(true)
        })
        .await;
        until("its tasks end", || world.nodes[1].spawn.live() == 0).await;
    });
}
