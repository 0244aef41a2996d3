//! What is wrong while it lasts, each in a sentence.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::{Duration, Instant};

use holdfast_core::types::PeerId;
use holdfast_io::clock::Clock;
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;
use zeroize::Zeroizing;

use super::{Answer, Known, View, peer_of};
use crate::dynamic::{Claim, check_mark, claim, differences, shorten};
use crate::generate::{REPLICATION_USER, REWIND_USER, SUPERUSER};
use crate::guard::Guard;
use crate::host::{Host, Program};

/// How long our own login may take: the mesh's link may be slow.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);
/// More of one kind are not told.
const STRANGERS_MAX: usize = 5;
/// So long a replica may be without a stream before it is told: a failover or a slow link passes.
const DRY_LIMIT: Duration = Duration::from_secs(30);

/// Our roles, each with what `pg_hba` lets it in to, and what it asks there: a number is the
/// first of the answer.
const LOGINS: [(&str, &str, &str); 3] = [
    (SUPERUSER, "postgres", "select 1"),
    (REWIND_USER, "postgres", "select 1"),
    (REPLICATION_USER, "replication=true", "IDENTIFY_SYSTEM"),
];

/// What became of a login.
enum Login {
    /// Nothing is wrong with the password, or the user's own `pg_hba` does not let it be told.
    Taken,
    /// The password is wrong.
    Refused,
    /// The server does not answer.
    Unheard,
}

impl Login {
    /// By what `psql` says.
    fn of(said: &str) -> Login {
        let is_answer = said.starts_with(|c: char| c.is_ascii_digit());
        match said.contains("password authentication failed") {
            true => Login::Refused,
            false if is_answer || said.contains("pg_hba.conf") => Login::Taken,
            false => Login::Unheard,
        }
    }
}

impl<N: Net, C: Clock, S: Spawn, H: Host> Guard<N, C, S, H> {
    /// What follows from what is known.
    pub(crate) fn problems(&self, known: &Known, view: &View) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(problem) = &known.kv_problem {
            found.push(format!("the KV does not answer: {problem}"));
        }
        if known.view.is_some() {
            self.problems_of_scope(view, &mut found);
        }
        if let Some(answer) = &known.answer {
            if answer.scope != self.settings.scope {
                found.push(format!(
                    "the Patroni at {}:{} is of the scope {:?}: expected {:?} (postgres.scope)",
                    self.place.vip,
                    self.settings.rest_port,
                    shorten(&answer.scope),
                    self.settings.scope
                ));
            }
            if !answer.pending_restart.is_empty() {
                let names: Vec<String> = answer
                    .pending_restart
                    .iter()
                    .take(8)
                    .map(|name| shorten(name))
                    .collect();
                let names = names.join(", ");
                found.push(format!(
                    "a restart is needed for {names}: patronictl restart"
                ));
            }
            if let (Some(own), Some(cluster)) = (&answer.system, &view.system)
                && own != cluster
            {
                found.push(format!(
                    "this member is of the database system {}: expected {}, the cluster's",
                    shorten(own),
                    shorten(cluster)
                ));
            }
        }
        let now = self.clock.now().mono;
        let dry = |since: &Instant| now.saturating_duration_since(*since) >= DRY_LIMIT;
        if known.dry_since.as_ref().is_some_and(dry) {
            found.push(format!(
                "{} follows without streaming: nothing of the leader's reaches it, PostgreSQL's log says why",
                self.name
            ));
        }
        if known.unfinished_copy && known.answer.as_ref().is_some_and(Answer::rests) {
            found.push(format!(
                "{} is not empty and has no control file, as after a copy that was interrupted: patronictl reinit {} {}",
                self.settings.data_dir.display(),
                self.settings.scope,
                self.name
            ));
        }
        found.extend(known.slow.iter().cloned());
        found
    }

    /// Whether there is something in the data directory, but no database: Patroni leaves it alone.
    pub(crate) fn is_unfinished_copy(&self) -> bool {
        let empty = self.host.is_empty(&self.settings.data_dir);
        matches!((empty, self.system_on_disk()), (Ok(false), Ok(None)))
    }

    fn problems_of_scope(&self, view: &View, found: &mut Vec<String>) {
        if let Some(note) = &view.note
            && let Err(error) = check_mark(&self.keys.key("holdfast"), note, &self.mark)
        {
            found.push(error.to_string());
        }
        if view.system.is_some() && view.leader.is_none() {
            found.push("nobody leads: there is no leader's key".to_owned());
        }
        let leads = view.leader.is_some();
        if leads && view.synchronous() != "off" && view.sync.is_empty() {
            found.push(
                "no replica is synchronous: what is acknowledged now is on the primary alone"
                    .to_owned(),
            );
        }
        if let (Some(config), Some(wanted)) = (&view.config, &*self.wanted.borrow()) {
            let differences = differences(config, wanted);
            if !differences.is_empty() {
                let listed = differences.join("; ");
                found.push(format!("/config in the KV differs from the file: {listed}"));
            }
        }
    }

    /// The disk and the data directory.
    pub(crate) fn look_at_machine(&self, view: Option<&View>) -> Vec<String> {
        let mut found = Vec::new();
        let (path, least) = (&self.settings.data_dir, self.settings.disk_free_min);
        match self.host.disk_free(path) {
            Ok(free) if free < least => found.push(format!(
                "{} has {free} bytes free: expected at least {least} (postgres.disk_free_min)",
                path.display()
            )),
            Ok(_) => {}
            Err(error) => found.push(format!(
                "cannot look at the disk of {}: {error}",
                path.display()
            )),
        }
        let cluster = view.and_then(|view| view.system.as_ref());
        if let (Ok(Some(own)), Some(cluster)) = (self.system_on_disk(), cluster) {
            if own.to_string() != *cluster {
                found.push(format!(
                    "{} is of the database system {own}: expected {}, as {} in the KV says; nothing is removed",
                    path.display(),
                    shorten(cluster),
                    self.keys.key("initialize")
                ));
            } else if let Err(problem) = self.remember_made(own) {
                found.push(problem.to_string());
            }
        }
        found
    }

    /// Our peers' names among the members of other scopes.
    pub(crate) async fn look_at_scopes(&self) -> Vec<String> {
        let Ok(entries) = self.list("service/").await else {
            // The scope's own list says so already.
            return Vec::new();
        };
        let peers: Vec<PeerId> = self
            .place
            .members
            .iter()
            .map(|(peer, _)| peer.clone())
            .collect();
        let mut strangers = BTreeSet::new();
        for entry in &entries {
            let Some((scope, name)) = entry
                .key
                .strip_prefix("service/")
                .and_then(|rest| rest.split_once("/members/"))
            else {
                continue;
            };
            if scope != self.settings.scope
                && let Some(peer) = peer_of(name, &peers)
            {
                strangers.insert((peer.clone(), scope));
            }
        }
        let told = strangers.into_iter().take(STRANGERS_MAX);
        told.map(|(peer, scope)| {
            format!(
                "{peer} is a member of the scope {:?}: expected {:?} (postgres.scope)",
                shorten(scope),
                self.settings.scope
            )
        })
        .collect()
    }

    /// Claim the cluster's path again when the KV has lost our note: Patroni writes its own keys
    /// again, and a member without files could not tell them from a stranger's.
    pub(crate) async fn claim_again(&self, view: Option<&View>) {
        let bare = view.filter(|view| view.note.is_none());
        let made = bare.and_then(|view| view.system.as_ref());
        let (Some(made), Ok(Some(own))) = (made, self.system_on_disk()) else {
            return;
        };
        if own.to_string() != *made {
            return;
        }
        let ours = Claim {
            cluster: &self.place.cluster,
            mark: &self.mark,
            major: None,
        };
        // The scope's own list tells what is wrong with the KV, and the next look is another try.
        let _ = claim(&*self.kv, &self.keys, ours).await;
    }

    /// Log in at the leader as each of our roles, until all were taken once: whose password is
    /// wrong there, its cluster was made with other secrets. Returns who took them, and what is
    /// wrong.
    pub(crate) async fn log_in(
        &self,
        view: Option<&View>,
        logged_in: Option<String>,
    ) -> (Option<String>, Vec<String>) {
        let mut refused = Vec::new();
        let leader = view.and_then(|view| view.leader.clone());
        if leader.is_none() || leader == logged_in {
            return (logged_in, refused);
        }
        let peers: Vec<PeerId> = self
            .place
            .members
            .iter()
            .map(|(peer, _)| peer.clone())
            .collect();
        let name = leader.as_deref().unwrap_or_default();
        let Some(peer) = peer_of(name, &peers) else {
            return (None, refused);
        };
        let Some((_, vip)) = self.place.members.iter().find(|(known, _)| known == peer) else {
            return (None, refused);
        };
        let vip = vip.to_string();
        let socket = self.paths.own.to_string_lossy();
        for login in LOGINS {
            // A leader reaches itself from 127.0.0.1, and only the superuser is let in from there.
            let is_local = *peer == self.place.id && login.0 != SUPERUSER;
            let host: &str = if is_local { &socket } else { &vip };
            match self.log_in_as(login, host).await {
                Login::Taken => {}
                Login::Refused => refused.push(format!(
                    "{peer} refuses our password of {}: the cluster was made with other secrets",
                    login.0
                )),
                // The others would be waited for as long.
                Login::Unheard => return (None, refused),
            }
        }
        (leader.filter(|_| refused.is_empty()), refused)
    }

    async fn log_in_as(&self, (name, to, asks): (&str, &str, &str), host: &str) -> Login {
        let psql = self.settings.bin_dir.join("psql");
        let Ok(Some(user)) = self.host.user(&self.settings.user) else {
            return Login::Unheard;
        };
        let port = self.settings.port.to_string();
        let program = Program {
            path: &psql,
            arguments: &[
                "-X", "-w", "-At", "-h", host, "-p", &port, "-U", name, "-d", to, "-c", asks,
            ],
            environment: &[
                ("PGPASSFILE", self.paths.login.as_os_str()),
                ("PGCONNECT_TIMEOUT", OsStr::new("5")),
                ("PGSSLMODE", OsStr::new("disable")),
                ("PGAPPNAME", OsStr::new("holdfast-login")),
            ],
            user,
            limit: LOGIN_LIMIT,
        };
        let said = self.host.run(program).await;
        said.map_or(Login::Unheard, |said| Login::of(&said))
    }

    /// The file of passwords that [`Guard::watch`] logs in with.
    pub(crate) fn login_file(&self) -> Zeroizing<String> {
        let all = &self.credentials;
        let passwords = [
            (SUPERUSER, &all.superuser),
            (REWIND_USER, &all.rewind),
            (REPLICATION_USER, &all.replication),
        ];
        let len: usize = passwords.iter().map(|(_, one)| 2 * one.len() + 64).sum();
        // Never too small: what grows leaves a copy behind.
        let mut lines = Zeroizing::new(String::with_capacity(len));
        for (name, password) in passwords {
            lines.push_str("*:*:*:");
            lines.push_str(name);
            lines.push(':');
            for c in password.chars() {
                // As libpq reads it.
                if matches!(c, ':' | '\\') {
                    lines.push('\\');
                }
                lines.push(c);
            }
            lines.push('\n');
        }
        lines
    }
}
