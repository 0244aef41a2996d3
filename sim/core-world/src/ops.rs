//! Operations: applications that begin, try again and report, and the services that answer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::mesh::{Input, ResetReason};
use holdfast_core::time::Now;
use holdfast_core::types::{LinkId, StreamId};
use holdfast_plan::traffic::{Source, check_datagram, datagram};
use holdfast_plan::{
    DatagramReport, NodeIndex, Op, OpId, OpKind, Service, Side, StreamReport, What,
};

use crate::apps::App;
use crate::engine::{Once, World};

/// A client pauses so long before it tries again.
const RETRY: Duration = Duration::from_millis(50);
/// Datagrams may come so long after the last was sent.
const LATE: Duration = Duration::from_secs(2);
/// The first port of clients that send datagrams.
const CLIENT_PORT: u32 = 20_000;
/// Ports that there are for them; more operations share.
const CLIENT_PORTS: u32 = 40_000;

/// All operations, in the order in which they began.
#[derive(Default)]
pub(crate) struct Ops {
    all: Vec<OpState>,
    by_id: BTreeMap<OpId, usize>,
    over: usize,
}

impl Ops {
    /// Whether every operation that began has ended.
    pub(crate) fn are_over(&self) -> bool {
        self.over == self.all.len()
    }

    fn begin(&mut self, state: OpState) -> usize {
        self.by_id.insert(state.op.id, self.all.len());
        self.all.push(state);
        self.all.len() - 1
    }

    fn find(&self, id: OpId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    fn end(&mut self, n: usize) {
        self.over += usize::from(!self.all[n].done);
        self.all[n].done = true;
    }
}

/// An operation and what became of it.
pub(crate) struct OpState {
    op: Op,
    started: Duration,
    attempts: u32,
    /// The stream of the present try.
    stream: Option<StreamId>,
    /// The node stands still, so the application waits.
    waits: bool,
    datagrams: Datagrams,
    done: bool,
}

/// What of a conversation by datagrams was seen.
#[derive(Default)]
struct Datagrams {
    sent: u32,
    seen: Vec<u64>,
    received: u64,
    repeated: u64,
    latest_at: Option<Duration>,
    gap_max: Option<(Duration, Duration)>,
}

impl Datagrams {
    fn arrived(&mut self, at: Duration, sequence: u32) {
        let (word, bit) = (sequence as usize / 64, 1 << (sequence % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.repeated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.received += 1;
        if let Some(latest) = self.latest_at {
            let gap = at.saturating_sub(latest);
            if self.gap_max.is_none_or(|(longest, _)| gap > longest) {
                self.gap_max = Some((gap, latest));
            }
        }
        self.latest_at = Some(at);
    }
}

fn client_port(op: OpId) -> u16 {
    (CLIENT_PORT + op.0 % CLIENT_PORTS) as u16
}

impl World {
    // ---- steering ----

    /// Open a stream from one node to a service of another and send `bytes`, then close that
    /// half if `finish`. `None` when it cannot be opened.
    pub fn open_stream(
        &mut self,
        node: usize,
        peer: usize,
        service: Service,
        bytes: u64,
        finish: bool,
    ) -> Option<StreamId> {
        let source = Source::new(OpId(u32::MAX), bytes);
        let app = App::client(Some(service), source, finish, self.now);
        let stream = self.open_app(node, peer, service, app).ok();
        self.flush();
        stream
    }

    /// One end of a stream, while it is kept.
    #[must_use]
    pub fn stream(&self, node: usize, stream: StreamId) -> Option<&App> {
        self.nodes[node].run.as_ref()?.apps.get(&stream)
    }

    /// All streams of a node, while they are kept.
    pub fn streams(&self, node: usize) -> impl Iterator<Item = &App> {
        let run = self.nodes[node].run.as_ref();
        run.into_iter().flat_map(|run| run.apps.values())
    }

    /// The link of a node to another, while it runs.
    #[must_use]
    pub fn link_between(&self, node: usize, peer: usize) -> Option<LinkId> {
        *self.nodes[node].run.as_ref()?.links.get(peer)?
    }

    // ---- streams ----

    fn open_app(
        &mut self,
        node: usize,
        peer: usize,
        service: Service,
        mut app: App,
    ) -> Result<StreamId, String> {
        let now = self.at(node);
        let link = self.link_between(node, peer);
        let Some(run) = &mut self.nodes[node].run else {
            return Err("the node does not run".to_owned());
        };
        let link = link.ok_or("it is no peer")?;
        let opened = run.mesh.stream_open(now, link, service.port());
        if let Ok(stream) = opened {
            app.peer = Some(NodeIndex(peer as u16));
            run.apps.insert(stream, app);
            self.pump(node, stream);
        }
        self.drain_node(node);
        opened.map_err(|error| error.to_string())
    }

    pub(crate) fn accept(&mut self, node: usize, now: Now, stream: StreamId, port: u16) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let service = Service::of_port(port);
        if matches!(service, None | Some(Service::Closed)) {
            return run.mesh.handle(now, Input::IncomingRefused { stream });
        }
        let peer = run.peers.get(stream.link.index()).copied();
        run.apps
            .insert(stream, App::server(service, peer, self.now));
        self.pump(node, stream);
    }

    /// Let an application read and write. What the machine wants then is the caller's to drain.
    pub(crate) fn pump(&mut self, node: usize, stream: StreamId) {
        let now = self.at(node);
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let Some(app) = run.apps.get_mut(&stream) else {
            return;
        };
        app.pump(&mut run.mesh, now, self.now, stream);
        if app.is_over() && !self.keeps_streams {
            let app = run.apps.remove(&stream).expect("just found");
            self.stream_over(node, stream, app);
        }
    }

    pub(crate) fn reset(&mut self, node: usize, stream: StreamId, reason: ResetReason) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let Some(app) = run.apps.get_mut(&stream) else {
            return;
        };
        app.reset.get_or_insert(reason);
        if !self.keeps_streams {
            let app = run.apps.remove(&stream).expect("just found");
            self.stream_over(node, stream, app);
        }
    }

    /// The node's process is gone, and the application's connection with it.
    pub(crate) fn stream_broke(&mut self, node: usize, stream: StreamId, app: App, why: &str) {
        if self.keeps_streams {
            return;
        }
        match self.op_of(&app, stream) {
            Some(n) => self.try_over(n, app.report(Some(why)), app.is_complete()),
            None => self.note(node, What::Stream(app.report(Some(why)))),
        }
    }

    fn stream_over(&mut self, node: usize, stream: StreamId, app: App) {
        match self.op_of(&app, stream) {
            Some(n) => {
                let done = app.read_finished || app.is_complete();
                self.try_over(n, app.report(None), done);
            }
            None => self.note(node, What::Stream(app.report(None))),
        }
    }

    fn op_of(&self, app: &App, stream: StreamId) -> Option<usize> {
        let op = app.op.filter(|_| !app.incoming)?;
        let found = self.ops.find(op)?;
        (self.ops.all[found].stream == Some(stream)).then_some(found)
    }

    /// A try of a client has ended: report it, or try again.
    fn try_over(&mut self, n: usize, report: StreamReport, done: bool) {
        let state = &mut self.ops.all[n];
        state.stream = None;
        let OpKind::Stream { patience, .. } = state.op.kind else {
            return;
        };
        let next = self.now + RETRY;
        if !done && next <= state.started + patience {
            return self.timers.once(next, Once::Op(n as u32));
        }
        let node = state.op.from.index();
        self.ops.end(n);
        self.stirred = true;
        self.note(node, What::Stream(report));
    }

    // ---- operations ----

    pub(crate) fn begin(&mut self, op: Op) {
        let n = self.ops.begin(OpState {
            op,
            started: self.now,
            attempts: 0,
            stream: None,
            waits: false,
            datagrams: Datagrams::default(),
            done: false,
        });
        self.go_on(n);
    }

    pub(crate) fn wake_ops(&mut self, node: usize) {
        for n in 0..self.ops.all.len() {
            let state = &mut self.ops.all[n];
            if state.op.from.index() == node && std::mem::take(&mut state.waits) {
                self.go_on(n);
            }
        }
    }

    /// It is time for an operation's next try or datagram.
    pub(crate) fn go_on(&mut self, n: usize) {
        let state = &mut self.ops.all[n];
        if state.done {
            return;
        }
        match state.op.kind {
            OpKind::Stream { bytes, .. } => self.try_stream(n, bytes),
            OpKind::Datagrams {
                count,
                interval,
                len_bytes,
            } => {
                if state.datagrams.sent == count {
                    return self.datagrams_over(n);
                }
                let sequence = state.datagrams.sent;
                state.datagrams.sent += 1;
                let next = match sequence + 1 == count {
                    true => self.now + LATE,
                    false => state.started + interval * (sequence + 1),
                };
                self.timers.once(next, Once::Op(n as u32));
                self.send_datagram(n, sequence, len_bytes);
            }
        }
    }

    fn try_stream(&mut self, n: usize, bytes: u64) {
        let state = &mut self.ops.all[n];
        let (node, peer) = (state.op.from.index(), state.op.to.index());
        if self.nodes[node].paused {
            state.waits = true;
            return;
        }
        state.attempts += 1;
        let source = Source::new(state.op.id, bytes);
        let mut app = App::client(Some(state.op.service), source, true, self.now);
        app.op = Some(state.op.id);
        app.attempts = state.attempts;
        let mut failed = StreamReport {
            peer: Some(state.op.to),
            opened_at: None,
            ..app.report(None)
        };
        let service = state.op.service;
        let now = self.at(node);
        let link = self.link_between(node, peer);
        let opened = match (&mut self.nodes[node].run, link) {
            (None, _) => Err("the node does not run".to_owned()),
            (_, None) => Err("it is no peer".to_owned()),
            (Some(run), Some(link)) => {
                let opened = run.mesh.stream_open(now, link, service.port());
                opened.map_err(|error| error.to_string())
            }
        };
        match opened {
            Ok(stream) => {
                app.peer = Some(NodeIndex(peer as u16));
                self.ops.all[n].stream = Some(stream);
                if let Some(run) = &mut self.nodes[node].run {
                    run.apps.insert(stream, app);
                }
                self.pump(node, stream);
            }
            Err(why) => {
                failed.reset = Some(why);
                self.try_over(n, failed, false);
            }
        }
        self.drain_node(node);
        self.flush();
    }

    // ---- datagrams ----

    fn send_datagram(&mut self, n: usize, sequence: u32, len_bytes: u32) {
        let op = &self.ops.all[n].op;
        let (node, peer) = (op.from.index(), op.to.index());
        let from = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), client_port(op.id));
        let port = op.service.port();
        let Some(link) = self.link_between(node, peer) else {
            return;
        };
        let payload = datagram(op.id, sequence, len_bytes).into();
        self.app_sends(node, (link, port, from), payload);
        self.flush();
    }

    pub(crate) fn app_datagram(
        &mut self,
        node: usize,
        now: Now,
        (link, peer_port, to): (LinkId, u16, SocketAddr),
        payload: Bytes,
    ) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let from = run.peers.get(link.index()).copied();
        let service = Service::of_port(to.port());
        match service {
            Some(Service::Closed) => {
                let refused = Input::UdpRefused {
                    link,
                    peer_port,
                    to,
                };
                return run.mesh.handle(now, refused);
            }
            Some(Service::Stopped) => return,
            Some(Service::Echo) => {
                run.mesh.udp_send(now, link, peer_port, to, payload.clone());
            }
            Some(Service::Sink | Service::Forbidden) | None => {}
        }
        let here = NodeIndex(node as u16);
        let known = check_datagram(&payload).and_then(|(id, sequence)| {
            let n = self.ops.find(id)?;
            let op = &self.ops.all[n].op;
            let OpKind::Datagrams { .. } = op.kind else {
                return None;
            };
            let (there, at, at_port) = match service {
                Some(served) => (op.from, op.to, served == op.service),
                None => (op.to, op.from, to.port() == client_port(id)),
            };
            let fits = at_port
                && at == here
                && from == Some(there)
                && sequence < self.ops.all[n].datagrams.sent;
            fits.then_some((n, sequence))
        });
        let Some((n, sequence)) = known else {
            if !self.keeps_streams {
                let len = payload.len();
                self.note(node, What::StrangeDatagram { from, len });
            }
            return;
        };
        // An echo is judged where it comes back, everything else where it arrives.
        let judged = match self.ops.all[n].op.service {
            Service::Echo => service.is_none(),
            _ => service.is_some(),
        };
        if judged && !self.ops.all[n].done {
            self.ops.all[n].datagrams.arrived(self.now, sequence);
        }
    }

    fn datagrams_over(&mut self, n: usize) {
        self.stirred = true;
        self.ops.end(n);
        let state = &self.ops.all[n];
        let seen = &state.datagrams;
        let report = DatagramReport {
            op: state.op.id,
            sent: seen.sent.into(),
            received: seen.received,
            repeated: seen.repeated,
            gap_max: seen.gap_max,
        };
        let node = match state.op.service {
            Service::Sink => state.op.to,
            _ => state.op.from,
        };
        self.note(node.index(), What::Datagrams(report));
    }

    // ---- the end ----

    /// The run is over: everything that goes on is reported as it stands.
    pub(crate) fn report_rest(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(run) = &mut self.nodes[node].run else {
                continue;
            };
            for (stream, app) in std::mem::take(&mut run.apps) {
                if let Some(n) = self.op_of(&app, stream) {
                    self.ops.end(n);
                }
                self.note(node, What::Stream(app.report(None)));
            }
        }
        for n in 0..self.ops.all.len() {
            let state = &self.ops.all[n];
            match state.op.kind {
                _ if state.done => {}
                OpKind::Datagrams { .. } => self.datagrams_over(n),
                OpKind::Stream { bytes, .. } => {
                    let source = Source::new(state.op.id, bytes);
                    let mut app = App::client(Some(state.op.service), source, true, self.now);
                    app.op = Some(state.op.id);
                    app.attempts = state.attempts;
                    let report = StreamReport {
                        side: Side::Client,
                        peer: Some(state.op.to),
                        opened_at: None,
                        ..app.report(Some("the run ended before it could be opened again"))
                    };
                    let node = state.op.from.index();
                    self.note(node, What::Stream(report));
                }
            }
        }
    }
}
