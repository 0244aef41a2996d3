//! What the same disasters took elsewhere: Patroni 4.1.5 and PostgreSQL 15, three nodes on the
//! loopback of one machine with two processors, Consul, clients with a deadline of 1 s.

use std::time::Duration;

use super::stats::{HEALED_TO_BACK, RTO, WRITE_GAP};

/// A figure from elsewhere, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Of which scenario.
    pub scenario: &'static str,
    /// Of which span.
    pub span: &'static str,
    /// The shortest,
    pub best_ms: u64,
    /// the median,
    pub p50_ms: u64,
    /// the longest.
    pub worst_ms: u64,
}

const fn of(scenario: &'static str, span: &'static str, ms: [u64; 3]) -> Reference {
    Reference {
        scenario,
        span,
        best_ms: ms[0],
        p50_ms: ms[1],
        worst_ms: ms[2],
    }
}

/// All of them.
pub const REFERENCES: [Reference; 6] = [
    of("failover-soft", RTO, [21_500, 24_700, 29_100]),
    of("failover-kv-leader", RTO, [12_500, 13_000, 13_500]),
    of("failover-freeze-processes", RTO, [25_700, 26_800, 26_900]),
    of("failover-postmaster", RTO, [1_800, 3_900, 6_300]),
    of("switchover", WRITE_GAP, [2_420, 2_440, 2_500]),
    // A data directory of 87 to 151 MB, until it streams.
    of("disk-loss-replica", HEALED_TO_BACK, [4_200, 4_300, 5_800]),
];

/// The figure of a scenario's span.
#[must_use]
pub fn reference(scenario: &str, span: &str) -> Option<Reference> {
    let found = REFERENCES
        .iter()
        .find(|other| other.scenario == scenario && other.span == span);
    found.copied()
}

impl Reference {
    /// Median and worst, in seconds.
    #[must_use]
    pub fn text(&self) -> String {
        let seconds = |ms| Duration::from_millis(ms).as_secs_f64();
        let (p50, worst) = (seconds(self.p50_ms), seconds(self.worst_ms));
        format!("loopback {p50:.1} / {worst:.1} s")
    }
}
