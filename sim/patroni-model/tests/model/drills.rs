//! Drills to play.

use std::time::Duration;

use holdfast_plan::drill::{Blow, Database, Drill, Heal, Processes, Synchronous, Target, Transport, Work};

pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three workers that write ten times a second each, on loopback, with Patroni's own times.
pub fn drill(blow: Blow) -> Drill {
    Drill {
        name: "a drill".to_owned(),
        database: Database {
            ttl: s(30),
            loop_wait: s(10),
            retry_timeout: s(10),
            synchronous: Synchronous::Quorum,
            fill: 0,
            parameters: Vec::new(),
        },
        transport: Transport::Loopback,
        link: None,
        workers: 3,
        coordinators: 3,
        work: Work {
            writers: 1,
            every: Duration::from_millis(100),
            deadline: s(1),
        },
        blow,
        heal_after: Heal::AfterWrite(s(5)),
        write_bound: s(120),
        whole_bound: s(120),
    }
}

pub fn kill(target: Target, what: Processes) -> Blow {
    Blow::Kill {
        target,
        what,
        with_kv_leader: false,
    }
}

pub fn soft() -> Drill {
    drill(kill(Target::Leader, Processes::Database))
}
