//! What Patroni asks others: the KV, with its patience, and other members' REST API.

use super::{Dcs, Patroni};
use crate::calibration as cal;
use crate::kv::{Set, each};
use crate::sim::{Work, all, until};
use crate::world::World;

/// Asking an agent that is not there.
const REFUSED: u64 = 1_000;
/// The first pause between two tries, and the longest (source: Patroni's `Retry` for Consul), and
/// what chance adds to each at most.
const AGAIN_FIRST: u64 = 100_000;
const AGAIN_MOST: u64 = 1_000_000;
const AGAIN_JITTER: u64 = 800_000;

/// What a member says of itself on its REST port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) member: usize,
    pub(crate) in_recovery: bool,
    pub(crate) lsn: u64,
}

impl Patroni {
    /// One request. What it does happens when it arrives, also if its answer is lost.
    pub(crate) async fn ask<T>(&self, act: impl FnOnce(&mut World) -> T) -> Result<T, Dcs> {
        let me = self.me;
        let begin = self.now();
        let (there, back, patience, agent) = self.with(|world| {
            let ways = (world.way_to_kv(me), world.way_to_kv(me));
            (
                ways.0,
                ways.1,
                world.settings.retry_timeout / 3,
                world.hosts[me].agent,
            )
        });
        if !agent {
            self.sleep(REFUSED).await;
            return Err(Dcs);
        }
        let left = |now: u64| (begin + patience).saturating_sub(now);
        self.sleep(there.min(patience)).await;
        let wait = left(self.now());
        let arrived = until(&self.shared, wait, move |world| {
            world.kv_answers(me).then_some(())
        });
        if arrived.await.is_none() {
            return Err(Dcs);
        }
        let value = self.with(act);
        self.sleep(back.min(left(self.now()))).await;
        if self.with(|world| world.hosts[me].line) {
            return Ok(value);
        }
        self.sleep(left(self.now())).await;
        Err(Dcs)
    }

    /// As often as `retry_timeout` allows.
    pub(crate) async fn retry<T>(&self, mut act: impl FnMut(&mut World) -> T) -> Result<T, Dcs> {
        let stop = self.now() + self.with(|world| world.settings.retry_timeout);
        let mut pause = AGAIN_FIRST;
        loop {
            if let Ok(value) = self.ask(&mut act).await {
                return Ok(value);
            }
            let wait = pause + self.with(|world| world.dice.between(0, AGAIN_JITTER));
            if self.now() + wait >= stop {
                return Err(Dcs);
            }
            self.sleep(wait).await;
            pause = (2 * pause).min(AGAIN_MOST);
        }
    }

    /// Reads all keys.
    pub(crate) async fn load(&self) -> Result<(), Dcs> {
        let cluster = self.retry(|world| world.kv.keys.clone()).await?;
        let leads = cluster.leader_is(self.me);
        self.face(|face| {
            let members = cluster.members.iter().enumerate();
            let known = members.filter(|(_, key)| key.is_some());
            let known = known.fold(0, |set: Set, (member, _)| set | crate::kv::bit(member));
            if cluster.leader.is_some() || face.known == 0 {
                face.known = known;
            }
            face.cluster = cluster;
        });
        if !leads {
            self.set_leader(false);
        }
        Ok(())
    }

    /// `GET /patroni` of a member, in two seconds or not at all.
    pub(crate) async fn status(self, member: usize) -> Option<Status> {
        let me = self.me;
        let way = self.with(|world| world.way(me, member));
        self.sleep(way).await;
        let begin = self.now();
        let hears = move |world: &mut World| {
            let refused = world.refuses(me, member);
            let answers = world.reach(me, member) && !world.still(member);
            (refused || answers).then_some(answers)
        };
        let answers = until(&self.shared, cal::REST_PATIENCE, hears).await?;
        if !answers || !self.with(|world| world.patroni[member].alive) {
            return None;
        }
        let wait =
            self.with(|world| cal::REST_ANSWER.draw(&mut world.dice) + world.way(member, me));
        self.sleep(wait).await;
        if self.now() > begin + cal::REST_PATIENCE {
            return None;
        }
        self.with(|world| {
            world
                .status_of(member)
                .filter(|_| world.patroni[member].alive)
        })
    }

    /// All of them at once.
    pub(crate) async fn statuses(&self, members: Set) -> Vec<Status> {
        let count = self.with(|world| world.settings.members);
        let asked = each(members).take_while(|member| *member < count);
        let works = asked.filter(|member| *member != self.me).map(|member| {
            let work: Work<Option<Status>> = Box::pin(self.clone().status(member));
            work
        });
        let works = works.collect();
        all(works).await.into_iter().flatten().collect()
    }
}

impl World {
    /// What a member's PostgreSQL says, if it says something.
    pub(crate) fn status_of(&mut self, member: usize) -> Option<Status> {
        self.settle(member);
        let pg = &self.pg[member];
        pg.accepts().then_some(Status {
            member,
            in_recovery: !pg.primary(),
            lsn: pg.lsn,
        })
    }
}
