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
/// Most rounds of one measurement.
pub const ROUNDS_MAX: usize = 10_000;

/// Rounds that were played in the kernel world: numbers and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The scenario's name.
    pub scenario: String,
    /// Its digest when it was played.
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
}

impl RoundNumbers {
    /// Of a round and its verdict.
    #[must_use]
    pub fn of(round: &Round, verdict: &DrillVerdict) -> RoundNumbers {
        let ms = SPANS.iter().filter_map(|span| {
            let ms = u64::try_from(span.of(round)?.as_millis()).unwrap_or(u64::MAX);
            Some((span.name.to_owned(), ms))
        });
        RoundNumbers {
            seed: round.seed,
            phase: round.phase,
            acknowledged: verdict.durability.acknowledged,
            lost: verdict.durability.lost.len() as u64,
            unknown: verdict.durability.unknown,
            ms: ms.collect(),
        }
    }
}

impl Measurement {
    /// Nothing yet.
    #[must_use]
    pub fn new(scenario: &DrillScenario, transport: Transport) -> Measurement {
        Measurement {
            scenario: scenario.name().to_owned(),
            digest: scenario.digest().to_owned(),
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

    /// How long a span was in each round that had it.
    #[must_use]
    pub fn times(&self, span: &str) -> Vec<Duration> {
        let ms = self.rounds.iter().filter_map(|round| round.ms.get(span));
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
    /// The kernel's.
    pub kernel: Stats,
    /// The model's; `None` when no round of it had the span.
    pub model: Option<Stats>,
    /// The model's median by the kernel's, both at least [`RESOLUTION_MS`].
    pub ratio: Option<f64>,
    /// Whether they have to agree on it.
    pub calibrated: bool,
}

impl Compared {
    /// Whether they agree, or do not have to.
    #[must_use]
    pub fn agrees(&self) -> bool {
        let near = |ratio: f64| (RATIO_MAX.recip()..=RATIO_MAX).contains(&ratio);
        !self.calibrated || self.kernel.rounds < ROUNDS_MIN || self.ratio.is_some_and(near)
    }
}

/// How a measurement compares with another one of the same seeds, and so of the same phases of
/// Patroni's loop: the ratios of each pair of rounds, as thousandths.
#[must_use]
pub fn paired(this: &Measurement, other: &Measurement, span: &str) -> Option<Stats> {
    let of_seed = |seed| other.rounds.iter().find(|round| round.seed == seed);
    let ratio = |round: &RoundNumbers| {
        let theirs = *of_seed(round.seed)?.ms.get(span)?;
        let ours = *round.ms.get(span)?;
        (theirs > 0).then(|| Duration::from_secs_f64(ours as f64 / theirs as f64))
    };
    let ratios: Vec<Duration> = this.rounds.iter().filter_map(ratio).collect();
    stats(span, &ratios)
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
    Ok(compare(&measured.stats(), &of_rounds(rounds.iter())))
}

/// The same spans of a measurement and of rounds of the model.
#[must_use]
pub fn compare(kernel: &[Stats], model: &[Stats]) -> Vec<Compared> {
    let compared = kernel.iter().map(|kernel| {
        let model = model
            .iter()
            .find(|other| other.span == kernel.span)
            .cloned();
        let floored = |stats: &Stats| stats.p50_ms.max(RESOLUTION_MS);
        let ratio = model.as_ref().map(|model| floored(model) / floored(kernel));
        let span = SPANS.iter().find(|span| span.name == kernel.span);
        Compared {
            kernel: kernel.clone(),
            model,
            ratio,
            calibrated: span.is_some_and(|span| span.calibrated),
        }
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
            let compared = compare(&of(kernel), &of(model));
            compared.iter().all(Compared::agrees)
        };
        assert!(agree(&[20, 25, 30], &[24, 28, 30]));
        assert!(!agree(&[20, 25, 30], &[10, 12, 14]));
        assert!(!agree(&[20, 25, 30], &[39, 40, 41]));
        assert!(!agree(&[20, 25, 30], &[]));
        // Two rounds are no measurement.
        assert!(agree(&[20, 25], &[1, 2, 3]));
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
    }
}
