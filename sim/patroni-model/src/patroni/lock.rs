//! The leader's key: keeping it, and what a leader does while it has it.

use super::{Action, Dcs, Patroni, Rewind, Role};
use crate::calibration as cal;
use crate::pg::State;

impl Patroni {
    /// Renews the session, or makes one. `false`: there is none.
    pub(crate) async fn refresh_session(&self, force: bool) -> Result<(), Dcs> {
        let (fresh, session) = self.with(|world| {
            let face = &world.patroni[self.me];
            let fresh = face.refreshed + world.settings.loop_wait > world.agenda.now;
            (fresh && face.session.is_some(), face.session)
        });
        if fresh && !force {
            return Ok(());
        }
        let me = self.me;
        let session = self
            .retry(|world| match session {
                Some(session) if world.session_renew(session) => session,
                _ => world.session_create(me),
            })
            .await?;
        let now = self.now();
        self.face(|face| {
            face.session = Some(session);
            face.refreshed = now;
        });
        Ok(())
    }

    /// Renews what the key hangs on. `Ok(false)`: somebody else has it.
    pub(crate) async fn update_lock(&self, status: bool) -> Result<bool, Dcs> {
        self.refresh_session(true).await?;
        let me = self.me;
        let (session, leader) = self.face(|face| (face.session, face.cluster.leader));
        if let (Some(session), Some(leader)) = (session, leader)
            && leader.session != session
        {
            self.ask(|world| world.release_leader(leader.version))
                .await?;
            self.ask(|world| world.acquire_leader(me, session)).await?;
        }
        self.set_leader(session.is_some());
        if status {
            let lsn = self.with(|world| world.pg[me].lsn);
            let _written = self.ask(|world| world.kv.keys.status = lsn).await;
        }
        self.with(|world| {
            world.seen.renewed = (world.seen.leader == me).then_some(world.agenda.now);
            world.agenda.poke();
        });
        Ok(session.is_some())
    }

    /// Deletes the key, and tells the KV about itself.
    pub(crate) async fn release(&self) {
        self.set_leader(false);
        if let Some(leader) = self.face(|face| face.cluster.leader) {
            let _answer = self.ask(|world| world.release_leader(leader.version)).await;
        }
        self.touch_member().await;
    }

    /// The cluster has a leader.
    pub(crate) async fn healthy(&self) -> Result<(), Dcs> {
        if !self.has_lock() {
            return self.follow(false).await;
        }
        if self.paused() && !self.primary() {
            self.release().await;
            return Ok(());
        }
        if !self.update_lock(true).await? {
            if self.primary() && !self.paused() {
                self.demote_without_lock().await;
            }
            return Ok(());
        }
        if self.switchover().await? {
            return Ok(());
        }
        self.checkpoint_after_promotion();
        self.enforce_primary().await
    }

    /// Whether a switchover was begun.
    async fn switchover(&self) -> Result<bool, Dcs> {
        let Some(failover) = self.face(|face| face.cluster.failover) else {
            return Ok(false);
        };
        let mine = failover.leader.is_none_or(|leader| leader == self.me);
        if mine && failover.candidate != Some(self.me) && self.failover_possible(0).await {
            self.beside(Action::Demote, self.clone().demote_gracefully());
            return Ok(true);
        }
        self.ask(|world| world.kv.keys.failover = None).await?;
        Ok(false)
    }

    fn checkpoint_after_promotion(&self) {
        let begins = self.with(|world| {
            let wanted = world.pg[self.me].primary() && !world.pg[self.me].checkpointed;
            wanted && !std::mem::replace(&mut world.patroni[self.me].checkpointing, wanted)
        });
        if !begins {
            return;
        }
        let me = self.clone();
        let work = async move {
            let wait = me.with(|world| cal::CHECKPOINT.draw(&mut world.dice));
            me.sleep(wait).await;
            me.with(|world| {
                world.pg[me.me].checkpointed |= world.pg[me.me].primary();
                world.patroni[me.me].checkpointing = false;
                world.patroni[me.me].wake = true;
                world.agenda.poke();
            });
        };
        self.with(|world| {
            let life = world.patroni[self.me].life;
            world.agenda.spawn(Some(self.me), life, Box::pin(work));
        });
    }

    /// Who has the key is to be primary.
    pub(crate) async fn enforce_primary(&self) -> Result<(), Dcs> {
        let me = self.me;
        if self.primary() {
            self.face(|face| face.role = Role::Primary);
            self.process_sync().await?;
            let timeline = self.with(|world| world.wal.timeline(world.pg[me].branch));
            if self.face(|face| face.cluster.timeline != timeline) {
                self.ask(|world| world.kv.keys.timeline = timeline).await?;
            }
            return Ok(());
        }
        if self.face(|face| matches!(face.role, Role::Primary | Role::Promoted)) {
            return self.process_sync().await;
        }
        if self.before_promotion().await? {
            self.face(|face| face.rewind = Rewind::Unknown);
            self.beside(Action::Promote, self.clone().promote());
        }
        Ok(())
    }

    async fn promote(self) {
        let me = self.me;
        self.face(|face| face.role = Role::Promoted);
        self.with(|world| world.pg_promote(me));
        let polls = self
            .with(|world| world.settings.loop_wait / cal::POLL)
            .max(1);
        for _ in 0..=polls {
            if self.primary() {
                self.face(|face| face.role = Role::Primary);
                return;
            }
            self.sleep(cal::POLL).await;
        }
    }

    /// A thread is busy: what the loop does meanwhile.
    pub(crate) async fn long_action(&self) -> Result<(), Dcs> {
        let action = self.face(|face| face.busy);
        if self.has_lock() && self.update_lock(false).await? {
            return Ok(());
        }
        if self.face(|face| face.role) == Role::Primary && action != Some(Action::Demote) {
            self.demote_without_lock().await;
        }
        Ok(())
    }

    /// PostgreSQL starts, and may take its time.
    pub(crate) async fn while_starting(&self) -> Result<(), Dcs> {
        if !self.has_lock() {
            return Ok(());
        }
        if !self.update_lock(false).await? {
            self.demote_without_lock().await;
            return Ok(());
        }
        let primary = State::Starting { primary: true };
        if self.with(|world| world.pg[self.me].state == primary) && self.failover_possible(0).await
        {
            self.demote_immediately().await;
        }
        Ok(())
    }
}
