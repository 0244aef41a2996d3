//! Patroni's process: how it starts and ends, and what a cluster that runs has of it.

use super::{Face, Patroni, Rewind, Role};
use crate::draw::At;
use crate::kv::{Cluster, MemberData, bit};
use crate::sim::Shared;
use crate::world::World;

impl World {
    /// A Patroni starts at a member; its first turn is `first` from now.
    pub(crate) fn patroni_starts(&mut self, shared: &Shared, member: usize, first: At) {
        self.patroni_dies(member);
        let life = self.patroni[member].life;
        let members = self.settings.members;
        self.patroni[member] = Face {
            alive: true,
            life,
            cluster: Cluster {
                members: vec![None; members],
                ..Cluster::default()
            },
            ..Face::default()
        };
        let work = Patroni::new(shared, member).run(first);
        self.agenda.spawn(Some(member), life, Box::pin(work));
    }

    /// Its loop ends, and its threads; what it knows is still needed to end in good order.
    pub(crate) fn patroni_stops_turning(&mut self, member: usize) {
        let face = &mut self.patroni[member];
        face.life += 1;
        face.busy = None;
    }

    pub(crate) fn patroni_dies(&mut self, member: usize) {
        let life = self.patroni[member].life + 1;
        self.patroni[member] = Face {
            life,
            ..Face::default()
        };
    }

    /// Patroni's part of a cluster that runs: who leads, and with which sessions.
    pub(crate) fn patroni_settled(&mut self, member: usize) {
        let session = self.session_create(member);
        let leads = self.seen.leader == member;
        let data = MemberData {
            running: true,
            primary: leads,
            checkpointed: true,
            nosync: false,
        };
        self.kv.put_member(member, data, session);
        let until = self.agenda.now + self.settings.ttl;
        let face = &mut self.patroni[member];
        face.session = Some(session);
        face.role = if leads { Role::Primary } else { Role::Replica };
        face.leader_until = if leads { until } else { 0 };
        face.known = (0..self.settings.members).fold(0, |set, member| set | bit(member));
        face.rewind = Rewind::NotNeeded;
        if leads {
            face.sync_after = Some(0);
            self.acquire_leader(member, session);
        }
    }

    /// Whether a member's question gets an answer now.
    pub(crate) fn kv_answers(&self, member: usize) -> bool {
        let host = &self.hosts[member];
        host.line && host.agent && self.kv.led && host.kv_from <= self.agenda.now
    }
}
