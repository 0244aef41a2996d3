//! Whether the register behaved as if there were one of it (Herlihy and Wing, *Linearizability*,
//! TOPLAS 1990).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use todc_utils::specifications::register::{RegisterOperation, RegisterSpecification};
use todc_utils::{Action, WGLChecker};

use crate::{Outcome, RegisterOp};

/// Most operations that are checked: the search remembers a bit of each for each, 32 MB.
pub const OPERATIONS_MAX: usize = 4_000;

/// What a register holds that nobody has written.
const INITIAL: u64 = 0;

/// Whether a register's history is linearizable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// It is.
    Linearizable {
        /// How many operations say so: an empty history says nothing.
        operations: usize,
    },
    /// It is not.
    Violated {
        /// What cannot be.
        why: String,
    },
    /// Nobody knows.
    Unchecked {
        /// Why.
        why: String,
    },
}

impl Verdict {
    fn violated(why: impl Into<String>) -> Verdict {
        Verdict::Violated { why: why.into() }
    }
}

/// An operation that happened, some time between two instants.
#[derive(Clone, Copy, Debug)]
struct Happened {
    from: Duration,
    to: Duration,
    operation: Op,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Read(u64),
    Write(u64),
}

/// Whether a register that began as 0 behaved as if there were one of it.
///
/// Writes must have values of their own, and not 0. One whose outcome is unknown may have happened
/// at any time after it was asked for, or never; one that failed did not.
#[must_use]
pub fn linearizable(operations: &[RegisterOp]) -> Verdict {
    if operations.len() > OPERATIONS_MAX {
        let why = format!(
            "{} operations, at most {OPERATIONS_MAX} are checked",
            operations.len()
        );
        return Verdict::Unchecked { why };
    }
    let happened = match happened(operations) {
        Ok(happened) => happened,
        Err(verdict) => return verdict,
    };
    if explained(&happened) {
        return Verdict::Linearizable {
            operations: happened.len(),
        };
    }
    Verdict::violated(culprit(operations))
}

/// Everything that happened. A write whose outcome is unknown did if somebody read it, and then not
/// later than that; if nobody did, it makes no difference.
fn happened(operations: &[RegisterOp]) -> Result<Vec<Happened>, Verdict> {
    let mut values = BTreeSet::from([INITIAL]);
    for value in operations.iter().filter_map(|op| op.wrote) {
        if !values.insert(value) {
            let why = format!("{value} was written twice");
            return Err(Verdict::Unchecked { why });
        }
    }
    // When each value was known to be there.
    let mut seen: BTreeMap<u64, Duration> = BTreeMap::new();
    let mut happened = Vec::new();
    for op in operations.iter().filter(|op| op.wrote.is_none()) {
        if op.outcome != Outcome::Acknowledged {
            continue;
        }
        let value = op.read.unwrap_or(INITIAL);
        if !values.contains(&value) {
            let why = format!("client {} read {value}, which nobody wrote", op.client);
            return Err(Verdict::violated(why));
        }
        let first = seen.entry(value).or_insert(op.ended);
        *first = op.ended.min(*first);
        happened.push(Happened {
            from: op.asked,
            to: op.ended,
            operation: Op::Read(value),
        });
    }
    for op in operations {
        let Some(value) = op.wrote else { continue };
        let to = match (op.outcome, seen.get(&value)) {
            (Outcome::Acknowledged, _) => op.ended,
            (Outcome::Unknown, Some(first)) if *first < op.asked => {
                let why = format!("{value} was read before it was written");
                return Err(Verdict::violated(why));
            }
            (Outcome::Unknown, Some(first)) => *first,
            (Outcome::Failed, Some(_)) => {
                let why = format!("{value} was read, and its write had failed");
                return Err(Verdict::violated(why));
            }
            (Outcome::Unknown | Outcome::Failed, None) => continue,
        };
        happened.push(Happened {
            from: op.asked,
            to,
            operation: Op::Write(value),
        });
    }
    Ok(happened)
}

/// Whether there is an order in which all of that is right.
fn explained(happened: &[Happened]) -> bool {
    if happened.is_empty() {
        return true;
    }
    // At one instant what begins comes before what ends: they may have overlapped.
    let mut moments: Vec<(Duration, bool, usize)> = Vec::with_capacity(2 * happened.len());
    for (n, op) in happened.iter().enumerate() {
        moments.push((op.from, false, n));
        moments.push((op.to, true, n));
    }
    moments.sort_unstable();
    let action = |(_, is_end, n): (Duration, bool, usize)| {
        let operation = match happened[n].operation {
            Op::Read(value) => RegisterOperation::Read(Some(value)),
            Op::Write(value) => RegisterOperation::Write(value),
        };
        match is_end {
            false => (n, Action::Call(operation)),
            true => (n, Action::Response(operation)),
        }
    };
    let actions = moments.into_iter().map(action).collect();
    WGLChecker::<RegisterSpecification<u64>>::is_linearizable(todc_utils::History::from_actions(
        actions,
    ))
}

/// The first operation that cannot be explained by what came before it. Every prefix of a history
/// that is linearizable is, so that halving finds it.
fn culprit(operations: &[RegisterOp]) -> String {
    let mut by_end: Vec<&RegisterOp> = operations
        .iter()
        .filter(|op| op.outcome == Outcome::Acknowledged)
        .collect();
    by_end.sort_by_key(|op| op.ended);
    // What is not over by then is unknown.
    let holds = |count: usize| {
        let until = by_end[count - 1].ended;
        let known = operations.iter().filter(|op| op.asked <= until);
        let cut: Vec<RegisterOp> = known
            .map(|op| match op.ended > until {
                true => RegisterOp {
                    outcome: Outcome::Unknown,
                    ..op.clone()
                },
                false => op.clone(),
            })
            .collect();
        happened(&cut).is_ok_and(|happened| explained(&happened))
    };
    let (mut good, mut bad) = (0, by_end.len());
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match holds(middle) {
            true => good = middle,
            false => bad = middle,
        }
    }
    let Some(op) = by_end.get(bad.saturating_sub(1)) else {
        return "no order explains what was read".to_owned();
    };
    let what = match op.wrote {
        Some(value) => format!("wrote {value}"),
        None => format!("read {}", op.read.unwrap_or(INITIAL)),
    };
    let (from, to) = (op.asked.as_secs_f64(), op.ended.as_secs_f64());
    format!(
        "client {} {what} between {from:.3}s and {to:.3}s, which no order of what was done until \
         then explains",
        op.client
    )
}
