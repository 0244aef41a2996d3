//! `holdfast dev status`: all nodes and their links.

use std::net::IpAddr;
use std::process::ExitCode;

use holdfast_core::status::LinkState;
use holdfast_postgres::PostgresStatus;
use holdfast_sidecar::{ChildStatus, SidecarStatus, SlotStatus};
use serde_json::json;

use super::database;
use super::state::Mesh;
use crate::output::{self, Table, age, rtt};
use crate::status::{Page, fetch, path_in_use, postgres};

/// What one node says, or why it says nothing.
pub struct NodeReport {
    node: String,
    running: bool,
    page: Result<Page, String>,
}

impl NodeReport {
    /// Its name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What its sidecar says.
    pub fn sidecar(&self) -> Option<&SidecarStatus> {
        self.page.as_ref().ok()?.sidecar.as_ref()
    }

    /// The peer that it is.
    pub fn peer(&self) -> Option<String> {
        self.sidecar()?.id.clone()
    }

    /// Its address.
    pub fn vip(&self) -> Option<IpAddr> {
        let node = self.page.as_ref().ok()?.node.as_ref()?;
        Some(node.mesh.vip.addr())
    }

    /// What it says of the database.
    pub fn database(&self) -> Option<&PostgresStatus> {
        self.sidecar()?.postgres.as_ref()
    }
}

/// Ask all nodes.
pub fn collect(mesh: &Mesh) -> Vec<NodeReport> {
    let nodes = mesh.nodes();
    // At once: one that is frozen takes its time.
    std::thread::scope(|scope| {
        let asked = nodes.iter().map(|node| scope.spawn(|| ask(mesh, node)));
        let asked: Vec<_> = asked.collect();
        let answers = asked.into_iter().map(|thread| match thread.join() {
            Ok(report) => report,
            Err(panicked) => std::panic::resume_unwind(panicked),
        });
        answers.collect()
    })
}

/// Ask one node.
pub fn ask(mesh: &Mesh, node: &str) -> NodeReport {
    let admin = mesh.admin();
    NodeReport {
        running: mesh.process(node).is_some_and(|id| id.is_alive()),
        page: match mesh.lab.run_in(node, || fetch(admin)) {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        node: node.to_owned(),
    }
}

/// Print all nodes, and their links.
pub fn status(mesh: &Mesh, json: bool) -> anyhow::Result<ExitCode> {
    let reports = collect(mesh);
    let text = match json {
        true => format!("{:#}\n", in_json(&reports)),
        false => tables(&reports),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The nodes, then the database, if there is one, and both ends of each link.
pub fn tables(reports: &[NodeReport]) -> String {
    let database = database::told(reports).map(postgres::sections);
    let parts = [Some(nodes(reports)), database, Some(links(reports))];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

/// One row for each node.
fn nodes(reports: &[NodeReport]) -> String {
    let mut table = Table::with_headings(&[
        "NODE", "PEER", "VIP", "SLOT", "LEASE", "LINKS", "CHILDREN", "CONSUL",
    ]);
    for report in reports {
        let mut row = vec![report.node.clone()];
        match &report.page {
            Ok(page) => row.extend(node(page)),
            Err(_) => {
                let state = if report.running {
                    "no answer"
                } else {
                    "not running"
                };
                row.extend(["-", "-", state].map(str::to_owned));
            }
        }
        row.resize(8, "-".to_owned());
        table.row(row);
    }
    table.render()
}

/// The peer that it is, its address, slot, lease, links, children and Consul.
fn node(page: &Page) -> [String; 7] {
    let dash = || "-".to_owned();
    let sidecar = page.sidecar.as_ref();
    let slot = sidecar.map(|status| &status.slot);
    let mesh = page.node.as_ref().map(|node| &node.mesh);
    [
        sidecar
            .and_then(|status| status.id.clone())
            .unwrap_or_else(dash),
        mesh.map_or_else(dash, |mesh| mesh.vip.to_string()),
        slot.map_or_else(dash, slot_text),
        slot.and_then(|slot| slot.lease_left_ms)
            .map_or_else(dash, age),
        mesh.map_or_else(dash, |mesh| {
            let up = mesh
                .links
                .iter()
                .filter(|l| l.state == LinkState::Up)
                .count();
            format!("{up}/{}", mesh.links.len())
        }),
        sidecar.map_or_else(dash, children),
        sidecar.and_then(consul).unwrap_or_else(dash),
    ]
}

fn slot_text(slot: &SlotStatus) -> String {
    match (slot.slot, slot.pinned) {
        (Some(number), true) => format!("{number} pinned"),
        (Some(number), false) => number.to_string(),
        (None, _) => slot.state.clone(),
    }
}

/// Children that are ready, and by name those that are not, or were not for ever.
fn children(status: &SidecarStatus) -> String {
    let is_fine = |child: &&ChildStatus| matches!(child.state.as_str(), "ready" | "done");
    let fine = status.children.iter().filter(is_fine).count();
    let mut text = format!("{fine}/{}", status.children.len());
    for child in &status.children {
        if !is_fine(&child) {
            text.push_str(&format!(" {} {}", child.name, child.state));
        } else if child.restarts > 0 {
            text.push_str(&format!(
                " {} restarted {} times",
                child.name, child.restarts
            ));
        }
    }
    text
}

/// Whether the agent answers and knows a leader, and the same page says which.
pub fn consul_is_ready(status: &SidecarStatus) -> bool {
    let mut agents = status
        .children
        .iter()
        .filter(|child| child.name == "consul");
    agents.any(|child| child.state == "ready") && consul_leader(status).is_some()
}

/// The leader that the agent knows. An agent that was told its leader goes before it is asked again
/// names none for a moment.
fn consul_leader(status: &SidecarStatus) -> Option<&str> {
    let leader = status.consul.as_ref()?.leader.as_deref();
    leader.filter(|leader| !leader.is_empty())
}

fn consul(status: &SidecarStatus) -> Option<String> {
    let consul = status.consul.as_ref()?;
    let role = if consul.server { "server" } else { "client" };
    Some(match consul_leader(status) {
        Some(leader) if consul_is_ready(status) => format!("{role}, leader {leader}"),
        _ => format!("{role}, not ready"),
    })
}

/// One row for each end of each link.
fn links(reports: &[NodeReport]) -> String {
    let mut table = Table::with_headings(&["NODE", "PEER", "STATE", "PATH", "RTT"]);
    let pages = reports.iter().filter_map(|report| {
        let node = report.page.as_ref().ok()?.node.as_ref()?;
        Some((&report.node, node))
    });
    for (name, node) in pages {
        for link in &node.mesh.links {
            table.row([
                name.clone(),
                link.peer.to_string(),
                link.state.as_str().to_owned(),
                path_in_use(link),
                link.rtt_us.map_or_else(|| "-".to_owned(), rtt),
            ]);
        }
    }
    table.render()
}

fn in_json(reports: &[NodeReport]) -> serde_json::Value {
    let one = |report: &NodeReport| {
        let (status, error) = match &report.page {
            Ok(page) => (serde_json::from_str(&page.raw).ok(), None),
            Err(error) => (None::<serde_json::Value>, Some(error)),
        };
        json!({
            "node": report.node,
            "running": report.running,
            "status": status,
            "error": error,
        })
    };
    reports.iter().map(one).collect()
}
