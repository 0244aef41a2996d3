//! What can be done to a member, and undone.

use std::rc::Rc;

use crate::calibration as cal;
use crate::sim::{Event, Shared, sleep};
use crate::world::World;

impl World {
    /// Streams that end or begin at a member.
    fn streams_at(&self, member: usize) -> Vec<usize> {
        let touches = |other: &usize| *other == member || self.streams_from(*other) == Some(member);
        (0..self.pg.len()).filter(touches).collect()
    }

    /// The line carries nothing any more, and what is on it is lost.
    pub(crate) fn cut(&mut self, member: usize) {
        let streams = self.streams_at(member);
        self.hosts[member].line = false;
        for stream in streams {
            self.drop_flights(stream);
        }
        self.agenda.poke();
    }

    pub(crate) fn mend(&mut self, member: usize) {
        self.hosts[member].line = true;
        for stream in self.streams_at(member) {
            self.catch_up(stream);
        }
        self.agenda.poke();
    }

    /// Every process stands still; the kernel goes on.
    /// Only Patroni and PostgreSQL with `database`.
    pub(crate) fn freeze(&mut self, member: usize, database: bool) {
        for stream in self.streams_at(member) {
            if stream == member {
                self.drop_flights(stream);
            } else {
                self.drop_unsent(stream);
                let id = self.pg[stream]
                    .stream
                    .as_ref()
                    .map_or(0, |stream| stream.id);
                let event = Event::ReplicationPatience {
                    member: stream,
                    stream: id,
                };
                self.agenda.after(cal::REPLICATION_PATIENCE, event);
            }
        }
        let host = &mut self.hosts[member];
        host.frozen |= !database;
        host.database_frozen |= database;
    }

    pub(crate) fn thaw(&mut self, member: usize) {
        if self.hosts[member].frozen {
            // Its agent thaws too, and finds its connections over.
            let wait = cal::AGENT_THAWS.draw(&mut self.dice);
            self.hosts[member].kv_from = self.agenda.now + wait;
            self.agenda.after(wait, Event::Poke);
        }
        self.hosts[member].frozen = false;
        self.hosts[member].database_frozen = false;
        self.agenda.thaw(member);
        self.clients_go_on(member);
        for stream in self.streams_at(member) {
            self.catch_up(stream);
        }
    }

    /// Patroni and PostgreSQL are killed.
    pub(crate) fn kill_database(&mut self, member: usize) {
        self.patroni_dies(member);
        self.pg_dies(member);
    }

    /// Everything on the machine dies, and its line is cut.
    pub(crate) fn kill_machine(&mut self, member: usize) {
        self.cut(member);
        self.kill_database(member);
        self.hosts[member].up = false;
        self.hosts[member].agent = false;
        self.endpoint_dies(member);
    }

    /// The data directory goes with it.
    pub(crate) fn wipe(&mut self, member: usize) {
        self.kill_database(member);
        self.pg[member].empty = true;
    }
}

/// The line carries again, once somebody has noticed.
pub(crate) async fn line_back(shared: &Shared, member: usize) {
    let wait = cal::LINE_BACK.draw(&mut shared.borrow_mut().dice);
    sleep(shared, wait).await;
    shared.borrow_mut().mend(member);
}

/// A member's sidecar starts Patroni again, which starts the rest.
pub(crate) fn start_database(shared: &Shared, member: usize) {
    let mut world = shared.borrow_mut();
    let wait = cal::PATRONI_START.draw(&mut world.dice);
    world.patroni_starts(&Rc::clone(shared), member, wait);
}

/// The machine boots.
pub(crate) fn start_machine(shared: &Shared, member: usize) {
    {
        let mut world = shared.borrow_mut();
        world.mend(member);
        world.hosts[member].up = true;
        world.hosts[member].agent = true;
        world.endpoint_starts(member);
    }
    start_database(shared, member);
}
