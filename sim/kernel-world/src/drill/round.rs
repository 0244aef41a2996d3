//! One round: whole, a moment, a blow, and whole again.

use std::time::Duration;

use holdfast_plan::drill::{Blow, Drill, Heal, Processes, Round};

use super::blow::{self, Strike};
use super::ground::{Ended, Ground, member_of};
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
/// How long it may take, once it is whole, until the writers of every member write again.
const TAIL_BOUND: Duration = Duration::from_secs(20);
/// How long a Consul agent that was started may take to know its leader.
const AGENT_BOUND: Duration = Duration::from_secs(60);
/// How far the clock of the logs may go another way than ours within a round: what lies between
/// two marks is told to a hundredth of a second or so.
const DRIFT_MAX: Duration = Duration::from_millis(20);

/// A cluster, and those who look at it.
pub struct Cluster {
    // In the order in which they end.
    sight: Sight,
    clocks: Clocks,
    ground: Box<dyn Ground>,
    tools: Tools,
    is_filled: bool,
    /// Who led at the end of the last round, and on which timeline.
    last: Option<(String, u64)>,
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
            last: None,
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
        }
        self.ends(drill, &mut round);
        round
    }

    /// What ended by itself: to be expected of those whose slot ran out, else the round's failure.
    fn ends(&mut self, drill: &Drill, round: &mut Round) {
        for Ended { member, what } in self.ground.ended() {
            let name = member.map(|member| &self.ground.members()[member].name);
            let is_struck = name.is_some_and(|name| round.struck.contains(name));
            let told = format!("{what} ended");
            if !(is_struck && ends_sidecars(&drill.blow)) {
                round.crashes.push(told.clone());
            }
            round.notes.push(told);
        }
    }

    /// Who leads, and on which timeline.
    fn led(&mut self, drill: &Drill) -> Option<(String, u64)> {
        let scene = self.scene(drill);
        let leader = scene.leader()?;
        let timeline = scene.board.now(leader)?.timeline;
        Some((scene.ground.members()[leader].name.clone(), timeline))
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
        let (before, now) = (self.last.take(), self.led(drill));
        if before.is_some() && before != now {
            let told = format!("between two rounds {before:?} became {now:?}");
            round.crashes.push(told);
        }
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
        let all_ends = Ends::of(self.ground.all_logs());
        // The wall's clock is stepped and slewed.
        self.clocks = Clocks::new(clock);
        let base = clock.now();
        self.sight.board.forget(base);
        let mut writers = Writers::start(self.ground.as_ref(), &drill.work, clock.origin + base)?;
        let mut story = Story::new(base);
        let kv_leader = self.ground.kv_leader().ok().flatten();
        let played = self.strike(drill, (seed, number), &writers, round, &mut story);
        let wrote = writers.stop(&drill.work);
        let drift = self.clocks.drift();
        if drift > DRIFT_MAX {
            let told = format!("the clock of the logs went {drift:.1?} another way than ours");
            round.notes.push(told);
        }
        let panics = all_ends.panics();
        round.notes.extend(panics.iter().cloned());
        round.crashes.extend(panics);
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
        self.last = self.led(drill);
        let found = match &self.last {
            Some((_, timeline)) => work::read_rows(self.ground.as_ref(), *timeline, SQL_BOUND),
            None => Err(StageError::Drill("nobody leads".to_owned())),
        };
        let scene = self.scene(drill);
        marks::tell(&scene, &story, round);
        match found {
            Ok(found) => round.history.found = Some(found),
            Err(error) => round.notes.push(format!("rows cannot be read: {error}")),
        }
        played.and(wrote)
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
        all_write(&scene, writers, Duration::ZERO, WRITERS_BOUND)?;
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
    if let Blow::Kill {
        what: Processes::Agent,
        ..
    } = drill.blow
    {
        for member in &strike.struck {
            let answers = || scene.ground.agent_answers(*member).ok()?.then_some(());
            scene.wait("the agent knows the leader", AGENT_BOUND, answers)?;
        }
    }
    let whole = scene.whole(drill.whole_bound)?;
    story.whole = Some(whole);
    if drill.blow.is_calm() {
        stays(scene, strike, round, story)?;
    }
    scene.until(scene.clock.now() + TAIL)?;
    all_write(scene, writers, whole.saturating_sub(story.base), TAIL_BOUND)
}

/// Whether it cuts or freezes a machine for as long as its slot may run out: its sidecar ends then
/// by itself, as it must.
fn ends_sidecars(blow: &Blow) -> bool {
    let machine = matches!(
        blow,
        Blow::Kill {
            what: Processes::Machine,
            ..
        }
    );
    machine || matches!(blow, Blow::Freeze { .. } | Blow::Partition { .. })
}

/// A session that was lost in the blow ends only when its time is over: until then, and a loop
/// longer, the leader and the timeline have to stay.
fn stays(
    scene: &Scene<'_>,
    strike: &Strike,
    round: &mut Round,
    story: &Story,
) -> Result<(), StageError> {
    let database = &scene.drill.database;
    let healed = story.healed.unwrap_or(strike.at);
    scene.until(healed + database.ttl + database.loop_wait)?;
    scene.whole(scene.drill.whole_bound)?;
    let moves = matches!(scene.drill.blow, Blow::RollingRestart);
    let since = if moves { healed } else { strike.at };
    // While it is paused Patroni gives a leader's key up whose PostgreSQL is down: a key that
    // nobody has is no takeover.
    let changes = scene.board.changes(since).into_iter();
    let held = changes.filter(|change| change.key == "leader");
    let mut holders: Vec<usize> = held
        .filter_map(|change| member_of(scene.ground.members(), change.value.as_deref()?))
        .collect();
    holders.extend(scene.leader());
    let kept = match moves {
        true => holders.first().copied(),
        false => story.leader,
    };
    for taker in holders.iter().filter(|taker| Some(**taker) != kept) {
        let name = &scene.ground.members()[*taker].name;
        let told = format!("{name} took the leader's key, though nobody should");
        if !round.crashes.contains(&told) {
            round.crashes.push(told);
        }
    }
    let timeline = kept.and_then(|leader| scene.board.now(leader));
    let timeline = timeline.map(|said| said.timeline);
    if !moves && timeline != Some(round.timelines.0) {
        let before = round.timelines.0;
        let told =
            format!("the timeline was {before} and is {timeline:?}, though nobody took over");
        round.crashes.push(told);
    }
    Ok(())
}

/// Waits until every member's writers had a write acknowledged that was asked for since then.
fn all_write(
    scene: &Scene<'_>,
    writers: &Writers,
    since: Duration,
    bound: Duration,
) -> Result<(), StageError> {
    let mut silent = Vec::new();
    let written = scene.wait(
        "every member's writers write, and the register is read",
        bound,
        || {
            silent = writers.silent(scene.ground, since);
            silent.is_empty().then_some(())
        },
    );
    written.map_err(|error| StageError::Drill(format!("{error}: not at {}", silent.join(", "))))
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
