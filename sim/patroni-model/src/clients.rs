//! Writers: each writes rows that nobody else writes, through its worker's endpoint, one after the
//! other, and notes what it was told.

use holdfast_workload::{Found, History, Outcome, Write};

use crate::calibration as cal;
use crate::draw::At;
use crate::sim::Event;
use crate::wal::Row;
use crate::world::World;

/// All writers, and what they noted.
pub(crate) struct Clients {
    list: Vec<Client>,
    records: Vec<Record>,
    /// They begin nothing more.
    pub(crate) stopped: bool,
}

struct Client {
    worker: usize,
    serial: u32,
    /// Which of its steps is the current one: others are of the past.
    step: u32,
    connection: Option<Connection>,
    connecting: Option<usize>,
    operation: Option<Operation>,
}

#[derive(Clone, Copy)]
struct Connection {
    member: usize,
    postmaster: u32,
}

#[derive(Clone, Copy)]
struct Operation {
    asked: At,
    /// When it stops waiting for a server.
    hold: At,
    /// To whom it was sent.
    sent: Option<usize>,
}

/// A write that is over.
pub(crate) struct Record {
    client: u32,
    serial: u32,
    pub(crate) asked: At,
    pub(crate) ended: At,
    pub(crate) outcome: Outcome,
    pub(crate) server: Option<(usize, u32)>,
    error: Option<&'static str>,
}

impl Clients {
    pub(crate) fn new(workers: usize, each: usize) -> Self {
        let client = |worker| Client {
            worker,
            serial: 0,
            step: 0,
            connection: None,
            connecting: None,
            operation: None,
        };
        let list = (0..workers).flat_map(|worker| (0..each).map(move |_| client(worker)));
        Self {
            list: list.collect(),
            records: Vec::new(),
            stopped: false,
        }
    }

    pub(crate) fn worker(&self, client: usize) -> usize {
        self.list[client].worker
    }

    pub(crate) fn row(&self, client: usize, serial: u32) -> Row {
        (u32::try_from(client).unwrap_or(u32::MAX), serial)
    }

    pub(crate) fn idle(&self) -> bool {
        self.list.iter().all(|client| client.operation.is_none())
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// What they noted, and what was found.
    pub(crate) fn history(&self, found: Option<Vec<Row>>) -> History {
        let mut writes: Vec<Write> = self.records.iter().map(|record| self.write(record)).collect();
        writes.sort_by_key(|write| (write.asked, write.id));
        let found = found.map(|rows| {
            let mut ids: Vec<u64> = rows.into_iter().map(id).collect();
            ids.sort_unstable();
            let mut found: Vec<Found> = Vec::with_capacity(ids.len());
            for id in ids {
                match found.last_mut().filter(|last| last.id == id) {
                    Some(last) => last.times += 1,
                    None => found.push(Found { id, times: 1 }),
                }
            }
            found
        });
        History {
            writes,
            register: Vec::new(),
            found,
        }
    }

    fn write(&self, record: &Record) -> Write {
        let server = |(member, timeline): (usize, u32)| {
            format!("127.50.0.{}:5432 timeline {timeline}", member + 1)
        };
        Write {
            id: id((record.client, record.serial)),
            member: World::name(self.list[record.client as usize].worker),
            asked: World::since_begin(record.asked),
            ended: World::since_begin(record.ended),
            outcome: record.outcome,
            server: record.server.map(server),
            error: record.error.map(str::to_owned),
        }
    }
}

fn id((client, serial): Row) -> u64 {
    u64::from(client) << 32 | u64::from(serial)
}

impl World {
    pub(crate) fn clients_start(&mut self) {
        for client in 0..self.clients.list.len() {
            let wait = self.dice.between(0, self.settings.every);
            self.agenda.after(wait, Event::Client { client, step: 0 });
        }
    }

    pub(crate) fn client_step(&mut self, index: usize, step: u32) {
        let now = self.agenda.now;
        let hold = now + cal::HOLD;
        let client = &mut self.clients.list[index];
        if client.step != step {
            return;
        }
        if client.operation.is_none() {
            if self.clients.stopped {
                return;
            }
            client.serial += 1;
            client.operation = Some(Operation { asked: now, hold, sent: None });
            let serial = client.serial;
            self.agenda.after(self.settings.deadline, Event::Deadline { client: index, serial });
        }
        self.go_on(index);
    }

    /// The next thing that a client's operation needs.
    fn go_on(&mut self, index: usize) {
        let client = &self.clients.list[index];
        let Some(operation) = client.operation.filter(|operation| operation.sent.is_none()) else {
            return;
        };
        let worker = client.worker;
        if !self.hosts[worker].up {
            self.ends(index, Outcome::Failed, Some("connection refused"));
        } else if let Some(connection) = client.connection {
            self.send(index, connection);
        } else if self.hosts[worker].frozen {
            // The kernel took its connection; nobody reads from it.
        } else if let Some(member) = client.connecting {
            self.connected(index, member);
        } else if let Some(member) = self.endpoints[worker].led {
            self.clients.list[index].connecting = Some(member);
            let wait = cal::CONNECT.draw(&mut self.dice) + 4 * self.way(worker, member);
            self.next_step(index, wait);
        } else if self.agenda.now >= operation.hold {
            self.ends(index, Outcome::Failed, Some("no server"));
        } else {
            self.next_step(index, operation.hold - self.agenda.now);
        }
    }

    fn next_step(&mut self, client: usize, wait: At) {
        self.clients.list[client].step += 1;
        let step = self.clients.list[client].step;
        self.agenda.after(wait, Event::Client { client, step });
    }

    fn connected(&mut self, index: usize, member: usize) {
        let worker = self.clients.list[index].worker;
        if !self.reach(worker, member) || self.hosts[member].frozen {
            return; // until its deadline, or until the endpoint leads elsewhere
        }
        self.clients.list[index].connecting = None;
        if !self.pg[member].accepts() {
            self.ends(index, Outcome::Failed, Some("the database system is not accepting connections"));
            return;
        }
        let postmaster = self.pg[member].postmaster;
        self.clients.list[index].connection = Some(Connection { member, postmaster });
        self.go_on(index);
    }

    fn send(&mut self, index: usize, connection: Connection) {
        let Connection { member, postmaster } = connection;
        let client = &mut self.clients.list[index];
        let (worker, serial) = (client.worker, client.serial);
        if let Some(operation) = &mut client.operation {
            operation.sent = Some(member);
        }
        let statement = Event::Statement { client: index, serial, member, postmaster };
        if self.hosts[worker].frozen {
            self.agenda.hold(worker, statement);
        } else if self.reach(worker, member) {
            let wait = cal::SQL_WAY.draw(&mut self.dice) + self.way(worker, member);
            self.agenda.after(wait, statement);
        }
    }

    /// A commit is on its way to the client.
    pub(crate) fn answer(&mut self, client: usize, serial: u32, member: usize) {
        let worker = self.clients.list[client].worker;
        if self.reach(member, worker) {
            let timeline = self.wal.timeline(self.pg[member].branch);
            let wait = self.way(member, worker);
            self.agenda.after(wait, Event::Answer { client, serial, timeline });
        }
    }

    pub(crate) fn answered(&mut self, index: usize, serial: u32, timeline: u32) {
        let client = &self.clients.list[index];
        let operation = client.operation.filter(|_| client.serial == serial);
        let (Some(operation), true) = (operation, client.connection.is_some()) else {
            return; // it gave up
        };
        let server = operation.sent.map(|member| (member, timeline));
        self.record(index, Outcome::Acknowledged, server, None);
        if let Some((member, _)) = server {
            self.acknowledged(member, operation.asked);
        }
        let wait = (operation.asked + self.settings.every).saturating_sub(self.agenda.now);
        self.next_step(index, wait);
        self.agenda.poke_if(self.seen.watches_writes);
    }

    /// The server says that it did not happen.
    pub(crate) fn refused(&mut self, index: usize, serial: u32, why: &'static str) {
        if self.clients.list[index].serial == serial && self.clients.list[index].operation.is_some() {
            self.ends(index, Outcome::Failed, Some(why));
        }
    }

    pub(crate) fn deadline(&mut self, index: usize, serial: u32) {
        let client = &mut self.clients.list[index];
        let operation = client.operation.filter(|_| client.serial == serial);
        let Some(operation) = operation else { return };
        client.connection = None;
        match operation.sent {
            Some(_) => self.ends(index, Outcome::Unknown, Some("no answer in time")),
            None => self.ends(index, Outcome::Failed, Some("no connection in time")),
        }
    }

    /// An operation is over, and not as it should be.
    fn ends(&mut self, index: usize, outcome: Outcome, error: Option<&'static str>) {
        let Some(operation) = self.clients.list[index].operation else {
            return;
        };
        self.record(index, outcome, None, error);
        let due = operation.asked + self.settings.every;
        let wait = due.saturating_sub(self.agenda.now).max(cal::CLIENT_AGAIN);
        self.next_step(index, wait);
    }

    fn record(
        &mut self,
        index: usize,
        outcome: Outcome,
        server: Option<(usize, u32)>,
        error: Option<&'static str>,
    ) {
        let client = &mut self.clients.list[index];
        client.connecting = None;
        let Some(operation) = client.operation.take() else {
            return;
        };
        self.clients.records.push(Record {
            client: u32::try_from(index).unwrap_or(u32::MAX),
            serial: client.serial,
            asked: operation.asked,
            ended: self.agenda.now,
            outcome,
            server,
            error,
        });
    }

    /// A connection is gone, and its client knows.
    fn broken(&mut self, index: usize, why: &'static str) {
        let client = &mut self.clients.list[index];
        client.connection = None;
        if client.operation.is_some_and(|operation| operation.sent.is_some()) {
            self.ends(index, Outcome::Unknown, Some(why));
        }
    }

    /// PostgreSQL has closed all connections.
    pub(crate) fn server_closed(&mut self, member: usize, why: &'static str) {
        for index in 0..self.clients.list.len() {
            let client = &self.clients.list[index];
            let there = client.connection.is_some_and(|connection| connection.member == member);
            if there && self.reach(member, client.worker) {
                self.broken(index, why);
            }
        }
    }

    /// An endpoint leads elsewhere: sessions to others end, and who waits goes on.
    pub(crate) fn endpoint_moved(&mut self, endpoint: usize, before: Option<usize>) {
        let led = self.endpoints[endpoint].led;
        for index in 0..self.clients.list.len() {
            let client = &mut self.clients.list[index];
            if client.worker != endpoint {
                continue;
            }
            if client.connection.is_some_and(|connection| Some(connection.member) != led) {
                self.broken(index, "the endpoint closed the connection");
            } else if client.connection.is_none() && client.connecting.is_none_or(|m| Some(m) == before) {
                client.connecting = None;
                self.go_on(index);
            }
        }
    }

    /// The worker's endpoints are gone, and with them their connections.
    pub(crate) fn endpoint_dies(&mut self, endpoint: usize) {
        self.endpoints[endpoint].led = None;
        for index in 0..self.clients.list.len() {
            if self.clients.list[index].worker == endpoint {
                self.broken(index, "connection reset by peer");
            }
        }
    }
}
