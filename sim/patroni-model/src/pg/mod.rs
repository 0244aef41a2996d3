//! PostgreSQL: its states, and how it comes and goes.
//!
//! [`stream`] is replication, [`commit`] is what a statement waits for.

pub(crate) mod commit;
pub(crate) mod stream;

use crate::calibration as cal;
use crate::draw::At;
use crate::kv::Set;
use crate::sim::Event;
use crate::world::World;

/// What the end of recovery and a shutdown write, bytes (a checkpoint's record).
pub(crate) const CHECKPOINT_BYTES: u64 = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Down,
    /// Takes no connections yet.
    Starting {
        primary: bool,
    },
    Standby,
    /// Told to leave recovery.
    Promoting,
    Primary,
    /// Takes no connections any more.
    Stopping,
}

/// What `pg_control` says of the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    InProduction,
    InRecovery,
    ShutDown,
}

/// `synchronous_standby_names`: any `count` of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) count: usize,
    pub(crate) set: Set,
}

/// A server and its data directory.
pub(crate) struct Pg {
    pub(crate) state: State,
    /// Which postmaster this is; clients of another have lost their connection.
    pub(crate) postmaster: u32,
    /// Which walsenders these are; standbys of others have.
    pub(crate) senders: u32,
    pub(crate) branch: usize,
    /// The end of its WAL that is on disk.
    pub(crate) lsn: u64,
    pub(crate) control: Control,
    /// Without a data directory.
    pub(crate) empty: bool,
    /// `primary_conninfo`.
    pub(crate) upstream: Option<usize>,
    pub(crate) stream: Option<stream::Stream>,
    pub(crate) attempt: u32,
    pub(crate) names: Option<Names>,
    pub(crate) stuck: Vec<commit::Stuck>,
    /// The disk takes nothing until then.
    pub(crate) stalled_until: At,
    /// What it writes now reaches standbys after the zeros that it filled a segment of WAL with.
    pub(crate) padded_until: At,
    /// Whether `pg_control` has the timeline of the last promotion.
    pub(crate) checkpointed: bool,
    /// How it got what it has, since it was struck.
    pub(crate) rewound: bool,
    pub(crate) copied: bool,
}

impl Pg {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Standby,
            postmaster: 1,
            senders: 1,
            branch: 0,
            lsn: 0x0300_0000, // where a fresh cluster is after its backups
            control: Control::InRecovery,
            empty: false,
            upstream: None,
            stream: None,
            attempt: 0,
            names: None,
            stuck: Vec::new(),
            stalled_until: 0,
            padded_until: 0,
            checkpointed: true,
            rewound: false,
            copied: false,
        }
    }

    /// There is a postmaster.
    pub(crate) fn runs(&self) -> bool {
        self.state != State::Down
    }

    /// A client can connect.
    pub(crate) fn accepts(&self) -> bool {
        matches!(
            self.state,
            State::Standby | State::Promoting | State::Primary
        )
    }

    /// `pg_is_in_recovery()` is false.
    pub(crate) fn primary(&self) -> bool {
        self.state == State::Primary
    }
}

impl World {
    /// Starts a postmaster; it replays what a crash left first.
    pub(crate) fn pg_start(&mut self, member: usize, primary: bool, upstream: Option<usize>) {
        let spread = cal::of(self.settings.transport, cal::POSTGRES_START);
        let wait = spread.draw(&mut self.dice);
        self.pg_start_within(member, primary, upstream, wait);
    }

    /// The same, and how long it takes without what a crash left.
    pub(crate) fn pg_start_within(
        &mut self,
        member: usize,
        primary: bool,
        upstream: Option<usize>,
        mut wait: At,
    ) {
        let unclean = self.pg[member].control == Control::InProduction;
        if unclean {
            wait += cal::CRASH_REPLAY.draw(&mut self.dice);
        }
        let pg = &mut self.pg[member];
        pg.state = State::Starting { primary };
        pg.postmaster += 1;
        pg.upstream = upstream;
        let postmaster = pg.postmaster;
        self.agenda
            .after(wait, Event::Started { member, postmaster });
    }

    pub(crate) fn pg_started(&mut self, member: usize, postmaster: u32) {
        let pg = &mut self.pg[member];
        let State::Starting { primary } = pg.state else {
            return;
        };
        if pg.postmaster != postmaster {
            return;
        }
        if primary {
            pg.state = State::Primary;
            pg.control = Control::InProduction;
        } else {
            pg.state = State::Standby;
            pg.control = Control::InRecovery;
            self.receive_soon(member);
        }
        self.followers_retry(member);
        self.agenda.poke();
    }

    /// The postmaster and all of its processes are gone; what `pg_control` says stays.
    pub(crate) fn pg_dies(&mut self, member: usize) {
        if !self.pg[member].runs() {
            return;
        }
        self.stream_ends(member);
        self.pg[member].state = State::Down;
        self.pg[member].postmaster += 1;
        self.pg[member].stuck.clear();
        self.pg[member].stalled_until = 0;
        self.sender_dies(member);
        self.pg[member].senders += 1;
        self.server_closed(member, "server closed the connection unexpectedly");
        self.agenda.poke();
    }

    /// Sessions end, and nobody gets a new one; the walsenders go on.
    pub(crate) fn pg_stopping(&mut self, member: usize) {
        self.pg[member].state = State::Stopping;
        self.pg[member].postmaster += 1;
        self.pg[member].stuck.clear();
        self.server_closed(
            member,
            "terminating connection due to administrator command",
        );
    }

    /// The shutdown checkpoint, which the walsenders still send.
    pub(crate) fn pg_shutdown_checkpoint(&mut self, member: usize) {
        self.pg[member].lsn += CHECKPOINT_BYTES;
        let followers: Vec<usize> = self.followers(member).collect();
        for follower in followers {
            self.catch_up(follower);
        }
    }

    /// Everything that it wrote is where it should go, and the postmaster ends.
    pub(crate) fn pg_shut_down(&mut self, member: usize) {
        if self.pg[member].state == State::Stopping {
            self.pg[member].control = Control::ShutDown;
            self.pg_dies(member);
        }
    }

    /// The disk takes no write until then; what was under way waits too.
    pub(crate) fn disk_stalls(&mut self, member: usize, until: At) {
        self.pg[member].stalled_until = until;
        self.drop_flights(member);
        self.catch_up(member);
    }

    /// `pg_ctl promote`.
    pub(crate) fn pg_promote(&mut self, member: usize) {
        if self.pg[member].state != State::Standby {
            return;
        }
        self.stream_ends(member);
        self.pg[member].state = State::Promoting;
        let postmaster = self.pg[member].postmaster;
        let mut wait = cal::PROMOTION.draw(&mut self.dice);
        // Whoever is promoted has lost its upstream: also in a switchover, whose leader stops first.
        if self.dice.hits(cal::PROMOTION_SLEEPS) {
            wait += cal::WALRECEIVER_AGAIN;
        }
        self.agenda
            .after(wait, Event::Promoted { member, postmaster });
    }

    pub(crate) fn pg_promoted(&mut self, member: usize, postmaster: u32) {
        let pg = &mut self.pg[member];
        if pg.state != State::Promoting || pg.postmaster != postmaster {
            return;
        }
        pg.branch = self.wal.fork(pg.branch, pg.lsn);
        pg.lsn += CHECKPOINT_BYTES;
        pg.state = State::Primary;
        pg.control = Control::InProduction;
        pg.upstream = None;
        pg.checkpointed = false;
        self.sender_dies(member);
        self.pg[member].senders += 1;
        self.followers_retry(member);
        self.promoted(member);
        self.agenda.poke();
    }
}
