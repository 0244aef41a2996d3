//! What a sidecar says of itself, for people.

use std::fmt::Write;

use holdfast_sidecar::SidecarStatus;

use super::postgres;
use super::view::or_dash;
use crate::output::{Table, age};

/// Who it is, the slots of its role, its children and services.
pub fn sections(status: &SidecarStatus) -> String {
    let mut out = head(status);
    let mut section = |table: Option<Table>| {
        if let Some(table) = table {
            let _ = write!(out, "\n{}", table.render());
        }
    };
    section(slots(status));
    section(children(status));
    section(services(status));
    if let Some(database) = &status.postgres {
        let _ = write!(out, "\n{}", postgres::sections(database));
    }
    out
}

fn head(status: &SidecarStatus) -> String {
    let slot = &status.slot;
    let name = status
        .id
        .clone()
        .unwrap_or_else(|| format!("a {}", status.role));
    let mut out = format!("{name} of {}  {}", status.cluster, status.phase);
    let _ = match slot.slot {
        Some(number) => write!(out, "  slot {number} {}", slot.state),
        None => write!(out, "  no slot: {}", slot.state),
    };
    if slot.pinned && slot.state != "pinned" {
        out.push_str(", pinned");
    }
    if let Some(left) = slot.lease_left_ms {
        let _ = write!(out, ", lease for {}", age(left));
    }
    let _ = write!(out, "  instance {}", short(status.instance.as_deref()));
    if let Some(consul) = &status.consul {
        let role = if consul.server { "server" } else { "client" };
        let leader = or_dash(consul.leader.clone().filter(|leader| !leader.is_empty()));
        let _ = write!(out, "  consul {role}, leader {leader}");
    }
    out.push('\n');
    if let Some(why) = &slot.waiting_for {
        let _ = writeln!(out, "waiting: {why}");
    }
    for reason in &status.not_ready {
        let _ = writeln!(out, "not ready: {reason}");
    }
    if let Some(problem) = hosts_problem(&status.hosts) {
        let _ = writeln!(out, "hosts file: {problem}");
    }
    out
}

/// What became of the hosts file, where it is not what was wanted.
fn hosts_problem(hosts: &str) -> Option<&str> {
    const FINE: [&str; 4] = ["", "off", "written", "written in place"];
    (!FINE.contains(&hosts)).then_some(hosts)
}

fn slots(status: &SidecarStatus) -> Option<Table> {
    let mut table = Table::with_headings(&["SLOT", "OWNER", "LEASE LEFT", "PROBLEM"]);
    for slot in &status.slots {
        table.row([
            slot.slot.to_string(),
            match (&slot.owner, &status.instance) {
                (None, _) => "free".to_owned(),
                (Some(owner), Some(own)) if owner == own => "this machine".to_owned(),
                (Some(owner), _) => short(Some(owner)),
            },
            or_dash(slot.lease_ms.map(age)),
            or_dash(slot.problem.clone()),
        ]);
    }
    (!status.slots.is_empty()).then_some(table)
}

fn children(status: &SidecarStatus) -> Option<Table> {
    let mut table =
        Table::with_headings(&["CHILD", "STATE", "RESTARTS", "PID", "LAST END", "PROBLEM"]);
    for child in &status.children {
        table.row([
            child.name.clone(),
            child.state.clone(),
            child.restarts.to_string(),
            or_dash(child.pid.map(|pid| pid.to_string())),
            or_dash(child.last_end.clone()),
            or_dash(child.problem.clone()),
        ]);
    }
    (!status.children.is_empty()).then_some(table)
}

fn services(status: &SidecarStatus) -> Option<Table> {
    let mut table = Table::with_headings(&["SERVICE", "ID", "TAGS", "REGISTERED", "PROBLEM"]);
    for service in &status.services {
        table.row([
            service.name.clone(),
            service.id.clone(),
            or_dash(Some(service.tags.join(",")).filter(|tags| !tags.is_empty())),
            if service.registered { "yes" } else { "no" }.to_owned(),
            or_dash(service.problem.clone()),
        ]);
    }
    (!status.services.is_empty()).then_some(table)
}

/// The beginning of an instance id: enough to tell two apart.
pub fn short(instance: Option<&str>) -> String {
    const SHOWN: usize = 12;
    or_dash(instance.map(|id| id.chars().take(SHOWN).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::super::fetch::parse;
    use super::super::view;

    #[test]
    fn a_member_is_shown_with_slots_children_and_services() {
        let json = include_str!("../../tests/data/member.json");
        let page = parse(json.as_bytes()).unwrap();
        assert!(page.node.is_none(), "the mesh does not run yet");
        insta::assert_snapshot!(view::node(&page));
    }
}
