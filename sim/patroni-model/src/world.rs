//! Everything of a round that is not a task: hosts, servers, the KV, endpoints, clients, and what
//! an observer notes.

use std::time::Duration;

use holdfast_plan::drill::{Blow, Mark, Point, Rejoin, Transport};

use crate::calibration as cal;
use crate::clients::Clients;
use crate::draw::{At, Dice};
use crate::endpoints::Endpoint;
use crate::kv::Kv;
use crate::patroni::Face;
use crate::pg::Pg;
use crate::settings::{Line, Settings};
use crate::sim::{Agenda, Event};
use crate::wal::Wal;

/// When a round begins: what happened before it has times too.
pub(crate) const BEGIN: At = 1_000_000_000;

/// A worker.
pub(crate) struct Host {
    /// Everything stands still.
    pub(crate) frozen: bool,
    /// Patroni and PostgreSQL do.
    pub(crate) database_frozen: bool,
    /// Its line carries something.
    pub(crate) line: bool,
    /// Since when the mesh hears nothing of it.
    pub(crate) dark: Option<At>,
    /// Its sidecar runs, and with it the mesh and the endpoints.
    pub(crate) up: bool,
    /// Its Consul agent runs.
    pub(crate) agent: bool,
    /// When it last thawed.
    pub(crate) thawed: At,
    /// Its agent's questions are answered from then on.
    pub(crate) kv_from: At,
    pub(crate) shape: Line,
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) agenda: Agenda,
    pub(crate) dice: Dice,
    pub(crate) hosts: Vec<Host>,
    pub(crate) kv: Kv,
    pub(crate) wal: Wal,
    pub(crate) pg: Vec<Pg>,
    /// Streams that ever were, so that each has a number.
    pub(crate) streams: u32,
    pub(crate) patroni: Vec<Face>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) clients: Clients,
    pub(crate) seen: Seen,
}

/// What the observer notes.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) fault: Option<At>,
    pub(crate) leader: usize,
    pub(crate) struck: Vec<usize>,
    pub(crate) marks: Vec<(At, Mark)>,
    pub(crate) rejoins: Vec<(usize, Rejoin)>,
    pub(crate) notes: Vec<String>,
    /// What must not happen whatever the blow.
    pub(crate) crashes: Vec<String>,
    /// Who took the leader's key, and when.
    pub(crate) takers: Vec<(At, usize)>,
    /// When the leader last renewed its key.
    pub(crate) renewed: Option<At>,
    /// A task waits for an acknowledged write.
    pub(crate) watches_writes: bool,
    /// The blow is over once somebody else leads.
    pub(crate) moves: bool,
    /// When the first write after the blow was acknowledged by somebody who is not cut off.
    pub(crate) first_acknowledged: Option<At>,
    pub(crate) phase: u32,
    pub(crate) cut_short: bool,
    /// Waits for standbys are cancelled.
    pub(crate) cancelling: bool,
}

impl World {
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        let members = settings.members;
        let host = || Host {
            frozen: false,
            database_frozen: false,
            line: true,
            dark: None,
            up: true,
            agent: true,
            thawed: 0,
            kv_from: 0,
            shape: settings.line,
        };
        let mut agenda = Agenda::default();
        agenda.now = BEGIN;
        Self {
            agenda,
            dice: Dice::new(seed),
            hosts: (0..members).map(|_| host()).collect(),
            kv: Kv::new(settings.kv_servers, members),
            wal: Wal::new(),
            pg: (0..members).map(|_| Pg::new()).collect(),
            streams: 0,
            patroni: (0..members).map(|_| Face::default()).collect(),
            endpoints: (0..members).map(|_| Endpoint::new(members)).collect(),
            clients: Clients::new(members, settings.writers, settings.every),
            seen: Seen::default(),
            settings,
        }
    }

    pub(crate) fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(_) => {}
            Event::Poke => self.agenda.poke(),
            Event::SessionEnds { session, renewal } => self.session_ends(session, renewal),
            Event::Elected { term } => self.kv_elected(term),
            Event::Started { member, postmaster } => self.pg_started(member, postmaster),
            Event::Promoted { member, postmaster } => self.pg_promoted(member, postmaster),
            Event::Receive { member, attempt } => self.receive(member, attempt),
            Event::ReplicationPatience { member, stream } => {
                self.replication_patience(member, stream)
            }
            Event::Release { member } => self.release(member),
            Event::Check { endpoint, member } => self.check(endpoint, member),
            Event::Checked {
                endpoint,
                member,
                leads,
            } => self.checked(endpoint, member, leads),
            Event::Client { client, step } => self.client_step(client, step),
            Event::Deadline { client, serial } => self.deadline(client, serial),
            Event::Statement {
                client,
                serial,
                member,
                postmaster,
            } => {
                self.statement(client, serial, member, postmaster);
            }
            Event::Commit {
                client,
                serial,
                member,
                postmaster,
                lsn,
            } => {
                self.commit(client, serial, member, postmaster, lsn);
            }
            Event::Answer { client, serial } => self.answered(client, serial),
        }
    }

    /// Whose thaw an event has to wait for. What the wire does goes on meanwhile.
    pub(crate) fn frozen_owner(&self, event: Event) -> Option<usize> {
        let member = match event {
            Event::Started { member, .. }
            | Event::Promoted { member, .. }
            | Event::Receive { member, .. }
            | Event::Release { member }
            | Event::Statement { member, .. }
            | Event::Commit { member, .. } => member,
            Event::Check { endpoint, .. } | Event::Checked { endpoint, .. } => endpoint,
            Event::Answer { client, .. } => self.clients.worker(client),
            Event::Wake(_)
            | Event::Poke
            | Event::SessionEnds { .. }
            | Event::Elected { .. }
            | Event::ReplicationPatience { .. }
            | Event::Client { .. }
            | Event::Deadline { .. } => return None,
        };
        let still = match event {
            Event::Check { .. } | Event::Checked { .. } | Event::Answer { .. } => {
                self.hosts[member].frozen
            }
            _ => self.still(member),
        };
        still.then_some(member)
    }

    /// Whether a member's Patroni and PostgreSQL stand still.
    pub(crate) fn still(&self, member: usize) -> bool {
        self.hosts[member].frozen || self.hosts[member].database_frozen
    }

    /// Whether a packet passes between two workers.
    pub(crate) fn reach(&self, one: usize, other: usize) -> bool {
        one == other || self.hosts[one].line && self.hosts[other].line
    }

    /// The mesh hears nothing of a worker, or something again: its line and its sidecar say which.
    pub(crate) fn mesh_looks(&mut self, member: usize) {
        let host = &mut self.hosts[member];
        if host.line && host.up && !host.frozen {
            host.dark = None;
        } else if host.dark.is_none() {
            host.dark = Some(self.agenda.now);
            self.agenda.after(cal::LINK_GRACE_MESH, Event::Poke);
        }
    }

    /// Connections between two workers are refused at once: their link was dark for long.
    pub(crate) fn refuses(&self, one: usize, other: usize) -> bool {
        let gone = |member: usize| {
            let dark = self.hosts[member].dark;
            dark.is_some_and(|since| self.agenda.now >= since + cal::LINK_GRACE_MESH)
        };
        self.settings.transport == Transport::Mesh && one != other && (gone(one) || gone(other))
    }

    /// One way between two workers.
    pub(crate) fn way(&mut self, one: usize, other: usize) -> At {
        if one == other {
            return cal::SQL_WAY.draw(&mut self.dice);
        }
        let base = match self.settings.transport {
            Transport::Mesh => cal::WAY_MESH,
            Transport::Loopback => cal::WAY_LOOPBACK,
        };
        let way = base.draw(&mut self.dice) + self.over_line(one) + self.over_line(other);
        way + self.queue_of(one)
    }

    /// One way to the KV's servers, or from them.
    pub(crate) fn way_to_kv(&mut self, member: usize) -> At {
        let way = cal::KV_ANSWER.draw(&mut self.dice) / 2 + self.over_line(member);
        way + self.queue_of(member)
    }

    /// How long a packet waits that a worker sends while another copies from it: the first of two
    /// lines of one rate has the queue.
    fn queue_of(&self, member: usize) -> At {
        let line = self.hosts[member].shape;
        let leads = self.kv.keys.leader.is_some_and(|key| key.who == member);
        let sends = leads && self.patroni.iter().any(|face| face.copying);
        match sends {
            true => line.queue.min(cal::BULK_QUEUE),
            false => 0,
        }
    }

    fn over_line(&mut self, member: usize) -> At {
        let line = self.hosts[member].shape;
        let mut wait = line.delay;
        if line.jitter > 0 {
            wait = (wait + self.dice.between(0, 2 * line.jitter)).saturating_sub(line.jitter);
        }
        if line.loss.num() > 0 {
            while self.dice.hits(line.loss) && wait < cal::REST_PATIENCE * 4 {
                wait += 3 * line.delay + cal::RESEND.draw(&mut self.dice);
            }
        }
        wait
    }

    /// What a bulk transfer between two workers makes in a second, bytes.
    pub(crate) fn bytes_per_s(&self, one: usize, other: usize) -> u64 {
        let most = match self.settings.transport {
            Transport::Mesh => cal::BACKUP_MESH_BYTES_PER_S,
            Transport::Loopback => cal::BACKUP_LOOPBACK_BYTES_PER_S,
        };
        let lines = [one, other].map(|member| self.hosts[member].shape.bytes_per_s);
        let lines = lines
            .into_iter()
            .flatten()
            .map(|rate| rate * cal::LINE_GOODPUT_PERCENT / 100);
        lines.min().unwrap_or(most).min(most).max(1)
    }

    /// A base backup begins and ends with a new segment of WAL. What was left of the old one is sent
    /// as zeros, to the standby and to the copy, and what is written next waits behind it: until
    /// when.
    pub(crate) fn switch_segment(&mut self, leader: usize, standby: usize, left: u64) -> At {
        let takes = 2 * left * 1_000_000 / self.bytes_per_s(leader, standby);
        let until = &mut self.pg[leader].padded_until;
        *until = (*until).max(self.agenda.now + takes);
        takes
    }

    pub(crate) fn name(member: usize) -> String {
        format!("worker-{}", member + 1)
    }

    /// Since the round began.
    pub(crate) fn since_begin(at: At) -> Duration {
        Duration::from_micros(at.saturating_sub(BEGIN))
    }

    /// Notes a moment, the first time that it comes after the blow.
    pub(crate) fn mark(&mut self, point: Point, member: Option<usize>, source: &str) {
        let told = self.seen.marks.iter().any(|(_, mark)| mark.point == point);
        if self.seen.fault.is_none() || told {
            return;
        }
        let mark = Mark {
            at: Self::since_begin(self.agenda.now),
            point,
            member: member.map(Self::name),
            source: source.to_owned(),
        };
        self.seen.marks.push((self.agenda.now, mark));
    }

    pub(crate) fn note(&mut self, note: String) {
        self.seen.notes.push(note);
    }

    /// A client was answered by a member.
    pub(crate) fn acknowledged(&mut self, member: usize, asked: At) {
        let Some(fault) = self
            .seen
            .fault
            .filter(|_| self.seen.first_acknowledged.is_none())
        else {
            return;
        };
        let elsewhere = !self.seen.moves || member != self.seen.leader;
        if asked >= fault && self.hosts[member].line && elsewhere {
            self.seen.first_acknowledged = Some(self.agenda.now);
            self.mark(Point::FirstAcknowledged, Some(member), "a client");
        }
    }

    pub(crate) fn key_free(&mut self, who: usize, source: &str) {
        self.mark(Point::KeyFree, Some(who), &format!("the KV: {source}"));
    }

    pub(crate) fn key_taken(&mut self, who: usize) {
        self.seen.takers.push((self.agenda.now, who));
        self.mark(Point::KeyTaken, Some(who), "the KV");
    }

    pub(crate) fn promoted(&mut self, member: usize) {
        self.mark(Point::Promoted, Some(member), "PostgreSQL's log");
    }

    /// A standby has begun to stream.
    pub(crate) fn streaming(&mut self, member: usize, from: usize) {
        let rejoins = &self.seen.rejoins;
        if !self.seen.struck.contains(&member) || rejoins.iter().any(|(who, _)| *who == member) {
            return;
        }
        let pg = &self.pg[member];
        let rejoin = match (pg.copied, pg.rewound) {
            (true, _) => Rejoin::Copy,
            (false, true) => Rejoin::Rewind,
            (false, false) => Rejoin::Replay,
        };
        self.seen.rejoins.push((member, rejoin));
        let is_wiped = matches!(self.settings.blow, Blow::Wipe { .. });
        if (member == self.seen.leader || is_wiped) && self.pg[from].primary() {
            self.mark(Point::OldBack, Some(member), "pg_stat_replication");
        }
    }
}
