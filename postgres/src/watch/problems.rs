//! What is wrong while it lasts, each in a sentence.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::{Duration, Instant};

use holdfast_core::types::PeerId;
use holdfast_io::clock::Clock;
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;

use super::{Answer, Known, View, peer_of};
use crate::dynamic::{check_mark, differences, shorten};
use crate::generate::SUPERUSER;
use crate::guard::Guard;
use crate::host::{Host, Program};

/// How long our own login may take: the mesh's link may be slow.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);
/// More of one kind are not told.
const STRANGERS_MAX: usize = 5;
/// So long a replica may be without a stream before it is told: a failover or a slow link passes.
const DRY_LIMIT: Duration = Duration::from_secs(30);

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

    /// Log in at the leader as the superuser, until it was taken once: whose password is wrong
    /// there, its cluster was made with other secrets.
    pub(crate) async fn log_in(
        &self,
        view: Option<&View>,
        logged_in: Option<String>,
    ) -> (Option<String>, Option<String>) {
        let leader = view.and_then(|view| view.leader.clone());
        if leader.is_none() || leader == logged_in {
            return (logged_in, None);
        }
        let peers: Vec<PeerId> = self
            .place
            .members
            .iter()
            .map(|(peer, _)| peer.clone())
            .collect();
        let name = leader.as_deref().unwrap_or_default();
        let Some(peer) = peer_of(name, &peers) else {
            return (None, None);
        };
        let Some((_, vip)) = self.place.members.iter().find(|(known, _)| known == peer) else {
            return (None, None);
        };
        let said = self.ask_as_superuser(&vip.to_string()).await;
        match said {
            Some(said) if said.trim() == "1" => (leader, None),
            Some(said) if said.contains("password authentication failed") => {
                let problem = format!(
                    "{peer} refuses our password of {SUPERUSER}: the cluster was made with other secrets"
                );
                (None, Some(problem))
            }
            _ => (None, None),
        }
    }

    async fn ask_as_superuser(&self, host: &str) -> Option<String> {
        let psql = self.settings.bin_dir.join("psql");
        let user = self.host.user(&self.settings.user).ok()??;
        let port = self.settings.port.to_string();
        let program = Program {
            path: &psql,
            arguments: &[
                "-X", "-w", "-At", "-h", host, "-p", &port, "-U", SUPERUSER, "-d", "postgres",
                "-c", "select 1",
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
        self.host.run(program).await.ok()
    }

    /// The file of passwords that [`Guard::watch`] logs in with.
    pub(crate) fn login_file(&self) -> zeroize::Zeroizing<String> {
        let password = &self.credentials.superuser;
        let mut line = zeroize::Zeroizing::new(String::with_capacity(2 * password.len() + 64));
        line.push_str("*:*:*:");
        line.push_str(SUPERUSER);
        line.push(':');
        for c in password.chars() {
            // As libpq reads it.
            if matches!(c, ':' | '\\') {
                line.push('\\');
            }
            line.push(c);
        }
        line.push('\n');
        line
    }
}
