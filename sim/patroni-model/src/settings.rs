//! A drill as the model plays it: microseconds, and what it cannot play.

use std::time::Duration;

use holdfast_net_model::{LinkConfig, Loss, Ratio};
use holdfast_plan::drill::{Blow, Drill, Heal, Synchronous, Transport};

use crate::Knobs;
use crate::calibration as cal;
use crate::draw::At;

/// More workers than this are not what Patroni is used with; sets of members are bits of a word.
pub(crate) const WORKERS_MAX: u8 = 32;
/// Writers at all workers: what a round's history can hold in reason.
const WRITERS_MAX: u64 = 512;
/// Faster than this no writer of a drill writes.
const EVERY_LEAST: Duration = Duration::from_millis(1);
/// Longer than this no time of a drill is: sums of them stay far below 64 bits of microseconds.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A worker's line, each way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) delay: At,
    pub(crate) jitter: At,
    pub(crate) loss: Ratio,
    pub(crate) bytes_per_s: Option<u64>,
    /// How long a full queue makes a packet wait.
    pub(crate) queue: At,
}

impl Line {
    const PLAIN: Self = Self {
        delay: 0,
        jitter: 0,
        loss: Ratio::NEVER,
        bytes_per_s: None,
        queue: 0,
    };

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let link: LinkConfig = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
        if link.blackhole {
            return Err(format!("{text:?}: a line that never carries anything"));
        }
        let loss = match link.loss {
            Loss::None => Ratio::NEVER,
            Loss::Bernoulli(ratio) => ratio,
            Loss::GilbertElliott { .. } => {
                return Err(format!("{text:?}: loss in bursts is not modelled"));
            }
        };
        let bytes_per_s = link.rate_bits_per_s.map(|rate| (rate.get() / 8).max(1));
        Ok(Self {
            delay: us(link.delay),
            jitter: us(link.jitter),
            loss,
            bytes_per_s,
            queue: bytes_per_s.map_or(0, |rate| link.queue_bytes.saturating_mul(1_000_000) / rate),
        })
    }
}

/// What a round is played with.
pub(crate) struct Settings {
    pub(crate) members: usize,
    pub(crate) kv_servers: u8,
    pub(crate) ttl: At,
    pub(crate) loop_wait: At,
    pub(crate) retry_timeout: At,
    pub(crate) session_ttl: At,
    pub(crate) synchronous: Synchronous,
    /// `synchronous_commit` makes a commit wait for standbys at all.
    pub(crate) waits: bool,
    pub(crate) fill: u64,
    pub(crate) transport: Transport,
    pub(crate) line: Line,
    pub(crate) writers: usize,
    pub(crate) every: At,
    pub(crate) deadline: At,
    pub(crate) write_bound: At,
    pub(crate) whole_bound: At,
    pub(crate) blow: Blow,
    pub(crate) heal: Heal,
    pub(crate) knobs: Knobs,
}

impl Settings {
    /// # Errors
    /// What the model cannot play.
    pub(crate) fn new(drill: &Drill, knobs: &Knobs) -> Result<Self, String> {
        check(drill)?;
        let seconds = |least: u64, time: Duration| us(time).max(least * 1_000_000);
        // Patroni's hard minimums, and its rule that loop_wait + 2 * retry_timeout fits into ttl.
        let ttl = seconds(20, drill.database.ttl);
        let loop_wait = seconds(1, drill.database.loop_wait).min(ttl - 6_000_000);
        let retry_timeout = seconds(3, drill.database.retry_timeout).min((ttl - loop_wait) / 2);
        let line = match &drill.link {
            Some(text) => Line::parse(text)?,
            None => Line::PLAIN,
        };
        Ok(Self {
            members: usize::from(drill.workers),
            kv_servers: drill.coordinators,
            ttl,
            loop_wait,
            retry_timeout,
            session_ttl: (ttl / 2).max(cal::SESSION_TTL_LEAST),
            synchronous: drill.database.synchronous,
            waits: !drill.database.parameters.iter().any(is_weak),
            fill: drill.database.fill,
            transport: drill.transport,
            line,
            writers: usize::from(drill.work.writers),
            every: us(drill.work.every),
            deadline: us(drill.work.deadline),
            write_bound: us(drill.write_bound),
            whole_bound: us(drill.whole_bound),
            blow: drill.blow.clone(),
            heal: drill.heal_after,
            knobs: knobs.clone(),
        })
    }
}

fn check(drill: &Drill) -> Result<(), String> {
    if !(2..=WORKERS_MAX).contains(&drill.workers) {
        return Err(format!("{} workers: 2 to {WORKERS_MAX}", drill.workers));
    }
    if drill.coordinators == 0 {
        return Err("no coordinator, hence no KV".to_owned());
    }
    let writers = u64::from(drill.workers) * u64::from(drill.work.writers);
    if writers == 0 || writers > WRITERS_MAX {
        return Err(format!("{writers} writers: 1 to {WRITERS_MAX}"));
    }
    if drill.work.every < EVERY_LEAST || drill.work.deadline.is_zero() {
        return Err("writers that never pause, or that have no time".to_owned());
    }
    let heal = match drill.heal_after {
        Heal::After(time) | Heal::AfterWrite(time) => time,
    };
    let database = &drill.database;
    let times = [
        database.ttl,
        database.loop_wait,
        database.retry_timeout,
        drill.work.every,
        drill.work.deadline,
        drill.write_bound,
        drill.whole_bound,
        heal,
    ];
    if times.iter().any(|time| *time > LONGEST) {
        return Err("a time longer than a day".to_owned());
    }
    match &drill.blow {
        Blow::Copy { link } => Line::parse(link).map(drop),
        Blow::DiskStall { for_ms, .. } if u128::from(*for_ms) > LONGEST.as_millis() => {
            Err("a disk that stalls for more than a day".to_owned())
        }
        _ => Ok(()),
    }
}

/// Values of `synchronous_commit` with which a commit waits for nobody else (PostgreSQL 20.5.1).
fn is_weak((name, value): &(String, String)) -> bool {
    name == "synchronous_commit" && matches!(value.as_str(), "local" | "off")
}

pub(crate) fn us(time: Duration) -> At {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4)
}
