//! Whether a cluster is whole, and waiting for it and other things.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use holdfast_plan::drill::{Drill, Synchronous};
use serde::Deserialize;

use super::ground::{Ground, member_of};
use super::sight::Board;
use crate::agent::Clock;
use crate::http;
use crate::stage::StageError;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the KV may take to say how its servers are.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);

/// Set by SIGINT and SIGTERM while a drill is played: waits end, and what was built is removed.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// Which of them it was.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    SIGNAL.store(signal, Ordering::SeqCst);
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// SIGINT and SIGTERM end waits instead of the process, until this is dropped; then they do what
/// they did before.
pub struct Interrupts([libc::sighandler_t; 2]);

const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

impl Interrupts {
    /// From now on.
    pub fn take() -> Interrupts {
        INTERRUPTED.store(false, Ordering::SeqCst);
        let handler = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler only stores to atomics, which is safe in a signal's handler.
        Interrupts(SIGNALS.map(|signal| unsafe { libc::signal(signal, handler) }))
    }

    /// Whether one came.
    pub fn came() -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for (signal, before) in SIGNALS.into_iter().zip(self.0) {
            // SAFETY: it was the handler before.
            let _ = unsafe { libc::signal(signal, before) };
        }
        if Interrupts::came() {
            // SAFETY: an integer; it does what it would have done.
            let _ = unsafe { libc::raise(SIGNAL.load(Ordering::SeqCst)) };
        }
    }
}

/// A cluster, and what is seen of it.
pub struct Scene<'a> {
    /// The cluster.
    pub ground: &'a mut dyn Ground,
    /// What is seen.
    pub board: &'a Board,
    /// The cluster's time.
    pub clock: Clock,
    /// What is played.
    pub drill: &'a Drill,
}

#[derive(Deserialize)]
struct Sync {
    #[serde(default)]
    sync_standby: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    healthy: bool,
    servers: Vec<Server>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    voter: bool,
}

impl Scene<'_> {
    /// Waits until a look returns a value.
    ///
    /// # Errors
    /// When it does not within the bound, or somebody wants all of it to end.
    pub fn wait<T>(
        &self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, StageError> {
        let begun = self.clock.now();
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if Interrupts::came() {
                return Err(StageError::Drill("interrupted".to_owned()));
            }
            if self.clock.now() - begun >= bound {
                return Err(StageError::Drill(format!("{what}: not within {bound:?}")));
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until a moment.
    ///
    /// # Errors
    /// When somebody wants all of it to end.
    pub fn until(&self, moment: Duration) -> Result<(), StageError> {
        let left = moment.saturating_sub(self.clock.now());
        let last = left.saturating_sub(LOOK_EVERY);
        let is_near = || (self.clock.now() + LOOK_EVERY >= moment).then_some(());
        self.wait("a moment", last + LOOK_EVERY * 10, is_near)?;
        thread::sleep(moment.saturating_sub(self.clock.now()));
        Ok(())
    }

    /// Who has the leader's key.
    pub fn leader(&self) -> Option<usize> {
        let name = self.board.key("leader")?;
        member_of(self.ground.members(), &name)
    }

    /// A member's name in Patroni.
    pub fn patroni_name(&self, member: usize) -> Option<String> {
        let members = self.ground.members();
        let names = self
            .board
            .keys()
            .into_iter()
            .filter_map(|key| key.strip_prefix("members/").map(str::to_owned));
        let mut found = names.filter(|name| member_of(members, name) == Some(member));
        found.next()
    }

    /// The leader's name in Patroni.
    pub fn leader_name(&self) -> Option<String> {
        self.board.key("leader")
    }

    /// The replicas that commits wait for.
    pub fn standbys(&self) -> Vec<usize> {
        let sync = self
            .board
            .key("sync")
            .and_then(|text| serde_json::from_str::<Sync>(&text).ok());
        let names = sync.and_then(|sync| sync.sync_standby).unwrap_or_default();
        let members = self.ground.members();
        names
            .split(',')
            .filter_map(|name| member_of(members, name))
            .collect()
    }

    /// What keeps the cluster from being whole, the KV apart.
    pub fn missing(&self) -> Vec<String> {
        let Some(leader) = self.leader() else {
            return vec!["nobody has the leader's key".to_owned()];
        };
        let mut missing = Vec::new();
        let timeline = self.board.now(leader).map(|said| said.timeline);
        for (index, member) in self.ground.members().iter().enumerate() {
            let name = &member.name;
            match self.board.now(index) {
                None => missing.push(format!("{name} does not answer")),
                Some(said) if said.pause => missing.push(format!("{name} is paused")),
                Some(said) if index == leader && !said.is_primary() => {
                    missing.push(format!("{name} leads and is {} {}", said.state, said.role));
                }
                Some(said) if index != leader && !said.is_streaming() => {
                    missing.push(format!(
                        "{name} does not stream: {} {}",
                        said.state, said.role
                    ));
                }
                Some(said) if Some(said.timeline) != timeline => {
                    missing.push(format!("{name} has timeline {}", said.timeline));
                }
                Some(_) => {}
            }
        }
        let standbys = self.standbys().len();
        let replicas = self.ground.members().len() - 1;
        let wanted = match self.drill.database.synchronous {
            Synchronous::Quorum => replicas,
            Synchronous::On => replicas.min(1),
            Synchronous::Off => 0,
        };
        if standbys < wanted {
            missing.push(format!("{standbys} of {wanted} synchronous standbys"));
        }
        missing
    }

    /// Whether all of the KV's servers vote and are well.
    fn kv_missing(&self) -> Option<String> {
        let (space, servers) = self.ground.kv();
        let wanted = servers.len();
        let asked = self.ground.stage().lab.run_in(&space, || {
            servers.iter().find_map(|server| {
                let answer = http::get(*server, "/v1/operator/autopilot/health", HEALTH_LIMIT);
                serde_json::from_str::<Health>(&answer.ok()?.body).ok()
            })
        });
        let Ok(Some(health)) = asked else {
            return Some("the KV does not say how it is".to_owned());
        };
        let voters = health.servers.iter().filter(|server| server.voter).count();
        (!health.healthy || voters < wanted).then(|| {
            format!(
                "{voters} of {wanted} servers of the KV vote, and all well: {}",
                health.healthy
            )
        })
    }

    /// Waits until the cluster is whole. Returns since when.
    ///
    /// # Errors
    /// What is missing after the bound.
    pub fn whole(&self, bound: Duration) -> Result<Duration, StageError> {
        let mut missing = Vec::new();
        let mut since = None;
        let waited = self.wait("the cluster is whole", bound, || {
            missing = self.missing();
            if !missing.is_empty() {
                since = None;
                return None;
            }
            let began = *since.get_or_insert_with(|| self.clock.now());
            missing.extend(self.kv_missing());
            missing.is_empty().then_some(began)
        });
        waited.map_err(|error| StageError::Drill(format!("{error}: {}", missing.join(", "))))
    }
}
