//! A commit: on the leader's disk, and on those of the standbys that it waits for.

use super::{Names, State};
use crate::calibration as cal;
use crate::clients::Statement;
use crate::draw::At;
use crate::kv::each;
use crate::sim::Event;
use crate::world::World;

/// What an insert of a row and its commit write, bytes.
const ROW_BYTES: u64 = 320;

/// A commit that waits for a standby.
#[derive(Clone, Copy)]
pub(crate) struct Stuck {
    client: usize,
    serial: u32,
    lsn: u64,
}

impl World {
    /// A statement that inserts a row has come.
    pub(crate) fn statement(&mut self, client: usize, serial: u32, member: usize, postmaster: u32) {
        let pg = &mut self.pg[member];
        if pg.postmaster != postmaster {
            self.connection_gone(client, serial);
            return;
        }
        if !pg.primary() {
            self.refused(
                client,
                serial,
                "cannot execute INSERT in a read-only transaction",
            );
            return;
        }
        pg.lsn += ROW_BYTES;
        let (branch, lsn) = (pg.branch, pg.lsn);
        let names = pg.names.filter(|_| self.settings.waits);
        let begin = self.agenda.now.max(pg.stalled_until);
        self.write_wal(client, serial, branch, lsn);
        let flushed = begin + cal::FLUSH.draw(&mut self.dice);
        let mut heard: Vec<At> = Vec::new();
        for follower in 0..self.pg.len() {
            if self.streams_from(follower) != Some(member) {
                continue;
            }
            let at = self.ship(follower, flushed, lsn);
            if names.is_some_and(|names| names.set & crate::kv::bit(follower) != 0) {
                heard.extend(at);
            }
        }
        heard.sort_unstable();
        let wanted = names.map_or(0, |names| names.count);
        let done = match wanted {
            0 => Some(flushed),
            _ => heard.get(wanted - 1).map(|at| flushed.max(*at)),
        };
        match done {
            Some(at) => {
                let event = Event::Commit {
                    client,
                    serial,
                    member,
                    postmaster,
                    lsn,
                };
                self.agenda.at(at, event);
            }
            None => self.pg[member].stuck.push(Stuck {
                client,
                serial,
                lsn,
            }),
        }
    }

    fn write_wal(&mut self, client: usize, serial: u32, branch: usize, lsn: u64) {
        match self.clients.statement(client, serial) {
            Statement::Row => self
                .wal
                .append(branch, lsn, self.clients.row(client, serial)),
            Statement::Set(value) => self.wal.set_register(branch, lsn, value),
            Statement::Read => {
                let value = self.wal.register(branch);
                self.clients.has_read(client, serial, value);
            }
        }
    }

    pub(crate) fn commit(
        &mut self,
        client: usize,
        serial: u32,
        member: usize,
        postmaster: u32,
        lsn: u64,
    ) {
        let pg = &self.pg[member];
        if pg.postmaster != postmaster || pg.state != State::Primary {
            return;
        }
        if !self.confirmed(member, lsn) {
            self.pg[member].stuck.push(Stuck {
                client,
                serial,
                lsn,
            });
            return;
        }
        self.answer(client, serial, member);
        self.release(member);
    }

    /// Commits that are confirmed by now are answered.
    pub(crate) fn release(&mut self, member: usize) {
        self.agenda
            .poke_if(self.pg[member].state == State::Stopping);
        if self.pg[member].stuck.is_empty() || !self.pg[member].primary() {
            return;
        }
        let stuck = std::mem::take(&mut self.pg[member].stuck);
        for commit in stuck {
            if self.confirmed(member, commit.lsn) {
                self.answer(commit.client, commit.serial, member);
            } else {
                self.pg[member].stuck.push(commit);
            }
        }
    }

    /// Commits that wait are told to wait no longer.
    pub(crate) fn cancel_waits(&mut self, member: usize) {
        for commit in std::mem::take(&mut self.pg[member].stuck) {
            self.cancelled(commit.client, commit.serial);
        }
    }

    /// Whether as many standbys as wanted have it on disk, as far as the primary has heard.
    fn confirmed(&mut self, member: usize, lsn: u64) -> bool {
        let names = self.pg[member].names.filter(|_| self.settings.waits);
        let Some(Names { count, set }) = names else {
            return true;
        };
        let mut found = 0;
        for standby in each(set)
            .take_while(|standby| *standby < self.pg.len())
            .collect::<Vec<_>>()
        {
            self.settle(standby);
            let ours = self.streams_from(standby) == Some(member);
            let stream = self.pg[standby].stream.as_ref().filter(|_| ours);
            found += usize::from(stream.is_some_and(|stream| stream.confirmed >= lsn));
        }
        found >= count
    }

    /// `synchronous_standby_names` has another value, once PostgreSQL has read it.
    pub(crate) fn set_names(&mut self, member: usize, names: Option<Names>) {
        self.pg[member].names = names;
        self.agenda.after(0, Event::Release { member });
    }
}
