//! A member that does not lead: following who does, by replay, rewind or a copy.

use super::{Action, Dcs, Patroni, Rewind, Role};
use crate::calibration as cal;
use crate::draw::At;
use crate::pg::stream::Standing;
use crate::pg::{Control, State};

/// How often a copy looks whether its source is still there.
const COPY_LOOKS: At = 500_000;

impl Patroni {
    /// Follows who has the key.
    pub(crate) async fn follow(&self, refresh: bool) -> Result<(), Dcs> {
        if refresh {
            self.load().await?;
        }
        let me = self.me;
        let leader = self.face(|face| face.cluster.leader.map(|leader| leader.who));
        let leader = leader.filter(|leader| *leader != me);
        if self.paused() {
            let role = if self.primary() {
                Role::Primary
            } else {
                Role::Replica
            };
            self.face(|face| face.role = role);
            if leader.is_none() || self.primary() {
                return Ok(());
            }
        } else if self.primary() {
            self.demote_without_lock().await;
            return Ok(());
        }
        self.face(|face| face.role = Role::Replica);
        if self.rewind_if_needed().await {
            return Ok(());
        }
        let changed = self.with(|world| {
            let changed = world.pg[me].upstream != leader;
            if changed {
                world.pg_follow(me, leader);
            }
            changed
        });
        if changed {
            self.face(|face| face.rewind = Rewind::Check);
        } else if let Some(leader) = leader
            && self.with(|world| world.standing(me, leader)) == Standing::BehindTimeline
        {
            self.face(|face| face.rewind = Rewind::Check);
            self.rewind_if_needed().await;
        }
        Ok(())
    }

    /// Whether a rewind was begun.
    pub(crate) async fn rewind_if_needed(&self) -> bool {
        let needed = self.rewind_needed().await;
        if needed && let Some(leader) = self.face(|face| face.cluster.leader) {
            self.beside(Action::Rewind, self.clone().rewind(leader.who));
        }
        needed
    }

    /// Compares this member's WAL with the leader's, if that is due.
    pub(crate) async fn rewind_needed(&self) -> bool {
        let me = self.me;
        let leader = self
            .face(|face| face.cluster.leader)
            .filter(|leader| leader.who != me);
        let Some(leader) = leader else { return false };
        if self.face(|face| face.rewind) == Rewind::Check {
            let way = self.with(|world| 4 * world.way(me, leader.who));
            self.sleep(way).await;
            self.with(|world| {
                let primary = world.reach(me, leader.who) && world.pg[leader.who].primary();
                let says_so = world.patroni[me].cluster.members[leader.who];
                if !primary || !says_so.is_some_and(|key| key.data.primary) {
                    return;
                }
                world.settle(me);
                let agree = world
                    .wal
                    .agree(world.pg[me].branch, world.pg[leader.who].branch);
                let needed = world.pg[me].lsn > agree;
                world.patroni[me].rewind = if needed {
                    Rewind::Need
                } else {
                    Rewind::NotNeeded
                };
            });
        }
        self.face(|face| face.rewind) == Rewind::Need
    }

    async fn rewind(self, leader: usize) {
        let me = self.me;
        if self.with(|world| world.pg[me].runs()) {
            super::demote::stop_fast(&self.shared, me).await;
        }
        let key = self.face(|face| face.cluster.members[leader]);
        if !key.is_some_and(|key| key.data.checkpointed) {
            return; // the leader has not run a checkpoint yet; a later turn tries again
        }
        let wait = self.with(|world| {
            let spread = cal::of(world.settings.transport, cal::REWIND);
            spread.draw(&mut world.dice) + 40 * world.way(me, leader)
        });
        self.sleep(wait).await;
        self.with(|world| {
            if !world.reach(me, leader) || !world.pg[leader].primary() {
                return;
            }
            let branch = world.pg[leader].branch;
            let agree = world.wal.agree(world.pg[me].branch, branch);
            let pg = &mut world.pg[me];
            pg.branch = branch;
            pg.lsn = pg.lsn.min(agree);
            pg.control = Control::InRecovery;
            pg.rewound = true;
            world.patroni[me].rewind = Rewind::Done;
        });
    }

    /// Whether the leader is there for so long.
    async fn sends_for(&self, leader: usize, mut left: At) -> bool {
        while left > 0 {
            let slice = left.min(COPY_LOOKS);
            self.sleep(slice).await;
            left -= slice;
            let there =
                self.with(|world| world.reach(self.me, leader) && world.pg[leader].accepts());
            if !there {
                return false;
            }
        }
        true
    }

    /// A base backup from the leader, and its start.
    pub(crate) async fn clone_from(self, leader: usize) {
        let me = self.me;
        let (left, begin) = self.with(|world| {
            let bytes = world.settings.fill + cal::EMPTY_CLUSTER_BYTES;
            let copying = bytes.saturating_mul(1_000_000) / world.bytes_per_s(leader, me);
            world.patroni[me].copying = true;
            let fixed = cal::BACKUP_FIXED.draw(&mut world.dice);
            let left = world.dice.between(0, cal::SEGMENT);
            let padding = world.switch_segment(leader, me, left);
            (
                fixed + copying + padding / 2,
                (world.pg[leader].branch, world.pg[leader].lsn),
            )
        });
        let mut whole = self.sends_for(leader, left).await;
        if whole {
            let padding = self.with(|world| world.switch_segment(leader, me, cal::SEGMENT));
            whole = self.sends_for(leader, padding).await;
        }
        if !whole {
            self.face(|face| face.copying = false);
            return;
        }
        self.with(|world| {
            world.patroni[me].copying = false;
            world.patroni[me].rewind = Rewind::Unknown;
            let pg = &mut world.pg[me];
            (pg.branch, pg.lsn) = begin;
            pg.control = Control::InRecovery;
            pg.state = State::Down;
            pg.empty = false;
            pg.copied = true;
        });
        self.start_replica(Some(leader)).await;
    }
}
