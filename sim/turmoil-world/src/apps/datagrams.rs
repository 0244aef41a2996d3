//! Programs that talk by datagrams.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use holdfast_io::clock::{Clock, timeout};
use holdfast_io::net::{DatagramEvent, DatagramSocket, Net, UDP_PAYLOAD_MAX};
use holdfast_plan::traffic::{check_datagram, datagram};
use holdfast_plan::{DatagramReport, NodeIndex, Op, OpId, Service, What};

use super::{Apps, vip_addr};
use crate::net::SimDatagram;
use crate::shared::Shared;

/// How long a client waits for what is still on its way after its last datagram.
const LINGER: Duration = Duration::from_secs(2);
/// Pause of a service whose address is taken.
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// What arrived of each conversation where it counts.
#[derive(Default)]
pub struct Sinks(RefCell<BTreeMap<OpId, (Option<NodeIndex>, Tally)>>);

#[derive(Default)]
struct Tally {
    sent: u64,
    seen: BTreeSet<u32>,
    repeated: u64,
    last_at: Option<Duration>,
    gap_max: Option<(Duration, Duration)>,
}

impl Tally {
    fn received(&mut self, now: Duration, sequence: u32) {
        if !self.seen.insert(sequence) {
            self.repeated += 1;
        }
        if let Some(before) = self.last_at.replace(now) {
            let gap = now.saturating_sub(before);
            if self.gap_max.is_none_or(|(longest, _)| gap > longest) {
                self.gap_max = Some((gap, before));
            }
        }
    }

    fn report(&self, op: OpId) -> DatagramReport {
        DatagramReport {
            op,
            sent: self.sent,
            received: self.seen.len() as u64,
            repeated: self.repeated,
            gap_max: self.gap_max,
        }
    }
}

impl Sinks {
    fn with<R>(&self, op: OpId, act: impl FnOnce(&mut Tally) -> R) -> R {
        act(&mut self.0.borrow_mut().entry(op).or_default().1)
    }

    /// The run is over.
    pub fn finish(&self, shared: &Shared) {
        for (op, (client, tally)) in self.0.take() {
            // Only of those that have not been told of.
            if client.is_some() {
                shared.note(client, What::Datagrams(tally.report(op)));
            }
        }
    }
}

impl Apps {
    /// A client, until everything is sent and nothing more comes.
    pub(super) async fn send_datagrams(&self, op: &Op, how: (u32, Duration, u32)) {
        self.sinks.0.borrow_mut().entry(op.id).or_default().0 = Some(op.from);
        let (count, interval, len_bytes) = how;
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        // The ports of a host's loopback interface are many more than conversations.
        if let Ok(socket) = self.net(op.from).bind_datagram(any).await {
            let to = vip_addr(op.to.vip(), op.service.port());
            let sending = async {
                for sequence in 0..count {
                    let bytes = datagram(op.id, sequence, len_bytes);
                    let sent = socket.send_to(&bytes, to).await.is_ok();
                    self.sinks
                        .with(op.id, |tally| tally.sent += u64::from(sent));
                    self.pause(interval).await;
                }
                self.clock.sleep(LINGER).await;
            };
            tokio::select! {
                biased;
                () = self.hear_echoes(op, &socket, to) => {}
                () = sending => {}
            }
        }
        let report = self.sinks.with(op.id, |tally| tally.report(op.id));
        self.shared.note(Some(op.from), What::Datagrams(report));
        self.sinks.0.borrow_mut().entry(op.id).or_default().0 = None;
    }

    async fn hear_echoes(&self, op: &Op, socket: &SimDatagram, to: SocketAddr) {
        let mut buf = vec![0; UDP_PAYLOAD_MAX];
        loop {
            let Ok(event) = socket.recv(&mut buf).await else {
                return pending().await;
            };
            // That a port is closed shows in what does not come back.
            let DatagramEvent::Data { len, from } = event else {
                continue;
            };
            match check_datagram(&buf[..len]) {
                Some((id, sequence)) if id == op.id && from == to => {
                    let now = self.now();
                    self.sinks.with(id, |tally| tally.received(now, sequence));
                }
                _ => self.strange(op.from, from, len),
            }
        }
    }

    fn strange(&self, node: NodeIndex, from: SocketAddr, len: usize) {
        let from = self.node_at(from);
        self.shared
            .note(Some(node), What::StrangeDatagram { from, len });
    }

    /// Answer for ever.
    pub(super) async fn serve_datagrams(
        &self,
        node: NodeIndex,
        service: Service,
        addr: SocketAddr,
    ) {
        let net = self.net(node);
        let socket = loop {
            match net.bind_datagram(addr).await {
                Ok(socket) => break socket,
                Err(_) => self.pause(BIND_PAUSE).await,
            }
        };
        if service == Service::Stopped {
            // Bound, and never read.
            pending::<()>().await;
        }
        let mut buf = vec![0; UDP_PAYLOAD_MAX];
        while let Ok(event) = socket.recv(&mut buf).await {
            let DatagramEvent::Data { len, from } = event else {
                continue;
            };
            let known = check_datagram(&buf[..len]);
            let known = known.filter(|(op, _)| self.is_for(*op, node, service, from));
            let Some((op, sequence)) = known else {
                self.strange(node, from, len);
                continue;
            };
            match service {
                Service::Echo => {
                    let sending = socket.send_to(&buf[..len], from);
                    // Loopback sockets always have room.
                    let _ = timeout(&self.clock, BIND_PAUSE, sending).await;
                }
                _ => {
                    let now = self.now();
                    self.sinks.with(op, |tally| tally.received(now, sequence));
                }
            }
        }
    }

    /// Whether a datagram of that conversation belongs here.
    fn is_for(&self, op: OpId, node: NodeIndex, service: Service, from: SocketAddr) -> bool {
        self.shared.plan.op(op).is_some_and(|op| {
            op.to == node && op.service == service && self.node_at(from) == Some(op.from)
        })
    }
}
