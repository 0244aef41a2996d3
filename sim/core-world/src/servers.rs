//! The brokers, and the STUN and TURN server, behind their sockets.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::rendezvous::{self, Mailboxes};
use holdfast_core::time::Now;
use holdfast_net_model::Ratio;
use holdfast_plan::SERVERS;
use holdfast_servers::turn::{self, SharedSecret, TcpId, TurnMachine};

use crate::tcp::{ConnId, SocketEvent, Stack};
use crate::wire::{Answer, Request};

/// The relay's secret: nodes derive their credentials from it.
pub const TURN_SECRET: &str = "the relay's secret";

/// What brokers do wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct BrokerLoss {
    /// How much of what is posted is lost.
    pub lose: Ratio,
    /// How much arrives twice.
    pub repeat: Ratio,
}

/// One broker: mailboxes behind connections.
pub struct Broker {
    mailboxes: Mailboxes,
    conns: BTreeMap<ConnId, Client>,
    tickets: BTreeMap<u64, ConnId>,
    next_ticket: u64,
    faults: Entropy,
}

struct Client {
    remote: IpAddr,
    inbox: BytesMut,
    unsent: VecDeque<Bytes>,
    ticket: Option<u64>,
}

impl Broker {
    /// An empty broker.
    #[must_use]
    pub fn new(seed: &Seed, now: Now) -> Broker {
        Broker {
            mailboxes: Mailboxes::new(seed.clone(), now),
            conns: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            faults: seed.fork("faults").rng(),
        }
    }

    /// Its mailboxes.
    #[must_use]
    pub const fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    /// Put an envelope into its mailbox, as if `source` had posted it and did not care.
    pub fn post(&mut self, now: Now, source: IpAddr, envelope: Vec<u8>) {
        let ticket = self.ticket();
        let post = rendezvous::Input::Post {
            ticket,
            source,
            envelope,
        };
        self.mailboxes.handle(now, post);
    }

    /// When to call [`Broker::handle_deadline`], by the server's clock.
    #[must_use]
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.mailboxes.deadline().map(|(at, _)| at)
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Now) {
        if self.deadline().is_some_and(|at| at <= now.mono) {
            self.mailboxes.handle_deadline(now);
        }
    }

    /// A connection did something.
    pub fn handle_socket(
        &mut self,
        (now, world): (Now, Duration),
        loss: BrokerLoss,
        stack: &mut Stack,
        conn: ConnId,
        event: SocketEvent,
    ) {
        match event {
            SocketEvent::Accepted { remote } => {
                let client = Client {
                    remote: remote.ip(),
                    inbox: BytesMut::new(),
                    unsent: VecDeque::new(),
                    ticket: None,
                };
                self.conns.insert(conn, client);
            }
            SocketEvent::Readable => self.read((now, world), loss, stack, conn),
            SocketEvent::Writable => self.flush(world, stack, conn),
            SocketEvent::Closed => self.hang_up(now, world, stack, conn),
            SocketEvent::Connected => {}
        }
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn hang_up(&mut self, now: Now, world: Duration, stack: &mut Stack, conn: ConnId) {
        stack.close(world, conn);
        let client = self.conns.remove(&conn);
        if let Some(ticket) = client.and_then(|client| client.ticket) {
            self.tickets.remove(&ticket);
            self.mailboxes
                .handle(now, rendezvous::Input::Cancel { ticket });
        }
    }

    fn read(
        &mut self,
        (now, world): (Now, Duration),
        loss: BrokerLoss,
        stack: &mut Stack,
        conn: ConnId,
    ) {
        loop {
            let Some(client) = self.conns.get_mut(&conn) else {
                return;
            };
            while let Some(bytes) = stack.read(conn) {
                client.inbox.extend_from_slice(&bytes);
            }
            match Request::decode(&mut client.inbox) {
                Ok(Some(request)) => self.request(now, loss, conn, request),
                Ok(None) => return,
                Err(_) => return self.hang_up(now, world, stack, conn),
            }
        }
    }

    fn request(&mut self, now: Now, loss: BrokerLoss, conn: ConnId, request: Request) {
        let ticket = self.ticket();
        let Some(client) = self.conns.get_mut(&conn) else {
            return;
        };
        client.ticket = Some(ticket);
        let source = client.remote;
        self.tickets.insert(ticket, conn);
        match request {
            Request::Poll {
                mailbox,
                after,
                wait,
            } => {
                let poll = rendezvous::Input::Poll {
                    ticket,
                    source,
                    mailbox,
                    after,
                    wait,
                };
                self.mailboxes.handle(now, poll);
            }
            Request::Post(envelope) => {
                if self.happens(loss.lose) {
                    return self.answer(ticket, &Answer::Posted);
                }
                if self.happens(loss.repeat) {
                    self.post(now, source, envelope.to_vec());
                }
                let post = rendezvous::Input::Post {
                    ticket,
                    source,
                    envelope: envelope.to_vec(),
                };
                self.mailboxes.handle(now, post);
            }
        }
    }

    fn happens(&mut self, ratio: Ratio) -> bool {
        ratio.num() > 0 && self.faults.below(ratio.den().into()) < ratio.num().into()
    }

    /// Answer what can be answered.
    pub fn drain(&mut self, world: Duration, stack: &mut Stack) {
        while let Some(output) = self.mailboxes.poll_output() {
            let (ticket, answer) = match output {
                rendezvous::Output::Posted { ticket } => (ticket, Answer::Posted),
                rendezvous::Output::Refused { ticket, reason } => (ticket, reason.into()),
                rendezvous::Output::Messages {
                    ticket,
                    cursor,
                    envelopes,
                } => {
                    let envelopes = envelopes.iter().map(|e| Bytes::copy_from_slice(e));
                    (ticket, Answer::Messages(cursor, envelopes.collect()))
                }
            };
            self.answer(ticket, &answer);
        }
        let waiting: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, client)| !client.unsent.is_empty())
            .map(|(conn, _)| *conn)
            .collect();
        for conn in waiting {
            self.flush(world, stack, conn);
        }
    }

    fn answer(&mut self, ticket: u64, answer: &Answer) {
        let conn = self.tickets.remove(&ticket);
        if let Some(client) = conn.and_then(|conn| self.conns.get_mut(&conn)) {
            client.ticket = None;
            client.unsent.push_back(answer.encode());
        }
    }

    fn flush(&mut self, world: Duration, stack: &mut Stack, conn: ConnId) {
        let Some(client) = self.conns.get_mut(&conn) else {
            return;
        };
        while let Some(front) = client.unsent.front_mut() {
            let taken = stack.write(world, conn, front);
            drop(front.split_to(taken));
            if !front.is_empty() {
                return;
            }
            client.unsent.pop_front();
        }
    }
}

/// The STUN and TURN server.
pub struct Turn {
    /// The machine.
    pub machine: TurnMachine,
    clients: BTreeMap<ConnId, TcpId>,
    conns: BTreeMap<TcpId, ConnId>,
    next_client: u64,
}

impl Turn {
    /// A server without allocations.
    #[must_use]
    pub fn new(seed: &Seed, now: Now) -> Turn {
        let config = turn::Config {
            relay_ip: IpAddr::V4(SERVERS[0]),
            relay_ports: 49_152..=65_535,
            realm: "holdfast".to_owned(),
            secret: SharedSecret::new(TURN_SECRET.as_bytes().to_vec()).expect("a fixed text"),
            loopback_peers: false,
            limits: turn::Limits::default(),
        };
        Turn {
            machine: TurnMachine::new(config, seed.clone(), now).expect("a fixed configuration"),
            clients: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_client: 0,
        }
    }

    /// The connection of a client.
    #[must_use]
    pub fn conn(&self, client: TcpId) -> Option<ConnId> {
        self.conns.get(&client).copied()
    }

    /// A client's connection is to be closed.
    pub fn forget(&mut self, client: TcpId) -> Option<ConnId> {
        let conn = self.conns.remove(&client)?;
        self.clients.remove(&conn);
        Some(conn)
    }

    /// A connection did something.
    pub fn handle_socket(
        &mut self,
        (now, world): (Now, Duration),
        stack: &mut Stack,
        conn: ConnId,
        event: SocketEvent,
    ) {
        match event {
            SocketEvent::Accepted { remote } => self.accepted(now, conn, remote),
            SocketEvent::Readable => {
                let client = self.clients.get(&conn).copied();
                while let Some((client, bytes)) = client.zip(stack.read(conn)) {
                    let data = bytes.to_vec();
                    self.machine
                        .handle(now, turn::Input::TcpBytes { client, data });
                }
            }
            SocketEvent::Closed => {
                stack.close(world, conn);
                if let Some(client) = self.clients.remove(&conn) {
                    self.conns.remove(&client);
                    self.machine.handle(now, turn::Input::TcpClosed { client });
                }
            }
            SocketEvent::Connected | SocketEvent::Writable => {}
        }
    }

    fn accepted(&mut self, now: Now, conn: ConnId, from: SocketAddr) {
        self.next_client += 1;
        let client = TcpId(self.next_client);
        self.clients.insert(conn, client);
        self.conns.insert(client, conn);
        self.machine
            .handle(now, turn::Input::TcpConnected { client, from });
    }
}
