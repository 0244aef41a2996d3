//! Words for tests that steer a world by hand: see `holdfast-core-world`, which is the engine.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use holdfast_core::entropy::Seed;
use holdfast_core::mesh::Mesh;
use holdfast_core::status::{LinkState, LinkStatus};
use holdfast_core::types::{LinkId, StreamId};
use holdfast_core_world::App;
pub use holdfast_core_world::{World, origin};
use holdfast_net_model::Uplink;
use holdfast_plan::{SERVERS, Service, Topology, TraceMode, What};

/// Where the STUN and TURN server is.
pub const SERVER: Ipv4Addr = SERVERS[0];
/// Echoes every stream.
pub const ECHO: Service = Service::Echo;
/// Reads every stream and counts.
pub const SINK: Service = Service::Sink;
/// Never reads.
pub const STOPPED: Service = Service::Stopped;
/// Not on the allowlist.
pub const FORBIDDEN: Service = Service::Forbidden;
/// Allowed, and nothing listens.
pub const CLOSED: Service = Service::Closed;

pub fn seeded(seed: u8) -> Seed {
    Seed::new([seed; 32])
}

/// A world to steer; nodes are started by the test.
pub fn steered(seed: u8, topology: &Topology) -> World {
    let mut world = World::new(topology, seeded(seed), TraceMode::Off).unwrap();
    world.keeps_streams = true;
    world
}

/// What tests do to a world and ask of it. They fail where it cannot be done.
pub trait Steer {
    /// Run until `done`; returns how long it took. Fails after `limit`.
    fn until(&mut self, limit: Duration, done: impl FnMut(&World) -> bool) -> Duration;
    /// Give the node another address.
    fn roam(&mut self, node: usize, uplink: Uplink, ip: [u8; 4]);
    /// Put an envelope into its mailbox, as a hostile broker might at any time.
    fn replay(&mut self, envelope: &[u8]);
    /// Everything that was posted so far, and by whom.
    fn recorded(&self) -> Vec<(usize, Vec<u8>)>;
    /// Open a stream and send `bytes`, then close that half if `finish`.
    fn open(&mut self, node: usize, peer: usize, to: Service, bytes: u64, finish: bool)
    -> StreamId;
    fn app(&self, node: usize, stream: StreamId) -> &App;
    /// Everything that incoming streams of a service have received.
    fn received_at(&self, node: usize, service: Service) -> u64;
    fn mesh(&self, node: usize) -> &Mesh;
    fn link(&self, node: usize, peer: usize) -> LinkId;
    fn state(&self, node: usize, peer: usize) -> LinkState;
    fn status(&self, node: usize, peer: usize) -> LinkStatus;
    /// `direct` or `relay`, or nothing when no path is in use.
    fn class(&self, node: usize, peer: usize) -> Option<String>;
    fn counter(&self, node: usize, name: &str) -> u64;
    fn both_up(&self, a: usize, b: usize) -> bool;
}

impl Steer for World {
    fn until(&mut self, limit: Duration, done: impl FnMut(&World) -> bool) -> Duration {
        let Some(took) = self.run_until(limit, done) else {
            let mut text = String::new();
            let links = |what: &What| !matches!(what, What::Queue(_) | What::Step { .. });
            for entry in self.journal.entries.iter().filter(|e| links(&e.what)) {
                text += &format!("{entry:?}\n");
            }
            for node in 0..self.nodes.len() {
                let now = self.at(node);
                text += &format!(
                    "{:#?}\n",
                    self.nodes[node].mesh().map(|mesh| mesh.status(now))
                );
            }
            panic!("not reached within {limit:?}:\n{text}");
        };
        took
    }

    fn roam(&mut self, node: usize, uplink: Uplink, ip: [u8; 4]) {
        let host = self.nodes[node].host;
        let addresses = [IpAddr::from(ip)];
        self.net.move_host(host, uplink, &addresses).unwrap();
        self.moved(node, ip.into());
    }

    fn replay(&mut self, envelope: &[u8]) {
        self.post_anywhere([198, 51, 100, 66].into(), envelope);
    }

    fn recorded(&self) -> Vec<(usize, Vec<u8>)> {
        let posted = self.posted.iter();
        posted
            .map(|posted| (posted.from, posted.envelope.to_vec()))
            .collect()
    }

    fn open(
        &mut self,
        node: usize,
        peer: usize,
        to: Service,
        bytes: u64,
        finish: bool,
    ) -> StreamId {
        self.open_stream(node, peer, to, bytes, finish)
            .expect("the link is up")
    }

    fn app(&self, node: usize, stream: StreamId) -> &App {
        let app = self.stream(node, stream).expect("it was opened");
        assert_eq!(app.altered_at(), None, "bytes were altered");
        app
    }

    fn received_at(&self, node: usize, service: Service) -> u64 {
        let served = |app: &&App| app.incoming && app.service == Some(service);
        let apps = self.streams(node).filter(served);
        apps.inspect(|app| assert_eq!(app.altered_at(), None, "bytes were altered"))
            .map(|app| app.received)
            .sum()
    }

    fn mesh(&self, node: usize) -> &Mesh {
        self.nodes[node].mesh().expect("the node runs")
    }

    fn link(&self, node: usize, peer: usize) -> LinkId {
        self.link_between(node, peer)
            .expect("it runs and knows that peer")
    }

    fn state(&self, node: usize, peer: usize) -> LinkState {
        let link = self.link(node, peer);
        self.mesh(node).link_state(link).expect("a link")
    }

    fn status(&self, node: usize, peer: usize) -> LinkStatus {
        let mut status = self.mesh(node).status(self.at(node));
        status.links.swap_remove(self.link(node, peer).index())
    }

    fn class(&self, node: usize, peer: usize) -> Option<String> {
        let status = self.status(node, peer);
        status.selected().map(|path| path.class.clone())
    }

    fn counter(&self, node: usize, name: &str) -> u64 {
        let status = self.mesh(node).status(self.at(node));
        let mut counters = status.counters.iter();
        counters.find(|c| c.name == name).map_or(0, |c| c.value)
    }

    fn both_up(&self, a: usize, b: usize) -> bool {
        let up = |a: usize, b| self.nodes[a].is_running() && self.state(a, b) == LinkState::Up;
        up(a, b) && up(b, a)
    }
}
