//! Blows that somebody deals step by step: restarts, copies, failovers that are forced.

use std::rc::Rc;

use holdfast_plan::drill::Target;

use super::strike::start_database;
use super::target;
use crate::calibration as cal;
use crate::draw::At;
use crate::kv::Failover;
use crate::patroni::Patroni;
use crate::patroni::demote::stop_fast;
use crate::settings::Line;
use crate::sim::{Shared, sleep, until};
use crate::world::World;

/// How often somebody looks at the cluster.
const LOOKS: At = 200_000;
/// A failover that was refused is asked for again so long.
const FORCED_WITHIN: At = 30_000_000;
/// And so much later.
const ASKS_AGAIN: At = 20_000;

/// Waits until the cluster is whole, as long as the drill allows.
async fn until_whole(shared: &Shared) {
    let bound = shared.borrow().settings.whole_bound;
    let begin = shared.borrow().agenda.now;
    loop {
        sleep(shared, LOOKS).await;
        let mut world = shared.borrow_mut();
        if world.whole() || world.agenda.now > begin + bound {
            return;
        }
    }
}

/// A replica's data directory is replaced over a line that is narrow until it streams again.
pub(crate) async fn copy(shared: &Shared, member: usize, link: &str) {
    {
        let mut world = shared.borrow_mut();
        world.fault();
        let leader = world.seen.leader;
        match Line::parse(link) {
            // The leader's: it sends everything over it, its keeping of the key included.
            Ok(line) => world.hosts[leader].shape = line,
            Err(error) => world.note(error),
        }
        world.pg_dies(member);
        world.pg[member].empty = true;
        world.patroni[member].wake = true;
        world.agenda.poke();
    }
    until_whole(shared).await;
    let world = &mut *shared.borrow_mut();
    for host in &mut world.hosts {
        host.shape = world.settings.line;
    }
}

/// For how many turns PostgreSQL is down: Patroni has to notice, and to leave it alone (source: the
/// kernel world).
const DOWN_TURNS: At = 2;

/// Patroni is paused, and the leader's PostgreSQL stopped for a while, not by Patroni.
pub(crate) async fn restart_by_hand(shared: &Shared, member: usize) {
    set_paused(shared, member, true);
    let loop_wait = shared.borrow().settings.loop_wait;
    let all_know = |world: &World| world.patroni.iter().all(|face| face.cluster.paused);
    for _ in 0..2 * loop_wait / LOOKS {
        if all_know(&shared.borrow()) {
            break;
        }
        sleep(shared, LOOKS).await;
    }
    shared.borrow_mut().fault();
    let wait = cal::BY_HAND.draw(&mut shared.borrow_mut().dice);
    sleep(shared, wait).await;
    stop_fast(shared, member).await;
    sleep(shared, DOWN_TURNS * loop_wait).await;
    {
        let mut world = shared.borrow_mut();
        if !world.pg[member].runs() {
            let wait = cal::POSTGRES_START_BY_HAND.draw(&mut world.dice);
            world.pg_start_within(member, true, None, wait);
        }
    }
    let runs = move |world: &mut World| world.pg[member].primary().then_some(());
    until(shared, loop_wait, runs).await;
    sleep(shared, loop_wait).await;
}

/// Whoever asks a member's Patroni for it wakes that one; the others see it in their next turn.
pub(crate) fn set_paused(shared: &Shared, asked: usize, paused: bool) {
    let mut world = shared.borrow_mut();
    world.kv.keys.paused = paused;
    world.patroni[asked].wake = true;
    world.agenda.poke();
}

/// Every worker's sidecar is stopped and started, the leader's last.
pub(crate) async fn rolling_restart(shared: &Shared) {
    let order = {
        let mut world = shared.borrow_mut();
        world.fault();
        let leader = world.seen.leader;
        let others = (0..world.settings.members).filter(|member| *member != leader);
        let order: Vec<usize> = others.chain([leader]).collect();
        world.seen.struck.clone_from(&order);
        order
    };
    for member in order {
        Patroni::release_from_sync(shared, member).await;
        shared.borrow_mut().patroni_stops_turning(member);
        Patroni::shut_down(Rc::clone(shared), member).await;
        let wait = {
            let mut world = shared.borrow_mut();
            world.hosts[member].up = false;
            world.hosts[member].agent = false;
            world.mesh_looks(member);
            world.endpoint_dies(member);
            cal::AGENT_START.draw(&mut world.dice)
        };
        sleep(shared, wait).await;
        {
            let mut world = shared.borrow_mut();
            world.hosts[member].up = true;
            world.hosts[member].agent = true;
            world.mesh_looks(member);
            world.endpoint_starts(member);
        }
        start_database(shared, member);
        until_whole(shared).await;
    }
}

/// All replicas stand still, and who waits for them is told to wait no longer.
pub(crate) fn cancel_waits(shared: &Shared) {
    let mut world = shared.borrow_mut();
    world.fault();
    world.seen.cancelling = true;
    let leader = world.seen.leader;
    let replicas: Vec<usize> = (0..world.settings.members)
        .filter(|m| *m != leader)
        .collect();
    for member in &replicas {
        world.freeze(*member, true);
    }
    world.seen.struck = replicas;
    let again = Rc::clone(shared);
    let work = async move {
        while again.borrow().seen.cancelling {
            again.borrow_mut().cancel_waits(leader);
            sleep(&again, cal::CANCEL_EVERY).await;
        }
    };
    world.agenda.spawn(None, 0, Box::pin(work));
}

/// A replica's line is cut until commits no longer wait for it; then it is to lead.
pub(crate) async fn force_failover(shared: &Shared, seed: u64) {
    let (candidate, bound) = {
        let mut world = shared.borrow_mut();
        let candidate = target(&mut world, Target::Standby, seed);
        world.cut(candidate);
        (candidate, world.settings.whole_bound)
    };
    let out = move |world: &mut World| {
        let leader = world.kv.keys.leader?.who;
        let named = world.pg[leader]
            .names
            .is_some_and(|n| n.set & crate::kv::bit(candidate) != 0);
        (!named && !world.kv.keys.sync.matches(candidate, false)).then_some(())
    };
    let mut waited = 0;
    while shared.borrow_mut().pg.len() > candidate && out(&mut shared.borrow_mut()).is_none() {
        sleep(shared, LOOKS).await;
        waited += LOOKS;
        if waited > bound {
            shared
                .borrow_mut()
                .note("commits still wait for it".to_owned());
            break;
        }
    }
    shared.borrow_mut().mend(candidate);
    shared.borrow_mut().fault();
    for _ in 0..FORCED_WITHIN / ASKS_AGAIN {
        if force(shared, candidate).await {
            return;
        }
    }
    shared
        .borrow_mut()
        .note("no failover could be forced".to_owned());
}

/// Asks the leader for it; whether it began.
async fn force(shared: &Shared, candidate: usize) -> bool {
    {
        let mut world = shared.borrow_mut();
        let leader = world.seen.leader;
        world.kv.keys.failover = Some(Failover {
            leader: None,
            candidate: Some(candidate),
        });
        world.patroni[leader].wake = true;
        world.agenda.poke();
    }
    let taken = |world: &mut World| {
        let old = world.seen.leader;
        let gone = world.kv.keys.leader.is_none_or(|leader| leader.who != old);
        let refused = world.kv.keys.failover.is_none();
        (gone || refused).then_some(gone)
    };
    let answer = until(shared, FORCED_WITHIN, taken).await;
    if answer != Some(true) {
        sleep(shared, ASKS_AGAIN).await;
    }
    answer == Some(true)
}
