//! Patroni: a loop at every member, that looks at the KV and does what follows.
//!
//! A [`Patroni`] is a handle; what the process knows is its [`Face`] in the world, which the tasks
//! that are its threads share. The functions are what stock Patroni 4.1 does in this order: a
//! *cycle* loads the cluster, waits for a long action, recovers a dead PostgreSQL, races for a free
//! key ([`race`]) or keeps its own ([`lock`]), sets who is synchronous ([`sync`]) or follows who
//! leads ([`follow`]), and tells the KV about itself.

pub(crate) mod ask;
pub(crate) mod demote;
pub(crate) mod follow;
pub(crate) mod lock;
mod process;
pub(crate) mod race;
pub(crate) mod recover;
pub(crate) mod sync;

use std::rc::Rc;

use holdfast_plan::drill::Synchronous;

use crate::calibration as cal;
use crate::draw::At;
use crate::kv::{Cluster, MemberData, Set};
use crate::pg::{Names, State};
use crate::sim::{Shared, sleep, until};
use crate::world::World;

/// The KV does not answer.
pub(crate) struct Dcs;

/// What a thread of Patroni does beside the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Promote,
    Start,
    Demote,
    CrashRecovery,
    Rewind,
    Clone,
}

/// What Patroni takes its PostgreSQL for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Role {
    Primary,
    Promoted,
    #[default]
    Replica,
    Demoted,
}

/// Whether `pg_rewind` is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Rewind {
    #[default]
    Unknown,
    Check,
    Need,
    NotNeeded,
    Done,
}

/// What a Patroni process knows, and what others see of it.
#[derive(Default)]
pub(crate) struct Face {
    pub(crate) alive: bool,
    /// Which process this is: tasks of others are dropped.
    pub(crate) life: u32,
    /// It believes until then that it leads.
    pub(crate) leader_until: At,
    pub(crate) busy: Option<Action>,
    pub(crate) wake: bool,
    pub(crate) copying: bool,
    pub(crate) role: Role,
    session: Option<u32>,
    refreshed: At,
    pub(crate) cluster: Cluster,
    /// Members of the last cluster that had a leader.
    known: Set,
    next_run: At,
    rewind: Rewind,
    recovering: bool,
    crash_recovery_tried: bool,
    sync_after: Option<At>,
    /// Synchronous standbys that have caught up since they were named, and up to where they had to.
    ready: Set,
    ready_from: u64,
    ready_names: Option<Names>,
    pub(crate) nosync: bool,
    checkpointing: bool,
}

#[derive(Clone)]
pub(crate) struct Patroni {
    pub(crate) shared: Shared,
    pub(crate) me: usize,
}

impl Patroni {
    pub(crate) fn new(shared: &Shared, me: usize) -> Self {
        Self {
            shared: Rc::clone(shared),
            me,
        }
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.shared.borrow_mut())
    }

    pub(crate) fn face<T>(&self, look: impl FnOnce(&mut Face) -> T) -> T {
        look(&mut self.shared.borrow_mut().patroni[self.me])
    }

    pub(crate) fn now(&self) -> At {
        self.shared.borrow().agenda.now
    }

    pub(crate) async fn sleep(&self, wait: At) {
        sleep(&self.shared, wait).await;
    }

    pub(crate) fn primary(&self) -> bool {
        self.with(|world| world.pg[self.me].primary())
    }

    fn has_lock(&self) -> bool {
        self.face(|face| face.cluster.leader_is(self.me))
    }

    fn unlocked(&self) -> bool {
        self.face(|face| face.cluster.leader.is_none())
    }

    fn paused(&self) -> bool {
        self.face(|face| face.cluster.paused)
    }

    fn mode(&self) -> Synchronous {
        self.with(|world| world.settings.synchronous)
    }

    /// `synchronous_mode` is on, and a leader has said so.
    fn sync_active(&self) -> bool {
        self.mode() != Synchronous::Off && self.face(|face| face.cluster.sync.leader.is_some())
    }

    fn set_leader(&self, leads: bool) {
        self.with(|world| {
            let until = world.agenda.now + world.settings.ttl;
            let face = &mut world.patroni[self.me];
            face.leader_until = if leads { until } else { 0 };
            if !leads {
                face.sync_after = None;
            }
        });
    }

    /// Runs something beside the loop, which is woken when it is over.
    fn beside(&self, action: Action, work: impl Future<Output = ()> + 'static) {
        let me = self.clone();
        let work = async move {
            work.await;
            me.face(|face| {
                face.busy = None;
                face.wake = true;
            });
            me.with(|world| world.agenda.poke());
        };
        self.with(|world| {
            world.patroni[self.me].busy = Some(action);
            let life = world.patroni[self.me].life;
            world.agenda.spawn(Some(self.me), life, Box::pin(work));
        });
    }

    /// The process, until it is killed.
    pub(crate) async fn run(self, first: At) {
        self.with(|world| {
            let due = world.agenda.now + first;
            let last = due.saturating_sub(world.settings.loop_wait);
            world.patroni[self.me].next_run = last;
        });
        loop {
            self.nap().await;
            self.turn().await;
        }
    }

    async fn turn(&self) {
        let body = self.with(|world| cal::LOOP_BODY.draw(&mut world.dice));
        self.sleep(body).await;
        match self.cycle().await {
            Ok(()) => self.touch_member().await,
            Err(Dcs) => {
                if !self.paused() && self.primary() {
                    self.with(|world| {
                        let source = "Patroni's log: the KV does not answer";
                        world.mark(holdfast_plan::drill::Point::Detected, Some(self.me), source);
                    });
                    self.demote_offline().await;
                }
            }
        }
    }

    async fn cycle(&self) -> Result<(), Dcs> {
        self.load().await?;
        if self.face(|face| face.cluster.members[self.me].is_none()) {
            self.touch_member().await;
        }
        if self.face(|face| face.busy).is_some() {
            return self.long_action().await;
        }
        let state = self.with(|world| world.pg[self.me].state);
        if matches!(state, State::Starting { .. }) && !self.paused() {
            return self.while_starting().await;
        }
        if self.face(|face| std::mem::take(&mut face.recovering)) {
            if state == State::Down && self.face(|face| face.rewind != Rewind::Need) {
                if self.has_lock() {
                    self.release().await;
                }
                return Ok(());
            }
            if state != State::Down {
                self.face(|face| {
                    face.crash_recovery_tried = false;
                    if face.rewind == Rewind::Done {
                        face.rewind = Rewind::Unknown;
                    }
                });
            }
        }
        if self.with(|world| world.pg[self.me].empty) {
            return self.without_data().await;
        }
        if state == State::Down {
            if self.paused() {
                if self.has_lock() {
                    self.release().await;
                }
                return Ok(());
            }
            return self.recover().await;
        }
        if self.unlocked() {
            self.unhealthy().await
        } else {
            self.healthy().await
        }
    }

    async fn without_data(&self) -> Result<(), Dcs> {
        if self.has_lock() {
            self.release().await;
        } else if let Some(leader) = self.face(|face| face.cluster.leader) {
            self.beside(Action::Clone, self.clone().clone_from(leader.who));
        }
        Ok(())
    }

    /// Sleeps until the next turn is due, or something happened.
    async fn nap(&self) {
        let (now, next_run) = self.with(|world| {
            let face = &mut world.patroni[self.me];
            face.next_run += world.settings.loop_wait;
            (world.agenda.now, face.next_run)
        });
        if next_run <= now {
            self.face(|face| face.next_run = now);
            self.sleep(1_000).await;
        } else if self.watch(next_run - now).await {
            let now = self.now();
            self.face(|face| face.next_run = now);
        }
    }

    /// Whether something happened. A replica hears of the leader's key, by a blocking query of whole
    /// seconds; everybody else of what its own threads did.
    async fn watch(&self, wait: At) -> bool {
        let deadline = self.now() + wait;
        let version = self.face(|face| {
            face.refreshed = 0;
            let asks = face.busy.is_none() && !face.cluster.leader_is(self.me);
            face.cluster
                .leader
                .filter(|_| asks)
                .map(|leader| leader.version)
        });
        if let Some(version) = version.filter(|_| wait >= cal::POLL) {
            let me = self.me;
            let moved = until(&self.shared, wait, move |world| {
                let current = world.kv.keys.leader.map(|leader| leader.version);
                (world.kv_answers(me) && current != Some(version)).then_some(())
            });
            let moved = moved.await.is_some();
            if moved {
                let notice =
                    self.with(|world| cal::KV_NOTICE.draw(&mut world.dice) + world.way_to_kv(me));
                self.sleep(notice).await;
            }
            return moved;
        }
        let left = deadline.saturating_sub(self.now());
        let me = self.me;
        let woken = until(&self.shared, left, move |world| {
            world.patroni[me].wake.then_some(())
        })
        .await;
        self.face(|face| face.wake = false);
        woken.is_some()
    }

    /// Tells the KV about itself, if that changed, and keeps its session alive.
    pub(crate) async fn touch_member(&self) {
        let had = self.face(|face| face.session);
        if self.refresh_session(false).await.is_err() {
            return;
        }
        let (data, key, session) = self.with(|world| {
            let (face, pg) = (&world.patroni[self.me], &world.pg[self.me]);
            let data = MemberData {
                running: pg.accepts(),
                primary: face.role == Role::Primary && pg.primary(),
                checkpointed: !pg.primary() || pg.checkpointed,
                nosync: face.nosync,
            };
            (data, face.cluster.members[self.me], face.session)
        });
        let Some(session) = session else { return };
        let same = had == Some(session)
            && key.is_some_and(|key| key.session == session && key.data == data);
        if same {
            return;
        }
        let me = self.me;
        match self
            .ask(|world| world.kv.put_member(me, data, session))
            .await
        {
            Ok(true) | Err(Dcs) => {}
            Ok(false) => self.face(|face| face.session = None),
        }
    }
}
