//! The servers' part of the engine: what reaches them, and what they want done.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use holdfast_core::recorder::Record;
use holdfast_plan::{BROKER_PORT, SERVERS, TURN_PORT};
use holdfast_servers::turn;

use crate::engine::World;
use crate::servers::{Broker, Turn};
use crate::tcp::{self, SocketEvent};

impl World {
    pub(crate) fn server_socket(
        &mut self,
        server: usize,
        conn: tcp::ConnId,
        port: u16,
        event: SocketEvent,
    ) {
        let now = (self.clock.now(self.now), self.now);
        if self.journal.trace.is_on() {
            let name = format!("server-{server}");
            let what = format!("port {port} {conn:?} {event:?}");
            self.journal
                .trace
                .record(self.now, &name, &Record::Input { what });
        }
        let stack = &mut self.stacks[self.built.servers[server].index()];
        if port == BROKER_PORT {
            match &mut self.brokers[server] {
                Some(broker) => broker.handle_socket(now, self.broker_loss, stack, conn, event),
                None => stack.abort(conn),
            }
        } else if let Some(turn) = &mut self.turn {
            turn.handle_socket(now, stack, conn, event);
            self.drain_turn();
        } else {
            stack.abort(conn);
        }
    }

    /// A broker goes or comes; what it kept is lost.
    pub fn set_broker(&mut self, broker: usize, up: bool) {
        let Some(&host) = self.built.servers.get(broker) else {
            return;
        };
        self.stacks[host.index()].listen(BROKER_PORT, up);
        self.stacks[host.index()].abort_all(Some(BROKER_PORT));
        self.broker_runs += 1;
        let seed = self
            .seed
            .fork(&format!("broker/{broker}/{}", self.broker_runs));
        let now = self.clock.now(self.now);
        self.brokers[broker] = up.then(|| Broker::new(&seed, now));
        self.touch(host);
        self.flush();
    }

    /// Put an envelope into its mailbox at every broker, from anywhere.
    pub fn post_anywhere(&mut self, source: IpAddr, envelope: &[u8]) {
        let now = self.clock.now(self.now);
        for broker in 0..self.brokers.len() {
            if let Some(broker) = &mut self.brokers[broker] {
                broker.post(now, source, envelope.to_vec());
            }
            self.touch(self.built.servers[broker]);
        }
        self.flush();
    }

    /// The TURN server goes or comes; its allocations are lost.
    pub fn set_turn(&mut self, up: bool) {
        let host = self.built.servers[0];
        self.stacks[host.index()].listen(TURN_PORT, up);
        self.stacks[host.index()].abort_all(Some(TURN_PORT));
        self.turn_runs += 1;
        let seed = self.seed.fork(&format!("turn/{}", self.turn_runs));
        let now = self.clock.now(self.now);
        self.turn = up.then(|| Turn::new(&seed, now));
        self.touch(host);
        self.flush();
    }

    pub(crate) fn turn_datagram(&mut self, from: SocketAddr, port: u16, data: &[u8]) {
        let Some(turn) = &mut self.turn else {
            return;
        };
        let now = self.clock.now(self.now);
        if self.journal.trace.is_on() {
            let rx = Record::Rx {
                from,
                len: data.len(),
                hash: 0,
            };
            self.journal.trace.record(self.now, "turn", &rx);
        }
        let mut buf = std::mem::take(&mut self.buf);
        let forward = if port == TURN_PORT {
            turn.machine.client_datagram(now, from, data)
        } else {
            buf.clear();
            buf.resize(turn::HEADROOM + data.len() + turn::TAILROOM, 0);
            buf[turn::HEADROOM..turn::HEADROOM + data.len()].copy_from_slice(data);
            let len = data.len();
            turn.machine.peer_datagram(now, port, from, &mut buf, len)
        };
        if let Some(forward) = forward {
            let (path, data) = (forward.path, BytesMut::from(forward.data));
            self.turn_forward(path, &data);
        }
        self.buf = buf;
        self.drain_turn();
    }

    fn turn_forward(&mut self, path: turn::Path, data: &[u8]) {
        let (port, to) = match path {
            turn::Path::Client(to) => (TURN_PORT, to),
            turn::Path::Peer { port, to } => (port, to),
            turn::Path::Stream(client) => return self.turn_write(client, data),
        };
        if self.journal.trace.is_on() {
            let tx = Record::Tx {
                to,
                len: data.len(),
                segment: data.len(),
                hash: 0,
            };
            self.journal.trace.record(self.now, "turn", &tx);
        }
        let src = SocketAddr::new(SERVERS[0].into(), port);
        self.send_udp(self.built.servers[0], src, to, data);
    }

    fn turn_write(&mut self, client: turn::TcpId, data: &[u8]) {
        let host = self.built.servers[0];
        let stack = &mut self.stacks[host.index()];
        let conn = self.turn.as_ref().and_then(|turn| turn.conn(client));
        // All of it or nothing: a stream that is too slow loses datagrams, as any path does.
        if let Some(conn) = conn.filter(|conn| stack.room(*conn) >= data.len()) {
            stack.write(self.now, conn, data);
            self.touch(host);
        }
    }

    pub(crate) fn drain_turn(&mut self) {
        let now = self.clock.now(self.now);
        while let Some(turn) = &mut self.turn {
            let Some(output) = turn.machine.poll_output() else {
                break;
            };
            match output {
                turn::Output::Datagram { to, data } => {
                    self.turn_forward(turn::Path::Client(to), &data);
                }
                turn::Output::PeerDatagram { port, to, data } => {
                    self.turn_forward(turn::Path::Peer { port, to }, &data);
                }
                turn::Output::OpenRelay { port } => {
                    turn.machine.handle(now, turn::Input::RelayOpened { port });
                }
                turn::Output::TcpWrite { client, data } => self.turn_write(client, &data),
                turn::Output::TcpClose { client } => {
                    if let Some(conn) = turn.forget(client) {
                        let host = self.built.servers[0];
                        self.stacks[host.index()].close(self.now, conn);
                        self.touch(host);
                    }
                }
                turn::Output::CloseRelay { .. } | turn::Output::Event(_) => {}
            }
        }
        let deadline = self.turn.as_ref().and_then(|turn| turn.machine.deadline());
        let deadline = deadline.map(|(at, _)| self.clock.local_of(at));
        self.timers.arm(self.nodes.len(), deadline);
    }
}
