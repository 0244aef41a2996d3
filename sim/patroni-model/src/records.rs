//! What clients noted, until it is a history.

use holdfast_workload::{Found, History, Outcome, RegisterOp, Write};

use crate::clients::Statement;
use crate::draw::At;
use crate::wal::Row;
use crate::world::World;

/// Bits of a row's key that count a writer's rows, as the real writers have it.
const ROW_BITS: u32 = 40;

/// Everything that is over.
#[derive(Default)]
pub(crate) struct Records {
    pub(crate) rows: Vec<Record>,
    pub(crate) register: Vec<Record>,
}

/// An operation that is over.
pub(crate) struct Record {
    pub(crate) client: u32,
    pub(crate) worker: usize,
    pub(crate) serial: u32,
    pub(crate) asked: At,
    pub(crate) ended: At,
    pub(crate) outcome: Outcome,
    /// Who took it, and the timeline that it wrote when the client connected.
    pub(crate) server: Option<(usize, Option<u32>)>,
    pub(crate) error: Option<&'static str>,
    pub(crate) statement: Statement,
    pub(crate) read: Option<u64>,
}

impl Record {
    /// By whom, and on which timeline, it was acknowledged.
    pub(crate) fn acknowledged_by(&self) -> Option<(usize, u32)> {
        let (member, timeline) = self
            .server
            .filter(|_| self.outcome == Outcome::Acknowledged)?;
        Some((member, timeline?))
    }

    fn write(&self) -> Write {
        let server = |(member, timeline): (usize, Option<u32>)| match timeline {
            Some(timeline) => format!("127.50.0.{} timeline {timeline}", member + 1),
            None => format!("127.50.0.{} replica", member + 1),
        };
        Write {
            id: id((self.client, self.serial)),
            member: World::name(self.worker),
            asked: World::since_begin(self.asked),
            ended: World::since_begin(self.ended),
            outcome: self.outcome,
            server: self.server.map(server),
            error: self.error.map(str::to_owned),
        }
    }

    fn register_op(&self) -> RegisterOp {
        let acknowledged = self.outcome == Outcome::Acknowledged;
        RegisterOp {
            client: u16::try_from(self.client).unwrap_or(u16::MAX),
            asked: World::since_begin(self.asked),
            ended: World::since_begin(self.ended),
            wrote: match self.statement {
                Statement::Set(value) => Some(value),
                Statement::Row | Statement::Read => None,
            },
            read: self.read.filter(|_| acknowledged),
            outcome: self.outcome,
        }
    }
}

fn id((client, serial): Row) -> u64 {
    u64::from(client) << ROW_BITS | u64::from(serial)
}

impl Records {
    /// With the rows that were found.
    pub(crate) fn history(&self, found: Option<Vec<Row>>) -> History {
        let mut writes: Vec<Write> = self.rows.iter().map(Record::write).collect();
        writes.sort_by_key(|write| (write.asked, write.id));
        let mut register: Vec<RegisterOp> = self.register.iter().map(Record::register_op).collect();
        register.sort_by_key(|operation| (operation.asked, operation.client));
        History {
            writes,
            register,
            found: found.map(counted),
        }
    }
}

fn counted(rows: Vec<Row>) -> Vec<Found> {
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
}
