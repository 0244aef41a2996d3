//! Blows, as drills name them, and their end.

use std::rc::Rc;

use holdfast_plan::drill::{Blow, Point, Processes};

use super::strike::{start_database, start_machine};
use super::{agent_start, moves, stays_dead, target};
use crate::calibration as cal;
use crate::draw::At;
use crate::kv::Failover;
use crate::patroni::Patroni;
use crate::patroni::demote::stop_fast;
use crate::settings::Line;
use crate::sim::{Shared, sleep};

/// Between two workers of a rolling restart: until the cluster is whole, and no longer.
const ROLLING_MOST: At = 120_000_000;
/// How often somebody looks at it.
const LOOKS: At = 200_000;

/// Strikes. Those blows that take a while (a restart by hand, one after the other) take it here.
pub(crate) async fn strike(shared: &Shared, blow: &Blow, seed: u64) {
    let struck = choose(shared, blow, seed);
    shared.borrow_mut().seen.moves = moves(blow);
    shared.borrow_mut().seen.struck = struck.clone().into_iter().collect();
    let Some(member) = struck else {
        return strike_all(shared, blow).await;
    };
    match blow {
        Blow::Kill { what, with_kv_leader, .. } => kill(shared, member, *what, *with_kv_leader),
        Blow::Freeze { with_line, .. } => {
            let mut world = shared.borrow_mut();
            if *with_line {
                world.cut(member);
            }
            world.freeze(member);
        }
        Blow::Partition { .. } => shared.borrow_mut().cut(member),
        Blow::Wipe { .. } => shared.borrow_mut().wipe(member),
        Blow::Copy { link } => copy(shared, member, link),
        Blow::DiskStall { for_ms, .. } => {
            let mut world = shared.borrow_mut();
            let until = world.agenda.now + for_ms * 1_000;
            world.disk_stalls(member, until);
        }
        Blow::Pause => restart_by_hand(shared, member).await,
        Blow::Switchover | Blow::RollingRestart | Blow::CancelWait | Blow::ForceFailover => {}
    }
}

fn choose(shared: &Shared, blow: &Blow, seed: u64) -> Option<usize> {
    let mut world = shared.borrow_mut();
    match blow {
        Blow::Kill { target: who, .. }
        | Blow::Freeze { target: who, .. }
        | Blow::Partition { target: who }
        | Blow::Wipe { target: who }
        | Blow::DiskStall { target: who, .. } => Some(target(&mut world, *who, seed)),
        Blow::Copy { .. } => Some(target(&mut world, holdfast_plan::drill::Target::Standby, seed)),
        Blow::Pause => Some(world.seen.leader),
        Blow::Switchover | Blow::RollingRestart | Blow::CancelWait | Blow::ForceFailover => None,
    }
}

fn kill(shared: &Shared, member: usize, what: Processes, with_kv_leader: bool) {
    let mut world = shared.borrow_mut();
    match what {
        Processes::Postmaster => world.pg_dies(member),
        Processes::Database => world.kill_database(member),
        Processes::Machine => world.kill_machine(member),
        Processes::Agent => {
            world.hosts[member].agent = false;
            // Its sidecar does not wait for the drill to start it again.
            let wait = agent_start(&mut world);
            let back = Rc::clone(shared);
            let work = async move {
                sleep(&back, wait).await;
                back.borrow_mut().hosts[member].agent = true;
                back.borrow_mut().agenda.poke();
            };
            world.agenda.spawn(None, 0, Box::pin(work));
        }
    }
    if with_kv_leader {
        world.kv_leader_dies(Some(member));
    }
}

/// A replica's data directory is replaced over a line that is narrow from now on.
fn copy(shared: &Shared, member: usize, link: &str) {
    let mut world = shared.borrow_mut();
    match Line::parse(link) {
        Ok(line) => world.hosts[member].shape = line,
        Err(error) => world.note(error),
    }
    world.pg_dies(member);
    world.pg[member].empty = true;
    world.pg[member].lsn = 0;
    world.patroni[member].wake = true;
    world.agenda.poke();
}

/// Paused, the leader's PostgreSQL is restarted, not by Patroni.
async fn restart_by_hand(shared: &Shared, member: usize) {
    let wait = {
        let mut world = shared.borrow_mut();
        world.kv.keys.paused = true;
        world.settings.loop_wait + cal::POLL
    };
    sleep(shared, wait).await; // until everybody has read it
    stop_fast(shared, member).await;
    let mut world = shared.borrow_mut();
    if !world.pg[member].runs() {
        world.pg_start(member, true, None);
    }
}

async fn strike_all(shared: &Shared, blow: &Blow) {
    match blow {
        Blow::Switchover => {
            let mut world = shared.borrow_mut();
            let leader = world.seen.leader;
            world.kv.keys.failover = Some(Failover {
                leader: Some(leader),
                candidate: None,
            });
            world.patroni[leader].wake = true;
            world.agenda.poke();
        }
        Blow::RollingRestart => rolling_restart(shared).await,
        _ => {}
    }
}

async fn rolling_restart(shared: &Shared) {
    let (leader, members) = {
        let world = shared.borrow();
        (world.seen.leader, world.settings.members)
    };
    let order = (0..members).filter(|member| *member != leader).chain([leader]);
    for member in order.collect::<Vec<_>>() {
        shared.borrow_mut().seen.struck.push(member);
        Patroni::release_from_sync(shared, member).await;
        shared.borrow_mut().patroni_stops_turning(member);
        Patroni::shut_down(Rc::clone(shared), member).await;
        let wait = {
            let mut world = shared.borrow_mut();
            world.hosts[member].up = false;
            world.endpoint_dies(member);
            cal::AGENT_START.draw(&mut world.dice)
        };
        sleep(shared, wait).await;
        {
            let mut world = shared.borrow_mut();
            world.hosts[member].up = true;
            world.endpoint_starts(member);
        }
        start_database(shared, member);
        let mut waited = 0;
        while !shared.borrow_mut().whole() && waited < ROLLING_MOST {
            sleep(shared, LOOKS).await;
            waited += LOOKS;
        }
    }
}

/// Mends what the blow broke.
pub(crate) async fn heal(shared: &Shared, blow: &Blow) {
    let struck = shared.borrow().seen.struck.first().copied();
    shared.borrow_mut().mark(Point::Healed, struck, "the drill");
    let Some(member) = struck else { return };
    match blow {
        Blow::Kill { what, with_kv_leader, .. } => {
            if *with_kv_leader {
                shared.borrow_mut().kv_heals();
            }
            match what {
                Processes::Machine => start_machine(shared, member),
                Processes::Database => start_database(shared, member),
                Processes::Postmaster | Processes::Agent => debug_assert!(!stays_dead(*what)),
            }
        }
        Blow::Freeze { with_line, .. } => {
            if *with_line {
                line_back(shared, member).await;
            }
            shared.borrow_mut().thaw(member);
        }
        Blow::Partition { .. } => line_back(shared, member).await,
        Blow::Wipe { .. } => start_database(shared, member),
        Blow::Pause => {
            let mut world = shared.borrow_mut();
            world.kv.keys.paused = false;
        }
        Blow::Copy { .. } => {
            let world = &mut *shared.borrow_mut();
            world.hosts[member].shape = world.settings.line;
        }
        Blow::Switchover
        | Blow::RollingRestart
        | Blow::DiskStall { .. }
        | Blow::CancelWait
        | Blow::ForceFailover => {}
    }
}

async fn line_back(shared: &Shared, member: usize) {
    let wait = cal::LINE_BACK.draw(&mut shared.borrow_mut().dice);
    sleep(shared, wait).await;
    shared.borrow_mut().mend(member);
}
