//! Faults in any order, several at once: what no drill deals, and what must hold all the same.

use std::rc::Rc;

use super::strike::{start_database, start_machine};
use super::{WARM_UP, end, until_whole};
use crate::calibration as cal;
use crate::draw::At;
use crate::sim::{Shared, sleep};

/// How many faults a storm has.
const FAULTS: (u64, u64) = (3, 14);
/// From one to the next.
const APART: (At, At) = (20_000, 14_000_000);
/// How long one lasts.
const LASTS: (At, At) = (300_000, 45_000_000);

/// A member, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Dead,
    Off,
    Frozen,
    FrozenDatabase,
    Cut,
    Postmaster,
    Agent,
    Disk,
    Kv,
}

const ALL: [Wrong; 9] = [
    Wrong::Dead,
    Wrong::Off,
    Wrong::Frozen,
    Wrong::FrozenDatabase,
    Wrong::Cut,
    Wrong::Postmaster,
    Wrong::Agent,
    Wrong::Disk,
    Wrong::Kv,
];

/// Deals them, mends them, and waits until all is well.
pub(crate) async fn storm(shared: Shared) {
    sleep(&shared, WARM_UP).await;
    let (count, members) = {
        let mut world = shared.borrow_mut();
        world.fault();
        (
            world.dice.between(FAULTS.0, FAULTS.1),
            world.settings.members,
        )
    };
    let mut wrong: Vec<Option<Wrong>> = vec![None; members];
    let mut until: Vec<At> = vec![0; members];
    for _ in 0..count {
        let wait = shared.borrow_mut().dice.between(APART.0, APART.1);
        sleep(&shared, wait).await;
        let now = shared.borrow().agenda.now;
        for member in 0..members {
            if until[member] <= now
                && let Some(what) = wrong[member].take()
            {
                mend(&shared, member, what);
            }
        }
        let (member, what, lasts) = {
            let mut world = shared.borrow_mut();
            let member = world.dice.pick(members);
            let what = ALL[world.dice.pick(ALL.len())];
            (member, what, world.dice.between(LASTS.0, LASTS.1))
        };
        if wrong[member].is_none() {
            deal(&shared, member, what, lasts);
            wrong[member] = Some(what);
            until[member] = now + lasts;
        }
    }
    for (member, what) in wrong.into_iter().enumerate() {
        if let Some(what) = what {
            mend(&shared, member, what);
        }
    }
    shared.borrow_mut().kv_heals();
    until_whole(&shared).await;
    // A session that was lost ends later, and somebody else takes over once more.
    let wait = {
        let settings = &shared.borrow().settings;
        settings.ttl + settings.loop_wait
    };
    sleep(&shared, wait).await;
    until_whole(&shared).await;
    end(&shared).await;
}

fn deal(shared: &Shared, member: usize, what: Wrong, lasts: At) {
    let mut world = shared.borrow_mut();
    match what {
        Wrong::Dead => world.kill_database(member),
        Wrong::Off => world.kill_machine(member),
        Wrong::Frozen => {
            world.cut(member);
            world.freeze(member, false);
        }
        Wrong::FrozenDatabase => world.freeze(member, true),
        Wrong::Cut => world.cut(member),
        Wrong::Postmaster => world.pg_dies(member),
        Wrong::Agent => world.hosts[member].agent = false,
        Wrong::Disk => {
            let until = world.agenda.now + lasts.min(cal::REPLICATION_PATIENCE / 4);
            world.disk_stalls(member, until);
        }
        Wrong::Kv => world.kv_leader_dies(None),
    }
}

fn mend(shared: &Shared, member: usize, what: Wrong) {
    match what {
        Wrong::Dead => start_database(&Rc::clone(shared), member),
        Wrong::Off => start_machine(shared, member),
        Wrong::Frozen => {
            shared.borrow_mut().thaw(member);
            shared.borrow_mut().mend(member);
        }
        Wrong::FrozenDatabase => shared.borrow_mut().thaw(member),
        Wrong::Cut => shared.borrow_mut().mend(member),
        Wrong::Agent => {
            let mut world = shared.borrow_mut();
            world.hosts[member].agent = true;
            world.agenda.poke();
        }
        Wrong::Kv => shared.borrow_mut().kv_heals(),
        Wrong::Postmaster | Wrong::Disk => {}
    }
}
