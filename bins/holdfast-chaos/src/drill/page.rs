//! A drill's rounds as a page.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_chaos::DrillScenario;
use holdfast_chaos::drill::play::PlayedRound;
use holdfast_chaos::drill::reference::reference;
use holdfast_chaos::drill::stats::{SPANS, stats};
use holdfast_plan::drill::{Point, Rejoin, Round};
use holdfast_timeline::rounds::{
    Figure, Lane, PointView, RoundView, RoundsPage, State, WriteState,
};
use holdfast_workload::Outcome;

use super::DrillResult;

/// What a result says, to be drawn.
pub fn of(drill: &DrillScenario, result: &DrillResult) -> RoundsPage {
    let transport = format!("{:?}", result.transport).to_lowercase();
    let outside: Vec<&str> = result.outside.keys().copied().collect();
    let outside = match outside.as_slice() {
        [] => String::new(),
        names => format!(" · outside of the claim: {}", names.join(", ")),
    };
    let figures = SPANS.iter().filter_map(|span| {
        let times: Vec<Duration> = result
            .played
            .iter()
            .filter_map(|played| span.of(&played.round))
            .collect();
        let found = stats(span.name, &times)?;
        let elsewhere = reference(drill.name(), span.name);
        Some(Figure {
            name: span.name.to_owned(),
            is_main: span.name == drill.headline(),
            times,
            p50: ms(found.p50_ms),
            p50_ci95: found.p50_ci95_ms.map(|(low, high)| (ms(low), ms(high))),
            worst: ms(found.worst_ms),
            reference: elsewhere.map_or_else(String::new, |found| found.text()),
        })
    });
    RoundsPage {
        title: drill.name().to_owned(),
        subtitle: format!(
            "{} world by {transport} · scenario {} · {}{outside}",
            result.world,
            drill.digest(),
            drill.description()
        ),
        replay: Some(format!(
            "holdfast-chaos run {} --world {}{} --html drill.html",
            drill.name(),
            result.world,
            result.loopback()
        )),
        verdict: (result.held(), result.headline()),
        figures: figures.collect(),
        rounds: result.played.iter().map(round).collect(),
    }
}

fn ms(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}

fn round(played: &PlayedRound) -> RoundView {
    let (round, verdict) = (&played.round, &played.verdict);
    let after = |point| Some(round.at(point)?.saturating_sub(round.at(Point::Fault)?));
    let recovery = after(Point::FirstAcknowledged).map(|end| {
        // What nobody saw took no time.
        let free = after(Point::KeyFree).or(after(Point::KeyTaken));
        let free = free.unwrap_or_default().min(end);
        let promoted = after(Point::Promoted).unwrap_or(free).clamp(free, end);
        [free, promoted, end]
    });
    let mut violations = Vec::new();
    for violation in &verdict.violations {
        let (class, oracle) = (violation.class, violation.oracle);
        violations.push(format!("{class}: {oracle}: {}", violation.detail));
    }
    let outside = verdict.outside.iter();
    let outside = outside.map(|found| format!("{}: {}", found.name.as_str(), found.detail));
    let rejoins = round.rejoins.iter();
    let rejoins = rejoins.map(|(member, kind)| format!("{member} came back by {}", how(*kind)));
    RoundView {
        seed: round.seed,
        phase: round.phase,
        fault: round.at(Point::Fault),
        lanes: lanes(played),
        points: points(round),
        gap: verdict.gap.map(|gap| (gap.from, gap.to)),
        recovery,
        acknowledged: verdict.durability.acknowledged,
        lost: verdict.durability.lost.len() as u64,
        violations,
        outside: outside.collect(),
        notes: rejoins.chain(round.notes.iter().cloned()).collect(),
    }
}

fn how(kind: Rejoin) -> &'static str {
    match kind {
        Rejoin::Replay => "replaying WAL",
        Rejoin::Rewind => "pg_rewind",
        Rejoin::Copy => "a copy of everything",
    }
}

fn points(round: &Round) -> Vec<PointView> {
    let point = |mark: &holdfast_plan::drill::Mark| PointView {
        at: mark.at,
        name: mark.point.as_str().replace('-', " "),
        member: mark.member.clone(),
        source: mark.source.clone(),
    };
    round.marks.iter().map(point).collect()
}

/// A lane for each member, then one for the writers at each.
fn lanes(played: &PlayedRound) -> Vec<Lane> {
    let round = &played.round;
    let mut members: BTreeSet<&str> = BTreeSet::new();
    members.extend(round.history.writes.iter().map(|w| w.member.as_str()));
    members.extend(round.struck.iter().map(String::as_str));
    members.extend(round.leader_after.as_deref());
    members.insert(&round.leader);
    members.remove("");
    let writes = round.history.writes.iter().map(|write| write.ended).max();
    let marks = round.marks.iter().map(|mark| mark.at).max();
    let end = writes.max(marks).unwrap_or_default();
    let lost: BTreeSet<u64> = played.verdict.durability.lost.iter().copied().collect();
    let mut by_member: BTreeMap<&str, Vec<(Duration, WriteState)>> = BTreeMap::new();
    for write in &round.history.writes {
        let state = match write.outcome {
            Outcome::Acknowledged if lost.contains(&write.id) => WriteState::Lost,
            Outcome::Acknowledged => WriteState::Acknowledged,
            Outcome::Failed => WriteState::Failed,
            Outcome::Unknown => WriteState::Unknown,
        };
        let list = by_member.entry(write.member.as_str()).or_default();
        list.push((write.ended, state));
    }
    let members = members.iter().map(|member| Lane {
        name: (*member).to_owned(),
        bars: bars(round, member, end),
        writes: Vec::new(),
    });
    let mut lanes: Vec<Lane> = members.collect();
    lanes.extend(by_member.into_iter().map(|(member, writes)| Lane {
        name: format!("writes at {member}"),
        bars: Vec::new(),
        writes,
    }));
    lanes
}

/// What a member was, by the round's marks.
fn bars(round: &Round, member: &str, end: Duration) -> Vec<(Duration, Duration, State)> {
    let at = |point| round.at(point);
    let is_struck = round.struck.iter().any(|struck| struck == member);
    let led = round.leader == member;
    let leads = round.leader_after.as_deref() == Some(member);
    let first = if led { State::Leader } else { State::Replica };
    let mut changes = vec![(Duration::ZERO, first)];
    if is_struck {
        changes.extend(at(Point::Fault).map(|at| (at, State::Struck)));
        changes.extend(at(Point::Healed).map(|at| (at, State::Rejoining)));
    }
    if leads && !led {
        changes.extend(at(Point::KeyTaken).map(|at| (at, State::Taking)));
        changes.extend(at(Point::Promoted).map(|at| (at, State::Leader)));
    } else if led && !leads {
        // Without a blow to itself it leads until another does.
        if !is_struck {
            changes.extend(at(Point::Promoted).map(|at| (at, State::Rejoining)));
        }
        let back = at(Point::OldBack).or(at(Point::Whole));
        changes.extend(back.map(|at| (at, State::Replica)));
    } else if is_struck {
        let last = if leads { State::Leader } else { State::Replica };
        let back = at(Point::OldBack).or(at(Point::Whole));
        changes.extend(back.map(|at| (at, last)));
    }
    changes.sort_by_key(|(at, _)| *at);
    let ends = changes.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let bars = changes.iter().zip(ends);
    let bars = bars.map(|((from, state), to)| (*from, to, *state));
    bars.filter(|(from, to, _)| to > from).collect()
}
