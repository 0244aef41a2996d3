//! Who is synchronous: `synchronous_standby_names` at the leader and the `sync` key in the KV.
//!
//! What must hold at any moment: who may be promoted by the key has, or hears of somebody who has,
//! every write that was acknowledged. With a quorum: of the standbys that a commit may have waited
//! for and of those that a candidate hears, two sets always share a member, that is
//! `standbys <= quorum + count` (the leader apart). So one of both is changed at a time, the wider
//! first.

use super::{Dcs, Patroni};
use crate::calibration as cal;
use crate::kv::{Set, SyncKey, bit, each};
use crate::pg::Names;
use holdfast_plan::drill::Synchronous;

/// Standbys that a commit waits for (Patroni's `synchronous_node_count`).
const WANTED: usize = 1;

const fn count(set: Set) -> u32 {
    set.count_ones()
}

impl Patroni {
    /// Before a promotion. `Ok(false)`: somebody else changed the key, so not now.
    pub(crate) async fn before_promotion(&self) -> Result<bool, Dcs> {
        let me = self.me;
        if self.mode() == Synchronous::Off {
            return Ok(true);
        }
        let sync = self.face(|face| face.cluster.sync);
        if self.mode() == Synchronous::Quorum && self.sync_active() {
            let mut set = sync.voters | sync.leader.map_or(0, bit);
            let mut wanted = count(set).saturating_sub(sync.quorum + 1);
            if set & bit(me) == 0 {
                wanted += 1;
            }
            set &= !bit(me);
            let names = self.names(set, wanted as usize);
            self.with(|world| world.set_names(me, names));
            return Ok(true);
        }
        let alone = SyncKey {
            leader: Some(me),
            ..SyncKey::default()
        };
        if self.put_sync(alone).await?.is_none() {
            return Ok(false);
        }
        self.with(|world| world.set_names(me, None));
        Ok(true)
    }

    fn names(&self, set: Set, count: usize) -> Option<Names> {
        match (count, set) {
            (0, _) => None,
            (count, 0) => Some(Names {
                count,
                set: Set::MAX,
            }),
            (count, set) => Some(Names { count, set }),
        }
    }

    /// Writes the key by compare-and-set, and reads it back. `None`: somebody else wrote it.
    async fn put_sync(&self, key: SyncKey) -> Result<Option<SyncKey>, Dcs> {
        let version = self.face(|face| face.cluster.sync.version);
        let put = self.retry(|world| {
            world
                .kv
                .put_sync(key, version)
                .then_some(world.kv.keys.sync)
        });
        let written = put.await?;
        if let Some(sync) = written {
            self.face(|face| face.cluster.sync = sync);
        }
        Ok(written)
    }

    /// Tells PostgreSQL whom to wait for, and gives it the time to read it.
    async fn set_names(&self, set: Set, wanted: usize) {
        let names = self.names(set, wanted);
        if self.with(|world| world.pg[self.me].names) != names {
            self.with(|world| world.set_names(self.me, names));
            self.sleep(cal::RELOAD).await;
        }
    }

    /// Standbys that stream and may be synchronous, and those of them that have caught up since
    /// they were named.
    fn replicas(&self) -> (Set, Set) {
        let me = self.me;
        self.with(|world| {
            let keys = &world.patroni[me].cluster.members;
            let fit = |member: &usize| {
                keys[*member].is_some_and(|key| key.data.running && !key.data.nosync)
            };
            let active: Vec<usize> = each(world.replicating(me)).filter(fit).collect();
            let active = active.into_iter().fold(0, |set, member| set | bit(member));
            for standby in each(active) {
                world.settle(standby);
            }
            let (names, lsn) = (world.pg[me].names, world.pg[me].lsn);
            let set = names.map_or(0, |names| names.set);
            if world.patroni[me].ready_names != names {
                let face = &mut world.patroni[me];
                face.ready_names = names;
                face.ready &= set;
                face.ready_from = lsn;
                // Patroni writes a little, so that there is something to confirm.
                world.pg_nudge(me);
            }
            let from = world.patroni[me].ready_from;
            let caught_up = |world: &crate::world::World, standby: usize| {
                let stream = world.pg[standby].stream.as_ref();
                stream.is_some_and(|stream| stream.confirmed >= from)
            };
            let mut ready = world.patroni[me].ready & active;
            for standby in each(active & set) {
                if caught_up(world, standby) {
                    ready |= bit(standby);
                }
            }
            world.patroni[me].ready = ready;
            (active, ready)
        })
    }

    /// What a leader does about it in its turn.
    pub(crate) async fn process_sync(&self) -> Result<(), Dcs> {
        if !self.primary() {
            return Ok(());
        }
        match self.mode() {
            Synchronous::Off => Ok(()),
            Synchronous::On => self.process_named().await,
            Synchronous::Quorum => {
                let (now, loop_wait) = self.with(|w| (w.agenda.now, w.settings.loop_wait));
                // Right after a promotion the standbys get a turn's time to come.
                let after = self.face(|face| face.sync_after);
                if after.is_none_or(|since| now > since + loop_wait) {
                    self.process_quorum().await?;
                }
                self.face(|face| _ = face.sync_after.get_or_insert(now));
                Ok(())
            }
        }
    }

    async fn process_named(&self) -> Result<(), Dcs> {
        let me = self.me;
        let alone = SyncKey {
            leader: Some(me),
            ..SyncKey::default()
        };
        if self.face(|face| face.cluster.sync.leader) != Some(me)
            && self.put_sync(alone).await?.is_none()
        {
            return Ok(());
        }
        let (active, ready) = self.replicas();
        let voters = self.face(|face| face.cluster.sync.voters);
        let named = self.with(|world| world.pg[me].names.map_or(0, |names| names.set));
        // Who is synchronous stays so as long as it streams.
        let kept = each(active & named).chain(each(active)).next();
        let picked = kept.map_or(0, bit);
        let ready = ready & picked & named;
        if picked == voters && picked == named {
            return Ok(());
        }
        let common = voters & ready;
        if common != voters
            && self
                .put_sync(SyncKey {
                    voters: common,
                    ..alone
                })
                .await?
                .is_none()
        {
            return Ok(());
        }
        self.set_names(picked, count(picked) as usize).await;
        let mut allowed = ready;
        if picked != 0 && ready != picked {
            self.replicas();
            self.sleep(cal::SYNC_NAMED_SETTLES).await;
            allowed = self.replicas().1 & picked;
        }
        if allowed != 0 && allowed != common {
            self.put_sync(SyncKey {
                voters: allowed,
                ..alone
            })
            .await?;
        }
        Ok(())
    }

    async fn process_quorum(&self) -> Result<(), Dcs> {
        let me = self.me;
        let alone = SyncKey {
            leader: Some(me),
            ..SyncKey::default()
        };
        if self.face(|face| face.cluster.sync.leader).is_none()
            && self.put_sync(alone).await?.is_none()
        {
            return Ok(());
        }
        let begin = self.now();
        loop {
            let (active, ready) = self.replicas();
            if self.change_quorum(active, ready).await? {
                return Ok(());
            }
            let late = self
                .with(|w| w.agenda.now + cal::SYNC_QUORUM_SETTLES - begin >= w.settings.loop_wait);
            if late {
                return Ok(());
            }
            self.sleep(cal::SYNC_QUORUM_SETTLES).await;
        }
    }

    /// Whether all is as it should be, as far as it can be now.
    async fn change_quorum(&self, active: Set, ready: Set) -> Result<bool, Dcs> {
        let me = self.me;
        let sync = self.face(|face| face.cluster.sync);
        let key = |voters: Set, quorum: u32| SyncKey {
            leader: Some(me),
            quorum,
            voters,
            version: 0,
        };
        let named = self.with(|world| world.pg[me].names.map_or(0, |names| names.set));
        if sync.leader != Some(me) {
            // After a promotion: who led may have what others have not, and counts.
            let voters = sync.voters & !bit(me) | sync.leader.map_or(0, bit);
            if named == 0 {
                self.set_names(voters, count(voters).saturating_sub(sync.quorum) as usize)
                    .await;
            }
            if self.put_sync(key(voters, sync.quorum)).await?.is_none() {
                return Ok(true);
            }
            if self.with(|world| world.pg[me].names.map_or(0, |n| n.set)) & active == 0 {
                return Ok(true);
            }
        }
        let sync = self.face(|face| face.cluster.sync);
        let named = self.with(|world| world.pg[me].names.map_or(0, |names| names.set));
        let gone = named & !active;
        let stays = named & active;
        if gone != 0 && stays == 0 {
            if self.put_sync(key(0, 0)).await?.is_some() {
                self.set_names(0, 0).await;
            }
        } else if gone != 0 {
            // Fewer to wait for, while a candidate still asks all.
            self.set_names(stays, WANTED).await;
            if self.with(|world| world.settings.knobs.careful_quorum) {
                self.face(|face| face.ready = 0);
                if self.replicas().1 == 0 {
                    return Ok(false);
                }
            }
            if self.put_sync(key(stays, count(stays) - 1)).await?.is_none() {
                return Ok(true);
            }
        }
        let named = stays;
        let new = active & !named;
        if new != 0 && named == 0 {
            self.set_names(new, WANTED).await;
            self.replicas();
            return Ok(false); // and look in a second who has caught up
        }
        if new != 0 {
            if self
                .put_sync(key(named | new, count(named | new) - 1))
                .await?
                .is_some()
            {
                self.set_names(named | new, WANTED).await;
            }
            return Ok(true);
        }
        if named != 0 && (sync.voters, sync.quorum) != (named, count(named) - 1) && gone == 0 {
            if ready == 0 {
                return Ok(false);
            }
            self.put_sync(key(named, count(named) - 1)).await?;
        }
        Ok(true)
    }
}
