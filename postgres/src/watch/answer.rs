//! What a member's Patroni answers to `GET /primary`, which may be anything.

use holdfast_io::http::StatusCode;
use serde::Deserialize;

use crate::status::Role;

/// A larger answer is none, bytes: one entry for each replication connection is in it.
pub(crate) const ANSWER_LEN_MAX: usize = 256 << 10;

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// It has the leader's key, as far as it knows.
    pub holds_key: bool,
    /// Patroni's word for PostgreSQL: `running`, `starting`, `stopped`, …
    pub state: String,
    /// What PostgreSQL is: whether it takes writes.
    pub role: Role,
    /// Its timeline.
    pub timeline: Option<u64>,
    /// Whether it streams, `streaming`, or what else.
    pub replication_state: String,
    /// Its WAL: written by a primary, received by a replica.
    pub received: Option<u64>,
    /// Its WAL: replayed by a replica.
    pub replayed: Option<u64>,
    /// The identifier of its database system.
    pub system: Option<String>,
    /// The name of its cluster of databases.
    pub scope: String,
    /// Parameters that a restart is needed for.
    pub pending_restart: Vec<String>,
}

/// As Patroni 4 writes it (`api.py`, `get_postgresql_status`, `_write_status_response`).
#[derive(Deserialize)]
struct Body {
    state: Option<String>,
    role: Option<String>,
    timeline: Option<u64>,
    replication_state: Option<String>,
    xlog: Option<Xlog>,
    database_system_identifier: Option<String>,
    #[serde(default)]
    pending_restart: bool,
    pending_restart_reason: Option<serde_json::Map<String, serde_json::Value>>,
    patroni: Option<Patroni>,
}

#[derive(Deserialize)]
struct Patroni {
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Xlog {
    location: Option<u64>,
    received_location: Option<u64>,
    replayed_location: Option<u64>,
}

impl Answer {
    /// Read an answer to `GET /primary`: 200 or 503, with the same body. Anything else is nothing.
    #[must_use]
    pub fn parse(status: StatusCode, body: &[u8]) -> Option<Answer> {
        let holds_key = match status {
            StatusCode::OK => true,
            StatusCode::SERVICE_UNAVAILABLE => false,
            _ => return None,
        };
        let body: Body = serde_json::from_slice(body).ok()?;
        // Its own query failed: it has the key or not, and cannot say more.
        if body.state.as_deref() == Some("unknown") {
            return None;
        }
        let role = match body.role.as_deref() {
            // Patroni wrote `master` before version 4.
            Some("primary" | "master") => Role::Primary,
            Some("replica" | "standby_leader") => Role::Replica,
            _ => Role::Unknown,
        };
        let xlog = body.xlog.as_ref();
        let reasons = body.pending_restart_reason.unwrap_or_default();
        let mut pending: Vec<String> = reasons.into_iter().map(|(name, _)| name).collect();
        if body.pending_restart && pending.is_empty() {
            pending.push("a parameter".to_owned());
        }
        Some(Answer {
            holds_key,
            state: body.state.unwrap_or_default(),
            role,
            timeline: body.timeline,
            replication_state: body.replication_state.unwrap_or_default(),
            received: xlog.and_then(|xlog| xlog.location.or(xlog.received_location)),
            replayed: xlog.and_then(|xlog| xlog.replayed_location),
            system: body.database_system_identifier,
            scope: body.patroni.and_then(|it| it.scope).unwrap_or_default(),
            pending_restart: pending,
        })
    }

    /// The timeline by which it leads: it has the key, and PostgreSQL runs and takes writes. One
    /// that still promotes does not lead; one that lost the key and does not know yet does.
    #[must_use]
    pub fn leads(&self) -> Option<u64> {
        let leads = self.holds_key && self.role == Role::Primary && self.state == "running";
        leads.then_some(self.timeline).flatten()
    }

    /// Whether it follows and can be read from, however far behind.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.role == Role::Replica && self.state == "running"
    }

    /// Whether what others commit reaches it, by a stream or from an archive.
    #[must_use]
    pub fn receives(&self) -> bool {
        matches!(
            self.replication_state.as_str(),
            "streaming" | "in archive recovery"
        )
    }

    /// Whether PostgreSQL does not run, and nothing is done about it.
    #[must_use]
    pub fn rests(&self) -> bool {
        matches!(self.state.as_str(), "stopped" | "crashed" | "start failed")
    }

    /// What this member is to others of its cluster. A Patroni of another one may answer at a
    /// member's address: it is nothing to us.
    #[must_use]
    pub fn role(&self, scope: &str) -> Role {
        if self.scope != scope {
            return Role::Unknown;
        }
        match (self.leads(), self.follows()) {
            (Some(_), _) => Role::Primary,
            (None, true) => Role::Replica,
            (None, false) => Role::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use proptest::prelude::*;

    use super::*;

    /// What Patroni 4.1.5 with PostgreSQL 15 answered.
    const PRIMARY: &str = r#"{"state": "running", "postmaster_start_time": "2026-11-21 10:00:00.000000+00:00", "role": "primary", "server_version": 150018, "xlog": {"location": 67109192}, "timeline": 3, "replication": [{"usename": "replicator", "application_name": "w2", "client_addr": "127.50.0.2", "state": "streaming", "sync_state": "quorum", "sync_priority": 1}], "dcs_last_seen": 1795000000, "database_system_identifier": "7575000000000000001", "pending_restart": true, "pending_restart_reason": {"shared_buffers": {"old_value": "128MB", "new_value": "256MB"}}, "patroni": {"version": "4.1.5", "scope": "demo", "name": "w1"}}"#;
    const REPLICA: &str = r#"{"state": "running", "role": "replica", "server_version": 150018, "xlog": {"received_location": 67109192, "replayed_location": 67109100, "replayed_timestamp": null, "paused": false}, "quorum_standby": true, "timeline": 3, "replication_state": "streaming", "dcs_last_seen": 1795000000, "database_system_identifier": "7575000000000000001", "patroni": {"version": "4.1.5", "scope": "demo", "name": "w2"}}"#;

    #[test]
    fn the_key_and_postgresql_together_make_a_primary() {
        let with_key = Answer::parse(StatusCode::OK, PRIMARY.as_bytes()).unwrap();
        assert_eq!(
            (with_key.leads(), with_key.role("demo")),
            (Some(3), Role::Primary)
        );
        assert_eq!(with_key.pending_restart, ["shared_buffers"]);
        let without = Answer::parse(StatusCode::SERVICE_UNAVAILABLE, PRIMARY.as_bytes()).unwrap();
        assert_eq!(
            (without.leads(), without.role("demo")),
            (None, Role::Unknown)
        );
        let promoting = Answer::parse(StatusCode::OK, REPLICA.as_bytes()).unwrap();
        assert_eq!(
            (promoting.leads(), promoting.role("demo")),
            (None, Role::Replica)
        );
        assert_eq!(promoting.received, Some(67_109_192));
    }

    #[test]
    fn a_member_of_another_cluster_has_no_role() {
        for body in [PRIMARY, REPLICA] {
            let answer = Answer::parse(StatusCode::OK, body.as_bytes()).unwrap();
            assert_ne!(answer.role("demo"), Role::Unknown);
            assert_eq!(answer.role("other"), Role::Unknown);
        }
        let old = PRIMARY.replace(r#""scope": "demo", "#, "");
        let old = Answer::parse(StatusCode::OK, old.as_bytes()).unwrap();
        assert_eq!(old.role("demo"), Role::Unknown, "it does not say");
    }

    #[test]
    fn what_is_no_answer_of_patronis_is_nothing() {
        for status in [StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR] {
            assert_eq!(Answer::parse(status, PRIMARY.as_bytes()), None);
        }
        for body in [
            "",
            "null",
            "[]",
            "{\"xlog\": 1}",
            "{\"timeline\": -1}",
            "{\"state\": {}}",
        ] {
            assert_eq!(
                Answer::parse(StatusCode::OK, body.as_bytes()),
                None,
                "{body}"
            );
        }
        let starting = br#"{"state": "starting", "role": "replica"}"#;
        let starting = Answer::parse(StatusCode::SERVICE_UNAVAILABLE, starting).unwrap();
        assert_eq!(starting.role("demo"), Role::Unknown);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Answer::parse(StatusCode::OK, &body);
        }

        #[test]
        fn a_damaged_answer_is_read_or_not_but_never_panics(at in 0..PRIMARY.len(), byte: u8) {
            let mut body = PRIMARY.as_bytes().to_vec();
            body[at] = byte;
            let answer = Answer::parse(StatusCode::OK, &body);
            let _ = answer.map(|answer| (answer.leads(), answer.role("demo")));
            let _ = Answer::parse(StatusCode::OK, &body[..at]);
        }
    }
}
