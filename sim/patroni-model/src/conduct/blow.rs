//! Blows, as drills name them, and their end.

use std::rc::Rc;

use holdfast_plan::drill::{Blow, Point, Processes, Target};

use super::by_hand::{
    cancel_waits, copy, force_failover, restart_by_hand, rolling_restart, set_paused,
};
use super::strike::{line_back, start_database, start_machine};
use super::{moves, target};
use crate::calibration as cal;
use crate::kv::Failover;
use crate::sim::{Shared, sleep};

/// Strikes. Those blows that take a while (a restart by hand, one after the other) take it here.
pub(crate) async fn strike(shared: &Shared, blow: &Blow, seed: u64) {
    let struck = choose(shared, blow, seed);
    shared.borrow_mut().seen.moves = moves(blow);
    shared.borrow_mut().seen.struck.extend(struck);
    let member = struck.unwrap_or(shared.borrow().seen.leader);
    match blow {
        Blow::Kill {
            what,
            with_kv_leader,
            ..
        } => kill(shared, member, *what, *with_kv_leader),
        Blow::Freeze { with_line, .. } => {
            let mut world = shared.borrow_mut();
            world.fault();
            if *with_line {
                world.cut(member);
            }
            world.freeze(member, false);
        }
        Blow::Partition { .. } => {
            let mut world = shared.borrow_mut();
            world.fault();
            world.cut(member);
        }
        Blow::Wipe { .. } => {
            let mut world = shared.borrow_mut();
            world.fault();
            world.wipe(member);
        }
        Blow::DiskStall { for_ms, .. } => {
            let wait = for_ms * 1_000;
            {
                let mut world = shared.borrow_mut();
                world.fault();
                let until = world.agenda.now + wait;
                world.disk_stalls(member, until);
            }
            sleep(shared, wait).await;
        }
        Blow::Switchover => switchover(shared, member),
        Blow::Copy { link } => copy(shared, member, link).await,
        Blow::Pause => restart_by_hand(shared, member).await,
        Blow::RollingRestart => rolling_restart(shared).await,
        Blow::CancelWait => cancel_waits(shared),
        Blow::ForceFailover => force_failover(shared, seed).await,
    }
}

/// Who is struck, where it is one.
fn choose(shared: &Shared, blow: &Blow, seed: u64) -> Option<usize> {
    let mut world = shared.borrow_mut();
    let who = match blow {
        Blow::Kill { target, .. }
        | Blow::Freeze { target, .. }
        | Blow::Partition { target }
        | Blow::Wipe { target }
        | Blow::DiskStall { target, .. } => *target,
        Blow::Copy { .. } => Target::Standby,
        Blow::Pause | Blow::Switchover | Blow::ForceFailover => Target::Leader,
        Blow::RollingRestart | Blow::CancelWait => return None,
    };
    Some(target(&mut world, who, seed))
}

fn kill(shared: &Shared, member: usize, what: Processes, with_kv_leader: bool) {
    let mut world = shared.borrow_mut();
    world.fault();
    match what {
        Processes::Postmaster => world.pg_dies(member),
        Processes::Database => world.kill_database(member),
        Processes::Machine => world.kill_machine(member),
        Processes::Agent => {
            world.hosts[member].agent = false;
            // Its sidecar does not wait for the drill to start it again.
            let wait = cal::AGENT_START.draw(&mut world.dice);
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

fn switchover(shared: &Shared, leader: usize) {
    let mut world = shared.borrow_mut();
    world.fault();
    world.kv.keys.failover = Some(Failover {
        leader: Some(leader),
        candidate: None,
    });
    world.patroni[leader].wake = true;
    world.agenda.poke();
}

/// Mends what the blow broke.
pub(crate) async fn heal(shared: &Shared, blow: &Blow) {
    let struck = shared.borrow().seen.struck.clone();
    shared
        .borrow_mut()
        .mark(Point::Healed, struck.first().copied(), "the drill");
    shared.borrow_mut().seen.cancelling = false;
    for member in struck {
        match blow {
            Blow::Kill {
                what,
                with_kv_leader,
                ..
            } => {
                if *with_kv_leader {
                    shared.borrow_mut().kv_heals();
                }
                match what {
                    Processes::Machine => start_machine(shared, member),
                    Processes::Database => start_database(shared, member),
                    Processes::Postmaster | Processes::Agent => {}
                }
            }
            Blow::Freeze { with_line, .. } => {
                shared.borrow_mut().thaw(member);
                if *with_line {
                    line_back(shared, member).await;
                }
            }
            Blow::CancelWait => shared.borrow_mut().thaw(member),
            Blow::Partition { .. } => line_back(shared, member).await,
            Blow::Wipe { .. } => start_database(shared, member),
            Blow::Pause => set_paused(shared, member, false),
            Blow::Copy { .. }
            | Blow::Switchover
            | Blow::RollingRestart
            | Blow::DiskStall { .. }
            | Blow::ForceFailover => {}
        }
    }
}
