//! How much faster than real time the world runs: a quiet mesh, and a busy one.
//!
//!     cargo run -p holdfast-core-world --example speed
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it measures real time and prints it"
)]

use std::time::{Duration, Instant};

use holdfast_net_model::NatConfig;
use holdfast_plan::topology::{default_links, nat_address, node_address};
use holdfast_plan::{
    Action, CLUSTER, ClockSpec, NatIndex, NatSpec, NodeIndex, NodeSpec, Op, OpId, OpKind, Place,
    Plan, Servers, Service, Step, Topology, TraceMode, Transport,
};

const NODES: u16 = 6;
const QUIET: Duration = Duration::from_secs(3600);
const BUSY: Duration = Duration::from_secs(300);
/// When traffic begins.
const SET_UP: Duration = Duration::from_secs(2);
/// Application datagrams per second of all nodes together.
const BUSY_RATE: u32 = 2_000;
/// Of each datagram.
const LEN_BYTES: u32 = 200;

fn topology() -> Topology {
    let nats = (0..NODES).map(NatIndex).map(|nat| NatSpec {
        name: format!("home-{}", nat.0),
        config: NatConfig::home(nat_address(nat, Place::Public)),
        place: Place::Public,
        links: default_links(),
    });
    let nodes = (0..NODES).map(NodeIndex).map(|node| {
        let place = Place::Behind(NatIndex(node.0));
        NodeSpec {
            name: format!("node-{}", node.0),
            place,
            address: node_address(node, place),
            links: default_links(),
            cluster: CLUSTER,
            poses_as: None,
            clock: ClockSpec::default(),
            turn: vec![Transport::Udp],
            stun: true,
        }
    });
    Topology {
        nats: nats.collect(),
        nodes: nodes.collect(),
        servers: Servers {
            brokers: 2,
            links: default_links(),
        },
    }
}

fn plan(ends_at: Duration, ops: Vec<Op>) -> Plan {
    let step = |at, action| Step {
        at,
        action,
        label: String::new(),
    };
    let starts = (0..NODES).map(|n| step(Duration::ZERO, Action::Start(NodeIndex(n))));
    let traffic = ops.into_iter().map(|op| step(SET_UP, Action::Traffic(op)));
    Plan {
        name: "speed".to_owned(),
        seed: 1,
        topology: topology(),
        steps: starts.chain(traffic).collect(),
        healed_at: Duration::ZERO,
        ends_at,
        ends_when_settled: false,
        wanted: Vec::new(),
    }
}

/// Every node sends to its next: each datagram crosses the mesh once.
fn traffic(time: Duration) -> Vec<Op> {
    let rate = BUSY_RATE / u32::from(NODES);
    let op = |n: u16| Op {
        id: OpId(n.into()),
        name: "datagrams".to_owned(),
        from: NodeIndex(n),
        to: NodeIndex((n + 1) % NODES),
        service: Service::Sink,
        kind: OpKind::Datagrams {
            count: rate * time.as_secs() as u32,
            interval: Duration::from_secs(1) / rate,
            len_bytes: LEN_BYTES,
        },
    };
    (0..NODES).map(op).collect()
}

fn measure(what: &str, plan: &Plan) {
    let (started, cpu_started) = (Instant::now(), cpu_time());
    let journal = holdfast_core_world::play(plan, TraceMode::Off).expect("a plan of our own");
    let (real, took) = (started.elapsed(), cpu_time() - cpu_started);
    let (figures, virtual_s) = (journal.figures, journal.ended_at.as_secs_f64());
    let received: u64 = journal
        .entries
        .iter()
        .map(|entry| match &entry.what {
            holdfast_plan::What::Datagrams(report) => report.received,
            _ => 0,
        })
        .sum();
    let up = journal.entries.iter().filter(|entry| {
        matches!(&entry.what, holdfast_plan::What::Final(link) if link.class == Some(holdfast_plan::PathClass::Direct))
    });
    println!(
        "{what}: {:.0} times real time ({virtual_s:.0} s in {:.2} s of a \
         processor, {:.2} s in all), {:.0} datagrams and {:.0} events \
         per simulated second, {:.2} us per datagram, {received} received, {} direct link ends",
        virtual_s / took.as_secs_f64(),
        took.as_secs_f64(),
        real.as_secs_f64(),
        figures.datagrams as f64 / virtual_s,
        figures.events as f64 / virtual_s,
        took.as_secs_f64() * 1e6 / figures.datagrams as f64,
        up.count(),
    );
}

/// What this process has used of a processor: other programs run beside it.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn main() {
    let only = std::env::args().nth(1);
    let wants = |what: &str| only.as_deref().is_none_or(|only| only == what);
    if wants("quiet") {
        measure("quiet", &plan(QUIET, Vec::new()));
    }
    if wants("busy") {
        let end = SET_UP + BUSY;
        measure("busy", &plan(end, traffic(BUSY)));
    }
}
