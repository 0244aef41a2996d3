//! Processes of nodes: how they come and go, stand still, and are called.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::config::ConfigError;
use holdfast_core::mesh::{Input, Mesh, Received};
use holdfast_core::status::LinkState;
use holdfast_core::time::Now;
use holdfast_core::types::LinkId;
use holdfast_plan::{NodeIndex, What};

use crate::engine::World;
use crate::node::{Run, View, Waiting};
use crate::signal::{Moment, SignalClient};
use crate::tcp::{ConnId, SocketEvent};

/// How long streams may go on after a goodbye.
const GOODBYE_TIME: Duration = Duration::from_secs(5);
/// How long a node that was told to stop may say so; then it ends whether or not it was heard.
const STOP_TIME: Duration = Duration::from_secs(2);
impl World {
    /// A node's time.
    #[must_use]
    pub fn at(&self, node: usize) -> Now {
        self.nodes[node].clock.now(self.now)
    }

    pub(crate) fn moment(&self, node: usize) -> Moment {
        Moment {
            world: self.now,
            local: self.nodes[node].clock.local(self.now),
        }
    }

    pub(crate) fn note(&mut self, node: usize, what: What) {
        let name = self.nodes[node].spec.name.as_str();
        let node = Some((NodeIndex(node as u16), name));
        self.journal.note(self.now, node, what);
    }

    // ---- processes ----

    /// A node starts, for the first time or again.
    ///
    /// # Errors
    /// When it cannot be configured like that.
    pub fn start(&mut self, node: usize) -> Result<(), Vec<ConfigError>> {
        self.end(node, false);
        let now = self.at(node);
        let me = &mut self.nodes[node];
        me.runs += 1;
        me.paused = false;
        let seed = self
            .seed
            .fork(&format!("node/{}/{}", me.spec.name, me.runs));
        let mut mesh = Mesh::new(me.config(), seed.clone(), now)?;
        if self.journal.trace.is_on() {
            mesh.recorder().hash_content();
        }
        let known = mesh.links().map(|(_, id, _)| {
            let peer = me.peers.iter().find(|(_, peer)| peer.id == *id);
            peer.expect("links are made of peers").0
        });
        let peers: Vec<NodeIndex> = known.collect();
        let nodes = self.built.nodes.len();
        let link_to = |n| peers.iter().position(|peer| peer.index() == n);
        let local = me.clock.local(self.now);
        let signal = SignalClient::new(&me.brokers, me.mailbox(), &seed, local);
        let ip = me.ip;
        let view = View {
            state: LinkState::Signaling,
            class: None,
        };
        me.run = Some(Run {
            mesh,
            apps: BTreeMap::new(),
            links: (0..nodes)
                .map(|n| Some(LinkId(link_to(n)? as u16)))
                .collect(),
            views: vec![view; peers.len()],
            peers,
            signal,
            turn_conns: BTreeMap::new(),
            stop_at: None,
            end_at: None,
        });
        self.stirred = true;
        // An instance's process has started before, and ends later than its mesh.
        if self.claims.is_none() {
            self.note(node, What::Started);
        }
        self.call(node, |mesh, now| {
            mesh.handle(now, Input::LocalAddresses(vec![ip.into()]));
        });
        self.wake_node(node);
        self.flush();
        Ok(())
    }

    /// The process is gone, without a word.
    pub fn kill(&mut self, node: usize) {
        self.end(node, false);
        self.flush();
    }

    /// The process says goodbye, and ends when all was said.
    pub fn stop(&mut self, node: usize) {
        let local = self.moment(node).local;
        if let Some(run) = &mut self.nodes[node].run
            && run.stop_at.is_none()
            && run.end_at.is_none()
        {
            run.stop_at = Some(local + GOODBYE_TIME);
            // One that stands still hears of it when it goes on.
            if !self.nodes[node].paused {
                self.call(node, |mesh, now| mesh.handle(now, Input::Goodbye));
            }
        }
    }

    pub(crate) fn end(&mut self, node: usize, clean: bool) {
        let Some(run) = self.nodes[node].run.take() else {
            return;
        };
        let me = &mut self.nodes[node];
        me.paused = false;
        me.inbox.clear();
        me.inbox_bytes = 0;
        let stack = &mut self.stacks[me.host.index()];
        stack.abort_all(None);
        let host = me.host;
        self.touch(host);
        self.stirred = true;
        for (stream, app) in run.apps {
            self.stream_broke(node, stream, app, "the node's process ended");
        }
        if self.claims.is_none() {
            self.note(node, What::Ended { clean });
        }
    }

    /// An instance's mesh begins under the id of a slot, or ends.
    fn mesh_of(&mut self, node: usize, slot: Option<u16>) {
        let slots = self.claims.as_ref().and_then(|claims| claims.meshed());
        let Some(slots) = slots.map(<[u16]>::to_vec) else {
            return;
        };
        match slot {
            None => self.kill(node),
            Some(slot) => {
                self.nodes[node].own(slot, &slots);
                let started = self.start(node);
                started.expect("the ids and addresses of slots are valid");
            }
        }
    }

    /// What the claims have decided about meshes.
    pub(crate) fn follow_claims(&mut self) {
        let orders = self.claims.as_mut().map(|c| std::mem::take(&mut c.orders));
        for (node, slot) in orders.unwrap_or_default() {
            self.mesh_of(node, slot);
        }
    }

    /// The node stands still: its clocks go on, nothing else does.
    pub fn pause(&mut self, node: usize) {
        self.nodes[node].paused = self.nodes[node].run.is_some();
    }

    /// A paused node goes on, with everything that waits for it.
    pub fn thaw(&mut self, node: usize) {
        if !std::mem::take(&mut self.nodes[node].paused) {
            return;
        }
        self.nodes[node].inbox_bytes = 0;
        for waiting in std::mem::take(&mut self.nodes[node].inbox) {
            match waiting {
                Waiting::Datagram(meta, data) => {
                    self.call_quietly(node, |mesh, now| mesh.handle_datagram(now, meta, data));
                }
                Waiting::Socket(conn, event) => self.node_socket(node, conn, event),
                Waiting::App(to, payload) => self.app_sends(node, to, payload),
            }
        }
        if self.nodes[node]
            .run
            .as_ref()
            .is_some_and(|run| run.stop_at.is_some())
        {
            self.call_quietly(node, |mesh, now| mesh.handle(now, Input::Goodbye));
        }
        self.wake_node(node);
        self.wake_ops(node);
        self.flush();
    }

    /// The node's wall clock jumps.
    pub fn step_clock(&mut self, node: usize, by_ms: i64) {
        self.nodes[node].clock.step(by_ms);
    }

    /// The node's machine has another address now: the network was told before.
    pub fn moved(&mut self, node: usize, ip: Ipv4Addr) {
        let host = self.nodes[node].host;
        self.nodes[node].ip = ip;
        self.stacks[host.index()].set_ip(ip.into());
        self.network_changed(node);
        self.call(node, |mesh, now| {
            mesh.handle(now, Input::LocalAddresses(vec![ip.into()]));
        });
    }

    /// The node's connections to brokers may be dead without knowing.
    pub(crate) fn network_changed(&mut self, node: usize) {
        let host = self.nodes[node].host;
        let at = self.moment(node);
        if let Some(run) = &mut self.nodes[node].run {
            let stack = &mut self.stacks[host.index()];
            run.signal.network_changed(at, stack);
            self.touch(host);
        }
    }

    // ---- calls ----

    /// Call a node's machine and carry out what it wants. `None` when it does not run.
    pub fn call<R>(&mut self, node: usize, f: impl FnOnce(&mut Mesh, Now) -> R) -> Option<R> {
        let result = self.call_quietly(node, f);
        self.flush();
        result
    }

    /// As [`World::call`], and what connections want is left for later.
    fn call_quietly<R>(&mut self, node: usize, f: impl FnOnce(&mut Mesh, Now) -> R) -> Option<R> {
        let now = self.at(node);
        let result = f(&mut self.nodes[node].run.as_mut()?.mesh, now);
        self.drain_node(node);
        Some(result)
    }

    pub(crate) fn node_datagram(
        &mut self,
        node: usize,
        from: SocketAddr,
        to: IpAddr,
        data: BytesMut,
    ) {
        let meta = Received {
            from,
            to: Some(to),
            ecn: 0,
        };
        if self.nodes[node].paused {
            let len = data.len();
            return self.nodes[node].keep(len, Waiting::Datagram(meta, data));
        }
        self.call_quietly(node, |mesh, now| mesh.handle_datagram(now, meta, data));
    }

    /// A local application sends a datagram.
    pub(crate) fn app_sends(
        &mut self,
        node: usize,
        (link, port, from): (LinkId, u16, SocketAddr),
        payload: Bytes,
    ) {
        if self.nodes[node].paused {
            let len = payload.len();
            return self.nodes[node].keep(len, Waiting::App((link, port, from), payload));
        }
        self.call_quietly(node, |mesh, now| {
            mesh.udp_send(now, link, port, from, payload);
        });
    }

    pub(crate) fn wake_node(&mut self, node: usize) {
        let at = self.moment(node);
        let me = &mut self.nodes[node];
        let now = me.clock.now(self.now);
        let Some(run) = me.run.as_mut().filter(|_| !me.paused) else {
            return;
        };
        let host = me.host;
        let posts = run
            .signal
            .handle_deadline(at, &mut self.stacks[host.index()]);
        let mesh_is_due = run.mesh.deadline().is_some_and(|(due, _)| due <= now.mono);
        if mesh_is_due {
            run.mesh.handle_deadline(now);
        }
        if run.stop_at.is_some_and(|due| due <= at.local) {
            run.stop_at = None;
            run.end_at = Some(at.local + STOP_TIME);
            run.mesh.handle(now, Input::Stop);
        }
        if run.end_at.is_some_and(|due| due <= at.local) {
            return self.end(node, true);
        }
        if posts {
            self.touch(host);
        }
        self.drain_node(node);
    }

    pub(crate) fn node_socket(&mut self, node: usize, conn: ConnId, event: SocketEvent) {
        let at = self.moment(node);
        let me = &mut self.nodes[node];
        if me.paused {
            me.inbox.push_back(Waiting::Socket(conn, event));
            return;
        }
        let stack = &mut self.stacks[me.host.index()];
        let Some(run) = &mut me.run else {
            return stack.abort(conn);
        };
        let mut envelopes = Vec::new();
        if run
            .signal
            .handle_socket(at, stack, conn, event, &mut envelopes)
        {
            let now = me.clock.now(self.now);
            for envelope in envelopes {
                run.mesh.handle(now, Input::Signal(envelope.to_vec()));
            }
        } else {
            self.turn_socket(node, conn, event);
        }
        self.drain_node(node);
    }
}
