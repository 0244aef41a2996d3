//! Streaming replication.
//!
//! WAL in flight is not an event of its own: a [`Flight`] knows when it will be on the standby's
//! disk and when the primary will have heard of it, and [`World::settle`] looks what of that is
//! past. A blow settles first, and drops the rest.

use std::collections::VecDeque;

use super::State;
use crate::calibration as cal;
use crate::draw::At;
use crate::kv::Set;
use crate::sim::Event;
use crate::world::World;

/// How a standby stands to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Streaming,
    /// It does not stream, and the leader's timeline is later.
    BehindTimeline,
    Waiting,
}

/// A connection from a walreceiver to a walsender.
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) from: usize,
    senders: u32,
    flights: VecDeque<Flight>,
    /// Up to where the upstream knows that it is on disk.
    pub(crate) confirmed: u64,
}

#[derive(Clone, Copy)]
struct Flight {
    sent: At,
    flushed: At,
    heard: At,
    lsn: u64,
}

impl World {
    /// Who streams from a member.
    pub(crate) fn followers(&self, member: usize) -> impl Iterator<Item = usize> + use<'_> {
        let all = 0..self.pg.len();
        all.filter(move |follower| self.streams_from(*follower) == Some(member))
    }

    /// Whom a member streams from, if that one's walsender is still there.
    pub(crate) fn streams_from(&self, member: usize) -> Option<usize> {
        let stream = self.pg[member].stream.as_ref()?;
        let there = self.pg[stream.from].senders == stream.senders;
        there.then_some(stream.from)
    }

    /// What was in flight and has arrived by now.
    pub(crate) fn settle(&mut self, member: usize) {
        let now = self.agenda.now;
        let pg = &mut self.pg[member];
        let Some(stream) = &mut pg.stream else {
            return;
        };
        for flight in &stream.flights {
            if flight.flushed > now {
                break;
            }
            pg.lsn = pg.lsn.max(flight.lsn);
        }
        while stream
            .flights
            .front()
            .is_some_and(|flight| flight.heard <= now)
        {
            if let Some(flight) = stream.flights.pop_front() {
                stream.confirmed = flight.lsn;
            }
        }
    }

    /// Sends up to `lsn`, which is on the sender's disk at `sent`; when the sender will have heard
    /// that it is on the standby's. `None` while nothing passes.
    pub(crate) fn ship(&mut self, member: usize, sent: At, lsn: u64) -> Option<At> {
        self.settle(member);
        let from = self.streams_from(member)?;
        if !self.reach(from, member) || self.still(member) {
            return None;
        }
        let arrived = sent.max(self.pg[from].padded_until) + self.way(from, member);
        let stalled = self.pg[member].stalled_until;
        let flushed = arrived.max(stalled) + cal::FLUSH.draw(&mut self.dice);
        let heard = flushed + self.way(member, from);
        let stream = self.pg[member].stream.as_mut()?;
        let last = stream.flights.back();
        let flushed = flushed.max(last.map_or(0, |flight| flight.flushed));
        let heard = heard.max(last.map_or(0, |flight| flight.heard));
        stream.flights.push_back(Flight {
            sent,
            flushed,
            heard,
            lsn,
        });
        Some(heard)
    }

    /// Sends what a standby lacks: at the beginning, or after nothing passed for a while.
    pub(crate) fn catch_up(&mut self, member: usize) {
        let Some(from) = self.streams_from(member) else {
            return;
        };
        let target = self.pg[from].lsn;
        let lag = target.saturating_sub(self.pg[member].lsn);
        let sent = self.agenda.now + lag * 1_000_000 / self.bytes_per_s(from, member);
        if let Some(heard) = self.ship(member, sent, target) {
            self.agenda.at(heard, Event::Release { member: from });
        }
    }

    /// The walreceiver has ended: what was not on disk by now is lost to it.
    pub(crate) fn stream_ends(&mut self, member: usize) {
        self.settle(member);
        if self.pg[member].stream.take().is_some() {
            self.agenda.poke();
        }
    }

    /// The walsender has ended: what it had handed to its kernel still arrives, if the line carries.
    pub(crate) fn sender_dies(&mut self, member: usize) {
        let now = self.agenda.now;
        let followers: Vec<usize> = self.followers(member).collect();
        for follower in followers {
            self.settle(follower);
            if self.reach(member, follower) {
                let pg = &mut self.pg[follower];
                let flights = pg.stream.iter().flat_map(|stream| &stream.flights);
                let sent = flights
                    .filter(|flight| flight.sent <= now)
                    .map(|flight| flight.lsn);
                pg.lsn = sent.max().unwrap_or(0).max(pg.lsn);
                self.pg[follower].stream = None;
                self.receive_later(follower);
            } else {
                self.drop_flights(follower);
            }
        }
    }

    /// Nothing that is under way arrives: the line is cut.
    pub(crate) fn drop_flights(&mut self, member: usize) {
        self.settle(member);
        if let Some(stream) = &mut self.pg[member].stream {
            stream.flights.clear();
            let (id, wait) = (stream.id, self.silence_patience());
            let event = Event::ReplicationPatience { member, stream: id };
            self.agenda.after(wait, event);
        }
    }

    /// The sender stands still: what it had not handed to its kernel waits with it.
    pub(crate) fn drop_unsent(&mut self, member: usize) {
        self.settle(member);
        let now = self.agenda.now;
        if let Some(stream) = &mut self.pg[member].stream {
            stream.flights.retain(|flight| flight.sent <= now);
        }
    }

    pub(crate) fn silence_patience(&self) -> At {
        match self.settings.transport {
            holdfast_plan::drill::Transport::Mesh => cal::LINK_GRACE_MESH,
            holdfast_plan::drill::Transport::Loopback => cal::REPLICATION_PATIENCE,
        }
    }

    pub(crate) fn replication_patience(&mut self, member: usize, id: u32) {
        let Some(stream) = self.pg[member]
            .stream
            .as_ref()
            .filter(|stream| stream.id == id)
        else {
            return;
        };
        let from = stream.from;
        let silent = !self.reach(from, member)
            || self.still(member)
            || self.still(from)
            || self.streams_from(member).is_none();
        if silent {
            self.stream_ends(member);
            self.receive_later(member);
        }
    }

    /// The standby's settings name another upstream; its walreceiver goes there.
    pub(crate) fn pg_follow(&mut self, member: usize, upstream: Option<usize>) {
        if self.pg[member].upstream == upstream {
            return;
        }
        self.stream_ends(member);
        self.pg[member].upstream = upstream;
        self.receive_soon(member);
    }

    pub(crate) fn receive_soon(&mut self, member: usize) {
        let wait = cal::WALRECEIVER_START.draw(&mut self.dice);
        self.receive_after(member, wait);
    }

    fn receive_later(&mut self, member: usize) {
        self.receive_after(member, cal::WALRECEIVER_AGAIN);
    }

    fn receive_after(&mut self, member: usize, wait: At) {
        self.pg[member].attempt += 1;
        let attempt = self.pg[member].attempt;
        if self.pg[member].upstream.is_some() {
            self.agenda.after(wait, Event::Receive { member, attempt });
        }
    }

    /// Those whose walsender changed its timeline ask for the next at once.
    pub(crate) fn followers_retry(&mut self, member: usize) {
        let waits = |pg: &super::Pg| {
            pg.state == State::Standby && pg.upstream == Some(member) && pg.stream.is_none()
        };
        let all = (0..self.pg.len()).filter(|index| waits(&self.pg[*index]));
        for follower in all.collect::<Vec<_>>() {
            if self.pg[member].primary() && self.pg[follower].branch != self.pg[member].branch {
                self.receive_soon(follower);
            }
        }
    }

    pub(crate) fn receive(&mut self, member: usize, attempt: u32) {
        let pg = &self.pg[member];
        if pg.attempt != attempt || pg.state != State::Standby || pg.stream.is_some() {
            return;
        }
        let Some(from) = pg.upstream else { return };
        if !self.can_stream(member, from) {
            self.receive_later(member);
            return;
        }
        let (branch, lsn) = (self.pg[from].branch, self.pg[member].lsn);
        self.pg[member].branch = branch;
        self.streams += 1;
        self.pg[member].stream = Some(Stream {
            id: self.streams,
            from,
            senders: self.pg[from].senders,
            flights: VecDeque::new(),
            confirmed: lsn,
        });
        self.catch_up(member);
        self.streaming(member, from);
        self.agenda.poke();
    }

    fn can_stream(&self, member: usize, from: usize) -> bool {
        let (ours, theirs) = (&self.pg[member], &self.pg[from]);
        self.reach(from, member)
            && !self.still(from)
            && theirs.accepts()
            && ours.lsn <= theirs.lsn
            && ours.lsn <= self.wal.agree(ours.branch, theirs.branch)
    }

    pub(crate) fn standing(&self, member: usize, leader: usize) -> Standing {
        let timeline = |member: usize| self.wal.timeline(self.pg[member].branch);
        if self.streams_from(member) == Some(leader) {
            Standing::Streaming
        } else if timeline(member) <= timeline(leader)
            && self.pg[member].branch != self.pg[leader].branch
            || self.pg[member].lsn
                > self
                    .wal
                    .agree(self.pg[member].branch, self.pg[leader].branch)
        {
            Standing::BehindTimeline
        } else {
            Standing::Waiting
        }
    }

    /// Writes a little, so that standbys have something to confirm.
    pub(crate) fn pg_nudge(&mut self, member: usize) {
        self.pg[member].lsn += super::CHECKPOINT_BYTES;
        let followers: Vec<usize> = self.followers(member).collect();
        for follower in followers {
            self.catch_up(follower);
        }
    }

    /// `pg_stat_replication`: who streams from a member.
    pub(crate) fn replicating(&self, member: usize) -> Set {
        self.followers(member)
            .fold(0, |set, follower| set | crate::kv::bit(follower))
    }
}
