//! Consul, as far as Patroni knows it: sessions that expire, keys that they hold, a leader that can
//! be lost.
//!
//! The values are typed instead of JSON, and a session belongs to a member's node.

use std::collections::BTreeMap;

use crate::calibration as cal;
use crate::draw::At;
use crate::sim::Event;
use crate::world::World;

/// Members, as bits.
pub(crate) type Set = u64;

pub(crate) const fn bit(member: usize) -> Set {
    1 << member
}

/// Who is in a set, ascending.
pub(crate) fn each(set: Set) -> impl Iterator<Item = usize> {
    (0..64).filter(move |member| set & bit(*member) != 0)
}

/// `leader`: its value, its session, and its `ModifyIndex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaderKey {
    pub(crate) who: usize,
    pub(crate) session: u32,
    pub(crate) version: u64,
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberData {
    pub(crate) running: bool,
    pub(crate) primary: bool,
    pub(crate) checkpointed: bool,
    pub(crate) nosync: bool,
}

/// `members/<name>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberKey {
    pub(crate) data: MemberData,
    pub(crate) session: u32,
}

/// `sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct SyncKey {
    pub(crate) leader: Option<usize>,
    pub(crate) quorum: u32,
    pub(crate) voters: Set,
    pub(crate) version: u64,
}

impl SyncKey {
    /// Whether the member may be promoted by it: a standby, or with `leader` its leader too.
    pub(crate) fn matches(&self, member: usize, leader: bool) -> bool {
        self.leader.is_some()
            && (self.voters & bit(member) != 0 || leader && self.leader == Some(member))
    }
}

/// `failover`: a switchover that somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failover {
    pub(crate) leader: Option<usize>,
    pub(crate) candidate: Option<usize>,
}

/// All keys of a cluster: what one recursive read returns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) leader: Option<LeaderKey>,
    pub(crate) members: Vec<Option<MemberKey>>,
    pub(crate) sync: SyncKey,
    /// The leader's last position.
    pub(crate) status: u64,
    /// The last timeline in `history`.
    pub(crate) timeline: u32,
    pub(crate) failover: Option<Failover>,
    pub(crate) paused: bool,
}

impl Cluster {
    pub(crate) fn leader_is(&self, member: usize) -> bool {
        self.leader.is_some_and(|leader| leader.who == member)
    }
}

struct Session {
    member: usize,
    renewal: u32,
}

/// The store.
#[derive(Default)]
pub(crate) struct Kv {
    pub(crate) keys: Cluster,
    sessions: BTreeMap<u32, Session>,
    serial: u32,
    index: u64,
    locked_until: At,
    servers: u8,
    servers_all: u8,
    /// Whether it has a leader, and in which term.
    pub(crate) led: bool,
    term: u32,
}

impl Kv {
    pub(crate) fn new(servers: u8, members: usize) -> Self {
        Self {
            keys: Cluster {
                members: vec![None; members],
                timeline: 1,
                ..Cluster::default()
            },
            servers,
            servers_all: servers,
            led: true,
            ..Self::default()
        }
    }

    fn next_index(&mut self) -> u64 {
        self.index += 1;
        self.index
    }

    pub(crate) fn put_sync(&mut self, key: SyncKey, version: u64) -> bool {
        if self.keys.sync.version != version {
            return false;
        }
        let version = self.next_index();
        self.keys.sync = SyncKey { version, ..key };
        true
    }

    pub(crate) fn put_member(&mut self, member: usize, data: MemberData, session: u32) -> bool {
        let valid = self.sessions.contains_key(&session);
        if valid {
            self.keys.members[member] = Some(MemberKey { data, session });
        }
        valid
    }
}

impl World {
    pub(crate) fn session_create(&mut self, member: usize) -> u32 {
        self.kv.serial += 1;
        let id = self.kv.serial;
        self.kv.sessions.insert(id, Session { member, renewal: 0 });
        self.session_renew(id);
        id
    }

    /// Whether there is such a session; its time begins anew.
    pub(crate) fn session_renew(&mut self, id: u32) -> bool {
        let wait = self.session_life();
        let Some(session) = self.kv.sessions.get_mut(&id) else {
            return false;
        };
        session.renewal += 1;
        let renewal = session.renewal;
        self.agenda.after(
            wait,
            Event::SessionEnds {
                session: id,
                renewal,
            },
        );
        true
    }

    fn session_life(&mut self) -> At {
        let (least, most) = self.settings.knobs.session_life_percent;
        let percent = self.dice.between(u64::from(least), u64::from(most));
        self.settings.session_ttl * percent / 100
    }

    pub(crate) fn session_ends(&mut self, id: u32, renewal: u32) {
        let current = self.kv.sessions.get(&id).map(|session| session.renewal);
        if !self.kv.led || current != Some(renewal) {
            return;
        }
        self.kv.sessions.remove(&id);
        for key in &mut self.kv.keys.members {
            if key.is_some_and(|key| key.session == id) {
                *key = None;
            }
        }
        if let Some(leader) = self.kv.keys.leader.filter(|leader| leader.session == id) {
            self.kv.locked_until = self.agenda.now + cal::LOCK_DELAY;
            self.leader_key_gone(leader.who, "the leader's session ended");
        }
    }

    /// Puts the leader's key, unless another session has it. `None`: there is no such session.
    pub(crate) fn acquire_leader(&mut self, who: usize, session: u32) -> Option<bool> {
        if !self.kv.sessions.contains_key(&session) {
            return None;
        }
        let held = self
            .kv
            .keys
            .leader
            .is_some_and(|leader| leader.session != session);
        if held || self.agenda.now < self.kv.locked_until {
            return Some(false);
        }
        let version = self.kv.next_index();
        self.kv.keys.leader = Some(LeaderKey {
            who,
            session,
            version,
        });
        self.key_taken(who);
        self.agenda.poke();
        Some(true)
    }

    /// Deletes the leader's key by compare-and-set.
    pub(crate) fn release_leader(&mut self, version: u64) -> bool {
        let Some(leader) = self
            .kv
            .keys
            .leader
            .filter(|leader| leader.version == version)
        else {
            return false;
        };
        self.leader_key_gone(leader.who, "the leader released its key");
        true
    }

    fn leader_key_gone(&mut self, who: usize, source: &str) {
        self.kv.next_index();
        self.kv.keys.leader = None;
        self.key_free(who, source);
        self.agenda.poke();
    }

    /// The KV's leader dies; `beside` is the member that dies on the same machine.
    pub(crate) fn kv_leader_dies(&mut self, beside: Option<usize>) {
        self.kv.led = false;
        self.kv.term += 1;
        self.kv.servers = self.kv.servers.saturating_sub(1);
        self.elect_if_quorum();
        let on_servers = self.settings.knobs.sessions_on_servers;
        let Some(member) = beside.filter(|_| on_servers) else {
            return;
        };
        let wait = cal::KV_SERVER_REMOVED.draw(&mut self.dice);
        let of_member = |(id, session): (&u32, &Session)| (session.member == member).then_some(*id);
        let sessions: Vec<u32> = self.kv.sessions.iter().filter_map(of_member).collect();
        for session in sessions {
            let renewal = u32::MAX; // not a renewal's, so that none outlives it
            self.agenda
                .after(wait, Event::SessionEnds { session, renewal });
            if let Some(entry) = self.kv.sessions.get_mut(&session) {
                entry.renewal = renewal;
            }
        }
    }

    /// The KV's servers are all there again.
    pub(crate) fn kv_heals(&mut self) {
        self.kv.servers = self.kv.servers_all;
        if !self.kv.led {
            self.elect_if_quorum();
        }
    }

    fn elect_if_quorum(&mut self) {
        if self.kv.servers > self.kv.servers_all / 2 {
            let term = self.kv.term;
            let wait = cal::KV_ELECTION.draw(&mut self.dice);
            self.agenda.after(wait, Event::Elected { term });
        }
    }

    /// A new leader gives every session its whole time anew.
    pub(crate) fn kv_elected(&mut self, term: u32) {
        if term != self.kv.term || self.kv.led {
            return;
        }
        self.kv.led = true;
        let renewed =
            |(id, session): (&u32, &Session)| (session.renewal != u32::MAX).then_some(*id);
        let sessions: Vec<u32> = self.kv.sessions.iter().filter_map(renewed).collect();
        for session in sessions {
            self.session_renew(session);
        }
        self.agenda.poke();
    }
}
