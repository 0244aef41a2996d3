//! Which decisions of the core the runs have reached.

use std::collections::BTreeMap;

use holdfast_core::simulation::MARKS;

use crate::Run;

/// How often each mark was passed, over many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// One run more.
    pub fn add(&mut self, run: &Run) {
        for (mark, count) in &run.journal.marks {
            *self.counts.entry(mark).or_default() += count;
        }
    }

    /// Every mark of the core with how often it was passed, 0 too.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |mark| self.counts.get(mark).copied().unwrap_or(0);
        MARKS.iter().map(move |mark| (*mark, count(mark)))
    }

    /// The marks that no run has passed.
    #[must_use]
    pub fn unhit(&self) -> Vec<&'static str> {
        let unhit = self.counts().filter(|(_, count)| *count == 0);
        unhit.map(|(mark, _)| mark).collect()
    }
}
