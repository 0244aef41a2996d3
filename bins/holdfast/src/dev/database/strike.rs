//! `holdfast dev kill`: what is done to a node, and how it is undone.

use std::io::Write;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, bail};
use serde_json::json;

use super::{failover, leader};
use crate::cli::KillArgs;
use crate::config::member::find_program;
use crate::dev::state::Mesh;
use crate::dev::view;
use crate::output;

/// The word for the node whose database leads.
const LEADER: &str = "leader";
/// The rules that cut a line, on the router of its node: nothing goes in, from either side. The
/// node's own device stays up, so that it notices nothing but silence.
const CUT: &str = "table inet holdfast_cut {\n  chain silence {\n    \
                   type filter hook prerouting priority -400; policy drop;\n  }\n}\n";
/// Declaring the table lets its deletion succeed where there is none.
const MEND: &str = "table inet holdfast_cut\ndelete table inet holdfast_cut\n";

/// What changes rules, and where Debian has it, off the path of ordinary users.
const NFT: &str = "nft";
/// See [`NFT`].
const NFT_AT: &str = "/usr/sbin/nft";

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Everything that runs on it ends, as in a crash of the machine.
    Kill,
    /// Everything stands still, and the line is dead: what runs does not know what it misses.
    Freeze,
    /// As killed, and its disk is empty.
    Wipe,
    /// Only the line is dead.
    Partition,
}

impl How {
    fn of(args: &KillArgs) -> How {
        match (args.freeze, args.wipe, args.partition) {
            (true, ..) => How::Freeze,
            (_, true, _) => How::Wipe,
            (_, _, true) => How::Partition,
            _ => How::Kill,
        }
    }

    /// What the node is then.
    pub fn word(self) -> &'static str {
        match self {
            How::Kill => "killed",
            How::Freeze => "frozen, and its line cut",
            How::Wipe => "killed, and its disk emptied",
            How::Partition => "cut off",
        }
    }
}

/// Strike a node; if its database leads, watch the failover.
pub fn kill(mesh: &Mesh, args: &KillArgs) -> anyhow::Result<ExitCode> {
    let how = How::of(args);
    let reports = match mesh.database() {
        Some(_) => view::collect(mesh),
        None => Vec::new(),
    };
    let leader = leader(&reports).map(|report| report.node().to_owned());
    let node = match (args.node.as_str(), &leader) {
        (LEADER, Some(leader)) => leader.clone(),
        (LEADER, None) => bail!("no database leads: `holdfast dev status` shows what there is"),
        (node, _) => node.to_owned(),
    };
    mesh.check_node(&node)?;
    if leader.as_ref() == Some(&node) {
        return failover::watch(mesh, &reports, &node, how, args.json);
    }
    strike(mesh, &node, how)?;
    output::print(&match args.json {
        true => format!("{}\n", json!({ "node": node, "is": how.word() })),
        false => format!("{node} is {}\n", how.word()),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Do it.
pub fn strike(mesh: &Mesh, node: &str, how: How) -> anyhow::Result<()> {
    match how {
        How::Kill | How::Wipe => {
            // What is frozen dies of no signal.
            thaw(mesh, node)?;
            if !mesh.kill(node)? {
                bail!("{node} is not running: `holdfast dev heal {node}` starts it");
            }
            if how == How::Wipe {
                mesh.wipe(node)?;
            }
        }
        How::Freeze => {
            freeze(mesh, node)?;
            cut(mesh, node)?;
        }
        How::Partition => cut(mesh, node)?,
    }
    Ok(())
}

/// Make everything on a node stand still.
fn freeze(mesh: &Mesh, node: &str) -> anyhow::Result<()> {
    let Ok(freezer) = mesh.lab.freezer(node) else {
        // Where there are no groups that freeze: their parents are told, and nothing else differs.
        return signal(mesh, node, libc::SIGSTOP);
    };
    freezer.freeze_all(|| mesh.lab.pids(node))?;
    // It outlives this process: `heal` thaws, and `down` does before it removes.
    std::mem::forget(freezer);
    Ok(())
}

/// Let everything on a node go on. Nothing happens to what was not frozen.
pub fn thaw(mesh: &Mesh, node: &str) -> anyhow::Result<()> {
    match mesh.lab.freezer(node) {
        // A group that is given up lets go of what is in it.
        Ok(freezer) => drop(freezer),
        Err(_) => signal(mesh, node, libc::SIGCONT)?,
    }
    Ok(())
}

fn signal(mesh: &Mesh, node: &str, signal: i32) -> anyhow::Result<()> {
    for pid in mesh.lab.pids(node)? {
        let pid = libc::pid_t::try_from(pid)?;
        // SAFETY: no memory is involved; a process that has ended meanwhile is an error that
        // nobody needs to hear of.
        unsafe { libc::kill(pid, signal) };
    }
    Ok(())
}

fn cut(mesh: &Mesh, node: &str) -> anyhow::Result<()> {
    rules(mesh, node, &format!("{MEND}{CUT}"))
}

/// Let the line carry again.
pub fn mend(mesh: &Mesh, node: &str) -> anyhow::Result<()> {
    rules(mesh, node, MEND)
}

/// Run a script of nftables on the router of a node.
fn rules(mesh: &Mesh, node: &str, script: &str) -> anyhow::Result<()> {
    let router = mesh.lab.router_of(node)?;
    let router = router.with_context(|| format!("{node} is behind no router"))?;
    let mut child = mesh
        .lab
        .command(
            router,
            find_program(Path::new(NFT)).unwrap_or_else(|| NFT_AT.into()),
        )?
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has ended says why below.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("the line of {node} cannot be changed: {}", why.trim());
    }
    Ok(())
}
