//! What a member says of the database, for people.

use std::fmt::Write;

use holdfast_postgres::{EndpointStatus, MemberStatus, PostgresStatus, Role};

use super::view::or_dash;
use crate::output::{Table, size};

/// Who leads, the members, the endpoints, and what is wrong.
pub fn sections(status: &PostgresStatus) -> String {
    let mut out = head(status);
    for table in [members(status), endpoints(status)].into_iter().flatten() {
        let _ = write!(out, "{}", table.render());
    }
    for problem in &status.problems {
        let _ = writeln!(out, "problem: {problem}");
    }
    out
}

fn head(status: &PostgresStatus) -> String {
    let mut out = format!("database {}", status.scope);
    let _ = match (&status.leader, status.timeline) {
        (Some(leader), Some(timeline)) => write!(out, "  leader {leader}, timeline {timeline}"),
        (Some(leader), None) => write!(out, "  leader {leader}"),
        (None, _) => write!(out, "  no leader"),
    };
    if !status.synchronous.is_empty() {
        let _ = write!(out, "  synchronous {}", status.synchronous);
    }
    if status.paused {
        out.push_str("  paused");
    }
    out.push('\n');
    out
}

/// One row for each member.
fn members(status: &PostgresStatus) -> Option<Table> {
    let mut table = Table::with_headings(&["MEMBER", "ROLE", "STATE", "TIMELINE", "LAG", "SYNC"]);
    for member in &status.members {
        table.row(row(member));
    }
    (!status.members.is_empty()).then_some(table)
}

fn row(member: &MemberStatus) -> [String; 6] {
    [
        member.peer.clone(),
        role(member.role).to_owned(),
        or_dash(Some(member.state.clone()).filter(|state| !state.is_empty())),
        or_dash(member.timeline.map(|timeline| timeline.to_string())),
        or_dash(member.lag.map(size)),
        or_dash(member.sync.clone()),
    ]
}

/// What a member is, in a word.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Unknown => "-",
    }
}

fn endpoints(status: &PostgresStatus) -> Option<Table> {
    let mut table =
        Table::with_headings(&["ENDPOINT", "ADDRESS", "LEADS TO", "SESSIONS", "PROBLEM"]);
    for endpoint in &status.endpoints {
        table.row(endpoint_row(endpoint));
    }
    (!status.endpoints.is_empty()).then_some(table)
}

fn endpoint_row(endpoint: &EndpointStatus) -> [String; 5] {
    let leads_to = Some(endpoint.leads_to.join(", ")).filter(|peers| !peers.is_empty());
    [
        endpoint.name.clone(),
        endpoint.address.clone(),
        or_dash(leads_to),
        endpoint.sessions.to_string(),
        or_dash(endpoint.problem.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(peer: &str, role: Role, state: &str) -> MemberStatus {
        MemberStatus {
            peer: peer.to_owned(),
            name: format!("{peer}-0123456789abcdef"),
            role,
            state: state.to_owned(),
            timeline: Some(3),
            ..MemberStatus::default()
        }
    }

    fn status() -> PostgresStatus {
        let endpoint = |name: &str, address: &str, leads_to: &[&str]| EndpointStatus {
            name: name.to_owned(),
            address: address.to_owned(),
            leads_to: leads_to.iter().map(|peer| (*peer).to_owned()).collect(),
            sessions: leads_to.len(),
            problem: None,
        };
        PostgresStatus {
            scope: "north".to_owned(),
            name: "worker-5-0123456789abcdef".to_owned(),
            role: Role::Replica,
            leader: Some("worker-4".to_owned()),
            timeline: Some(3),
            synchronous: "quorum".to_owned(),
            paused: false,
            members: vec![
                member("worker-4", Role::Primary, "running"),
                MemberStatus {
                    lag: Some(0),
                    sync: Some("quorum".to_owned()),
                    ..member("worker-5", Role::Replica, "streaming")
                },
                MemberStatus {
                    lag: Some(5 << 20),
                    ..member("worker-6", Role::Replica, "in archive recovery")
                },
            ],
            endpoints: vec![
                endpoint("primary", "127.10.0.1:5432", &["worker-4"]),
                endpoint("replicas", "127.10.0.2:5432", &["worker-5", "worker-6"]),
            ],
            problems: vec!["ttl is 25, which differs from the file".to_owned()],
        }
    }

    #[test]
    fn a_database_is_shown_with_members_endpoints_and_problems() {
        insta::assert_snapshot!(sections(&status()));
    }

    #[test]
    fn a_database_without_a_leader_says_so() {
        let lost = PostgresStatus {
            leader: None,
            paused: true,
            members: vec![MemberStatus {
                timeline: None,
                ..member("worker-4", Role::Unknown, "")
            }],
            endpoints: vec![EndpointStatus {
                name: "primary".to_owned(),
                address: "127.10.0.1:5432".to_owned(),
                problem: Some("the address is in use".to_owned()),
                ..EndpointStatus::default()
            }],
            problems: Vec::new(),
            ..status()
        };
        insta::assert_snapshot!(sections(&lost));
    }
}
