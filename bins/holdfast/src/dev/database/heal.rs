//! `holdfast dev heal`: undo what was done to nodes, and wait until they are members again.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use holdfast_postgres::Role;
use serde_json::json;

use super::strike::{mend, thaw};
use super::{follows, is_worker, told};
use crate::dev::progress::Step;
use crate::dev::state::Mesh;
use crate::dev::view::{self, NodeReport};
use crate::output;

/// How long a node may take: its slot may have to become free first, which takes a lease, and a
/// wiped one needs a base backup.
const HEAL_BOUND: Duration = Duration::from_secs(180);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Thaw, mend and start, and wait.
pub fn heal(mesh: &Mesh, node: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let nodes = match node {
        Some(node) => {
            mesh.check_node(node)?;
            vec![node.to_owned()]
        }
        None => mesh.nodes(),
    };
    let begun = Instant::now();
    for node in &nodes {
        thaw(mesh, node)?;
        mend(mesh, node)?;
    }
    let mut started = start(mesh, &nodes)?;
    let databases = mesh.database().is_some();
    let mut step = Step::begin(if databases { "postgres" } else { "nodes" });
    let reports = loop {
        // One that was frozen for longer than its lease ends as soon as it notices.
        started.extend(start(mesh, &nodes)?);
        let reports = view::collect(mesh);
        let missing = missing(&reports, &nodes, databases);
        let well = nodes.len() - missing.len();
        step.show(match missing.first() {
            Some(first) => format!("{well} of {} well, {first}", nodes.len()),
            None => format!("{well} of {} well", nodes.len()),
        });
        if missing.is_empty() {
            break reports;
        }
        if begun.elapsed() > HEAL_BOUND {
            step.end();
            bail!(
                "not everything is well in time: {}; `holdfast dev logs NODE` tells more",
                missing.join(", ")
            );
        }
        thread::sleep(LOOK_EVERY);
    };
    step.end();
    started.sort();
    started.dedup();
    print(&reports, &nodes, &started, begun.elapsed(), json)?;
    Ok(ExitCode::SUCCESS)
}

/// Start what does not run; whom.
fn start(mesh: &Mesh, nodes: &[String]) -> anyhow::Result<Vec<String>> {
    let mut started = Vec::new();
    for node in nodes {
        if !mesh.process(node).is_some_and(|id| id.is_alive()) {
            mesh.start_node(node)?;
            started.push(node.clone());
        }
    }
    Ok(started)
}

/// What each node lacks that is not well yet.
fn missing(reports: &[NodeReport], nodes: &[String], databases: bool) -> Vec<String> {
    let asked = reports
        .iter()
        .filter(|report| nodes.iter().any(|node| node == report.node()));
    asked
        .filter_map(|report| {
            let what = match report.sidecar() {
                None => "does not answer".to_owned(),
                Some(sidecar) if sidecar.phase != "running" => format!("is {}", sidecar.phase),
                Some(_) if databases && is_worker(report.node()) => state(report, reports)?,
                Some(_) => return None,
            };
            Some(format!("{} {what}", report.node()))
        })
        .collect()
}

/// What keeps a database from being a member, `None` if it leads or could take over. The one that
/// leads says it of the others.
fn state(report: &NodeReport, reports: &[NodeReport]) -> Option<String> {
    let peer = report.peer()?;
    let Some(told) = told(reports).filter(|status| status.role == Role::Primary) else {
        return Some("has no leader".to_owned());
    };
    let Some(own) = told.members.iter().find(|member| member.peer == peer) else {
        return Some("is no member yet".to_owned());
    };
    match own.state.as_str() {
        _ if own.role == Role::Primary || follows(own) => None,
        "" => Some("says nothing yet".to_owned()),
        "running" => Some("does not stream yet".to_owned()),
        "streaming" => Some("streams, and no commit waits for it yet".to_owned()),
        state => Some(format!("is {state}")),
    }
}

fn print(
    reports: &[NodeReport],
    nodes: &[String],
    started: &[String],
    took: Duration,
    json: bool,
) -> anyhow::Result<()> {
    let seconds = took.as_secs_f64();
    output::print(&match json {
        true => format!(
            "{}\n",
            json!({ "nodes": nodes, "started": started, "seconds": seconds })
        ),
        false => format!(
            "all is well again after {seconds:.1} s\n\n{}",
            view::tables(reports)
        ),
    })?;
    Ok(())
}
