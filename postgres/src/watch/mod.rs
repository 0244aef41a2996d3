//! What the cluster says of itself while it runs: the local Patroni for the role, the KV for the
//! members, the machine for what is about to go wrong.

mod answer;
mod problems;
mod view;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_core::types::PeerId;
use holdfast_io::clock::Clock;
use holdfast_io::http::{Client, Method, Stop};
use holdfast_io::kv::{Consistency, Entry, Request, Response};
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;

pub(crate) use answer::ANSWER_LEN_MAX;
pub use answer::Answer;
pub use view::{Member, View, peer_of};

use crate::dynamic::shorten;
use crate::generate::generate;
use crate::guard::Guard;
use crate::host::Host;
use crate::status::{PostgresStatus, Role};

/// How often the local Patroni is asked: a change is told within a second.
const ROLE_INTERVAL: Duration = Duration::from_millis(250);
/// How long it may take to answer.
const ROLE_LIMIT: Duration = Duration::from_millis(750);
/// So many times in a row without an answer, and the role is unknown: one late answer is nothing.
const MISSES_MAX: u32 = 3;
/// How often the scope's keys are read.
const VIEW_INTERVAL: Duration = Duration::from_secs(2);
/// How often the disk, other scopes and our own login are looked at.
const SLOW_INTERVAL: Duration = Duration::from_secs(10);

/// What is known at a moment.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) answer: Option<Answer>,
    misses: u32,
    role: Option<Role>,
    pub(crate) view: Option<View>,
    /// What is wrong with reading the KV.
    pub(crate) kv_problem: Option<String>,
    /// What the machine's look found.
    pub(crate) slow: Vec<String>,
    /// There is something in the data directory, but no database.
    pub(crate) unfinished_copy: bool,
    /// Since when this member follows and receives nothing, while somebody leads.
    pub(crate) dry_since: Option<Instant>,
    /// Whose server took our passwords.
    pub(crate) logged_in: Option<String>,
    timeline: Option<u64>,
    told: Option<PostgresStatus>,
}

impl<N: Net, C: Clock, S: Spawn, H: Host> Guard<N, C, S, H> {
    /// Watch until `stop`: `on_role` is told the role of this member at first and whenever it
    /// changes, within a second; `on_status` what the cluster says of itself, at first and whenever
    /// it changes. Neither the status' endpoints nor whether the child runs is known here.
    pub async fn watch(
        &self,
        on_role: impl FnMut(Role),
        on_status: impl FnMut(PostgresStatus),
        mut stop: Stop,
    ) {
        if self.wanted.borrow().is_none()
            && let Ok(generated) = generate(&self.settings, &self.place, &self.credentials)
        {
            self.wanted.replace(Some(generated.dynamic));
        }
        let known = RefCell::new(Known::default());
        let tell = RefCell::new((on_role, on_status));
        let changed = || {
            let mut known = known.borrow_mut();
            let (on_role, on_status) = &mut *tell.borrow_mut();
            let scope = &self.settings.scope;
            let role = known.answer.as_ref();
            let role = role.map_or(Role::Unknown, |answer| answer.role(scope));
            // The first misses are not yet an answer.
            if (known.answer.is_some() || known.misses >= MISSES_MAX) && known.role != Some(role) {
                known.role = Some(role);
                on_role(role);
            }
            self.note_stream(&mut known);
            let status = self.status(&mut known);
            if known.told.as_ref() != Some(&status) {
                known.told = Some(status.clone());
                on_status(status);
            }
        };
        tokio::select! {
            biased;
            () = stop.wait() => {}
            () = self.ask_own(&known, &changed) => {}
            () = self.read_scope(&known, &changed) => {}
            () = self.look_around(&known, &changed) => {}
        }
    }

    fn note_stream(&self, known: &mut Known) {
        let leads = known
            .view
            .as_ref()
            .is_some_and(|view| view.leader.is_some());
        let dry = known
            .answer
            .as_ref()
            .is_some_and(|answer| answer.follows() && !answer.receives());
        known.dry_since = match leads && dry {
            true => known.dry_since.or(Some(self.clock.now().mono)),
            false => None,
        };
    }

    async fn ask_own(&self, known: &RefCell<Known>, changed: &impl Fn()) {
        let to = format!("http://{}:{}", self.place.vip, self.settings.rest_port);
        let to = to.parse().expect("an address and a port");
        let world = (self.net.clone(), self.clock.clone(), self.spawn.clone());
        let mut client = Client::new(world.0, world.1, world.2, to);
        loop {
            let asked = client.request(
                Method::GET,
                "/primary",
                Bytes::new(),
                ANSWER_LEN_MAX,
                ROLE_LIMIT,
            );
            let answer = asked
                .await
                .ok()
                .and_then(|(status, body)| Answer::parse(status, &body));
            {
                let mut known = known.borrow_mut();
                match answer {
                    Some(answer) => (known.answer, known.misses) = (Some(answer), 0),
                    None => {
                        known.misses = known.misses.saturating_add(1);
                        if known.misses >= MISSES_MAX {
                            known.answer = None;
                        }
                    }
                }
            }
            changed();
            self.clock.sleep(ROLE_INTERVAL).await;
        }
    }

    async fn read_scope(&self, known: &RefCell<Known>, changed: &impl Fn()) {
        loop {
            let listed = self.list(self.keys.prefix()).await;
            {
                let mut known = known.borrow_mut();
                known.kv_problem = listed.as_ref().err().cloned();
                // What was read last is better than nothing; the problem says how old it may be.
                if let Ok(entries) = listed {
                    known.view = Some(View::read(&self.keys, &entries));
                }
            }
            changed();
            self.clock.sleep(VIEW_INTERVAL).await;
        }
    }

    async fn look_around(&self, known: &RefCell<Known>, changed: &impl Fn()) {
        loop {
            let (view, logged_in) = {
                let known = known.borrow();
                (known.view.clone(), known.logged_in.clone())
            };
            let mut found = self.look_at_machine(view.as_ref());
            found.extend(self.look_at_scopes().await);
            self.claim_again(view.as_ref()).await;
            let (leader, refused) = self.log_in(view.as_ref(), logged_in).await;
            found.extend(refused);
            {
                let mut known = known.borrow_mut();
                (known.slow, known.logged_in) = (found, leader);
                known.unfinished_copy = self.is_unfinished_copy();
            }
            changed();
            // The first look comes before the first view.
            let wait = if view.is_some() {
                SLOW_INTERVAL
            } else {
                ROLE_INTERVAL
            };
            self.clock.sleep(wait).await;
        }
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Entry>, String> {
        let request = Request::List {
            prefix: prefix.to_owned(),
            // Nothing is decided by it.
            consistency: Consistency::Default,
            wait: None,
        };
        match self.kv.call(request).await {
            Ok(Response::Entries { entries, .. }) => Ok(entries),
            Ok(_) => Err("an answer to another question".to_owned()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    fn status(&self, known: &mut Known) -> PostgresStatus {
        let peers: Vec<PeerId> = self
            .place
            .members
            .iter()
            .map(|(peer, _)| peer.clone())
            .collect();
        let none = View::default();
        let view = known.view.as_ref().unwrap_or(&none);
        let mut members = match known.view {
            Some(_) => view.member_statuses(&peers),
            None => Vec::new(),
        };
        let role = known.role.unwrap_or_default();
        if let Some(own) = members.iter_mut().find(|member| member.name == self.name) {
            own.role = role;
        }
        let timelines = members.iter().filter_map(|member| member.timeline);
        let own = known.answer.as_ref().and_then(|answer| answer.timeline);
        let timeline = timelines.chain(own).chain(known.timeline).max();
        let problems = self.problems(known, view);
        let leader = view.leader.as_deref();
        let leader = leader.map(|name| match peer_of(name, &peers) {
            Some(peer) => peer.to_string(),
            None => shorten(name),
        });
        let synchronous = view.synchronous().to_owned();
        let paused = view.paused();
        known.timeline = timeline;
        PostgresStatus {
            scope: self.settings.scope.clone(),
            name: self.name.clone(),
            role,
            leader,
            timeline,
            synchronous,
            paused,
            members,
            endpoints: Vec::new(),
            problems,
        }
    }
}
