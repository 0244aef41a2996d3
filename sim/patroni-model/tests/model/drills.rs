//! Drills to play, and what they say.

use std::time::Duration;

use holdfast_patroni_model::{Knobs, play_with};
use holdfast_plan::drill::{
    Blow, Database, Drill, Heal, Point, Processes, Round, Synchronous, Target, Transport, Work,
};
use holdfast_workload::check::write_gap;

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

pub fn with(synchronous: Synchronous, mut drill: Drill) -> Drill {
    drill.database.synchronous = synchronous;
    drill
}

pub fn times(mut drill: Drill, ttl: u64, loop_wait: u64, retry_timeout: u64) -> Drill {
    drill.database.ttl = s(ttl);
    drill.database.loop_wait = s(loop_wait);
    drill.database.retry_timeout = s(retry_timeout);
    drill
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

pub fn with_kv_leader() -> Drill {
    drill(Blow::Kill {
        target: Target::Leader,
        what: Processes::Database,
        with_kv_leader: true,
    })
}

pub fn freeze(with_line: bool) -> Drill {
    drill(Blow::Freeze {
        target: Target::Leader,
        with_line,
    })
}

pub fn partition() -> Drill {
    drill(Blow::Partition {
        target: Target::Leader,
    })
}

/// Times of many rounds, in seconds, ascending.
pub struct Times(pub Vec<f64>);

impl Times {
    fn of(
        drill: &Drill,
        seeds: u64,
        knobs: &Knobs,
        time: impl Fn(&Round) -> Option<Duration>,
    ) -> Times {
        let rounds = (0..seeds).map(|seed| play_with(drill, seed, knobs));
        let mut times: Vec<f64> = rounds
            .filter_map(|r| time(&r))
            .map(|t| t.as_secs_f64())
            .collect();
        times.sort_by(f64::total_cmp);
        assert_eq!(times.len() as u64, seeds, "every round has it");
        Times(times)
    }

    /// From one moment to another.
    pub fn between(drill: &Drill, seeds: u64, knobs: &Knobs, ends: (Point, Point)) -> Times {
        Times::of(drill, seeds, knobs, |round| {
            round.at(ends.1)?.checked_sub(round.at(ends.0)?)
        })
    }

    /// From the blow to the first write.
    pub fn recovery(drill: &Drill, seeds: u64) -> Times {
        let ends = (Point::Fault, Point::FirstAcknowledged);
        Times::between(drill, seeds, &Knobs::default(), ends)
    }

    /// Without an acknowledged write around the blow.
    pub fn gap(drill: &Drill, seeds: u64) -> Times {
        Times::of(drill, seeds, &Knobs::default(), |round| {
            Some(write_gap(&round.history, round.at(Point::Fault)?).length())
        })
    }

    pub fn percentile(&self, percent: usize) -> f64 {
        self.0[(self.0.len() - 1) * percent / 100]
    }

    pub fn median(&self) -> f64 {
        self.percentile(50)
    }
}
