//! A round: a cluster that runs, a blow, and what becomes of it.

mod blow;
mod by_hand;
mod storm;
mod strike;

use std::cell::RefCell;
use std::rc::Rc;

use holdfast_plan::drill::{Blow, Heal, Mark, Point, Round, Synchronous, Target};
use holdfast_workload::Outcome;

use crate::clients::Statement;
use crate::draw::At;
use crate::kv::{Set, SyncKey, bit};
use crate::pg::{Control, Names, State};
use crate::records::Record;
use crate::settings::{Settings, us};
use crate::sim::{Shared, run, sleep, until};
use crate::wal::Row;
use crate::world::{BEGIN, World};

/// Writers write for so long before anything else, so that there is something to lose.
const WARM_UP: At = 1_500_000;
/// Writers go on for at most so long once the cluster is whole: an endpoint that has not found the
/// leader by then is lost.
const RUN_ON_MAX: At = 30_000_000;
/// How often the conductor looks whether the cluster is whole.
const LOOKS: At = 200_000;

/// Plays a round.
pub(crate) fn play(settings: Settings, seed: u64) -> Round {
    let shared = settled(settings, seed);
    let work = conduct(Rc::clone(&shared), seed);
    shared.borrow_mut().agenda.spawn(None, 0, Box::pin(work));
    finish(&shared, seed)
}

/// Plays a round of faults that the seed draws, whatever the drill's blow is.
pub(crate) fn play_storm(settings: Settings, seed: u64) -> Round {
    let shared = settled(settings, seed);
    let work = storm::storm(Rc::clone(&shared));
    shared.borrow_mut().agenda.spawn(None, 0, Box::pin(work));
    finish(&shared, seed)
}

/// A cluster that runs: somebody leads, all others stream.
pub(crate) fn settled(settings: Settings, seed: u64) -> Shared {
    let shared = Rc::new(RefCell::new(World::new(settings, seed)));
    {
        let mut world = shared.borrow_mut();
        let members = world.settings.members;
        let leader = world.dice.pick(members);
        world.seen.leader = leader;
        world.pg[leader].state = State::Primary;
        world.pg[leader].control = Control::InProduction;
        for member in (0..members).filter(|member| *member != leader) {
            world.pg[member].upstream = Some(leader);
            world.receive(member, 0);
        }
        let replicas = (0..members).filter(|member| *member != leader);
        let replicas = replicas.fold(0, |set: Set, member| set | bit(member));
        world.synchronous_as(leader, replicas);
        for member in 0..members {
            let loop_wait = world.settings.loop_wait;
            let first = world.dice.between(0, loop_wait);
            world.patroni_starts(&shared, member, first);
            world.patroni_settled(member);
            world.endpoint_starts(member);
        }
        // Everybody has had a turn, and watches the leader's key.
        let keys = world.kv.keys.clone();
        for face in &mut world.patroni {
            face.cluster = keys.clone();
        }
        world.clients_start();
    }
    shared
}

impl World {
    fn synchronous_as(&mut self, leader: usize, replicas: Set) {
        let first = 1 << replicas.trailing_zeros();
        let voters = match self.settings.synchronous {
            Synchronous::Off => return,
            Synchronous::On => first,
            Synchronous::Quorum => replicas,
        };
        let key = SyncKey {
            leader: Some(leader),
            quorum: voters.count_ones() - 1,
            voters,
            version: 0,
        };
        self.kv.put_sync(key, 0);
        self.pg[leader].names = Some(Names {
            count: 1,
            set: voters,
        });
    }

    /// The blow comes now.
    pub(crate) fn fault(&mut self) {
        self.seen.fault = Some(self.agenda.now);
        self.mark(Point::Fault, None, "the drill");
    }

    /// Every member is there, as leader or streaming replica, and as many are synchronous as should
    /// be.
    pub(crate) fn whole(&mut self) -> bool {
        let Some(leader) = self.kv.keys.leader.map(|leader| leader.who) else {
            return false;
        };
        let sync = self.kv.keys.sync;
        let wanted = match self.settings.synchronous {
            Synchronous::Off => 0,
            Synchronous::On => 1,
            Synchronous::Quorum => self.settings.members - 1,
        };
        let standbys = (sync.voters & !bit(leader)).count_ones() as usize;
        let synchronous = wanted == 0 || sync.leader == Some(leader) && standbys >= wanted;
        let paused = self.patroni.iter().any(|face| face.cluster.paused);
        let leads = self.pg[leader].primary()
            && self.patroni[leader].leader_until > self.agenda.now
            && !self.kv.keys.paused
            && !paused;
        let members = 0..self.settings.members;
        synchronous
            && leads
            && members.into_iter().all(|member| {
                let host = &self.hosts[member];
                let there = host.up && host.line && host.agent && !self.still(member);
                let streams = member == leader || self.streams_from(member) == Some(leader);
                there && streams && self.patroni[member].alive && !self.patroni[member].copying
            })
    }

    /// All rows that the one who leads has.
    fn found(&mut self) -> Option<Vec<Row>> {
        let leader = self.kv.keys.leader?.who;
        let pg = &self.pg[leader];
        let readable = pg.primary() && self.hosts[leader].line && !self.still(leader);
        readable.then(|| self.wal.rows(pg.branch, pg.lsn))
    }
}

/// Lets everything happen, and writes down what was seen.
pub(crate) fn finish(shared: &Shared, seed: u64) -> Round {
    run(shared);
    let mut world = shared.borrow_mut();
    let found = world.found();
    let leader_after = found
        .as_ref()
        .and(world.kv.keys.leader)
        .map(|leader| leader.who);
    let last = leader_after.map_or(1, |leader| world.wal.timeline(world.pg[leader].branch));
    let seen = std::mem::take(&mut world.seen);
    let mut marks = seen.marks;
    marks.extend(world.last_acknowledged(&seen.first_acknowledged, seen.leader));
    marks.sort_by_key(|(_, mark)| (mark.at, mark.point));
    Round {
        seed,
        phase: seen.phase,
        leader: World::name(seen.leader),
        struck: seen
            .struck
            .iter()
            .map(|member| World::name(*member))
            .collect(),
        leader_after: leader_after.map(World::name),
        timelines: (1, u64::from(last)),
        marks: marks.into_iter().map(|(_, mark)| mark).collect(),
        history: world.clients.records.history(found),
        rejoins: seen
            .rejoins
            .iter()
            .map(|(who, how)| (World::name(*who), *how))
            .collect(),
        two_primaries_ms: world.two_primaries_ms(),
        two_led_ms: 0,
        notes: seen.notes,
        crashes: seen.crashes,
        cut_short: seen.cut_short,
    }
}

impl World {
    /// When the last write was asked for that the old leader acknowledged before another did.
    fn last_acknowledged(&self, first: &Option<At>, leader: usize) -> Option<(At, Mark)> {
        let first = first.unwrap_or(At::MAX);
        let records = self.clients.records.rows.iter();
        let ours = |record: &&Record| record.acknowledged_by().is_some_and(|by| by.0 == leader);
        let last = records
            .filter(|record| record.ended < first)
            .filter(ours)
            .max_by_key(|record| record.asked)?;
        let mark = Mark {
            at: Self::since_begin(last.asked),
            point: Point::LastAcknowledged,
            member: Some(Self::name(leader)),
            source: "a client".to_owned(),
        };
        Some((last.asked, mark))
    }

    /// For how long clients were still answered on a timeline after a later one took writes.
    fn two_primaries_ms(&self) -> u64 {
        let mut acknowledged: Vec<(At, At, u32, usize)> = Vec::new();
        for record in &self.clients.records.rows {
            if let Some((member, timeline)) = record.acknowledged_by() {
                acknowledged.push((record.ended, record.asked, timeline, member));
            }
        }
        acknowledged.sort_unstable();
        let (mut newest, mut since, mut begin, mut end) = ((0, 0), 0, None, 0);
        for (ended, asked, timeline, member) in acknowledged {
            if timeline > newest.0 {
                (newest, since) = ((timeline, member), ended);
            } else if (timeline, member) != newest {
                begin.get_or_insert(since.max(asked));
                end = ended;
            }
        }
        begin.map_or(0, |begin| end.saturating_sub(begin).div_ceil(1_000))
    }
}

async fn conduct(shared: Shared, seed: u64) {
    sleep(&shared, WARM_UP).await;
    let loop_wait = shared.borrow().settings.loop_wait;
    let begin = shared.borrow().agenda.now;
    let renewed = move |world: &mut World| world.seen.renewed.filter(|at| *at >= begin);
    until(&shared, 3 * loop_wait, renewed).await;
    let phase = shared.borrow_mut().dice.between(0, 999);
    sleep(&shared, phase * loop_wait / 1000).await;
    let blow = {
        let mut world = shared.borrow_mut();
        world.seen.phase = u32::try_from(phase).unwrap_or(0);
        world.seen.watches_writes = true;
        world.settings.blow.clone()
    };
    blow::strike(&shared, &blow, seed).await;
    until_healed(&shared, &blow).await;
    let healed = shared.borrow().agenda.now;
    if until_whole(&shared).await {
        let mut world = shared.borrow_mut();
        world.mark(Point::Whole, None, "patronictl list");
    }
    if blow.is_calm() {
        stays(&shared, &blow, healed).await;
    }
    run_on(&shared).await;
    end(&shared).await;
}

/// Whether the cluster was whole before the drill's time for it was over.
async fn until_whole(shared: &Shared) -> bool {
    let limit = shared.borrow().settings.whole_bound;
    let begin = shared.borrow().agenda.now;
    loop {
        if shared.borrow_mut().whole() {
            return true;
        }
        if shared.borrow().agenda.now >= begin + limit {
            let mut world = shared.borrow_mut();
            world.note("the cluster did not become whole in time".to_owned());
            world.seen.cut_short = true;
            return false;
        }
        sleep(shared, LOOKS).await;
    }
}

/// A session that was lost in the blow ends only when its time is over: until then, and a turn
/// longer, the leader and the timeline have to stay.
async fn stays(shared: &Shared, blow: &Blow, healed: At) {
    let wait = {
        let world = shared.borrow();
        let end = healed + world.settings.ttl + world.settings.loop_wait;
        end.saturating_sub(world.agenda.now)
    };
    sleep(shared, wait).await;
    until_whole(shared).await;
    let mut world = shared.borrow_mut();
    let moves = matches!(blow, Blow::RollingRestart);
    let since = if moves {
        Some(healed)
    } else {
        world.seen.fault
    };
    let takers = world.seen.takers.iter();
    let takers = takers.filter(|(at, _)| Some(*at) >= since);
    let mut takers: Vec<usize> = takers.map(|(_, who)| *who).collect();
    takers.extend(world.kv.keys.leader.map(|leader| leader.who));
    let kept = match moves {
        true => takers.first().copied(),
        false => Some(world.seen.leader),
    };
    let taker = takers.into_iter().find(|taker| Some(*taker) != kept);
    if let Some(taker) = taker {
        let name = World::name(taker);
        let told = format!("{name} took the leader's key, though nobody should");
        world.seen.crashes.push(told);
    }
    let timeline = kept.map(|leader| world.wal.timeline(world.pg[leader].branch));
    if !moves && timeline != Some(1) {
        let told = format!("the timeline was 1 and is {timeline:?}, though nobody took over");
        world.seen.crashes.push(told);
    }
}

/// Writers go on until each endpoint has led to the leader again, and the register was read since
/// the blow.
async fn run_on(shared: &Shared) {
    let from = shared.borrow().agenda.now;
    if shared.borrow().seen.cut_short {
        return;
    }
    let members = shared.borrow().settings.members;
    shared.borrow_mut().seen.watches_writes = true;
    until(shared, RUN_ON_MAX, |world| {
        let rows = &world.clients.records.rows;
        let late = rows.iter().rev().take_while(|record| record.ended >= from);
        let done = late.filter(|record| record.outcome == Outcome::Acknowledged);
        let workers = done.fold(0, |set: Set, record| set | bit(record.worker));
        let first = world.seen.first_acknowledged;
        let mut register = world.clients.records.register.iter().rev();
        let read = register.any(|record| {
            record.statement == Statement::Read
                && record.outcome == Outcome::Acknowledged
                && Some(record.asked) >= first
        });
        (read && workers.count_ones() as usize == members).then_some(())
    })
    .await;
}

/// Writers end what they began; then everything is read.
pub(crate) async fn end(shared: &Shared) {
    let deadline = shared.borrow().settings.deadline;
    shared.borrow_mut().clients.stopped = true;
    shared.borrow_mut().seen.watches_writes = true;
    until(shared, 2 * deadline, |world| {
        world.clients.idle().then_some(())
    })
    .await;
    sleep(shared, 2 * deadline).await;
    shared.borrow_mut().agenda.over = true;
}

async fn until_healed(shared: &Shared, blow: &Blow) {
    let (heal, fault, bound) = {
        let world = shared.borrow();
        let fault = world.seen.fault.unwrap_or(BEGIN);
        (world.settings.heal, fault, world.settings.write_bound)
    };
    let written = |wait: At| until(shared, wait, |world| world.seen.first_acknowledged);
    match heal {
        Heal::AfterWrite(after) => {
            if written(bound).await.is_none() {
                note_no_write(shared);
            }
            sleep(shared, us(after)).await;
            blow::heal(shared, blow).await;
        }
        Heal::After(after) => {
            let left = (fault + us(after)).saturating_sub(shared.borrow().agenda.now);
            sleep(shared, left).await;
            blow::heal(shared, blow).await;
            let left = (fault + bound).saturating_sub(shared.borrow().agenda.now);
            if written(left).await.is_none() {
                note_no_write(shared);
            }
        }
    }
    shared.borrow_mut().seen.watches_writes = false;
}

fn note_no_write(shared: &Shared) {
    let mut world = shared.borrow_mut();
    world.note("no write was acknowledged in time".to_owned());
    world.seen.cut_short = true;
}

/// Who is meant.
pub(crate) fn target(world: &mut World, target: Target, seed: u64) -> usize {
    let members = world.settings.members;
    match target {
        Target::Leader => world.seen.leader,
        Target::Turn => usize::try_from(seed % members as u64).unwrap_or(0),
        Target::Standby => {
            let leader = world.seen.leader;
            let named = world.pg[leader].names.map_or(Set::MAX, |names| names.set);
            let fit = |member: &usize| *member != leader && named & bit(*member) != 0;
            let standbys: Vec<usize> = (0..members).filter(fit).collect();
            match standbys.len() {
                0 => (leader + 1) % members,
                count => standbys[world.dice.pick(count)],
            }
        }
    }
}

/// Whether a blow means that somebody else is to lead.
pub(crate) fn moves(blow: &Blow) -> bool {
    matches!(
        blow,
        Blow::Switchover | Blow::ForceFailover | Blow::RollingRestart
    )
}
