//! Clients: writers of rows, and users of the register, through their worker's endpoint.
//!
//! Each does one thing after the other, and notes what it was told. A row is a writer's own; the
//! register is everybody's, and a read of it is an update too, so that it waits for standbys.

mod lost;

use crate::calibration as cal;
use crate::draw::At;
use crate::records::{Record, Records};
use crate::sim::Event;
use crate::wal::Row;
use crate::world::World;
use holdfast_workload::Outcome;

/// Values of the register: whose, and its how manieth.
const VALUE_BITS: u32 = 40;
/// The first number of those that use the register; writers have smaller ones.
const REGISTER_FIRST: u32 = 1_000;

/// All clients, and what they noted.
pub(crate) struct Clients {
    list: Vec<Client>,
    pub(crate) records: Records,
    /// They begin nothing more.
    pub(crate) stopped: bool,
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    Row,
    Set(u64),
    Read,
}

struct Client {
    worker: usize,
    /// As others know it.
    number: u32,
    register: bool,
    every: At,
    serial: u32,
    /// Which of its steps is the current one: others are of the past.
    step: u32,
    connection: Option<Connection>,
    connecting: Option<usize>,
    operation: Option<Operation>,
}

/// A session, and what its server said of itself.
#[derive(Clone, Copy)]
struct Connection {
    member: usize,
    postmaster: u32,
    timeline: Option<u32>,
}

#[derive(Clone, Copy)]
struct Operation {
    asked: At,
    /// When it gives up: a connect, or a statement once it was sent.
    due: At,
    /// To whom it was sent.
    sent: Option<(usize, Option<u32>)>,
    read: Option<u64>,
}

impl Clients {
    pub(crate) fn new(workers: usize, writers: usize, every: At) -> Self {
        let client = |worker: usize, number: usize, register: bool| Client {
            worker,
            number: u32::try_from(number).unwrap_or(u32::MAX),
            register,
            every: if register {
                every * cal::REGISTER_PAUSE
            } else {
                every
            },
            serial: 0,
            step: 0,
            connection: None,
            connecting: None,
            operation: None,
        };
        let mut list = Vec::new();
        for worker in 0..workers {
            list.extend(
                (0..writers).map(|writer| client(worker, worker * writers + writer, false)),
            );
            list.push(client(worker, REGISTER_FIRST as usize + worker, true));
        }
        Self {
            list,
            records: Records::default(),
            stopped: false,
        }
    }

    pub(crate) fn worker(&self, client: usize) -> usize {
        self.list[client].worker
    }

    pub(crate) fn row(&self, client: usize, serial: u32) -> Row {
        (self.list[client].number, serial - 1)
    }

    /// What a statement does, also one that comes late: the register is written and read in turn.
    pub(crate) fn statement(&self, client: usize, serial: u32) -> Statement {
        let Client {
            register, number, ..
        } = &self.list[client];
        match (register, serial % 2) {
            (false, _) => Statement::Row,
            (true, 1) => {
                Statement::Set(u64::from(*number) << VALUE_BITS | u64::from(serial.div_ceil(2)))
            }
            (true, _) => Statement::Read,
        }
    }

    pub(crate) fn has_read(&mut self, client: usize, serial: u32, value: Option<u64>) {
        let client = &mut self.list[client];
        if let Some(operation) = client
            .operation
            .as_mut()
            .filter(|_| client.serial == serial)
        {
            operation.read = value.or(Some(0)); // what is there before anybody writes
        }
    }

    pub(crate) fn idle(&self) -> bool {
        self.list.iter().all(|client| client.operation.is_none())
    }
}

impl World {
    pub(crate) fn clients_start(&mut self) {
        for client in 0..self.clients.list.len() {
            let wait = self.dice.between(0, self.clients.list[client].every);
            self.agenda.after(wait, Event::Client { client, step: 0 });
        }
    }

    pub(crate) fn client_step(&mut self, index: usize, step: u32) {
        let now = self.agenda.now;
        let client = &mut self.clients.list[index];
        if client.step != step {
            return;
        }
        if client.operation.is_none() {
            if self.clients.stopped {
                return;
            }
            client.serial += 1;
            client.operation = Some(Operation {
                asked: now,
                due: now + cal::CONNECT_WITHIN,
                sent: None,
                read: None,
            });
            if client.connection.is_none() {
                let serial = client.serial;
                self.agenda.after(
                    cal::CONNECT_WITHIN,
                    Event::Deadline {
                        client: index,
                        serial,
                    },
                );
            }
        }
        self.go_on(index);
    }

    /// The next thing that a client's operation needs.
    fn go_on(&mut self, index: usize) {
        let client = &self.clients.list[index];
        if client
            .operation
            .is_none_or(|operation| operation.sent.is_some())
        {
            return;
        }
        let worker = client.worker;
        if !self.hosts[worker].up {
            self.ends(index, Outcome::Failed, "connection refused");
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
        }
        // Without a server it waits until there is one, or until its time is over: an endpoint
        // holds a connection for longer than a client waits.
    }

    fn next_step(&mut self, client: usize, wait: At) {
        self.clients.list[client].step += 1;
        let step = self.clients.list[client].step;
        self.agenda.after(wait, Event::Client { client, step });
    }

    fn connected(&mut self, index: usize, member: usize) {
        let worker = self.clients.list[index].worker;
        if !self.reach(worker, member) || self.still(member) {
            return; // until its time is over, or the endpoint leads elsewhere
        }
        self.clients.list[index].connecting = None;
        let pg = &self.pg[member];
        if !pg.accepts() {
            self.ends(
                index,
                Outcome::Failed,
                "the database system is not accepting connections",
            );
            return;
        }
        let connection = Connection {
            member,
            postmaster: pg.postmaster,
            timeline: pg.primary().then(|| self.wal.timeline(pg.branch)),
        };
        self.clients.list[index].connection = Some(connection);
        self.go_on(index);
    }

    fn send(&mut self, index: usize, connection: Connection) {
        let Connection {
            member,
            postmaster,
            timeline,
        } = connection;
        let due = self.agenda.now + self.settings.deadline;
        let client = &mut self.clients.list[index];
        let (worker, serial) = (client.worker, client.serial);
        if let Some(operation) = &mut client.operation {
            operation.sent = Some((member, timeline));
            operation.due = due;
        }
        self.agenda.at(
            due,
            Event::Deadline {
                client: index,
                serial,
            },
        );
        let statement = Event::Statement {
            client: index,
            serial,
            member,
            postmaster,
        };
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
            let wait = self.way(member, worker);
            self.agenda.after(wait, Event::Answer { client, serial });
        }
    }

    pub(crate) fn answered(&mut self, index: usize, serial: u32) {
        let client = &self.clients.list[index];
        let operation = client.operation.filter(|_| client.serial == serial);
        let Some((operation, (member, _))) = operation.and_then(|op| Some((op, op.sent?))) else {
            return; // it gave up
        };
        let wait = (operation.asked + client.every).saturating_sub(self.agenda.now);
        let writes = !client.register;
        self.record(index, Outcome::Acknowledged, None);
        if writes {
            self.acknowledged(member, operation.asked);
            self.agenda.poke_if(self.seen.watches_writes);
        }
        self.next_step(index, wait);
    }

    /// The server says that it did not happen.
    pub(crate) fn refused(&mut self, index: usize, serial: u32, why: &'static str) {
        if self.clients.list[index].serial == serial {
            self.ends(index, Outcome::Failed, why);
        }
    }

    /// The server says that it did not wait to the end.
    pub(crate) fn cancelled(&mut self, index: usize, serial: u32) {
        if self.clients.list[index].serial == serial {
            let why =
                "01000 WARNING: canceling wait for synchronous replication due to user request";
            self.ends(index, Outcome::Unknown, why);
        }
    }

    pub(crate) fn deadline(&mut self, index: usize, serial: u32) {
        let client = &mut self.clients.list[index];
        let operation = client.operation.filter(|_| client.serial == serial);
        let Some(operation) = operation.filter(|operation| operation.due <= self.agenda.now) else {
            return;
        };
        client.connection = None;
        match operation.sent {
            Some(_) => self.ends(index, Outcome::Unknown, "no answer in time"),
            None => self.ends(index, Outcome::Failed, "no connection in time"),
        }
    }

    /// An operation is over, and not as it should be.
    fn ends(&mut self, index: usize, outcome: Outcome, error: &'static str) {
        let client = &self.clients.list[index];
        let Some(operation) = client.operation else {
            return;
        };
        let due = (operation.asked + client.every).saturating_sub(self.agenda.now);
        let pause = if client.connection.is_some() {
            0
        } else {
            cal::CLIENT_AGAIN
        };
        self.record(index, outcome, Some(error));
        self.next_step(index, due.max(pause));
    }

    fn record(&mut self, index: usize, outcome: Outcome, error: Option<&'static str>) {
        let serial = self.clients.list[index].serial;
        let statement = self.clients.statement(index, serial);
        let client = &mut self.clients.list[index];
        client.connecting = None;
        let Some(operation) = client.operation.take() else {
            return;
        };
        let record = Record {
            client: client.number,
            worker: client.worker,
            serial: client.serial - 1,
            asked: operation.asked,
            ended: self.agenda.now,
            outcome,
            server: operation.sent,
            error,
            statement,
            read: operation.read,
        };
        match client.register {
            false => self.clients.records.rows.push(record),
            // What was not sent is not noted: nothing happened.
            true if operation.sent.is_some() => self.clients.records.register.push(record),
            true => {}
        }
    }
}
