//! What the KV says of a cluster of databases: Patroni's keys, which anybody with the token may
//! have written.

use std::collections::BTreeMap;

use holdfast_core::types::PeerId;
use holdfast_io::kv::Entry;
use serde::Deserialize;
use serde_json::Value;

use crate::dynamic::{Keys, Note, parse_note, shorten};
use crate::status::{MemberStatus, Role};

/// More members are none of ours: a scope has as many as there are peers.
const MEMBERS_MAX: usize = 300;

/// What the KV says of a cluster of databases. What cannot be read is as if it was not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Patroni's name of who has the leader's key.
    pub leader: Option<String>,
    /// The identifier of the database system, when the cluster was made.
    pub system: Option<String>,
    /// What is in `/config`.
    pub config: Option<Value>,
    /// What Holdfast keeps.
    pub note: Option<Note>,
    /// Every member by Patroni's name.
    pub members: BTreeMap<String, Member>,
    /// For whom commits wait.
    pub sync: Vec<String>,
    /// How far the leader was, at its last turn.
    pub position: Option<u64>,
}

/// A member, as it wrote at its last turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Member {
    state: String,
    role: String,
    timeline: Option<u64>,
    xlog_location: Option<u64>,
    replication_state: Option<String>,
}

impl Member {
    /// What is shown of it: a replica that runs is told by how it is replicated, as `patronictl`
    /// tells it.
    fn shown_state(&self) -> &str {
        match &self.replication_state {
            Some(replicated) if self.state == "running" && !replicated.is_empty() => replicated,
            _ => &self.state,
        }
    }
}

#[derive(Deserialize)]
struct Sync {
    #[serde(default)]
    sync_standby: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    optime: Option<u64>,
}

impl View {
    /// Read the entries below a scope's prefix.
    #[must_use]
    pub fn read(keys: &Keys, entries: &[Entry]) -> View {
        let mut view = View::default();
        for entry in entries {
            let Some(name) = entry.key.strip_prefix(keys.prefix()) else {
                continue;
            };
            match name {
                "leader" => view.leader = text(entry),
                "initialize" => view.system = text(entry),
                "config" => view.config = json(entry),
                "holdfast" => view.note = parse_note(&entry.key, entry).ok(),
                "status" => view.position = json::<Status>(entry).and_then(|found| found.optime),
                "sync" => {
                    let standbys = json::<Sync>(entry).and_then(|found| found.sync_standby);
                    let names = standbys.unwrap_or_default();
                    let names = names.split(',').filter(|name| !name.is_empty());
                    view.sync = names.take(MEMBERS_MAX).map(str::to_owned).collect();
                }
                name => {
                    let member = name.strip_prefix("members/").zip(json(entry));
                    if let Some((name, member)) = member
                        && view.members.len() < MEMBERS_MAX
                    {
                        view.members.insert(name.to_owned(), member);
                    }
                }
            }
        }
        view
    }

    /// `quorum`, `on` or `off`, as `/config` has it.
    #[must_use]
    pub fn synchronous(&self) -> &'static str {
        let mode = self
            .config
            .as_ref()
            .and_then(|config| config.get("synchronous_mode"));
        match mode {
            Some(Value::Bool(true)) => "on",
            Some(Value::String(text)) if text.eq_ignore_ascii_case("quorum") => "quorum",
            Some(Value::String(text)) if matches!(text.as_str(), "on" | "true" | "yes" | "1") => {
                "on"
            }
            Some(Value::Number(number)) if number.as_u64() == Some(1) => "on",
            _ => "off",
        }
    }

    /// Whether Patroni is paused.
    #[must_use]
    pub fn paused(&self) -> bool {
        let pause = self.config.as_ref().and_then(|config| config.get("pause"));
        matches!(pause, Some(Value::Bool(true)))
    }

    /// Every member for people: those of the KV, and peers that are not there.
    #[must_use]
    pub fn member_statuses(&self, peers: &[PeerId]) -> Vec<MemberStatus> {
        let mut statuses: Vec<MemberStatus> = Vec::new();
        for (name, member) in &self.members {
            statuses.push(self.member_status(name, member, peers));
        }
        for peer in peers {
            if !statuses.iter().any(|status| status.peer == peer.as_str()) {
                statuses.push(MemberStatus {
                    peer: peer.to_string(),
                    state: "absent".to_owned(),
                    ..MemberStatus::default()
                });
            }
        }
        statuses.sort_by(|a, b| (&a.peer, &a.name).cmp(&(&b.peer, &b.name)));
        statuses
    }

    fn member_status(&self, name: &str, member: &Member, peers: &[PeerId]) -> MemberStatus {
        let leads = self.leader.as_deref() == Some(name);
        let role = match member.role.as_str() {
            "primary" | "master" if leads => Role::Primary,
            "replica" | "standby_leader" => Role::Replica,
            _ => Role::Unknown,
        };
        let behind = self.position.zip(member.xlog_location);
        let lag = behind.map(|(leader, own)| leader.saturating_sub(own));
        let waited = self.sync.iter().any(|sync| sync.eq_ignore_ascii_case(name));
        let kind = if self.synchronous() == "quorum" {
            "quorum"
        } else {
            "sync"
        };
        MemberStatus {
            peer: peer_of(name, peers).map_or_else(|| shorten(name), ToString::to_string),
            name: shorten(name),
            role,
            state: shorten(member.shown_state()),
            timeline: member.timeline,
            lag: lag.filter(|_| role == Role::Replica),
            sync: (waited && !leads).then(|| kind.to_owned()),
        }
    }
}

/// Whose name it is: `<peer id>-<instance>`.
#[must_use]
pub fn peer_of<'a>(name: &str, peers: &'a [PeerId]) -> Option<&'a PeerId> {
    let of = |peer: &&PeerId| {
        let rest = name.strip_prefix(peer.as_str());
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    // `a` and `a-b` may both be peers.
    peers
        .iter()
        .filter(of)
        .max_by_key(|peer| peer.as_str().len())
}

fn text(entry: &Entry) -> Option<String> {
    let text = std::str::from_utf8(&entry.value).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn json<T: for<'a> Deserialize<'a>>(entry: &Entry) -> Option<T> {
    serde_json::from_slice(&entry.value).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, value: impl Into<Vec<u8>>) -> Entry {
        Entry {
            key: format!("service/demo/{name}"),
            value: value.into().into(),
            create_index: 1,
            modify_index: 1,
            lock_index: 0,
            session: None,
        }
    }

    fn peers() -> Vec<PeerId> {
        ["w-1", "w-1-x", "w-2", "w-3"]
            .map(|peer| peer.parse().unwrap())
            .into()
    }

    #[test]
    fn members_are_told_with_their_lag_and_who_is_missing() {
        let view = View::read(
            &Keys::of("demo"),
            &[
                entry("leader", "w-1-aa"),
                entry("status", r#"{"optime": 1000}"#),
                entry("config", r#"{"synchronous_mode": "quorum", "pause": true}"#),
                entry(
                    "sync",
                    r#"{"leader": "w-1-aa", "sync_standby": "w-2-bb", "quorum": 0}"#,
                ),
                entry(
                    "members/w-1-aa",
                    r#"{"role": "primary", "state": "running", "timeline": 2}"#,
                ),
                entry(
                    "members/w-2-bb",
                    r#"{"role": "replica", "state": "running", "replication_state": "streaming", "xlog_location": 900}"#,
                ),
                entry("members/stranger", "{}"),
            ],
        );
        assert_eq!((view.synchronous(), view.paused()), ("quorum", true));
        let found = view.member_statuses(&peers());
        let told: Vec<_> = found
            .iter()
            .map(|m| (m.peer.as_str(), m.role, m.lag, m.sync.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                ("stranger", Role::Unknown, None, None),
                ("w-1", Role::Primary, None, None),
                ("w-1-x", Role::Unknown, None, None),
                ("w-2", Role::Replica, Some(100), Some("quorum")),
                ("w-3", Role::Unknown, None, None),
            ]
        );
        let states: Vec<_> = found.iter().map(|m| m.state.as_str()).collect();
        assert_eq!(states, ["", "running", "absent", "streaming", "absent"]);
        assert_eq!(peer_of("w-1-x-aa", &peers()).unwrap().as_str(), "w-1-x");
    }

    proptest! {
        #[test]
        fn whatever_is_in_the_kv_is_read_without_a_panic(
            found in prop::collection::vec(
                ("(leader|config|sync|status|holdfast|initialize|members/[a-z]{0,3}|[a-z/]{0,9})",
                 prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    "\\{\"(role|state|optime|sync_standby|pause)\": (1|null|\"a,b\"|\\[\\])\\}".prop_map(String::into_bytes),
                 ]),
                0..8,
            ),
        ) {
            let entries: Vec<_> = found.into_iter().map(|(name, value)| entry(&name, value)).collect();
            let view = View::read(&Keys::of("demo"), &entries);
            let _ = (view.member_statuses(&peers()), view.synchronous(), view.paused());
        }
    }
}
