//! What a node's machine wants done, and what of it an observer sees.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use holdfast_core::identity::PublicKey;
use holdfast_core::mesh::{Event, Input, Output, TcpAction, TcpEvent};
use holdfast_core::time::Now;
use holdfast_core::types::PeerId;
use holdfast_plan::{PathClass, UDP_PORT, What};

use crate::engine::{POSTED_MAX, Posted, World};
use crate::node::{Run, TurnConn};
use crate::tcp::{ConnId, SocketEvent};

/// Datagrams of one size that the machine may make at once.
const SEGMENTS_MAX: usize = 10;
/// Datagrams that a test may look at.
const SEEN_MAX: usize = 4096;
impl World {
    pub(crate) fn drain_node(&mut self, node: usize) {
        let now = self.at(node);
        let mut buf = std::mem::take(&mut self.buf);
        while let Some(run) = &mut self.nodes[node].run {
            if let Some(output) = run.mesh.poll_output() {
                self.act(node, now, output);
                continue;
            }
            buf.clear();
            let Some(transmit) = run.mesh.poll_transmit(now, &mut buf, SEGMENTS_MAX) else {
                break;
            };
            let me = &mut self.nodes[node];
            let src = SocketAddr::new(me.ip.into(), UDP_PORT);
            let (host, size) = (me.host, transmit.segment_size.unwrap_or(buf.len()));
            for segment in buf.chunks(size.max(1)) {
                self.nodes[node].sent_datagrams += 1;
                self.send_udp(host, src, transmit.to, segment);
            }
        }
        self.buf = buf;
        self.after_drain(node);
    }

    fn after_drain(&mut self, node: usize) {
        let me = &mut self.nodes[node];
        let Some(run) = &mut me.run else {
            return;
        };
        if self.journal.trace.is_on() {
            for (_, record) in run.mesh.recorder().drain() {
                self.journal.trace.record(self.now, &me.spec.name, &record);
            }
        }
        let leaves = run.stop_at.is_some() || run.end_at.is_some();
        if leaves && run.mesh.is_drained() && run.signal.is_flushed() {
            return self.end(node, true);
        }
        let due = run.deadline(&me.clock).map(|local| me.clock.world(local));
        self.timers.arm(node, due.map(|due| due.max(self.now)));
    }

    fn act(&mut self, node: usize, now: Now, output: Output) {
        match output {
            Output::Signal { to, envelope } => self.post(node, to, envelope.into()),
            Output::TurnTcp { conn, action } => self.turn_action(node, now, conn, action),
            Output::Incoming { stream, to, .. } => self.accept(node, now, stream, to[0].port()),
            Output::Readable(stream) | Output::Writable(stream) => self.pump(node, stream),
            Output::Reset { stream, reason } => self.reset(node, stream, reason),
            Output::Udp {
                link,
                peer_port,
                to,
                payload,
            } => {
                if self.keeps_streams && self.nodes[node].datagrams.len() < SEEN_MAX {
                    let seen = (peer_port, to, payload.clone());
                    self.nodes[node].datagrams.push(seen);
                }
                self.app_datagram(node, now, (link, peer_port, to), payload);
            }
            Output::NetworkChanged => self.network_changed(node),
            Output::Event(event) => self.event(node, event),
        }
    }

    fn post(&mut self, node: usize, to: PublicKey, envelope: Bytes) {
        if self.posted.len() == POSTED_MAX {
            self.posted.pop_front();
        }
        self.posted.push_back(Posted {
            from: node,
            to,
            envelope: envelope.clone(),
        });
        let at = self.moment(node);
        let me = &mut self.nodes[node];
        let stack = &mut self.stacks[me.host.index()];
        if let Some(run) = &mut me.run {
            run.signal.post(at, stack, to, &envelope);
        }
        let host = me.host;
        self.touch(host);
    }

    fn turn_action(&mut self, node: usize, now: Now, number: u32, action: TcpAction) {
        let me = &mut self.nodes[node];
        let host = me.host;
        let stack = &mut self.stacks[host.index()];
        let Some(run) = &mut me.run else {
            return;
        };
        match action {
            TcpAction::Connect(server) => {
                let conn = stack.connect(self.now, server);
                let unsent = VecDeque::new();
                run.turn_conns.insert(number, TurnConn { conn, unsent });
            }
            TcpAction::Write(mut bytes) => {
                if let Some(known) = run.turn_conns.get_mut(&number) {
                    if known.unsent.is_empty() {
                        let taken = stack.write(self.now, known.conn, &bytes);
                        drop(bytes.split_to(taken));
                        let event = TcpEvent::Sent(taken);
                        run.mesh.handle(
                            now,
                            Input::TurnTcp {
                                conn: number,
                                event,
                            },
                        );
                    }
                    if !bytes.is_empty() {
                        known.unsent.push_back(bytes);
                    }
                }
            }
            TcpAction::Close => {
                if let Some(known) = run.turn_conns.remove(&number) {
                    stack.close(self.now, known.conn);
                }
            }
        }
        self.touch(host);
    }

    fn event(&mut self, node: usize, event: Event) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let named = |run: &Run, id: &PeerId| {
            let mut links = run.mesh.links();
            links
                .find(|(_, peer, _)| *peer == id)
                .map(|(link, ..)| link.index())
        };
        let what = match event {
            Event::LinkState { peer, to, why, .. } => {
                let Some(link) = named(run, &peer) else {
                    return;
                };
                self.stirred = true;
                run.views[link].state = to;
                What::Link {
                    peer: run.peers[link],
                    state: to,
                    why: why.to_owned(),
                }
            }
            Event::PathSelected {
                peer,
                local,
                remote,
                class,
                why,
            } => {
                let link = named(run, &peer);
                let Some((link, class)) = link.zip(class.parse::<PathClass>().ok()) else {
                    return;
                };
                self.stirred = true;
                run.views[link].class = Some(class);
                What::Path {
                    peer: run.peers[link],
                    class,
                    detail: format!("{local} to {remote}: {why}"),
                }
            }
            Event::PeerRestarted { peer, .. } => {
                let Some(link) = named(run, &peer) else {
                    return;
                };
                What::PeerRestarted {
                    peer: run.peers[link],
                }
            }
            Event::Refused { counter, .. } => What::Refused {
                counter: counter.to_owned(),
            },
            Event::Server { .. } => return,
        };
        // The peers of an instance are slots, whoever owns them.
        if self.claims.is_none() {
            self.note(node, what);
        }
    }

    // ---- TURN over TCP ----

    pub(crate) fn turn_socket(&mut self, node: usize, conn: ConnId, event: SocketEvent) {
        let me = &mut self.nodes[node];
        let now = me.clock.now(self.now);
        let stack = &mut self.stacks[me.host.index()];
        let Some(run) = &mut me.run else {
            return;
        };
        let found = run
            .turn_conns
            .iter_mut()
            .find(|(_, known)| known.conn == conn);
        let Some((&number, known)) = found else {
            return stack.abort(conn);
        };
        let mut tell = |event| {
            run.mesh.handle(
                now,
                Input::TurnTcp {
                    conn: number,
                    event,
                },
            )
        };
        match event {
            SocketEvent::Connected => {
                if let Some(local) = stack.local(conn) {
                    tell(TcpEvent::Connected { local });
                }
            }
            SocketEvent::Readable => {
                while let Some(bytes) = stack.read(conn) {
                    tell(TcpEvent::Bytes(BytesMut::from(bytes)));
                }
            }
            SocketEvent::Writable => {
                while let Some(front) = known.unsent.front_mut() {
                    let taken = stack.write(self.now, conn, front);
                    drop(front.split_to(taken));
                    if taken > 0 {
                        tell(TcpEvent::Sent(taken));
                    }
                    if !front.is_empty() {
                        break;
                    }
                    known.unsent.pop_front();
                }
            }
            SocketEvent::Closed => {
                stack.close(self.now, conn);
                run.turn_conns.remove(&number);
                run.mesh.handle(
                    now,
                    Input::TurnTcp {
                        conn: number,
                        event: TcpEvent::Closed,
                    },
                );
            }
            SocketEvent::Accepted { .. } => {}
        }
    }
}
