//! `holdfast dev status`: the links of all nodes.

use std::process::ExitCode;

use serde_json::json;

use super::state::Mesh;
use crate::output::{self, Table, rtt};
use crate::status::{Page, fetch, path_in_use};

/// What one node says, or why it says nothing.
pub struct NodeReport {
    node: String,
    running: bool,
    page: Result<Page, String>,
}

/// Ask all nodes.
pub fn collect(mesh: &Mesh) -> Vec<NodeReport> {
    let admin = mesh.admin();
    let ask = |node: &str| match mesh.lab.run_in(node, || fetch(admin)) {
        Ok(Ok(page)) => Ok(page),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    mesh.nodes()
        .into_iter()
        .map(|node| NodeReport {
            running: mesh.process(&node).is_some_and(|id| id.is_alive()),
            page: ask(&node),
            node,
        })
        .collect()
}

/// Print the links of all nodes.
pub fn status(mesh: &Mesh, json: bool) -> anyhow::Result<ExitCode> {
    let reports = collect(mesh);
    let text = match json {
        true => format!("{:#}\n", in_json(&reports)),
        false => table(&reports),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// One row for each end of each link.
pub fn table(reports: &[NodeReport]) -> String {
    let mut table = Table::with_headings(&["NODE", "PEER", "STATE", "PATH", "RTT"]);
    for report in reports {
        match &report.page {
            Ok(page) => {
                for link in &page.status.mesh.links {
                    table.row([
                        report.node.clone(),
                        link.peer.to_string(),
                        link.state.as_str().to_owned(),
                        path_in_use(link),
                        link.rtt_us.map_or_else(|| "-".to_owned(), rtt),
                    ]);
                }
            }
            Err(_) => {
                let state = match report.running {
                    true => "no answer",
                    false => "not running",
                };
                let dash = || "-".to_owned();
                table.row([
                    report.node.clone(),
                    dash(),
                    state.to_owned(),
                    dash(),
                    dash(),
                ]);
            }
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
