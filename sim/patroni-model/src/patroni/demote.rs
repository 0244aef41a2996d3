//! A leader that is to be one no longer.

use std::rc::Rc;

use holdfast_plan::drill::Synchronous;

use super::{Action, Patroni, Rewind, Role};
use crate::calibration as cal;
use crate::draw::At;
use crate::kv::each;
use crate::pg::State;
use crate::sim::{Shared, sleep, until};
use crate::world::World;

/// A shutdown waits for its standbys as long as they are connected.
const DRAIN_MOST: At = 24 * 3_600 * 1_000_000;

/// Stops a PostgreSQL in good order: its sessions end, its checkpoint is sent to who streams.
pub(crate) async fn stop_fast(shared: &Shared, member: usize) {
    let wait = {
        let mut world = shared.borrow_mut();
        if !world.pg[member].runs() {
            return;
        }
        world.pg_stopping(member);
        cal::POSTGRES_STOP.draw(&mut world.dice)
    };
    sleep(shared, wait).await;
    shared.borrow_mut().pg_shutdown_checkpoint(member);
    let drained = move |world: &mut World| {
        (world.pg[member].state != State::Stopping || world.drained(member)).then_some(())
    };
    until(shared, DRAIN_MOST, drained).await;
    shared.borrow_mut().pg_shut_down(member);
}

impl World {
    /// Whether all standbys have what the leader wrote.
    fn drained(&mut self, member: usize) -> bool {
        let lsn = self.pg[member].lsn;
        let set = self.replicating(member);
        each(set).all(|standby| {
            self.settle(standby);
            let stream = self.pg[standby].stream.as_ref();
            stream.is_none_or(|stream| stream.confirmed >= lsn)
        })
    }
}

impl Patroni {
    /// Another has the key: PostgreSQL is stopped at once, and comes back as a replica.
    pub(crate) async fn demote_without_lock(&self) {
        self.with(|world| world.pg_dies(self.me));
        self.become_replica();
        let upstream = self.look_for_leader().await;
        self.beside(Action::Start, self.clone().start_replica(upstream));
    }

    /// The key is given away first, so that another takes over.
    pub(crate) async fn demote_immediately(&self) {
        self.with(|world| world.pg_dies(self.me));
        self.become_replica();
        self.release().await;
        self.sleep(cal::AFTER_RELEASE).await;
        let upstream = self.look_for_leader().await;
        self.beside(Action::Start, self.clone().start_replica(upstream));
    }

    /// The KV does not answer: the key will expire, and another will take it.
    pub(crate) async fn demote_offline(&self) {
        stop_fast(&self.shared, self.me).await;
        self.become_replica();
        self.clone().start_replica(None).await;
    }

    /// A switchover: everybody has everything before the key is free.
    pub(crate) async fn demote_gracefully(self) {
        let begin = self.now();
        self.face(|face| face.rewind = Rewind::Check);
        stop_fast(&self.shared, self.me).await;
        let polled = (begin + cal::POLL).saturating_sub(self.now());
        self.sleep(polled + cal::BEFORE_RELEASE).await;
        self.become_replica();
        self.release().await;
        self.sleep(cal::AFTER_RELEASE).await;
        let upstream = self.look_for_leader().await;
        if !self.rewind_needed().await {
            self.start_replica(upstream).await;
        }
    }

    fn become_replica(&self) {
        self.set_leader(false);
        self.with(|world| {
            world.set_names(self.me, None);
            let face = &mut world.patroni[self.me];
            face.role = Role::Demoted;
            face.rewind = Rewind::Check;
        });
    }

    /// Reads the cluster once more; who leads, if not this member.
    async fn look_for_leader(&self) -> Option<usize> {
        let leader = self
            .retry(|world| world.kv.keys.leader)
            .await
            .ok()
            .flatten();
        leader
            .map(|leader| leader.who)
            .filter(|who| *who != self.me)
    }

    /// Starts PostgreSQL as a replica, and waits until it takes connections.
    pub(crate) async fn start_replica(self, upstream: Option<usize>) {
        self.with(|world| {
            if !world.pg[self.me].runs() && !world.pg[self.me].empty {
                world.pg_start(self.me, false, upstream);
            }
        });
        self.face(|face| face.role = Role::Replica);
        while matches!(
            self.with(|world| world.pg[self.me].state),
            State::Starting { .. }
        ) {
            self.sleep(cal::POLL).await;
        }
    }

    /// A replica that is going to end asks the leader not to wait for it, and gives it two turns.
    pub(crate) async fn release_from_sync(shared: &Shared, member: usize) {
        let me = Patroni::new(shared, member);
        if me.mode() == Synchronous::Off || me.face(|face| face.cluster.leader_is(member)) {
            return;
        }
        me.face(|face| face.nosync = true);
        me.touch_member().await;
        let wait = me.with(|world| 2 * world.settings.loop_wait);
        let released =
            move |world: &mut World| (!world.kv.keys.sync.matches(member, false)).then_some(());
        until(shared, wait, released).await;
    }

    /// What Patroni does when it is told to end: PostgreSQL stops, and the key is free once another
    /// can take it.
    pub(crate) async fn shut_down(shared: Shared, member: usize) {
        let me = Patroni::new(&shared, member);
        let leads = me.face(|face| face.cluster.leader_is(member)) && me.primary();
        let begin = me.now();
        stop_fast(&Rc::clone(&shared), member).await;
        if leads {
            let polled = (begin + cal::POLL).saturating_sub(me.now());
            me.sleep(polled + cal::BEFORE_RELEASE).await;
            me.release().await;
        }
        me.with(|world| world.patroni_dies(member));
    }
}
