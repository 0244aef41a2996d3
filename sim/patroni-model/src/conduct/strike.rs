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
        self.mesh_looks(member);
        for stream in streams {
            self.drop_flights(stream);
        }
        self.agenda.poke();
    }

    pub(crate) fn mend(&mut self, member: usize) {
        let dark = self.hosts[member].dark;
        let forgot = dark.is_some_and(|since| self.agenda.now > since + cal::AGENT_FORGETS);
        let knows = self.hosts[member].frozen || !self.hosts[member].agent;
        self.hosts[member].line = true;
        self.mesh_looks(member);
        if forgot && !knows && self.hosts[member].thawed < dark.unwrap_or(0) {
            let wait = cal::AGENT_REJOINS.draw(&mut self.dice);
            self.hosts[member].kv_from = self.agenda.now + wait;
            self.agenda.after(wait, Event::Poke);
        }
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
                let wait = match database {
                    true => cal::REPLICATION_PATIENCE,
                    false => self.silence_patience(),
                };
                self.agenda.after(wait, event);
            }
        }
        let host = &mut self.hosts[member];
        host.frozen |= !database;
        host.database_frozen |= database;
        self.mesh_looks(member);
    }

    pub(crate) fn thaw(&mut self, member: usize) {
        if self.hosts[member].frozen {
            // Its agent thaws too, and finds its connections over.
            let wait = cal::AGENT_THAWS.draw(&mut self.dice);
            self.hosts[member].kv_from = self.agenda.now + wait;
            self.agenda.after(wait, Event::Poke);
        }
        if std::mem::take(&mut self.hosts[member].frozen) {
            self.hosts[member].thawed = self.agenda.now;
        }
        self.hosts[member].database_frozen = false;
        self.mesh_looks(member);
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
        self.mesh_looks(member);
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
    let spread = cal::of(world.settings.transport, cal::PATRONI_START);
    let wait = spread.draw(&mut world.dice);
    world.patroni_starts(&Rc::clone(shared), member, wait);
}

/// The machine boots: Patroni comes last.
pub(crate) fn start_machine(shared: &Shared, member: usize) {
    let mut world = shared.borrow_mut();
    world.mend(member);
    let wait = cal::MACHINE_START.draw(&mut world.dice);
    let booting = Rc::clone(shared);
    let work = async move {
        sleep(&booting, wait).await;
        {
            let mut world = booting.borrow_mut();
            world.hosts[member].up = true;
            world.hosts[member].agent = true;
            world.mesh_looks(member);
            world.endpoint_starts(member);
        }
        start_database(&booting, member);
    };
    world.agenda.spawn(None, 0, Box::pin(work));
}
