//! `report --drills`: everything that was measured, beside its baseline.

use std::process::ExitCode;

use holdfast_chaos::FailureClass;
use holdfast_chaos::drill::measured::{Measurement, by_loopback, paired};
use holdfast_chaos::drill::reference::reference;
use holdfast_chaos::drill::stats::{HEALED_TO_WHOLE, Stats};
use holdfast_plan::WorldKind;
use holdfast_plan::drill::Transport;
use serde::Serialize;

use super::calibrate::{drills, unmeasured};
use super::result::{interval, seconds};
use super::store;
use crate::output::{Table, count, print, print_json};

#[derive(Serialize)]
struct Line {
    scenario: String,
    span: &'static str,
    mesh: Option<Stats>,
    loopback: Option<Stats>,
    /// The ratio of rounds of one seed, mesh by loopback: its median, and the interval of it.
    ratio: Option<(f64, Option<(f64, f64)>)>,
    /// Rounds of both,
    pairs: usize,
    /// and those whose phases are too far apart to compare.
    pairs_dropped: usize,
    /// Rounds that failed, of both transports, and all.
    failed: usize,
    rounds: usize,
    /// Median and worst elsewhere, milliseconds.
    reference_ms: Option<(u64, u64)>,
    acknowledged: u64,
    lost: u64,
}

/// Print what was measured; nothing is played.
pub fn run(json: bool) -> anyhow::Result<ExitCode> {
    let mut lines = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    let mut too_slow = Vec::new();
    for drill in drills(&[])? {
        let mesh = store::read(drill.name(), Transport::Mesh)?;
        let loopback = store::read(drill.name(), Transport::Loopback)?;
        if mesh.is_none() && drill.worlds().contains(&WorldKind::Kernel) {
            missing.push(drill.name().to_owned());
        }
        if mesh.is_none() && loopback.is_none() {
            continue;
        }
        if let Some((mesh, loopback)) = mesh.as_ref().zip(loopback.as_ref())
            && let Some((ratio, max)) = by_loopback(&drill, mesh, loopback)
            && ratio.is_none_or(|ratio| ratio > max)
        {
            too_slow.push(format!("{} (at most {max})", drill.name()));
        }
        let headline = drill.headline();
        let mut spans = vec![headline];
        if headline != HEALED_TO_WHOLE {
            spans.push(HEALED_TO_WHOLE);
        }
        for span in spans {
            lines.push(line(drill.name(), span, mesh.as_ref(), loopback.as_ref()));
        }
    }
    if json {
        print_json(&lines)?;
    } else if lines.is_empty() {
        print("nothing was measured: `holdfast-chaos run SCENARIO --world kernel --record`\n")?;
    } else {
        print(&table(&lines))?;
        print(&unmeasured(&missing))?;
    }
    if !too_slow.is_empty() {
        eprintln!("too slow by loopback: {}", too_slow.join(", "));
        return Ok(ExitCode::from(FailureClass::Correctness.exit_code()));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(
    scenario: &str,
    span: &'static str,
    mesh: Option<&Measurement>,
    loopback: Option<&Measurement>,
) -> Line {
    let of = |measured: Option<&Measurement>| {
        let all = measured?.stats();
        all.into_iter().find(|stats| stats.span == span)
    };
    let both = mesh.zip(loopback);
    let pairs = both.map(|(mesh, loopback)| paired(mesh, loopback, span));
    let dropped = pairs.as_ref().map_or(0, |pairs| pairs.dropped);
    let ratio = pairs.and_then(|pairs| pairs.ratio);
    let part = |thousandths: f64| thousandths / 1e3;
    let rounds = [mesh, loopback].into_iter().flatten();
    let rounds = rounds.flat_map(|measured| &measured.rounds);
    Line {
        scenario: scenario.to_owned(),
        span,
        mesh: of(mesh),
        loopback: of(loopback),
        pairs_dropped: dropped,
        failed: rounds.clone().filter(|round| round.failed()).count(),
        rounds: rounds.clone().count(),
        pairs: ratio.as_ref().map_or(0, |ratio| ratio.rounds),
        ratio: ratio.map(|ratio| {
            let ends = ratio.p50_ci95_ms;
            let ends = ends.map(|(low, high)| (part(low), part(high)));
            (part(ratio.p50_ms), ends)
        }),
        reference_ms: reference(scenario, span).map(|r| (r.p50_ms, r.worst_ms)),
        acknowledged: rounds.clone().map(|round| round.acknowledged).sum(),
        lost: rounds.map(|round| round.lost).sum(),
    }
}

fn table(lines: &[Line]) -> String {
    let mut table = Table::with_headings(&[
        "SCENARIO",
        "FROM – TO",
        ">MESH",
        ">P50",
        ">95 % OF IT",
        ">WORST",
        ">LOOPBACK",
        ">P50",
        ">95 % OF IT",
        ">WORST",
        ">RATIO (PAIRS)",
        ">95 % OF IT",
        ">ELSEWHERE P50",
        ">WORST",
        ">FAILED",
        ">LOST",
    ]);
    for line in lines {
        let cells = |stats: &Option<Stats>| match stats {
            None => ["-", "", "", ""].map(str::to_owned),
            Some(stats) => [
                stats.rounds.to_string(),
                seconds(stats.p50_ms),
                interval(stats),
                seconds(stats.worst_ms),
            ],
        };
        let ratio = line.ratio.map_or_else(
            || ["-".to_owned(), String::new()],
            |(ratio, ends)| {
                let ends = ends.map(|(low, high)| format!("{low:.2} – {high:.2}"));
                let dropped = match line.pairs_dropped {
                    0 => String::new(),
                    dropped => format!(", {dropped} dropped"),
                };
                [
                    format!("{ratio:.2} ({}{dropped})", line.pairs),
                    ends.unwrap_or_default(),
                ]
            },
        );
        let elsewhere = match line.reference_ms {
            None => ["-".to_owned(), String::new()],
            Some((p50, worst)) => [seconds(p50 as f64), seconds(worst as f64)],
        };
        let first = [line.scenario.clone(), line.span.to_owned()];
        let failed = [format!("{} of {}", line.failed, line.rounds)];
        let lost = [format!(
            "{} of {}",
            count(line.lost),
            count(line.acknowledged)
        )];
        let all = first
            .into_iter()
            .chain(cells(&line.mesh))
            .chain(cells(&line.loopback))
            .chain(ratio)
            .chain(elsewhere)
            .chain(failed)
            .chain(lost);
        table.row(all);
    }
    table.render()
}
