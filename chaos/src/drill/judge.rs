//! What must hold of a round.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_plan::drill::{Blow, Point, Processes, Round, Synchronous};
use holdfast_workload::check::{Gap, durability, linearizable, write_gap};
use holdfast_workload::{Durability, History, Outcome, Verdict, Write};
use serde::Serialize;

use super::{DrillScenario, Outside};
use crate::FailureClass;
use crate::scenario::values::Time;

/// Most rows that a message names.
const NAMED_MAX: usize = 5;
/// `synchronous_commit` that waits for the replica's disk at least (PostgreSQL 20.5.1).
const STRONG: [&str; 2] = ["on", "remote_apply"];
/// How a client tells of a wait that was cut short.
const WARNING: &str = "WARNING";

/// Something that should not have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DrillViolation {
    /// Its class.
    pub class: FailureClass,
    /// Who saw it, a name of the table in `docs/testing.md`.
    pub oracle: &'static str,
    /// What was seen and what was expected.
    pub detail: String,
}

/// What puts a round outside of the claim, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OutsideFound {
    /// Which.
    pub name: Outside,
    /// In words, with what was lost.
    pub detail: String,
}

/// What came of a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DrillVerdict {
    /// Everything that should not have been, the gravest first.
    pub violations: Vec<DrillViolation>,
    /// What puts it outside of the claim that nothing acknowledged is lost.
    pub outside: Vec<OutsideFound>,
    /// What became of the rows.
    pub durability: Durability,
    /// Whether the register behaved as if there were one of it.
    pub register: Verdict,
    /// The longest time around the blow without an acknowledged write; `None` without a blow.
    pub gap: Option<Gap>,
}

impl DrillVerdict {
    /// Whether everything held.
    #[must_use]
    pub fn held(&self) -> bool {
        self.violations.is_empty()
    }

    /// The exit code of a program that ends because of it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let codes = self.violations.iter().map(|v| v.class.exit_code());
        codes.max().unwrap_or(0)
    }

    /// Of a round that could not be played: it panicked.
    #[must_use]
    pub(super) fn crashed(detail: String) -> DrillVerdict {
        DrillVerdict {
            violations: vec![DrillViolation {
                class: FailureClass::Crash,
                oracle: "crash",
                detail,
            }],
            outside: Vec::new(),
            durability: Durability::default(),
            register: Verdict::Unchecked {
                why: "it panicked".to_owned(),
            },
            gap: None,
        }
    }
}

struct Judge<'a> {
    scenario: &'a DrillScenario,
    round: &'a Round,
    verdict: DrillVerdict,
}

/// What came of a round, by the drill's expectations and what always must hold.
#[must_use]
pub fn judge(scenario: &DrillScenario, round: &Round) -> DrillVerdict {
    let fault = round.at(Point::Fault);
    let verdict = DrillVerdict {
        violations: Vec::new(),
        outside: Vec::new(),
        durability: durability(&round.history),
        register: linearizable(&round.history.register),
        gap: fault.map(|fault| write_gap(&round.history, fault)),
    };
    let mut judge = Judge {
        scenario,
        round,
        verdict,
    };
    judge.crashes();
    judge.played();
    judge.outside();
    judge.rows();
    judge.register();
    judge.primaries();
    judge.failovers();
    judge.gap();
    judge.gaps_of_members();
    judge.ends_whole();
    judge.whole();
    judge.rejoin();
    let mut verdict = judge.verdict;
    verdict
        .violations
        .sort_by_key(|v| std::cmp::Reverse(v.class));
    verdict
}

impl<'a> Judge<'a> {
    fn wrong(&mut self, class: FailureClass, oracle: &'static str, detail: impl Into<String>) {
        self.verdict.violations.push(DrillViolation {
            class,
            oracle,
            detail: detail.into(),
        });
    }

    /// What must not happen whatever the blow.
    fn crashes(&mut self) {
        for crash in &self.round.crashes {
            self.wrong(FailureClass::Crash, "crash", crash);
        }
    }

    /// Every member through whose endpoint somebody wrote, in order.
    fn members(&self) -> BTreeSet<&'a str> {
        let writes = &self.round.history.writes;
        writes.iter().map(|write| write.member.as_str()).collect()
    }

    /// Members through whose endpoint no write that is `wanted` was acknowledged.
    fn silent(&self, wanted: impl Fn(&Write) -> bool) -> Vec<&'a str> {
        let writes = &self.round.history.writes;
        let heard: BTreeSet<&str> = writes
            .iter()
            .filter(|write| write.outcome == Outcome::Acknowledged && wanted(write))
            .map(|write| write.member.as_str())
            .collect();
        let members = self.members();
        members.difference(&heard).copied().collect()
    }

    /// There was a blow, writes before it, and somebody who read what is there: otherwise nothing
    /// was measured, whatever the rest says.
    fn played(&mut self) {
        let round = self.round;
        let why = || match round.notes.as_slice() {
            [] => String::new(),
            notes => format!(": {}", notes.join("; ")),
        };
        let Some(fault) = round.at(Point::Fault) else {
            return self.wrong(
                FailureClass::Harness,
                "played",
                format!("the round ended before its blow{}", why()),
            );
        };
        if round.cut_short {
            let detail = format!("it ended before its cluster was whole{}", why());
            self.wrong(FailureClass::Liveness, "whole", detail);
        }
        let silent = self.silent(|write| write.ended <= fault);
        let workers = usize::from(self.scenario.drill().workers);
        let (written, silent) = (self.members().len(), silent.join(", "));
        if written < workers {
            let detail = format!("{written} of {workers} workers wrote");
            self.wrong(FailureClass::Harness, "played", detail);
        } else if !silent.is_empty() {
            let detail = format!("no write was acknowledged before the blow at {silent}");
            self.wrong(FailureClass::Harness, "played", detail);
        }
        if !self.verdict.durability.read {
            let detail = format!("nobody read the rows at the end{}", why());
            self.wrong(FailureClass::Harness, "played", detail);
        }
    }

    /// What puts it outside of the claim, by the settings, the blow and what clients were told.
    fn outside(&mut self) {
        let drill = self.scenario.drill();
        let lost = self.verdict.durability.lost.len();
        let mut found = Vec::new();
        let commit = drill
            .database
            .parameters
            .iter()
            .find(|(name, _)| name == "synchronous_commit");
        match commit {
            Some((_, value)) if !STRONG.contains(&value.as_str()) => found.push((
                Outside::WeakCommit,
                format!("synchronous_commit = {value}, {lost} acknowledged writes lost"),
            )),
            _ if drill.database.synchronous == Synchronous::Off => found.push((
                Outside::WeakCommit,
                format!("no synchronous mode, {lost} acknowledged writes lost"),
            )),
            _ => {}
        }
        let warned = |w: &&Write| {
            let told = w.error.as_ref().is_some_and(|e| e.contains(WARNING));
            w.outcome == Outcome::Unknown && told
        };
        let cancelled = self.round.history.writes.iter().filter(warned).count();
        if cancelled > 0 {
            let detail = format!("{cancelled} waits for a standby were cancelled: indeterminate");
            found.push((Outside::CancelledWait, detail));
        }
        if drill.blow == Blow::ForceFailover {
            let detail = format!("a failover was forced, {lost} acknowledged writes lost");
            found.push((Outside::ForcedFailover, detail));
        }
        let named = |name| found.iter().any(|(other, _)| *other == name);
        let missing: Vec<Outside> = self
            .scenario
            .file()
            .expect
            .outside
            .iter()
            .copied()
            .filter(|name| !named(*name))
            .collect();
        for name in missing {
            let detail = format!("expected {}, and nothing of it was seen", name.as_str());
            self.wrong(FailureClass::Harness, "outside", detail);
        }
        let found = found
            .into_iter()
            .map(|(name, detail)| OutsideFound { name, detail });
        self.verdict.outside = found.collect();
    }

    fn rows(&mut self) {
        let expect = &self.scenario.file().expect;
        let listed = !expect.outside.is_empty();
        // Outside of the claim any number may be lost, unless the scenario says how many.
        let lost_max = expect.lost_max.or((!listed).then_some(0));
        let durability = self.verdict.durability.clone();
        let new: Vec<u64> = match listed && lost_max.is_none() {
            true => self.lost_by_the_new_leader(&durability.lost),
            false => Vec::new(),
        };
        if !new.is_empty() {
            let detail = format!(
                "{} acknowledged writes lost that the old leader has not acknowledged: {}",
                new.len(),
                self.described(&new)
            );
            self.wrong(FailureClass::Correctness, "durability", detail);
        }
        if lost_max.is_some_and(|max| durability.lost.len() as u64 > max) {
            let detail = format!(
                "{} of {} acknowledged writes lost: {}",
                durability.lost.len(),
                durability.acknowledged,
                self.described(&durability.lost)
            );
            self.wrong(FailureClass::Correctness, "durability", detail);
        }
        let others = [
            ("there more than once", &durability.duplicated),
            ("there, and nobody wrote them", &durability.invented),
            (
                "there, and their clients were told that they are not",
                &durability.failed_but_there,
            ),
        ];
        for (what, ids) in others.into_iter().filter(|(_, ids)| !ids.is_empty()) {
            let detail = format!("{} rows are {what}: {}", ids.len(), self.described(ids));
            self.wrong(FailureClass::Correctness, "durability", detail);
        }
    }

    /// Of lost rows, those that another server acknowledged than the one that led before the blow:
    /// what is outside of the claim excuses the old leader's alone.
    fn lost_by_the_new_leader(&self, lost: &[u64]) -> Vec<u64> {
        let writes = &self.round.history.writes;
        let fault = self.round.at(Point::Fault).unwrap_or_default();
        let before = writes.iter().filter(|write| {
            write.outcome == Outcome::Acknowledged && write.server.is_some() && write.ended <= fault
        });
        let old = before.max_by_key(|write| write.ended);
        let old = old.and_then(|write| write.server.as_ref());
        let by_another = |id: &&u64| {
            let write = writes.iter().find(|write| write.id == **id);
            write.is_some_and(|write| write.server.as_ref() != old)
        };
        lost.iter().filter(by_another).copied().collect()
    }

    /// The first of some rows, with where and when they were written.
    fn described(&self, ids: &[u64]) -> String {
        let one = |id: &u64| {
            let write = self.round.history.writes.iter().find(|w| w.id == *id);
            match write {
                Some(write) => format!(
                    "{id} (asked at {:.3}s through {}, {})",
                    write.asked.as_secs_f64(),
                    write.member,
                    write.server.as_deref().unwrap_or("no server")
                ),
                None => id.to_string(),
            }
        };
        let mut words: Vec<String> = ids.iter().take(NAMED_MAX).map(one).collect();
        if ids.len() > NAMED_MAX {
            words.push(format!("and {} more", ids.len() - NAMED_MAX));
        }
        words.join(", ")
    }

    fn register(&mut self) {
        let expect = &self.scenario.file().expect;
        if !expect.linearizable.unwrap_or(expect.outside.is_empty()) {
            return;
        }
        match self.verdict.register.clone() {
            Verdict::Linearizable { operations: 0 } => {
                let detail = "nobody used the register";
                self.wrong(FailureClass::Harness, "linearizable", detail);
            }
            Verdict::Linearizable { .. } => self.reads(),
            Verdict::Violated { why } => {
                self.wrong(FailureClass::Correctness, "linearizable", why);
            }
            Verdict::Unchecked { why } => self.wrong(FailureClass::Harness, "linearizable", why),
        }
    }

    /// Without a read on either side of the blow nobody would have seen a register that forgot.
    fn reads(&mut self) {
        let round = self.round;
        let read = |when: &dyn Fn(Duration, Duration) -> bool| {
            let mut register = round.history.register.iter();
            register.any(|op| {
                op.outcome == Outcome::Acknowledged && op.read.is_some() && when(op.asked, op.ended)
            })
        };
        let mut missing = Vec::new();
        if let Some(fault) = round.at(Point::Fault)
            && !read(&|_, ended| ended <= fault)
        {
            missing.push("before the blow");
        }
        if let Some(first) = round.at(Point::FirstAcknowledged)
            && !read(&|asked, _| asked >= first)
        {
            missing.push("after the first write that followed it");
        }
        if !missing.is_empty() {
            let detail = format!("no read of the register {}", missing.join(" and "));
            self.wrong(FailureClass::Harness, "linearizable", detail);
        }
    }

    fn primaries(&mut self) {
        let expect = &self.scenario.file().expect;
        let max = expect.two_primaries_max.unwrap_or_default();
        let found = Duration::from_millis(self.round.two_primaries_ms);
        if found > max.0 {
            let found = Time(found);
            let detail = format!("two members took writes for {found}, expected at most {max}");
            self.wrong(FailureClass::Correctness, "primaries", detail);
        }
        // Who is cut off has to stop before another leads; one that stood still cannot.
        let led = Duration::from_millis(self.round.two_led_ms);
        if matches!(self.scenario.drill().blow, Blow::Partition { .. }) && led > max.0 {
            let detail = format!(
                "two members said that they lead for {}, expected at most {max}",
                Time(led)
            );
            self.wrong(FailureClass::Correctness, "primaries", detail);
        }
    }

    /// Each promotion is a new timeline (PostgreSQL 26.3.5).
    fn failovers(&mut self) {
        let Some(expected) = self.scenario.file().expect.failovers else {
            return;
        };
        let (before, after) = self.round.timelines;
        let found = after.saturating_sub(before);
        let leader = self.round.leader_after.as_deref();
        let moved = leader.is_some_and(|leader| leader != self.round.leader);
        let detail = format!(
            "{found} failovers (timelines {before} to {after}, {} to {}), expected {expected}",
            self.round.leader,
            leader.unwrap_or("nobody")
        );
        // One that was not wanted must never happen; one that is missing may only be late.
        if found > expected || expected == 0 && moved {
            self.wrong(FailureClass::Correctness, "failovers", detail);
        } else if found < expected {
            self.wrong(FailureClass::Liveness, "failovers", detail);
        }
    }

    fn gap(&mut self) {
        let Some(gap) = self.verdict.gap else { return };
        let bound = self.scenario.file().expect.write_gap;
        let bound = bound.map_or(self.scenario.file().drill.write_bound.0, |bound| bound.0);
        let (from, length) = (gap.from.as_secs_f64(), gap.length().as_secs_f64());
        let bound = bound.as_secs_f64();
        if !gap.ended && length > self.scenario.file().drill.deadline.0.as_secs_f64() {
            let detail = format!("no write was acknowledged after {from:.3}s");
            self.wrong(FailureClass::Liveness, "write-gap", detail);
        } else if length > bound {
            let detail = format!("{length:.3}s from {from:.3}s on, expected at most {bound:.3}s");
            self.wrong(FailureClass::Liveness, "write-gap", detail);
        }
    }

    /// Whoever has an endpoint writes again in time, through each of them: the gap of all is over
    /// with the first that has found the new leader.
    fn gaps_of_members(&mut self) {
        let Some(fault) = self.round.at(Point::Fault) else {
            return;
        };
        let file = self.scenario.file();
        let bound = file.expect.write_gap.unwrap_or(file.drill.write_bound);
        if self.verdict.gap.is_some_and(|gap| gap.length() > bound.0) {
            return; // of all, which is told
        }
        let round = self.round;
        let loses_endpoint = takes_endpoint(&self.scenario.drill().blow);
        for member in self.members() {
            if loses_endpoint && round.struck.iter().any(|struck| struck == member) {
                continue;
            }
            let writes = round.history.writes.iter();
            let own = History {
                writes: writes.filter(|w| w.member == member).cloned().collect(),
                ..History::default()
            };
            let gap = write_gap(&own, fault);
            if gap.length() > bound.0 {
                let (from, length) = (gap.from.as_secs_f64(), gap.length().as_secs_f64());
                let detail = format!(
                    "{length:.3}s through {member} from {from:.3}s on, expected at most {bound}"
                );
                self.wrong(FailureClass::Liveness, "write-gap", detail);
            }
        }
    }

    /// Once all is whole every endpoint leads to the leader again, also that of a member that was
    /// struck; if writers ran on for longer than one write may take.
    fn ends_whole(&mut self) {
        let Some(whole) = self.round.at(Point::Whole) else {
            return;
        };
        let deadline = self.scenario.file().drill.deadline.0;
        let last = self.round.history.writes.iter().map(|write| write.ended);
        if last.max().is_none_or(|last| last < whole + deadline) {
            return;
        }
        let silent = self.silent(|write| write.ended >= whole).join(", ");
        if !silent.is_empty() {
            let detail =
                format!("no write was acknowledged after the cluster was whole at {silent}");
            self.wrong(FailureClass::Liveness, "write-gap", detail);
        }
    }

    fn whole(&mut self) {
        if self.round.cut_short {
            return;
        }
        let file = self.scenario.file();
        let bound = file.expect.whole_within.unwrap_or(file.drill.whole_bound);
        let begun = self.round.at(Point::Healed).or(self.round.at(Point::Fault));
        let Some((begun, whole)) = begun.zip(self.round.at(Point::Whole)) else {
            let detail = "the cluster did not become whole";
            return self.wrong(FailureClass::Liveness, "whole", detail);
        };
        let took = whole.saturating_sub(begun);
        if took > bound.0 {
            let took = took.as_secs_f64();
            let detail = format!("whole {took:.3}s after it was mended, expected within {bound}");
            self.wrong(FailureClass::Liveness, "whole", detail);
        }
    }

    fn rejoin(&mut self) {
        let allowed = &self.scenario.file().expect.rejoin;
        if allowed.is_empty() || self.round.at(Point::Fault).is_none() {
            return;
        }
        let rejoins = &self.round.rejoins;
        let name = |kind: &holdfast_plan::drill::Rejoin| format!("{kind:?}").to_lowercase();
        let expected: Vec<String> = allowed.iter().map(name).collect();
        let expected = expected.join(" or ");
        let wrong: Vec<String> = rejoins
            .iter()
            .filter(|(member, kind)| self.round.struck.contains(member) && !allowed.contains(kind))
            .map(|(member, kind)| format!("{member} came back by {}", name(kind)))
            .collect();
        let missing: Vec<&String> = self
            .round
            .struck
            .iter()
            .filter(|member| !rejoins.iter().any(|(other, _)| other == *member))
            .collect();
        if !wrong.is_empty() {
            let detail = format!("{}, expected {expected}", wrong.join(", "));
            self.wrong(FailureClass::Liveness, "rejoin", detail);
        }
        for member in missing {
            let detail = format!("nobody saw how {member} came back, expected {expected}");
            self.wrong(FailureClass::Liveness, "rejoin", detail);
        }
    }
}

/// Whether it takes the endpoint from those that it strikes: their machine, their line, or, in turn,
/// their sidecar.
fn takes_endpoint(blow: &Blow) -> bool {
    match blow {
        Blow::Kill { what, .. } => *what == Processes::Machine,
        Blow::Freeze { .. }
        | Blow::Partition { .. }
        | Blow::RollingRestart
        | Blow::Copy { .. }
        | Blow::ForceFailover => true,
        Blow::Wipe { .. }
        | Blow::DiskStall { .. }
        | Blow::Switchover
        | Blow::Pause
        | Blow::CancelWait => false,
    }
}
