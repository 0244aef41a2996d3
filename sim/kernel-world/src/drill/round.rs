//! One round: whole, a moment, a blow, and whole again.

use std::time::Duration;

use holdfast_plan::drill::{Blow, Drill, Heal, Round};

use super::blow::{self, Strike};
use super::ground::Ground;
use super::logs::{Clocks, Ends};
use super::marks::{self, Story};
use super::sight::Sight;
use super::tools::Tools;
use super::whole::{Interrupts, Scene};
use super::work::{self, Writers};
use crate::stage::StageError;

/// How long a new cluster may take until it is whole, on a busy machine.
const FIRST_BOUND: Duration = Duration::from_secs(180);
/// How long statements before and after a round may take.
const SQL_BOUND: Duration = Duration::from_secs(30);
/// How long filling may take: 10 MB/s at least, and this.
const FILL_BOUND: Duration = Duration::from_secs(60);
const FILL_BYTES_PER_S: u64 = 10 << 20;
/// How long writers may take to begin.
const WRITERS_BOUND: Duration = Duration::from_secs(20);
/// How long writers go on when the cluster is whole again.
const TAIL: Duration = Duration::from_millis(500);

/// A cluster, and those who look at it.
pub struct Cluster {
    // In the order in which they end.
    sight: Sight,
    clocks: Clocks,
    ground: Box<dyn Ground>,
    tools: Tools,
    is_filled: bool,
}

impl Cluster {
    /// Looks at a cluster that was just started.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn new(ground: Box<dyn Ground>, tools: &Tools) -> Result<Cluster, StageError> {
        let clock = super::clock();
        Ok(Cluster {
            sight: Sight::start(ground.as_ref(), clock)?,
            clocks: Clocks::new(clock),
            ground,
            tools: tools.clone(),
            is_filled: false,
        })
    }

    /// Waits until it is whole for the first time.
    ///
    /// # Errors
    /// What is missing.
    pub fn first(&mut self, drill: &Drill) -> Result<(), StageError> {
        let scene = self.scene(drill);
        scene.whole(FIRST_BOUND)?;
        let bytes = drill.database.fill;
        if !std::mem::replace(&mut self.is_filled, true) && bytes > 0 {
            work::prepare(self.ground.as_ref(), SQL_BOUND)?;
            let bound = FILL_BOUND + Duration::from_secs(bytes / FILL_BYTES_PER_S);
            work::fill(self.ground.as_ref(), bytes, bound)?;
        }
        Ok(())
    }

    fn scene<'a>(&'a mut self, drill: &'a Drill) -> Scene<'a> {
        Scene {
            ground: self.ground.as_mut(),
            board: &self.sight.board,
            clock: self.clocks.world(),
            drill,
        }
    }

    /// Plays a round.
    pub fn round(&mut self, drill: &Drill, seed: u64, number: usize) -> Round {
        let mut round = Round {
            seed,
            ..Round::default()
        };
        if let Err(error) = self.play(drill, seed, number, &mut round) {
            round.cut_short = true;
            round.notes.push(error.to_string());
            round.notes.extend(
                self.ground
                    .ended()
                    .into_iter()
                    .map(|what| format!("{what} ended")),
            );
        }
        round
    }

    fn play(
        &mut self,
        drill: &Drill,
        seed: u64,
        number: usize,
        round: &mut Round,
    ) -> Result<(), StageError> {
        let clock = self.clocks.world();
        self.scene(drill).whole(drill.whole_bound)?;
        work::prepare(self.ground.as_ref(), SQL_BOUND)?;
        let paths = |ground: &dyn Ground| -> Vec<_> {
            (0..ground.members().len())
                .map(|member| ground.logs(member))
                .collect()
        };
        let ends: Vec<Ends> = paths(self.ground.as_ref())
            .into_iter()
            .map(Ends::of)
            .collect();
        let base = clock.now();
        self.sight.board.forget(base);
        let mut writers = Writers::start(self.ground.as_ref(), &drill.work, clock.origin + base)?;
        let mut story = Story::new(base);
        let kv_leader = self.ground.kv_leader().ok().flatten();
        let played = self.strike(drill, (seed, number), &writers, round, &mut story);
        writers.stop(&drill.work);
        if self.ground.kv_leader().ok().flatten() != kv_leader {
            // Whoever leads it next gives every session its whole time again.
            round.notes.push("the KV changed its leader".to_owned());
        }
        round.history = writers.recorder.history(None);
        let logs = paths(self.ground.as_ref());
        let lines = ends
            .iter()
            .zip(&logs)
            .map(|(ends, paths)| ends.since(paths, self.clocks));
        story.lines = lines.collect();
        let found = work::read_rows(self.ground.as_ref(), SQL_BOUND);
        let scene = self.scene(drill);
        marks::tell(&scene, &story, round);
        match found {
            Ok(found) => round.history.found = Some(found),
            Err(error) => round.notes.push(format!("rows cannot be read: {error}")),
        }
        played
    }

    /// The moment, the blow, and what it takes until all is well.
    fn strike(
        &mut self,
        drill: &Drill,
        (seed, number): (u64, usize),
        writers: &Writers,
        round: &mut Round,
        story: &mut Story,
    ) -> Result<(), StageError> {
        let tools = self.tools.clone();
        let mut scene = self.scene(drill);
        let wanted = u64::from(drill.work.writers) * scene.ground.members().len() as u64;
        let begun = || (writers.recorder.progress().acknowledged >= wanted).then_some(());
        scene.wait("writers begin", WRITERS_BOUND, begun)?;
        let renewed = moment(&scene, seed)?;
        let leader = scene
            .leader()
            .ok_or_else(|| StageError::Drill("nobody leads".to_owned()))?;
        story.leader = Some(leader);
        round.leader = scene.ground.members()[leader].name.clone();
        round.timelines.0 = scene.board.now(leader).map_or(0, |said| said.timeline);
        // While a blow goes on, nothing of it may be lost.
        let mut strike = blow::strike(&mut scene, &tools, seed, number)?;
        story.fault = Some(strike.at);
        story.struck.clone_from(&strike.struck);
        round.phase = per_mille(strike.at.saturating_sub(renewed), drill.database.loop_wait);
        let names = strike
            .struck
            .iter()
            .map(|member| scene.ground.members()[*member].name.clone());
        round.struck = names.collect();
        round.notes.append(&mut strike.notes);
        let healed = aftermath(&mut scene, writers, &mut strike, round, story);
        if healed.is_err() {
            // What is still frozen or cut off would outlive the round.
            let _ = strike.heal(&mut scene);
        }
        healed
    }
}

/// Waits for a write and mends, in the order that the drill says; then until all is whole.
fn aftermath(
    scene: &mut Scene<'_>,
    writers: &Writers,
    strike: &mut Strike,
    round: &mut Round,
    story: &mut Story,
) -> Result<(), StageError> {
    let drill = scene.drill;
    let fault = strike.at - story.base;
    // A leader that is only cut off may go on for its own clients, if commits wait for nobody.
    let is_cut = matches!(drill.blow, Blow::Partition { .. });
    let is_cut = is_cut
        && story
            .leader
            .is_some_and(|leader| strike.struck.contains(&leader));
    let old = is_cut.then(|| writers.server_before(fault)).flatten();
    let written = |scene: &Scene<'_>, bound: Duration| {
        let look = || writers.acknowledged_after(fault, old.as_deref());
        scene.wait("a write", bound, look)
    };
    let late = |round: &mut Round| {
        let bound = drill.write_bound;
        round
            .notes
            .push(format!("no write was acknowledged within {bound:?}"));
    };
    match drill.heal_after {
        Heal::After(after) => {
            scene.until(strike.at + after)?;
            strike.heal(scene)?;
            story.healed = Some(scene.clock.now());
            let left = (strike.at + drill.write_bound).saturating_sub(scene.clock.now());
            if written(scene, left).is_err() {
                late(round);
            }
        }
        Heal::AfterWrite(after) => {
            if written(scene, drill.write_bound).is_err() {
                late(round);
            }
            if Interrupts::came() {
                return Err(StageError::Drill("interrupted".to_owned()));
            }
            scene.until(scene.clock.now() + after)?;
            strike.heal(scene)?;
            story.healed = Some(scene.clock.now());
        }
    }
    story.whole = Some(scene.whole(drill.whole_bound)?);
    scene.until(scene.clock.now() + TAIL)
}

/// Waits for the moment within the leader's loop that the seed draws. Returns when it renewed its
/// key last.
fn moment(scene: &Scene<'_>, seed: u64) -> Result<Duration, StageError> {
    let wait = scene.drill.database.loop_wait;
    let before = scene.clock.now();
    // Writers move its WAL, so that it writes the key `status` in each of its loops, right after
    // it has renewed its session.
    let renewed = scene.wait("the leader's loop", wait * 3, || {
        scene.board.changed_at("status").filter(|at| *at > before)
    })?;
    let phase = draw(seed) % 1_000;
    let phase = u32::try_from(phase).expect("it is less than a thousand");
    scene.until(renewed + wait * phase / 1_000)?;
    // If it is almost a whole loop, there may have been another renewal.
    Ok(scene.board.changed_at("status").unwrap_or(renewed))
}

/// A number that looks like chance (splitmix64).
fn draw(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn per_mille(part: Duration, whole: Duration) -> u32 {
    let whole = whole.as_millis().max(1);
    u32::try_from(part.as_millis() * 1_000 / whole).unwrap_or(u32::MAX)
}
