//! Drills: real Patroni and PostgreSQL on real Consul, struck.
//!
//! What a drill is, what it is asked for and what comes of it is in [`holdfast_plan::drill`].
//!
//! * `ground` is what a cluster offers, however its members reach each other; `loopback` and
//!   `mesh` are the two that there are. `patroni` is what the former tells Patroni.
//! * `sight` looks at the KV and at every member, `logs` reads their logs, `work` writes.
//! * `blow` strikes and mends; `round` is one round, and `marks` makes its timeline.
//! * `tools`, `procs` and `disk` are what the machine has.

mod blow;
mod disk;
mod ground;
mod keeper;
mod logs;
mod loopback;
mod marks;
mod mesh;
mod mesh_config;
mod patroni;
mod procs;
mod round;
mod sight;
mod tools;
mod whole;
mod work;

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_lab::Lab;
use holdfast_plan::drill::{Blow, Drill, Round, Transport};

use self::ground::Ground;
use self::loopback::Loopback;
use self::mesh::Mesh;
use self::round::Cluster;
use self::tools::Tools;
use self::whole::Interrupts;
use crate::agent::Clock;
use crate::http;
use crate::stage::StageError;

/// Why this world cannot play a drill.
#[must_use]
pub fn obstacle(drill: &Drill) -> Option<String> {
    if drill.workers == 0 || drill.coordinators == 0 {
        return Some("no workers or no coordinators".to_owned());
    }
    let is_shaped = drill.link.is_some() || matches!(drill.blow, Blow::Copy { .. });
    if drill.transport == Transport::Loopback && is_shaped {
        return Some("a line that is shaped, without a mesh".to_owned());
    }
    Tools::find().err()
}

/// Play a drill's rounds, one per seed, on one cluster as long as it becomes whole again; each is
/// told as it is over.
///
/// # Errors
/// When the cluster cannot be built: without privilege or tools, or as it does not become whole.
pub fn play(drill: &Drill, seeds: &[u64], told: &mut dyn FnMut(Round)) -> Result<(), StageError> {
    let tools = Tools::find().map_err(StageError::Drill)?;
    // Before the cluster: it is gone when the signal has its usual effect.
    let _interrupts = Interrupts::take();
    let mut cluster = None;
    for (number, seed) in seeds.iter().enumerate() {
        let mut ready = match cluster.take() {
            Some(ready) => ready,
            None => {
                let mut new = Cluster::new(build(drill, &tools)?, &tools)?;
                new.first(drill)?;
                new
            }
        };
        let round = ready.round(drill, *seed, number);
        let is_whole = !round.cut_short;
        told(round);
        if Interrupts::came() {
            return Err(StageError::Drill("interrupted".to_owned()));
        }
        // What did not become whole would only spoil the next round.
        if is_whole {
            cluster = Some(ready);
        }
    }
    Ok(())
}

fn build(drill: &Drill, tools: &Tools) -> Result<Box<dyn Ground>, StageError> {
    match drill.transport {
        Transport::Loopback => Ok(Box::new(Loopback::new(drill, tools)?)),
        Transport::Mesh => Ok(Box::new(Mesh::new(drill, tools)?)),
    }
}

/// Whether data directories have to be on file systems that can be made to stand still.
fn needs_own_disk(drill: &Drill) -> bool {
    matches!(drill.blow, Blow::DiskStall { .. })
}

/// Whoever knows a name in a folder may follow it there; nobody may list it.
fn let_through(folder: &Path) -> Result<(), StageError> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).map_err(file(folder))
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> StageError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| StageError::File { path, source }
}

fn thread(name: &str) -> impl FnOnce(io::Error) -> StageError + use<> {
    let name = name.to_owned();
    move |source| StageError::Agent { name, source }
}

fn write(path: &Path, text: &str) -> Result<(), StageError> {
    fs::write(path, text).map_err(file(path))
}

/// A program in a namespace, where `/etc/hosts` is another file: Patroni looks up the name of its
/// own address when it starts, which takes 10 s where no name server answers.
fn with_hosts(lab: &Lab, space: &str, hosts: &Path, program: &Path) -> Result<Command, StageError> {
    let mut command = lab.command(space, "unshare")?;
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"")
        .arg(hosts)
        .arg(program);
    Ok(command)
}

/// Runs a program to its end.
fn run(mut command: Command, name: &str) -> Result<(), StageError> {
    let failed = |why: String| StageError::Drill(format!("{name}: {}", why.trim()));
    // A signal that a terminal sends to all of us is ours to handle, not a helper's.
    let output = command.stdin(Stdio::null()).process_group(0).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// The last octet of the KV's server that leads, as the first that knows it says.
fn kv_leader(servers: &[SocketAddr], limit: Duration) -> Option<u8> {
    servers.iter().find_map(|server| {
        let answer = http::get(*server, "/v1/status/leader", limit).ok()?;
        let text: String = serde_json::from_str(&answer.body).ok()?;
        match text.parse::<SocketAddr>().ok()?.ip() {
            IpAddr::V4(ip) => Some(ip.octets()[3]),
            IpAddr::V6(_) => None,
        }
    })
}

/// The time of a cluster begins now.
fn clock() -> Clock {
    Clock {
        origin: Instant::now(),
    }
}
