//! How long what took, over many rounds.

use std::time::Duration;

use holdfast_plan::drill::{Point, Round};
use holdfast_workload::check::write_gap;
use serde::{Deserialize, Serialize};

/// Resamples of the bootstrap: the ends of a 95 % interval are then the 50th of each side.
const RESAMPLES: usize = 2_000;
/// Where the resampling begins, always.
const SEED: u64 = 0x686f_6c64_6661_7374;

/// From one point to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// As in tables and JSON.
    pub name: &'static str,
    /// What begins it; `None` is the gap around the blow, as clients saw it.
    ends: Option<(Point, Point)>,
    /// Whether model and kernel have to agree on it. Not on when the first log line says
    /// something, which is the log's; on a second within a longer span that has to agree, which is
    /// the machine's; nor on when all is whole, which is a turn of the loop sooner or later.
    pub calibrated: bool,
}

const fn span(name: &'static str, from: Point, to: Point, calibrated: bool) -> Span {
    Span {
        name,
        ends: Some((from, to)),
        calibrated,
    }
}

/// The time to recover: from the blow to the first write that was asked for after it and
/// acknowledged.
pub const RTO: &str = "fault to first write";
/// The longest time around the blow without an acknowledged write.
pub const WRITE_GAP: &str = "write gap";
/// From the mending until the old leader, or whose disk was lost, streams as a replica.
pub const HEALED_TO_BACK: &str = "healed to old back";
/// From the mending until every member is there.
pub const HEALED_TO_WHOLE: &str = "healed to whole";

/// What is measured, in the order of a failover.
pub const SPANS: [Span; 11] = [
    Span {
        name: WRITE_GAP,
        ends: None,
        calibrated: true,
    },
    span("fault to detected", Point::Fault, Point::Detected, false),
    span("fault to key free", Point::Fault, Point::KeyFree, true),
    span("fault to key taken", Point::Fault, Point::KeyTaken, true),
    span("fault to promoted", Point::Fault, Point::Promoted, true),
    span("fault to endpoint", Point::Fault, Point::Switched, false),
    span(RTO, Point::Fault, Point::FirstAcknowledged, true),
    span(
        "key free to first write",
        Point::KeyFree,
        Point::FirstAcknowledged,
        false,
    ),
    span(HEALED_TO_BACK, Point::Healed, Point::OldBack, true),
    span(HEALED_TO_WHOLE, Point::Healed, Point::Whole, false),
    span("fault to whole", Point::Fault, Point::Whole, false),
];

impl Span {
    /// How long it was in a round, if it had both ends in order.
    #[must_use]
    pub fn of(&self, round: &Round) -> Option<Duration> {
        let Some((from, to)) = self.ends else {
            let gap = write_gap(&round.history, round.at(Point::Fault)?);
            return gap.ended.then(|| gap.length());
        };
        let from = round.at(from)?;
        // What was there before its beginning is another one's.
        let to = round
            .marks
            .iter()
            .find(|mark| mark.point == to && mark.at >= from)?;
        Some(to.at - from)
    }
}

/// A distribution in a few numbers, milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// What of.
    pub span: String,
    /// How many rounds had it.
    pub rounds: usize,
    /// The median.
    pub p50_ms: f64,
    /// The 95th percentile, by nearest rank.
    pub p95_ms: f64,
    /// The shortest.
    pub best_ms: f64,
    /// The longest.
    pub worst_ms: f64,
    /// The 95 % confidence interval of the median, by bootstrap; `None` of less than three rounds.
    pub p50_ci95_ms: Option<(f64, f64)>,
}

/// What some times say; `None` without any.
#[must_use]
pub fn stats(span: &str, times: &[Duration]) -> Option<Stats> {
    let mut ms: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let (best, worst) = (*ms.first()?, *ms.last()?);
    let rank = (ms.len() * 95).div_ceil(100).max(1) - 1;
    Some(Stats {
        span: span.to_owned(),
        rounds: ms.len(),
        p50_ms: median(&ms),
        p95_ms: ms[rank],
        best_ms: best,
        worst_ms: worst,
        p50_ci95_ms: confidence(&ms),
    })
}

/// Of every span that some round had.
#[must_use]
pub fn of_rounds<'a>(rounds: impl Iterator<Item = &'a Round> + Clone) -> Vec<Stats> {
    let of = |span: &Span| {
        let times: Vec<Duration> = rounds.clone().filter_map(|round| span.of(round)).collect();
        stats(span.name, &times)
    };
    SPANS.iter().filter_map(of).collect()
}

/// Of numbers in order; the mean of the two in the middle.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The percentile bootstrap (Efron, *Bootstrap Methods*, Annals of Statistics 1979), the same
/// every time.
fn confidence(sorted: &[f64]) -> Option<(f64, f64)> {
    if sorted.len() < 3 {
        return None;
    }
    let mut state = SEED;
    let mut medians: Vec<f64> = Vec::with_capacity(RESAMPLES);
    let mut sample = vec![0.0; sorted.len()];
    for _ in 0..RESAMPLES {
        for value in &mut sample {
            *value = sorted[(next(&mut state) % sorted.len() as u64) as usize];
        }
        sample.sort_by(f64::total_cmp);
        medians.push(median(&sample));
    }
    medians.sort_by(f64::total_cmp);
    let tail = RESAMPLES / 40;
    Some((medians[tail], medians[RESAMPLES - 1 - tail]))
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|s| Duration::from_secs(*s)).collect()
    }

    #[test]
    fn a_distribution_is_its_median_its_worst_and_how_sure_that_is() {
        let stats = stats("x", &seconds(&[20, 30, 22, 28, 24, 26, 25])).expect("numbers");
        assert_eq!((stats.p50_ms, stats.worst_ms), (25_000.0, 30_000.0));
        assert_eq!((stats.best_ms, stats.p95_ms), (20_000.0, 30_000.0));
        let (low, high) = stats.p50_ci95_ms.expect("enough rounds");
        assert!((20_000.0..=25_000.0).contains(&low), "{low}");
        assert!((25_000.0..=30_000.0).contains(&high), "{high}");
    }

    #[test]
    fn more_rounds_make_the_interval_narrower_and_the_same_rounds_the_same_one() {
        let few: Vec<u64> = (0..10).map(|n| 20 + n).collect();
        let many: Vec<u64> = (0..200).map(|n| 20 + n % 10).collect();
        let width = |values: &[u64]| {
            let (low, high) = stats("x", &seconds(values))?.p50_ci95_ms?;
            Some(high - low)
        };
        assert!(width(&many) < width(&few));
        assert_eq!(stats("x", &seconds(&few)), stats("x", &seconds(&few)));
        assert_eq!(
            stats("x", &seconds(&[1, 2])).and_then(|s| s.p50_ci95_ms),
            None
        );
        assert_eq!(stats("x", &[]), None);
    }
}
