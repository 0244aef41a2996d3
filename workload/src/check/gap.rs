//! How long nobody could write.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{History, Outcome};

/// A time without an acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When the last one before it was over, since the history began.
    pub from: Duration,
    /// When the first one after it was over, or, when there is none, the last write ended at all.
    pub to: Duration,
    /// Whether it ended by a write that was acknowledged.
    pub ended: bool,
}

impl Gap {
    /// How long.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// When acknowledged writes were over; ascending.
fn ends(history: &History) -> Vec<Duration> {
    let acknowledged = history
        .writes
        .iter()
        .filter(|write| write.outcome == Outcome::Acknowledged);
    let mut ends: Vec<Duration> = acknowledged.map(|write| write.ended).collect();
    ends.sort_unstable();
    ends
}

/// All gaps; the first from the beginning, the last until the end of the last write.
fn gaps(history: &History) -> Vec<Gap> {
    let ends = ends(history);
    let over = history.writes.iter().map(|write| write.ended).max();
    let mut gaps = Vec::with_capacity(ends.len() + 1);
    let mut from = Duration::ZERO;
    for to in ends {
        let ended = true;
        gaps.push(Gap { from, to, ended });
        from = to;
    }
    let to = over.unwrap_or_default().max(from);
    let ended = false;
    gaps.push(Gap { from, to, ended });
    gaps
}

/// The longest gap that has an instant in it or begins after it: what a blow at that instant did.
/// A gap that began before the instant counts from its beginning.
#[must_use]
pub fn write_gap(history: &History, at: Duration) -> Gap {
    longest(gaps(history).into_iter().filter(|gap| gap.to >= at))
}

/// The longest gap of all between two acknowledged writes.
#[must_use]
pub fn longest_gap(history: &History) -> Gap {
    longest(gaps(history).into_iter())
}

fn longest(gaps: impl Iterator<Item = Gap>) -> Gap {
    let nothing = Gap {
        from: Duration::ZERO,
        to: Duration::ZERO,
        ended: true,
    };
    // Of several the earliest: it is the one that came of the blow.
    gaps.fold(nothing, |best, gap| match gap.length() > best.length() {
        true => gap,
        false => best,
    })
}

/// When the last write was asked for that was acknowledged before that instant.
#[must_use]
pub fn last_acknowledged(history: &History, before: Duration) -> Option<Duration> {
    let acknowledged = history
        .writes
        .iter()
        .filter(|write| write.outcome == Outcome::Acknowledged && write.ended <= before);
    acknowledged.map(|write| write.asked).max()
}

/// When the first write was over that was asked for after that instant and acknowledged.
#[must_use]
pub fn first_acknowledged(history: &History, after: Duration) -> Option<Duration> {
    let acknowledged = history
        .writes
        .iter()
        .filter(|write| write.outcome == Outcome::Acknowledged && write.asked >= after);
    acknowledged.map(|write| write.ended).min()
}
