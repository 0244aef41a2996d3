//! The race for a key that is free.

use super::{Dcs, Patroni};
use crate::kv::{Failover, Set, bit, each};
use crate::pg::State;
use holdfast_plan::drill::Synchronous;

/// `maximum_lag_on_failover`, bytes (Patroni's own).
const LAG_MAX: u64 = 1_048_576;
/// Who is not the chosen candidate of a switchover waits, so that somebody takes the key.
const GIVE_WAY: u64 = 2_000_000;

impl Patroni {
    /// The cluster has no leader.
    pub(crate) async fn unhealthy(&self) -> Result<(), Dcs> {
        if !self.healthiest().await {
            let candidate = self.face(|face| face.cluster.failover.and_then(|f| f.candidate));
            if candidate.is_some() {
                self.sleep(GIVE_WAY).await;
            }
            return self.follow(true).await;
        }
        if !self.acquire().await? {
            return self.follow(true).await;
        }
        if self.face(|face| face.cluster.failover.is_some()) {
            let _answer = self.ask(|world| world.kv.keys.failover = None).await;
        }
        self.load().await?;
        self.enforce_primary().await
    }

    async fn acquire(&self) -> Result<bool, Dcs> {
        let me = self.me;
        self.refresh_session(false).await?;
        for _ in 0..2 {
            let session = self.face(|face| face.session).unwrap_or(0);
            match self
                .retry(|world| world.acquire_leader(me, session))
                .await?
            {
                Some(taken) => {
                    self.set_leader(taken);
                    return Ok(taken);
                }
                None => {
                    self.face(|face| face.session = None);
                    self.refresh_session(true).await?;
                }
            }
        }
        Ok(false)
    }

    /// Whether nobody is a better leader.
    async fn healthiest(&self) -> bool {
        let me = self.me;
        let (state, timeline) = self.with(|world| {
            let pg = &world.pg[me];
            (pg.state, world.wal.timeline(pg.branch))
        });
        if matches!(
            state,
            State::Starting { .. } | State::Down | State::Stopping
        ) {
            return false;
        }
        if state == State::Primary {
            // Who runs as primary and sees no key takes it, and asks nobody.
            return self.paused() || timeline >= self.face(|face| face.cluster.timeline);
        }
        if self.paused() {
            return false;
        }
        let (sync, failover, known) = self.face(|face| {
            let now = face.cluster.members.iter().enumerate();
            let now = now.filter(|(_, key)| key.is_some());
            let known = now.fold(face.known, |set, (member, _)| set | bit(member));
            (face.cluster.sync, face.cluster.failover, known)
        });
        let active = self.sync_active() && !self.ignores_sync();
        if let Some(failover) = failover {
            if failover.leader.is_some() && active && !sync.matches(me, true) {
                return false;
            }
            return self.chosen(failover).await;
        }
        if !active {
            return self.best_of(known, true).await;
        }
        if self.mode() != Synchronous::Quorum && !sync.matches(me, true) {
            return false;
        }
        let members = each(known).filter(|member| sync.matches(*member, true));
        let members = members.fold(0, |set: Set, member| set | bit(member));
        self.best_of(members, true).await
    }

    fn ignores_sync(&self) -> bool {
        self.with(|world| world.settings.knobs.ignore_sync)
    }

    /// A switchover was asked for, and the old leader has gone.
    async fn chosen(&self, failover: Failover) -> bool {
        if let Some(candidate) = failover.candidate {
            if candidate == self.me {
                return true;
            }
            let in_sync = self.face(|face| face.cluster.sync.matches(self.me, true));
            if self.mode() == Synchronous::On && !in_sync {
                return false;
            }
            if self.clone().status(candidate).await.is_some() {
                return false;
            }
        }
        if failover.leader == Some(self.me) {
            return !self.failover_possible(0).await;
        }
        let active = self.sync_active();
        let members = self.face(|face| {
            let all = face.cluster.members.iter().enumerate();
            let all = all.filter(|(member, key)| {
                let eligible = !active || face.cluster.sync.matches(*member, false);
                key.is_some() && Some(*member) != failover.leader && eligible
            });
            all.fold(0, |set: Set, (member, _)| set | bit(member))
        });
        self.best_of(members, false).await
    }

    /// Asks them all: nobody is a primary, nobody that may be promoted has more, and with a quorum
    /// enough of them have no more.
    async fn best_of(&self, members: Set, check_lag: bool) -> bool {
        let me = self.me;
        let mine = self.with(|world| {
            world.settle(me);
            world.pg[me].lsn
        });
        let (sync, status) = self.face(|face| (face.cluster.sync, face.cluster.status));
        if check_lag && status > mine + LAG_MAX {
            return false;
        }
        let active = self.sync_active() && !self.ignores_sync();
        let by_quorum = active && self.mode() == Synchronous::Quorum;
        let voters = if by_quorum {
            sync.leader.map_or(0, bit) | sync.voters
        } else {
            0
        };
        let mut votes = u32::from(voters & bit(me) != 0);
        let mut ahead = 0;
        for status in self.statuses(members).await {
            if !status.in_recovery {
                return false; // a primary is alive
            }
            if mine < status.lsn {
                ahead += 1;
                if !active || sync.leader != Some(status.member) {
                    return false;
                }
            } else {
                votes += u32::from(voters & bit(status.member) != 0);
            }
        }
        // Its own vote is not counted in `quorum`.
        !by_quorum || votes > sync.quorum || ahead == 0 && sync.leader == Some(me)
    }

    /// Whether somebody could take over from this leader.
    pub(crate) async fn failover_possible(&self, lsn: u64) -> bool {
        // A failover to a candidate asks for nothing else; a switchover does.
        let failover = self.face(|face| face.cluster.failover);
        let forced = failover.is_some_and(|f| f.leader.is_none() && f.candidate.is_some());
        let active = self.sync_active() && !forced;
        let (members, sync, status) = self.face(|face| {
            let all = face.cluster.members.iter().enumerate();
            let candidate = face
                .cluster
                .failover
                .and_then(|failover| failover.candidate);
            let all = all.filter(|(member, key)| {
                key.is_some()
                    && *member != self.me
                    && candidate.is_none_or(|candidate| candidate == *member)
                    && (!active || face.cluster.sync.matches(*member, false))
            });
            let members = all.fold(0, |set: Set, (member, _)| set | bit(member));
            (members, face.cluster.sync, face.cluster.status)
        });
        let fits = |at: u64| {
            if lsn > 0 {
                at >= lsn
            } else {
                status <= at + LAG_MAX
            }
        };
        let statuses = self.statuses(members).await;
        let votes = statuses.iter().filter(|status| fits(status.lsn)).count();
        let wanted = match active && self.mode() == Synchronous::Quorum {
            true => sync.quorum as usize + 1,
            false => 1,
        };
        votes >= wanted
    }
}
