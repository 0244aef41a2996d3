//! `holdfast dev`: a whole cluster on this machine, one network namespace per node.
//!
//! Every node is behind a NAT of its own and runs a sidecar; broker, STUN and TURN are on the
//! public network, and so is the embedded KV, or else the coordinators run Consul and publish it.
//! All that exists is in the lab's folder and namespaces, so that `down` finds it after a
//! crash as well.

mod database;
mod gateway;
mod hello;
mod install;
mod interrupt;
mod plan;
mod process;
mod progress;
mod state;
mod up;
mod view;

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use holdfast_lab::{Error as LabError, Lab, preconditions};

use crate::cli::{DevArgs, DevCommand};
use crate::output;
use state::Mesh;

/// A command that does not exist, as shells have it.
const EXIT_NOT_FOUND: u8 = 127;
/// How often a growing log is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Run it.
pub fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    let DevArgs { prefix, command } = args;
    // These two need no privilege: they run on a node.
    let command = match command {
        DevCommand::ServeHello { port, background } => return hello::run(port, background),
        DevCommand::ServeGateway { listen, to } => return gateway::run(listen, to),
        command => command,
    };
    preconditions().map_err(explain)?;
    match command {
        DevCommand::Up(args) => up::up(&prefix, &args),
        DevCommand::Status { json } => view::status(&Mesh::attach(&prefix)?, json),
        DevCommand::Exec { node, command } => exec(&Mesh::attach(&prefix)?, &node, &command),
        DevCommand::Logs { node, follow } => logs(&Mesh::attach(&prefix)?, &node, follow),
        DevCommand::Psql { node, arguments } => {
            database::psql(&Mesh::attach(&prefix)?, node.as_deref(), &arguments)
        }
        DevCommand::Bench(args) => database::bench(&Mesh::attach(&prefix)?, &args),
        DevCommand::Kill(args) => database::kill(&Mesh::attach(&prefix)?, &args),
        DevCommand::Heal { node, json } => {
            database::heal(&Mesh::attach(&prefix)?, node.as_deref(), json)
        }
        DevCommand::Start { node } => start(&Mesh::attach(&prefix)?, &node),
        DevCommand::Wipe { node } => wipe(&Mesh::attach(&prefix)?, &node),
        DevCommand::Down => down(&prefix),
        DevCommand::Sweep => sweep(),
        DevCommand::ServeHello { .. } | DevCommand::ServeGateway { .. } => {
            unreachable!("handled above")
        }
    }
}

/// Who lacks the privilege is told what for and how to get it.
fn explain(error: LabError) -> anyhow::Error {
    match error {
        LabError::NotRoot { .. } => anyhow::anyhow!(
            "`holdfast dev` makes network namespaces and needs root: run it with sudo"
        ),
        error => error.into(),
    }
}

fn exec(mesh: &Mesh, node: &str, command: &[std::ffi::OsString]) -> anyhow::Result<ExitCode> {
    mesh.check_node(node)?;
    let (program, arguments) = command.split_first().context("no command")?;
    let error = mesh
        .lab
        .command(node, program)?
        .args(arguments)
        .env(
            hello::NODE_VARIABLE,
            mesh.member(node).unwrap_or_else(|| node.to_owned()),
        )
        .exec();
    if error.kind() == io::ErrorKind::NotFound {
        eprintln!("error: {}: command not found", program.display());
        return Ok(ExitCode::from(EXIT_NOT_FOUND));
    }
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn logs(mesh: &Mesh, node: &str, follow: bool) -> anyhow::Result<ExitCode> {
    if ![state::RENDEZVOUS, state::KV].contains(&node) {
        mesh.check_node(node)?;
    }
    let path = mesh.log(node);
    let mut file = std::fs::File::open(&path)
        .with_context(|| format!("{node} has no log at {}", path.display()))?;
    loop {
        let mut out = io::stdout().lock();
        match io::copy(&mut file, &mut out).and_then(|_| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            other => other?,
        };
        if !follow {
            break;
        }
        drop(out);
        std::thread::sleep(FOLLOW_EVERY);
    }
    Ok(ExitCode::SUCCESS)
}

/// A machine that comes back with an empty disk: it is another instance, which finds its slot
/// when the lease of the former one is over.
fn wipe(mesh: &Mesh, node: &str) -> anyhow::Result<ExitCode> {
    mesh.check_node(node)?;
    // What is frozen dies of no signal.
    database::thaw(mesh, node)?;
    mesh.kill(node)?;
    mesh.wipe(node)?;
    mesh.start_node(node)?;
    output::print(&format!(
        "{node} is started with nothing on its disk: it gets a slot when one is free, which its \
         former one is after {} s without a renewal\n",
        plan::LEASE.as_secs()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn start(mesh: &Mesh, node: &str) -> anyhow::Result<ExitCode> {
    mesh.check_node(node)?;
    if mesh.process(node).is_some_and(|id| id.is_alive()) {
        bail!("{node} is running already");
    }
    mesh.start_node(node)?;
    output::print(&format!("{node} is started\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn down(prefix: &str) -> anyhow::Result<ExitCode> {
    let existed = state::clean(prefix)?;
    output::print(match existed {
        true => "the cluster is removed\n",
        false => "there is no cluster to remove\n",
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Remove what killed processes left, whatever its prefix; a mesh that was made stays.
fn sweep() -> anyhow::Result<ExitCode> {
    let mut swept = Lab::sweep()?;
    for prefix in Lab::prefixes()? {
        // One that cannot be read is left for `down`.
        let half_made = Mesh::attach(&prefix).is_ok_and(|mesh| mesh.is_half_made());
        if half_made && !Lab::maker_is_alive(&prefix)? && Lab::clean(&prefix)? {
            swept.push(prefix);
        }
    }
    for prefix in swept {
        state::remove_disks(&prefix)?;
        output::print(&format!("{prefix} was left behind and is removed\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The end of a log, for an error message.
fn log_tail(path: &std::path::Path) -> String {
    /// A screenful.
    const TAIL_BYTES: u64 = 2_000;
    let read = || -> io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_else(|error| format!("(no log: {error})"))
}
