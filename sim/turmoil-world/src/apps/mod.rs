//! Local programs of all nodes: they know nothing of Holdfast but addresses of its loopback
//! network, and outlive its processes.

mod datagrams;
mod streams;

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::spawn::Spawn;
use holdfast_plan::{NodeIndex, Op, OpKind, Service};

use crate::clock::SimClock;
use crate::net::SimNet;
use crate::shared::Shared;
use crate::spawn::SimSpawn;

pub use datagrams::Sinks;
pub use streams::OpenStreams;

/// What all programs share.
#[derive(Clone)]
pub struct Apps {
    shared: Rc<Shared>,
    clock: SimClock,
    spawn: SimSpawn,
    streams: Rc<OpenStreams>,
    sinks: Rc<Sinks>,
}

impl Apps {
    /// The programs of a world.
    pub fn new(shared: &Rc<Shared>) -> Apps {
        Apps {
            shared: shared.clone(),
            clock: shared.apps_clock(),
            spawn: SimSpawn::new(shared.apps_host().number),
            streams: Rc::default(),
            sinks: Rc::default(),
        }
    }

    /// Serve on every node, and begin the conversations that are asked for, for ever.
    pub async fn run(self) -> turmoil::Result {
        self.shared.apps_host().clock.begin(self.shared.now.get());
        for node in self.shared.plan.topology.node_indices() {
            for service in Service::ALL {
                if service != Service::Closed {
                    self.serve(node, service);
                }
            }
        }
        loop {
            let op = self.shared.ops.next().await;
            self.begin(op);
        }
    }

    /// Tell how far everything got that has not ended.
    pub fn finish(&self) {
        self.streams.finish(&self.shared);
        self.sinks.finish(&self.shared);
    }

    fn serve(&self, node: NodeIndex, service: Service) {
        let addr = vip_addr(self.shared.vip_of(node), service.port());
        let (own, other) = (self.clone(), self.clone());
        let task = async move { own.serve_streams(node, service, addr).await };
        self.spawn.spawn("stream service", task).detach();
        let task = async move { other.serve_datagrams(node, service, addr).await };
        self.spawn.spawn("datagram service", task).detach();
    }

    fn begin(&self, op: Op) {
        let own = self.clone();
        let task = async move {
            match op.kind {
                OpKind::Stream { bytes, patience } => own.talk(&op, bytes, patience).await,
                OpKind::Datagrams {
                    count,
                    interval,
                    len_bytes,
                } => own.send_datagrams(&op, (count, interval, len_bytes)).await,
            }
            own.shared.ops_open.set(own.shared.ops_open.get() - 1);
        };
        self.spawn.spawn("client", task).detach();
    }

    fn net(&self, node: NodeIndex) -> SimNet {
        self.shared.net(self.shared.node_host(node))
    }

    /// The time since the start of the world.
    fn now(&self) -> Duration {
        self.shared.now.get()
    }

    /// The node at the other end, by its virtual address.
    fn node_at(&self, addr: SocketAddr) -> Option<NodeIndex> {
        let std::net::IpAddr::V4(ip) = addr.ip() else {
            return None;
        };
        let [127, 50, high, low] = ip.octets() else {
            return None;
        };
        let vip = u16::from_be_bytes([high, low]);
        self.shared
            .plan
            .topology
            .members()
            .find(|node| node.vip() == vip)
    }

    async fn pause(&self, length: Duration) {
        self.clock.sleep(length).await;
    }
}

/// The virtual address of a node with a port.
fn vip_addr(vip: u16, port: u16) -> SocketAddr {
    let [high, low] = vip.to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(127, 50, high, low).into(), port)
}
