//! Numbers of rounds that were played, kept in the repository, and compared with those of the
//! model.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_plan::WorldKind;
use holdfast_plan::drill::{Round, Transport};
use serde::{Deserialize, Serialize};

use super::play::{DrillError, play};
use super::stats::{SPANS, Stats, of_rounds, stats};
use super::{DrillScenario, DrillVerdict};

/// How far the medians of model and kernel may be apart, as a factor.
pub const RATIO_MAX: f64 = 1.5;
/// What is shorter is taken to be this long when two medians are compared: below it, a machine
/// with two processors measures its own scheduler.
pub const RESOLUTION_MS: f64 = 250.0;
/// Of fewer rounds a median is no measurement.
pub const ROUNDS_MIN: usize = 3;
/// How far apart the blows of two rounds that are compared may come within Patroni's loop, parts in
/// a thousand: half a second of a `loop_wait` of ten.
pub const PHASE_APART_MAX: u32 = 50;
/// Most rounds of one measurement.
pub const ROUNDS_MAX: usize = 10_000;

/// Rounds that were played in the kernel world: numbers and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The scenario's name.
    pub scenario: String,
    /// The digest of what was played.
    pub digest: String,
    /// How members reached each other.
    pub transport: Transport,
    /// Each round.
    pub rounds: Vec<RoundNumbers>,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundNumbers {
    /// Its seed.
    pub seed: u64,
    /// When within Patroni's loop the blow came, parts in a thousand.
    pub phase: u32,
    /// Writes that were acknowledged,
    pub acknowledged: u64,
    /// and of them those that were lost.
    pub lost: u64,
    /// Writes that may have happened.
    pub unknown: u64,
    /// How long each span was, milliseconds.
    pub ms: BTreeMap<String, u64>,
    /// It ended before its cluster was whole, or nobody read what was there: it counts as failed,
    /// and its times do not count.
    #[serde(default)]
    pub cut_short: bool,
    /// What should not have been, each with its class and who saw it.
    #[serde(default)]
    pub violations: Vec<String>,
}

impl RoundNumbers {
    /// Of a round and its verdict.
    #[must_use]
    pub fn of(round: &Round, verdict: &DrillVerdict) -> RoundNumbers {
        let ms = SPANS.iter().filter_map(|span| {
            let ms = u64::try_from(span.of(round)?.as_millis()).unwrap_or(u64::MAX);
            Some((span.name.to_owned(), ms))
        });
        let violations = verdict.violations.iter();
        let violations = violations.map(|v| format!("{}: {}: {}", v.class, v.oracle, v.detail));
        RoundNumbers {
            cut_short: round.cut_short || !verdict.durability.read,
            violations: violations.collect(),
            seed: round.seed,
            phase: round.phase,
            acknowledged: verdict.durability.acknowledged,
            lost: verdict.durability.lost.len() as u64,
            unknown: verdict.durability.unknown,
            ms: ms.collect(),
        }
    }

    /// Whether it was cut short, or something was that should not have been.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.cut_short || !self.violations.is_empty()
    }
}

impl Measurement {
    /// Nothing yet.
    #[must_use]
    pub fn new(scenario: &DrillScenario, transport: Transport) -> Measurement {
        Measurement {
            scenario: scenario.name().to_owned(),
            digest: scenario.played().to_owned(),
            transport,
            rounds: Vec::new(),
        }
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(text: &str) -> Result<Measurement, String> {
        let read: Measurement = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if read.rounds.len() > ROUNDS_MAX {
            return Err(format!("more than {ROUNDS_MAX} rounds"));
        }
        Ok(read)
    }

    /// As it is kept: pretty, so that a change of it can be read.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("numbers are JSON");
        text.push('\n');
        text
    }

    /// Adds a round, or puts it in the place of the one with its seed.
    pub fn add(&mut self, round: RoundNumbers) {
        self.rounds.retain(|other| other.seed != round.seed);
        self.rounds.push(round);
        self.rounds.sort_by_key(|round| round.seed);
    }

    /// The distributions, in the order of a failover.
    #[must_use]
    pub fn stats(&self) -> Vec<Stats> {
        SPANS
            .iter()
            .filter_map(|span| stats(span.name, &self.times(span.name)))
            .collect()
    }

    /// Rounds that were played to their end: a slow one that broke a bound is still a time.
    pub fn good(&self) -> impl Iterator<Item = &RoundNumbers> {
        self.rounds.iter().filter(|round| !round.cut_short)
    }

    /// Rounds that failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.rounds.iter().filter(|round| round.failed()).count()
    }

    /// How long a span was in each good round that had it.
    #[must_use]
    pub fn times(&self, span: &str) -> Vec<Duration> {
        let ms = self.good().filter_map(|round| round.ms.get(span));
        ms.map(|ms| Duration::from_millis(*ms)).collect()
    }

    /// Acknowledged writes that were lost, of all rounds.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.rounds.iter().map(|round| round.lost).sum()
    }
}

/// One span in both worlds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// As in tables and JSON.
    pub span: &'static str,
    /// The kernel's; `None` when no round of it had the span.
    pub kernel: Option<Stats>,
    /// The model's; `None` when no round of it had the span.
    pub model: Option<Stats>,
    /// The model's median by the kernel's, both at least [`RESOLUTION_MS`].
    pub ratio: Option<f64>,
    /// Whether they have to agree on it.
    pub calibrated: bool,
    /// Whether the scenario says that they are apart on it.
    pub known_apart: bool,
    /// Whether at least half of the rounds of either had it: it may not be missing in the other.
    pub usual: bool,
}

impl Compared {
    /// Whether they agree, or do not have to.
    #[must_use]
    pub fn agrees(&self) -> bool {
        let near = |ratio: f64| (RATIO_MAX.recip()..=RATIO_MAX).contains(&ratio);
        let enough = |kernel: &Stats| kernel.rounds >= ROUNDS_MIN;
        match (self.calibrated, self.ratio) {
            (false, _) => true,
            (true, Some(ratio)) if self.kernel.as_ref().is_some_and(enough) => near(ratio),
            (true, _) => !self.usual,
        }
    }
}

/// How a drill over the mesh compares with loopback, and how it may at most: the median of pairs.
/// `None` where the scenario has no bound.
#[must_use]
pub fn by_loopback(
    scenario: &DrillScenario,
    mesh: &Measurement,
    loopback: &Measurement,
) -> Option<(Option<f64>, f64)> {
    let max = scenario.file().expect.by_loopback_max?;
    let ratio = paired(mesh, loopback, scenario.headline()).ratio;
    Some((ratio.map(|ratio| ratio.p50_ms / 1e3), max))
}

/// How a measurement compares with another one of the same seeds, and so of the same phases of
/// Patroni's loop.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// The ratios of each pair of rounds, as thousandths; `None` without a pair.
    pub ratio: Option<Stats>,
    /// Pairs of one seed whose blows came at different phases all the same, which say nothing.
    pub dropped: usize,
}

/// Pairs the good rounds of two measurements by seed.
#[must_use]
pub fn paired(this: &Measurement, other: &Measurement, span: &str) -> Paired {
    let (mut ratios, mut dropped) = (Vec::new(), 0);
    for ours in this.good() {
        let Some(theirs) = other.good().find(|round| round.seed == ours.seed) else {
            continue;
        };
        let (Some(our_ms), Some(their_ms)) = (ours.ms.get(span), theirs.ms.get(span)) else {
            continue;
        };
        if ours.phase.abs_diff(theirs.phase) > PHASE_APART_MAX {
            dropped += 1;
        } else if *their_ms > 0 {
            ratios.push(Duration::from_secs_f64(*our_ms as f64 / *their_ms as f64));
        }
    }
    let ratio = stats(span, &ratios);
    Paired { ratio, dropped }
}

/// A measurement and the model, which plays as many rounds as its budget has.
///
/// # Errors
/// When the model cannot play it.
pub fn calibrate(
    scenario: &DrillScenario,
    measured: &Measurement,
) -> Result<Vec<Compared>, DrillError> {
    let drill = scenario.drill_over(measured.transport);
    let seeds: Vec<u64> = scenario.seeds(WorldKind::Core).collect();
    let mut rounds = Vec::with_capacity(seeds.len());
    play(scenario, &drill, WorldKind::Core, &seeds, &mut |played| {
        rounds.push(played.round);
    })?;
    let kernel = (measured.stats(), measured.good().count());
    let model = (of_rounds(rounds.iter()), rounds.len());
    let mut compared = compare(&kernel, &model);
    if measured.transport == Transport::Mesh {
        for span in &mut compared {
            span.known_apart = scenario.is_apart(span.span);
        }
    }
    Ok(compared)
}

/// The spans of a measurement and of rounds of the model, each with how many rounds there are.
#[must_use]
pub fn compare(kernel: &(Vec<Stats>, usize), model: &(Vec<Stats>, usize)) -> Vec<Compared> {
    let compared = SPANS.iter().filter_map(|span| {
        let of = |stats: &[Stats]| stats.iter().find(|stats| stats.span == span.name).cloned();
        let found = (of(&kernel.0), of(&model.0));
        if let (None, None) = found {
            return None;
        }
        let floored = |stats: &Stats| stats.p50_ms.max(RESOLUTION_MS);
        let both = found.1.as_ref().zip(found.0.as_ref());
        let ratio = both.map(|(model, kernel)| floored(model) / floored(kernel));
        let half = |stats: &Option<Stats>, rounds: usize| {
            stats
                .as_ref()
                .is_some_and(|stats| 2 * stats.rounds >= rounds)
        };
        let usual = half(&found.0, kernel.1) || half(&found.1, model.1);
        Some(Compared {
            span: span.name,
            kernel: found.0,
            model: found.1,
            ratio,
            calibrated: span.calibrated,
            known_apart: false,
            usual,
        })
    });
    compared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::stats::RTO;

    fn of(seconds: &[u64]) -> Vec<Stats> {
        let times: Vec<Duration> = seconds.iter().map(|s| Duration::from_secs(*s)).collect();
        Vec::from_iter(stats(RTO, &times))
    }

    #[test]
    fn medians_that_are_too_far_apart_disagree() {
        let agree = |kernel: &[u64], model: &[u64]| {
            let compared = compare(&(of(kernel), kernel.len()), &(of(model), model.len()));
            compared.iter().all(Compared::agrees)
        };
        assert!(agree(&[20, 25, 30], &[24, 28, 30]));
        assert!(!agree(&[20, 25, 30], &[10, 12, 14]));
        assert!(!agree(&[20, 25, 30], &[39, 40, 41]));
        assert!(!agree(&[20, 25, 30], &[]));
        // Two rounds are no measurement.
        assert!(!agree(&[20, 25], &[20, 22, 25]));
        assert!(!agree(&[], &[20, 22, 25]));
        // What hardly a round has may be missing in the other.
        let rare = compare(&(Vec::new(), 10), &(of(&[20]), 10));
        assert!(rare.iter().all(Compared::agrees));
    }

    #[test]
    fn a_measurement_is_read_as_it_was_written() {
        let round = |seed, lost| RoundNumbers {
            seed,
            phase: 500,
            acknowledged: 10,
            lost,
            unknown: 1,
            ms: BTreeMap::from([(RTO.to_owned(), 24_000)]),
            cut_short: false,
            violations: Vec::new(),
        };
        let mut measured = Measurement {
            scenario: "failover-soft".to_owned(),
            digest: "0".to_owned(),
            transport: Transport::Mesh,
            rounds: Vec::new(),
        };
        for (seed, lost) in [(7, 1), (3, 2), (7, 0)] {
            measured.add(round(seed, lost));
        }
        let read = Measurement::from_json(&measured.to_json()).expect("what was written");
        assert_eq!(read, measured);
        assert_eq!((read.rounds.len(), read.lost()), (2, 2));
        assert_eq!(read.stats()[0].span, RTO);
        assert!(Measurement::from_json("{}").is_err());
        // A round that failed takes the place of the good one of its seed, and is no time.
        measured.add(RoundNumbers {
            cut_short: true,
            ..round(3, 5)
        });
        assert_eq!((measured.failed(), measured.lost()), (1, 5));
        assert_eq!(measured.times(RTO).len(), 1);
    }

    #[test]
    fn rounds_of_one_seed_are_a_pair_unless_their_phases_are_apart() {
        let of = |phases: [u32; 3]| Measurement {
            scenario: "failover-soft".to_owned(),
            digest: "0".to_owned(),
            transport: Transport::Mesh,
            rounds: (0..)
                .zip(phases)
                .map(|(seed, phase)| RoundNumbers {
                    seed,
                    phase,
                    acknowledged: 1,
                    lost: 0,
                    unknown: 0,
                    ms: BTreeMap::from([(RTO.to_owned(), 20_000)]),
                    cut_short: false,
                    violations: Vec::new(),
                })
                .collect(),
        };
        let found = paired(&of([0, 100, 500]), &of([50, 151, 500]), RTO);
        assert_eq!(found.ratio.map(|ratio| ratio.rounds), Some(2));
        assert_eq!(found.dropped, 1);
    }
}
