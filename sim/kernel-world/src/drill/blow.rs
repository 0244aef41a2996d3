//! The blows, and how they are mended.

use std::fs;
use std::io;
use std::time::Duration;

use holdfast_lab::Freezer;
use holdfast_plan::drill::{Blow, Processes, Target};
use serde_json::json;

use super::disk::Stall;
use super::ground::Member;
use super::procs::{is_there, send};
use super::tools::Tools;
use super::whole::Scene;
use super::work;
use crate::http::{self, Request};
use crate::members::Watch;
use crate::stage::StageError;

/// How long killed processes may take to be gone.
const KILL_BOUND: Duration = Duration::from_secs(5);
/// How long Patroni may take to answer what changes something; a switchover answers when it is
/// done.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take until a pause, or a copy that was asked for, shows.
const SHOWS_BOUND: Duration = Duration::from_secs(30);
/// How long PostgreSQL may take to stop, and to start, seconds.
const RESTART_BOUND_S: u32 = 60;
/// For how many of Patroni's loops PostgreSQL is down: it has to notice, and to leave it alone.
const DOWN_LOOPS: u32 = 2;

/// What was done, and has to be undone.
#[derive(Default)]
pub struct Strike {
    /// When it was done: no write that was asked for later reached who was struck.
    pub at: Duration,
    /// To whom.
    pub struck: Vec<usize>,
    /// What else is worth a word.
    pub notes: Vec<String>,
    /// Whoever cancels waits, while it is there.
    canceller: Option<Watch>,
    freezer: Option<Freezer>,
    cut: Vec<usize>,
    down: Vec<usize>,
    is_paused: bool,
}

impl Strike {
    fn new(struck: usize) -> Strike {
        Strike {
            struck: vec![struck],
            ..Strike::default()
        }
    }

    /// Mends what was broken.
    ///
    /// # Errors
    /// What cannot be mended.
    pub fn heal(&mut self, scene: &mut Scene<'_>) -> Result<(), StageError> {
        self.canceller = None;
        // The line first: whoever wakes up finds the others at once, which is the harder case.
        for member in self.cut.drain(..) {
            scene.ground.cut(member, false)?;
        }
        if let Some(freezer) = self.freezer.take() {
            freezer.release()?;
        }
        for member in self.down.drain(..) {
            scene.ground.start(member)?;
        }
        if std::mem::take(&mut self.is_paused) {
            let leader = scene.leader().unwrap_or_default();
            change(scene, leader, "PATCH", "/config", r#"{"pause":null}"#)?;
        }
        Ok(())
    }
}

/// Whom a blow means.
fn target(scene: &Scene<'_>, target: Target, seed: u64) -> Result<usize, StageError> {
    let leader = scene.leader();
    let leader = leader.ok_or_else(|| StageError::Drill("nobody leads".to_owned()))?;
    let members = scene.ground.members().len();
    let turn = |len: usize| {
        let at = seed % len.max(1) as u64;
        usize::try_from(at).expect("it is less than the number of members")
    };
    Ok(match target {
        Target::Leader => leader,
        // By the seed, as in the model: a round that is played alone strikes the same.
        Target::Turn => turn(members),
        Target::Standby => {
            let mut found = scene.standbys();
            found.retain(|member| *member != leader);
            if found.is_empty() {
                found.extend((0..members).filter(|member| *member != leader));
            }
            found.get(turn(found.len())).copied().unwrap_or(leader)
        }
    })
}

/// Strikes.
///
/// # Errors
/// What cannot be done.
pub fn strike(
    scene: &mut Scene<'_>,
    tools: &Tools,
    seed: u64,
    number: usize,
) -> Result<Strike, StageError> {
    let blow = scene.drill.blow.clone();
    match &blow {
        Blow::Kill {
            target: whom,
            what,
            with_kv_leader,
        } => {
            let member = target(scene, *whom, seed)?;
            kill(scene, member, *what, *with_kv_leader)
        }
        Blow::Freeze {
            target: whom,
            with_line,
        } => {
            let member = target(scene, *whom, seed)?;
            freeze(scene, member, *with_line, number)
        }
        Blow::Partition { target: whom } => {
            let mut strike = Strike::new(target(scene, *whom, seed)?);
            strike.cut.clone_from(&strike.struck);
            scene.ground.cut(strike.struck[0], true)?;
            strike.at = scene.clock.now();
            Ok(strike)
        }
        Blow::Wipe { target: whom } => {
            let member = target(scene, *whom, seed)?;
            let strike = kill(scene, member, Processes::Database, false)?;
            let data = scene.ground.members()[member].data.clone();
            match fs::remove_dir_all(&data) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(super::file(&data)(error))
                }
                _ => Ok(strike),
            }
        }
        Blow::Switchover => switchover(scene),
        Blow::Pause => pause(scene, tools),
        Blow::RollingRestart => rolling_restart(scene),
        Blow::Copy { link } => copy(scene, link, seed),
        Blow::DiskStall {
            target: whom,
            for_ms,
        } => {
            let mut strike = Strike::new(target(scene, *whom, seed)?);
            let data = &scene.ground.members()[strike.struck[0]].data;
            let disk = data.parent().unwrap_or(data).to_owned();
            strike.at = scene.clock.now();
            let stall = Stall::begin(&disk)?;
            scene.until(strike.at + Duration::from_millis(*for_ms))?;
            stall.end()?;
            Ok(strike)
        }
        Blow::CancelWait => cancel_waits(scene, number),
        Blow::ForceFailover => force_failover(scene, seed),
    }
}

fn kill(
    scene: &mut Scene<'_>,
    member: usize,
    what: Processes,
    with_kv_leader: bool,
) -> Result<Strike, StageError> {
    let mut strike = Strike::new(member);
    // Somebody starts a postmaster again: Patroni. Nobody starts a machine, or what is held.
    if what != Processes::Postmaster {
        strike.down.push(member);
    }
    if what == Processes::Database {
        scene.ground.hold(member)?;
    }
    let mut pids = scene.ground.pids(member, what)?;
    if pids.is_empty() {
        return Err(StageError::Drill(format!("{what:?}: nothing runs")));
    }
    if with_kv_leader {
        let leader = scene.ground.kv_leader()?;
        let leader = leader.ok_or_else(|| StageError::Drill("the KV has no leader".to_owned()))?;
        pids.push(leader);
        if !strike.down.contains(&member) {
            strike.down.push(member);
        }
    }
    if what == Processes::Machine {
        scene.ground.lose(member);
        // First, so that nobody is told of broken connections.
        strike.cut.push(member);
        scene.ground.cut(member, true)?;
    }
    send(&pids, libc::SIGKILL);
    strike.at = scene.clock.now();
    let gone = || (!pids.iter().any(|pid| is_there(*pid))).then_some(());
    // A wrapped process is taken from its parent's list when the parent looks.
    scene.wait("killed processes are gone", KILL_BOUND, gone)?;
    Ok(strike)
}

fn freeze(
    scene: &mut Scene<'_>,
    member: usize,
    with_line: bool,
    number: usize,
) -> Result<Strike, StageError> {
    let mut strike = Strike::new(member);
    let freezer = new_freezer(scene, number)?;
    if with_line {
        strike.cut.push(member);
        scene.ground.cut(member, true)?;
    }
    freezer.freeze_all(|| scene.ground.pids(member, Processes::Machine))?;
    strike.freezer = Some(freezer);
    strike.at = scene.clock.now();
    Ok(strike)
}

/// One of each round's own: nothing that an earlier round left is in it.
fn new_freezer(scene: &Scene<'_>, number: usize) -> Result<Freezer, StageError> {
    let lab = &scene.ground.stage().lab;
    Ok(lab.new_freezer(&format!("struck-{number}"))?)
}

/// Asks a member's Patroni for a change.
fn change(
    scene: &Scene<'_>,
    member: usize,
    method: &str,
    path: &str,
    body: &str,
) -> Result<String, StageError> {
    let Member { space, rest, .. } = &scene.ground.members()[member];
    let (name, password) = &scene.ground.logins().rest;
    let request = Request {
        method,
        path,
        login: Some((name, password)),
        body,
    };
    let ask = || http::ask(*rest, &request, CHANGE_LIMIT);
    let answer = scene.ground.stage().lab.run_in(space, ask)?;
    let failed = |why: String| StageError::Drill(format!("{method} {path}: {why}"));
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    match answer.status {
        200..=299 => Ok(answer.body),
        status => Err(failed(format!("{status} {}", answer.body))),
    }
}

fn switchover(scene: &mut Scene<'_>) -> Result<Strike, StageError> {
    let leader = target(scene, Target::Leader, 0)?;
    let mut strike = Strike::new(leader);
    let body = json!({ "leader": scene.leader_name() }).to_string();
    strike.at = scene.clock.now();
    change(scene, leader, "POST", "/switchover", &body)?;
    Ok(strike)
}

fn pause(scene: &mut Scene<'_>, tools: &Tools) -> Result<Strike, StageError> {
    let leader = target(scene, Target::Leader, 0)?;
    let mut strike = Strike::new(leader);
    change(scene, leader, "PATCH", "/config", r#"{"pause":true}"#)?;
    strike.is_paused = true;
    let members = 0..scene.ground.members().len();
    let paused = || {
        let mut all = members.clone();
        all.all(|member| scene.board.now(member).is_some_and(|said| said.pause))
            .then_some(())
    };
    scene.wait("all know of the pause", SHOWS_BOUND, paused)?;
    let wait = scene.drill.database.loop_wait;
    strike.at = scene.clock.now();
    by_hand(scene, tools, leader, "stop")?;
    scene.until(scene.clock.now() + wait * DOWN_LOOPS)?;
    // Unlike `start` it knows the options that Patroni gave, and that it does not run is no error.
    by_hand(scene, tools, leader, "restart")?;
    // Patroni has to see, still paused, that it is there again.
    scene.until(scene.clock.now() + wait)?;
    Ok(strike)
}

/// What an operator would do to PostgreSQL, as its user.
fn by_hand(scene: &Scene<'_>, tools: &Tools, member: usize, what: &str) -> Result<(), StageError> {
    let member = &scene.ground.members()[member];
    let mut command = scene.ground.stage().lab.command(&member.space, "setpriv")?;
    let (uid, gid) = tools.owner;
    command
        .args([format!("--reuid={uid}"), format!("--regid={gid}")])
        .args(["--clear-groups", "--"])
        .arg(tools.postgres.join("pg_ctl"))
        .args([what, "-m", "fast", "-w", "-t", &RESTART_BOUND_S.to_string()])
        .arg("-D")
        .arg(&member.data)
        .current_dir("/");
    if what == "restart" {
        command.arg("-l").arg(member.data.join("restart.log"));
    }
    super::patroni::environment(&mut command);
    super::run(command, &format!("pg_ctl {what}"))
}

fn rolling_restart(scene: &mut Scene<'_>) -> Result<Strike, StageError> {
    let leader = target(scene, Target::Leader, 0)?;
    let mut order: Vec<usize> = (0..scene.ground.members().len()).collect();
    order.retain(|member| *member != leader);
    order.push(leader);
    let mut strike = Strike {
        at: scene.clock.now(),
        struck: order.clone(),
        ..Strike::default()
    };
    for member in order {
        let name = scene.ground.members()[member].name.clone();
        let begun = scene.clock.now();
        scene.ground.stop(member)?;
        let stopped = scene.clock.now();
        scene.ground.start(member)?;
        let bound = scene.drill.whole_bound;
        // What was seen of it before it stopped says nothing.
        let gone = || scene.board.now(member).is_none().then_some(());
        scene.wait("it is seen that it stopped", bound, gone)?;
        scene.whole(bound)?;
        let (took, back) = (stopped - begun, scene.clock.now() - stopped);
        strike.notes.push(format!(
            "{name} stopped in {took:.1?}, whole again {back:.1?} later"
        ));
    }
    Ok(strike)
}

fn copy(scene: &mut Scene<'_>, link: &str, seed: u64) -> Result<Strike, StageError> {
    let member = target(scene, Target::Standby, seed)?;
    let mut strike = Strike::new(member);
    // The leader's line: it sends everything over it, its keeping of the key included.
    let leader = target(scene, Target::Leader, seed)?;
    scene.ground.shape(leader, Some(link))?;
    strike.at = scene.clock.now();
    let copied = change(scene, member, "POST", "/reinitialize", r#"{"force":true}"#)
        .and_then(|_| {
            let begun = || {
                let said = scene.board.now(member);
                said.is_none_or(|said| !said.is_streaming()).then_some(())
            };
            scene.wait("the copy begins", SHOWS_BOUND, begun)
        })
        .and_then(|()| scene.whole(scene.drill.whole_bound));
    scene.ground.shape(leader, None)?;
    let took = copied? - strike.at;
    strike
        .notes
        .push(format!("copied and streaming {took:.1?} later"));
    Ok(strike)
}

fn cancel_waits(scene: &mut Scene<'_>, number: usize) -> Result<Strike, StageError> {
    let leader = target(scene, Target::Leader, 0)?;
    let replicas = (0..scene.ground.members().len()).filter(|member| *member != leader);
    let mut strike = Strike {
        struck: replicas.collect(),
        ..Strike::default()
    };
    let freezer = new_freezer(scene, number)?;
    freezer.freeze_all(|| {
        let mut all = Vec::new();
        for member in &strike.struck {
            let pids = scene.ground.pids(*member, Processes::Database)?;
            if pids.is_empty() {
                let name = &scene.ground.members()[*member].name;
                return Err(StageError::Drill(format!("{name}: no database runs")));
            }
            all.extend(pids);
        }
        Ok(all)
    })?;
    strike.at = scene.clock.now();
    strike.freezer = Some(freezer);
    strike.canceller = Some(work::cancel_waits(scene.ground, leader)?);
    Ok(strike)
}

fn force_failover(scene: &mut Scene<'_>, seed: u64) -> Result<Strike, StageError> {
    let leader = target(scene, Target::Leader, 0)?;
    let candidate = target(scene, Target::Standby, seed)?;
    let name = scene.patroni_name(candidate);
    let name = name.ok_or_else(|| StageError::Drill("a member without a key".to_owned()))?;
    let mut strike = Strike::new(leader);
    scene.ground.cut(candidate, true)?;
    let bound = scene.drill.whole_bound;
    let is_out = || (!scene.standbys().contains(&candidate)).then_some(());
    let is_out = scene.wait("commits no longer wait for it", bound, is_out);
    scene.ground.cut(candidate, false)?;
    is_out?;
    let body = json!({ "candidate": name }).to_string();
    strike.at = scene.clock.now();
    // Its line has to be seen to be whole by the leader, who asks it first.
    let mut last = Ok(());
    let forced = || {
        let asked = change(scene, leader, "POST", "/failover", &body);
        last = asked.map(drop);
        last.is_ok().then_some(())
    };
    let forced = scene.wait("a failover is forced", SHOWS_BOUND, forced);
    forced.map_err(|error| match last {
        Err(why) => why,
        Ok(()) => error,
    })?;
    Ok(strike)
}
