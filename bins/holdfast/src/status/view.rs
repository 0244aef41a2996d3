//! A status for people.

use std::fmt::Write;

use holdfast_core::status::{LinkState, LinkStatus, PathStatus};

use holdfast_io::mesh::NodeStatus;

use super::{Page, member};
use crate::output::{Table, age, rtt};

/// A node: what its sidecar says, if it has one, and its links.
pub fn node(page: &Page) -> String {
    let sidecar = page.sidecar.as_ref().map(member::sections);
    let mesh = page.node.as_ref().map(links);
    let parts = [sidecar, mesh].into_iter().flatten();
    parts.collect::<Vec<_>>().join("\n")
}

fn links(status: &NodeStatus) -> String {
    let node = &status.mesh;
    let up = node
        .links
        .iter()
        .filter(|l| l.state == LinkState::Up)
        .count();
    let mut out = format!(
        "{} ({})  incarnation {}  up {}  links {up}/{}\n\n",
        node.id,
        node.vip,
        node.incarnation,
        age(node.uptime_ms),
        node.links.len()
    );
    let mut table = Table::with_headings(&[
        "PEER", "VIP", "STATE", "PATH", "RTT", "STREAMS", "SINCE", "SESSIONS",
    ]);
    for link in &node.links {
        table.row([
            link.peer.to_string(),
            link.vip.to_string(),
            link.state.as_str().to_owned(),
            path_in_use(link),
            or_dash(link.rtt_us.map(rtt)),
            link.streams.to_string(),
            age(link.since_ms),
            link.sessions.to_string(),
        ]);
    }
    out.push_str(&table.render());
    out.push_str(&servers(status));
    out
}

/// Brokers, relays and clashes, as far as there are any.
fn servers(status: &NodeStatus) -> String {
    let mut out = String::new();
    let mut section = |table: Table| {
        let _ = write!(out, "\n{}", table.render());
    };
    if !status.brokers.is_empty() {
        let mut table = Table::with_headings(&["BROKER", "STATE", "ANSWERED", "LAST FAILURE"]);
        for broker in &status.brokers {
            table.row([
                broker.url.clone(),
                if broker.reachable {
                    "reachable"
                } else {
                    "unreachable"
                }
                .to_owned(),
                or_dash(broker.answered_ms.map(|ms| format!("{} ago", age(ms)))),
                or_dash(broker.last_error.clone()),
            ]);
        }
        section(table);
    }
    if !status.mesh.relays.is_empty() {
        let mut table = Table::with_headings(&["TURN", "TRANSPORT", "STATE", "RELAYED"]);
        for relay in &status.mesh.relays {
            table.row([
                relay.server.clone(),
                relay.transport.clone(),
                relay.state.clone(),
                or_dash(relay.relayed.clone()),
            ]);
        }
        section(table);
    }
    if !status.clashes.is_empty() {
        let mut table = Table::with_headings(&["CLASH", "ADDRESS", "WHY"]);
        for clash in &status.clashes {
            table.row([
                clash.protocol.as_str().to_owned(),
                clash.addr.to_string(),
                clash.error.clone(),
            ]);
        }
        section(table);
    }
    out
}

/// The path of a link: its class and its two ends.
pub fn path_in_use(link: &LinkStatus) -> String {
    match link.selected() {
        Some(path) => format!("{} {} > {}", path.class, path.local, path.remote),
        None => "-".to_owned(),
    }
}

/// One link with every candidate pair.
pub fn peer(link: &LinkStatus) -> String {
    let mut out = format!(
        "{} ({})  {} since {}  session {}  epoch {}  incarnation {}\n",
        link.peer,
        link.vip,
        link.state.as_str(),
        age(link.since_ms),
        link.sessions,
        link.epoch,
        link.peer_incarnation.as_deref().unwrap_or("-"),
    );
    let _ = writeln!(
        out,
        "rtt {}  mtu {}  streams {}  sent {} B  received {} B  lost {} packets  path changes {}\n",
        or_dash(link.rtt_us.map(rtt)),
        link.mtu,
        link.streams,
        link.tx_bytes,
        link.rx_bytes,
        link.lost_packets,
        link.path_changes,
    );
    if link.paths.is_empty() {
        out.push_str("no candidate pair is known yet\n");
        return out;
    }
    let mut table = Table::with_headings(&[
        " ", "LOCAL", "REMOTE", "CLASS", "STATE", "RTT", "ANSWERED", "WHY",
    ]);
    for path in &link.paths {
        table.row(pair(path));
    }
    out.push_str(&table.render());
    out
}

fn pair(path: &PathStatus) -> [String; 8] {
    [
        if path.selected { "*" } else { " " }.to_owned(),
        format!("{} {}", path.local_kind, path.local),
        format!("{} {}", path.remote_kind, path.remote),
        path.class.clone(),
        path.state.clone(),
        or_dash(path.rtt_us.map(rtt)),
        or_dash(path.answered_ms.map(|ms| format!("{} ago", age(ms)))),
        path.why.clone(),
    ]
}

/// What there is to show, if there is something.
pub fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::super::fetch::parse;
    use super::*;

    fn page() -> Page {
        let json = include_str!("../../tests/data/status.json");
        parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_node_is_shown_with_its_links_and_servers() {
        insta::assert_snapshot!(node(&page()));
    }

    #[test]
    fn a_peer_is_shown_with_every_pair_and_why() {
        insta::assert_snapshot!(peer(&page().node.unwrap().mesh.links[0]));
    }

    #[test]
    fn a_link_without_a_pair_says_so() {
        insta::assert_snapshot!(peer(&page().node.unwrap().mesh.links[1]));
    }
}
