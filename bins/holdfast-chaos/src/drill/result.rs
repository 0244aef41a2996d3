//! What came of a drill in one world: as JSON, and in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use holdfast_chaos::drill::DrillVerdict;
use holdfast_chaos::drill::play::PlayedRound;
use holdfast_chaos::drill::reference::reference;
use holdfast_chaos::drill::stats::{Stats, of_rounds};
use holdfast_chaos::{DrillScenario, FailureClass};
use holdfast_plan::WorldKind;
use holdfast_plan::drill::{Mark, Rejoin, Transport};
use serde::Serialize;

use crate::output::{Table, Tone, count, print, toned};

/// Rounds that failed and are told.
const TOLD_MAX: usize = 5;

/// A drill in one world.
#[derive(Serialize)]
pub struct DrillResult {
    pub scenario: String,
    pub scenario_digest: String,
    /// Of what is played, whatever is expected of it: a measurement's.
    pub played_digest: String,
    pub world: &'static str,
    pub transport: Transport,
    /// The exit code of the gravest failure.
    pub exit_code: u8,
    /// Why not all rounds could be played.
    pub error: Option<String>,
    /// Rounds that failed.
    pub failed: usize,
    /// Writes of all rounds.
    pub acknowledged: u64,
    pub unknown: u64,
    pub lost: u64,
    /// How many rounds are outside of the claim that nothing is lost, and why.
    pub outside: BTreeMap<&'static str, usize>,
    pub stats: Vec<Stats>,
    pub rounds: Vec<RoundResult>,
    /// All that was seen, for the page: hundreds of writes a round are not for JSON.
    #[serde(skip)]
    pub played: Vec<PlayedRound>,
}

/// A round, without its writes.
#[derive(Serialize)]
pub struct RoundResult {
    pub seed: u64,
    pub phase: u32,
    pub leader: String,
    pub struck: Vec<String>,
    pub leader_after: Option<String>,
    pub timelines: (u64, u64),
    pub marks: Vec<Mark>,
    pub rejoins: Vec<(String, Rejoin)>,
    pub two_primaries_ms: u64,
    pub notes: Vec<String>,
    pub crashes: Vec<String>,
    pub cut_short: bool,
    pub verdict: DrillVerdict,
}

impl RoundResult {
    fn of(played: &PlayedRound) -> RoundResult {
        let round = played.round.clone();
        RoundResult {
            seed: round.seed,
            phase: round.phase,
            leader: round.leader,
            struck: round.struck,
            leader_after: round.leader_after,
            timelines: round.timelines,
            marks: round.marks,
            rejoins: round.rejoins,
            two_primaries_ms: round.two_primaries_ms,
            notes: round.notes,
            crashes: round.crashes,
            cut_short: round.cut_short,
            verdict: played.verdict.clone(),
        }
    }
}

impl DrillResult {
    /// Of all rounds that were played.
    pub fn of(
        drill: &DrillScenario,
        world: WorldKind,
        transport: Transport,
        played: Vec<PlayedRound>,
        error: Option<String>,
    ) -> DrillResult {
        let rows = |of: fn(&DrillVerdict) -> u64| played.iter().map(|p| of(&p.verdict)).sum();
        let codes = played.iter().map(|p| p.verdict.exit_code());
        let broken = error.as_ref().map(|_| FailureClass::Harness.exit_code());
        let mut outside = BTreeMap::new();
        for found in played.iter().flat_map(|p| &p.verdict.outside) {
            *outside.entry(found.name.as_str()).or_default() += 1;
        }
        DrillResult {
            scenario: drill.name().to_owned(),
            scenario_digest: drill.digest().to_owned(),
            played_digest: drill.played().to_owned(),
            world: world.as_str(),
            transport,
            exit_code: codes.chain(broken).max().unwrap_or(0),
            error,
            failed: played.iter().filter(|p| !p.verdict.held()).count(),
            acknowledged: rows(|v| v.durability.acknowledged),
            unknown: rows(|v| v.durability.unknown),
            lost: rows(|v| v.durability.lost.len() as u64),
            outside,
            stats: of_rounds(played.iter().map(|p| &p.round)),
            rounds: played.iter().map(RoundResult::of).collect(),
            played,
        }
    }

    /// Whether all rounds were played, and held.
    pub fn held(&self) -> bool {
        self.exit_code == 0
    }

    /// The verdict in a few words.
    pub fn headline(&self) -> String {
        let held = match (&self.error, self.failed) {
            (Some(_), _) => "not played to its end".to_owned(),
            (None, 0) => "held".to_owned(),
            (None, failed) => format!("{failed} FAILED"),
        };
        format!(
            "{} rounds, {held}: {} of {} acknowledged writes lost, {} unknown",
            self.rounds.len(),
            count(self.lost),
            count(self.acknowledged),
            count(self.unknown)
        )
    }

    /// Print it: what was lost, how long what took, and what failed.
    pub fn print(&self) -> std::io::Result<()> {
        let transport = format!("{:?}", self.transport).to_lowercase();
        let tone = if self.held() { Tone::Good } else { Tone::Bad };
        let mut text = format!(
            "{} in {} by {transport}: {}\n",
            self.scenario,
            self.world,
            toned(&self.headline(), tone)
        );
        for (name, rounds) in &self.outside {
            let _ = writeln!(text, "  outside of the claim: {name} ({rounds} rounds)");
        }
        text.push_str(&self.table());
        if let Some(error) = &self.error {
            let _ = writeln!(text, "  {}", toned(error, Tone::Bad));
        }
        let failed = self.rounds.iter().filter(|r| !r.verdict.held());
        for round in failed.take(TOLD_MAX) {
            text.push_str(&self.told(round));
        }
        print(&text)
    }

    fn table(&self) -> String {
        let mut table = Table::with_headings(&[
            "  FROM – TO",
            ">ROUNDS",
            ">P50",
            ">95 % OF IT",
            ">P95",
            ">WORST",
            "ELSEWHERE (P50 / WORST)",
        ]);
        for stats in &self.stats {
            let elsewhere = reference(&self.scenario, &stats.span);
            table.row([
                format!("  {}", stats.span),
                stats.rounds.to_string(),
                seconds(stats.p50_ms),
                interval(stats),
                seconds(stats.p95_ms),
                seconds(stats.worst_ms),
                elsewhere.map_or_else(String::new, |found| found.text()),
            ]);
        }
        match self.stats.is_empty() {
            true => String::new(),
            false => table.render(),
        }
    }

    /// What a line that plays it again needs beside its name, world and seed.
    pub fn loopback(&self) -> &'static str {
        match self.transport {
            Transport::Mesh => "",
            Transport::Loopback => " --loopback",
        }
    }

    fn told(&self, round: &RoundResult) -> String {
        let mut text = String::new();
        for violation in &round.verdict.violations {
            let head = format!("{}: {}", violation.class, violation.oracle);
            let _ = writeln!(
                text,
                "  seed {}: {}: {}",
                round.seed,
                toned(&head, Tone::Bad),
                violation.detail
            );
        }
        let (name, world, seed) = (&self.scenario, self.world, round.seed);
        let loopback = self.loopback();
        let _ = writeln!(
            text,
            "    holdfast-chaos run {name} --world {world} --seed {seed}{loopback} --html round.html"
        );
        text
    }
}

/// Milliseconds as seconds, with as many digits as matter.
pub fn seconds(ms: f64) -> String {
    match ms / 1e3 {
        s if s < 10.0 => format!("{s:.2}s"),
        s => format!("{s:.1}s"),
    }
}

/// The interval around a median.
pub fn interval(stats: &Stats) -> String {
    stats.p50_ci95_ms.map_or_else(String::new, |(low, high)| {
        format!("{} – {}", seconds(low), seconds(high))
    })
}
