//! The store behind a bad network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use holdfast_core::entropy::{Entropy, Seed};
use holdfast_core::kv::{Entry, Failure, FailureKind, Request, Response, SessionId, WAIT_MAX};
use holdfast_core::time::Now;
use holdfast_net_model::{Draw, Ratio};
use holdfast_servers::kv::store::{self, Input, Output, State, Store};

use crate::history::{Applied, History};
use crate::{Answered, Config, Faults};

/// How many of the answers on their way are lost with the leader that gave them.
const LOST_WITH_LEADER: Ratio = Ratio::of(1, 2);

/// The store with its faults.
///
/// Invariant: every call that is not cancelled is answered once, at the latest when the caller's
/// patience (and the wait of the read) is over.
pub struct KvModel {
    config: Config,
    store: Store<History>,
    draws: Draws,
    calls: BTreeMap<u64, Call>,
    by_name: BTreeMap<(u32, u64), u64>,
    events: BTreeMap<(Instant, u64), Event>,
    /// Names calls and events, in the order in which they were made.
    count: u64,
    cut: BTreeSet<u32>,
    /// Until when connections are refused.
    refusing: Option<Instant>,
    /// Until when there is no leader.
    leaderless: Option<Instant>,
    outputs: VecDeque<Answered>,
}

struct Draws(Entropy);

impl Draw for Draws {
    fn next_u64(&mut self) -> u64 {
        self.0.u64()
    }
}

impl Draws {
    fn within(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let span = range.end().saturating_sub(*range.start());
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX - 1);
        *range.start() + Duration::from_micros(self.0.below(span + 1))
    }
}

struct Call {
    client: u32,
    ticket: u64,
    /// Not yet at the store.
    request: Option<Request>,
    /// Somebody waits for the answer.
    open: bool,
    lose_answer: bool,
    /// The index that a read waits to see passed.
    after: u64,
    gives_up: (Instant, u64),
}

enum Event {
    /// The request of this call is at the store.
    Arrive(u64),
    /// The answer to this call is at the caller.
    Deliver(u64, Result<Response, Failure>),
    /// The caller's time is over.
    GiveUp(u64),
    /// Somebody may serve again.
    Serve,
}

impl KvModel {
    /// An empty store.
    pub fn new(config: Config, seed: Seed, now: Now) -> KvModel {
        let bound = |percent: u32| percent.clamp(100, 200);
        let from = bound(*config.life_percent.start());
        let to = bound(*config.life_percent.end()).max(from);
        let inner = store::Config {
            limits: config.limits.clone(),
            life_percent: from..=to,
        };
        let (state, history) = (State::default(), History::default());
        let store = Store::with_journal(inner, seed.fork("store"), now, state, history);
        KvModel {
            config,
            store: store.expect("the range was put within its bounds"),
            draws: Draws(seed.fork("faults").rng()),
            calls: BTreeMap::new(),
            by_name: BTreeMap::new(),
            events: BTreeMap::new(),
            count: 0,
            cut: BTreeSet::new(),
            refusing: None,
            leaderless: None,
            outputs: VecDeque::new(),
        }
    }

    /// A client asks. `ticket` names the call among those of this client.
    pub fn call(&mut self, now: Now, client: u32, ticket: u64, request: Request) {
        self.handle_deadline(now);
        let wait = match &request {
            Request::Get { wait, .. } | Request::List { wait, .. } => *wait,
            _ => None,
        };
        let after = wait.map_or(0, |wait| wait.after);
        let wait = wait.map_or(Duration::ZERO, |wait| wait.at_most.min(WAIT_MAX));
        self.count += 1;
        let id = self.count;
        let over = now.mono + self.config.patience + wait;
        let gives_up = self.schedule(over, Event::GiveUp(id));
        // Every call draws the same, so that one fault more shifts nothing else.
        let delay = self.draws.within(&self.config.delay);
        let late_by = self.draws.within(&self.config.faults.late_by);
        let lost = self.draws.chance(self.config.faults.lost_request);
        let lose_answer = self.draws.chance(self.config.faults.lost_answer);
        let late = self.draws.chance(self.config.faults.late_request);
        self.by_name.insert((client, ticket), id);
        let call = Call {
            client,
            ticket,
            request: None,
            open: true,
            lose_answer,
            after,
            gives_up,
        };
        self.calls.insert(id, call);
        if self.cut.contains(&client) || lost {
            return;
        }
        if self.refusing.is_some() {
            let refused = Failure::determinate(FailureKind::Unavailable, "connection refused");
            self.schedule(now.mono + delay, Event::Deliver(id, Err(refused)));
            return;
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.request = Some(request);
        }
        let at = match late {
            true => over + late_by,
            false => now.mono + delay,
        };
        self.schedule(at, Event::Arrive(id));
    }

    /// The client does not want the answer any more. The request may happen all the same.
    pub fn cancel(&mut self, now: Now, client: u32, ticket: u64) {
        self.handle_deadline(now);
        if let Some(id) = self.by_name.get(&(client, ticket)).copied() {
            self.close(now, id);
        }
        let other = |answer: &Answered| (answer.client, answer.ticket) != (client, ticket);
        self.outputs.retain(other);
    }

    /// Everything that is due by `now`, each at its own moment.
    pub fn handle_deadline(&mut self, now: Now) {
        while let Some((at, _)) = self.deadline()
            && at <= now.mono
        {
            let ago = now.mono - at;
            let then = Now {
                mono: at,
                unix: now.unix.saturating_sub(ago),
            };
            let next = self.events.first_key_value().map(|((at, _), _)| *at);
            if next.is_some_and(|next| next <= at) {
                let (_, event) = self.events.pop_first().expect("it was just seen");
                self.happen(then, event);
            } else {
                self.store.handle_deadline(then);
                self.collect(then);
            }
        }
    }

    /// The next answer.
    pub fn poll_output(&mut self) -> Option<Answered> {
        self.outputs.pop_front()
    }

    /// When to call [`KvModel::handle_deadline`], and why.
    pub fn deadline(&self) -> Option<(Instant, &'static str)> {
        let event = self.events.first_key_value().map(|((at, _), event)| {
            let why = match event {
                Event::Arrive(_) => "request",
                Event::Deliver(..) => "answer",
                Event::GiveUp(_) => "patience",
                Event::Serve => "leader",
            };
            (*at, why)
        });
        let store = self.store.deadline().filter(|_| self.serves());
        event.into_iter().chain(store).min_by_key(|(at, _)| *at)
    }

    /// From now on, other things go wrong by chance.
    pub fn set_faults(&mut self, faults: Faults) {
        self.config.faults = faults;
    }

    /// Cut this client off, or no longer: what it sends from now on is lost, and so is every answer
    /// that would reach it while it is cut off. What it sent before still arrives.
    pub fn set_cut(&mut self, now: Now, client: u32, cut: bool) {
        self.handle_deadline(now);
        match cut {
            true => self.cut.insert(client),
            false => self.cut.remove(&client),
        };
    }

    /// Nobody serves until `until`: connections are refused, and what is on its way then is lost.
    /// Then every session begins its TTL anew and lock delays are forgotten.
    pub fn set_unavailable(&mut self, now: Now, until: Instant) {
        self.handle_deadline(now);
        self.refusing = self.refusing.max(Some(until));
        self.schedule(until, Event::Serve);
        self.drop_readers(now);
    }

    /// The leader is gone, and the next one serves from `until` on. Of the calls that come
    /// meanwhile some are refused, some lost, and some happen when there is a leader again, though
    /// their callers were told of a failure. Then every session begins its TTL anew and lock delays
    /// are forgotten.
    pub fn change_leader(&mut self, now: Now, until: Instant) {
        self.handle_deadline(now);
        self.leaderless = self.leaderless.max(Some(until));
        self.schedule(until, Event::Serve);
        self.drop_readers(now);
        let mut lost = Vec::new();
        for (key, event) in &self.events {
            if matches!(event, Event::Deliver(_, Ok(_))) && self.draws.chance(LOST_WITH_LEADER) {
                lost.push(*key);
            }
        }
        for key in lost {
            self.events.remove(&key);
        }
    }

    /// Every entry as it is now, in the order of the keys.
    pub fn entries(&self) -> Vec<Entry> {
        let entries = self.store.state().entries();
        entries.map(|stored| stored.entry.clone()).collect()
    }

    /// One entry as it is now.
    pub fn entry(&self, key: &str) -> Option<Entry> {
        let stored = self.store.state().entry(key);
        stored.map(|stored| stored.entry.clone())
    }

    /// When a session ends unless it is renewed, or nothing when it has ended.
    pub fn session_end(&self, id: &SessionId) -> Option<Instant> {
        self.store.session_end(id)
    }

    /// Everything that the store holds.
    pub fn state(&self) -> &State {
        self.store.state()
    }

    /// Every change of an entry so far, in the order in which they happened.
    pub fn history(&self) -> &[Applied] {
        &self.store.journal().applied
    }

    fn serves(&self) -> bool {
        self.refusing.is_none() && self.leaderless.is_none()
    }

    fn schedule(&mut self, at: Instant, event: Event) -> (Instant, u64) {
        self.count += 1;
        let key = (at, self.count);
        self.events.insert(key, event);
        key
    }

    fn happen(&mut self, now: Now, event: Event) {
        match event {
            Event::Arrive(id) => self.arrive(now, id),
            Event::Deliver(id, result) => self.deliver(now, id, result),
            Event::GiveUp(id) => {
                let message = "no answer within the caller's time";
                let failure = Failure::indeterminate(FailureKind::Unavailable, message);
                self.tell(now, id, Err(failure));
            }
            Event::Serve => self.serve_again(now),
        }
    }

    fn serve_again(&mut self, now: Now) {
        let over = |until: &Instant| *until > now.mono;
        self.refusing = self.refusing.filter(over);
        self.leaderless = self.leaderless.filter(over);
        if self.serves() {
            self.store.handle(now, Input::LeaderChanged);
            self.collect(now);
        }
    }

    fn arrive(&mut self, now: Now, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let (by, open) = ((call.client, call.ticket), call.open);
        if self.refusing.is_some() {
            call.request = None;
            let message = "connection lost before the answer";
            let failure = Failure::indeterminate(FailureKind::Unavailable, message);
            return self.answer_later(now, id, Err(failure));
        }
        if let Some(until) = self.leaderless {
            return self.arrive_leaderless(now, id, until);
        }
        let Some(request) = call.request.take() else {
            return;
        };
        if !open && request.is_read() {
            return self.forget(id);
        }
        self.store.handle_deadline(now);
        self.collect(now);
        self.store.journal_mut().by = Some(by);
        let ticket = id;
        self.store.handle(now, Input::Call { ticket, request });
        self.store.journal_mut().by = None;
        self.collect(now);
    }

    fn arrive_leaderless(&mut self, now: Now, id: u64, until: Instant) {
        let unavailable = FailureKind::Unavailable;
        let refused = Failure::determinate(unavailable, "no cluster leader");
        let unknown = Failure::indeterminate(unavailable, "leadership was lost meanwhile");
        let happens = match self.draws.0.below(3) {
            0 => return self.abandon(now, id, refused),
            1 => return self.abandon(now, id, unknown),
            _ => until + self.draws.within(&self.config.delay),
        };
        self.schedule(happens, Event::Arrive(id));
        self.answer_later(now, id, Err(unknown));
    }

    fn abandon(&mut self, now: Now, id: u64, failure: Failure) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.request = None;
        }
        self.answer_later(now, id, Err(failure));
    }

    /// What the store says is on its way to who asked.
    fn collect(&mut self, now: Now) {
        while let Some(Output::Answer { ticket, result }) = self.store.poll_output() {
            match self.calls.get(&ticket) {
                Some(call) if call.open && !call.lose_answer => {
                    let result = begin_anew(call.after, result);
                    self.answer_later(now, ticket, result);
                }
                _ => {}
            }
            self.forget(ticket);
        }
    }

    fn answer_later(&mut self, now: Now, id: u64, result: Result<Response, Failure>) {
        let delay = self.draws.within(&self.config.delay);
        self.schedule(now.mono + delay, Event::Deliver(id, result));
        self.forget(id);
    }

    fn deliver(&mut self, now: Now, id: u64, result: Result<Response, Failure>) {
        let client = self.calls.get(&id).map(|call| call.client);
        if client.is_some_and(|client| !self.cut.contains(&client)) {
            self.tell(now, id, result);
        }
    }

    fn tell(&mut self, now: Now, id: u64, result: Result<Response, Failure>) {
        let Some(call) = self.calls.get(&id).filter(|call| call.open) else {
            return;
        };
        self.outputs.push_back(Answered {
            client: call.client,
            ticket: call.ticket,
            result,
        });
        self.close(now, id);
    }

    /// Nobody waits for this call any more.
    fn close(&mut self, now: Now, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        call.open = false;
        self.events.remove(&call.gives_up);
        let name = (call.client, call.ticket);
        if self.by_name.get(&name) == Some(&id) {
            self.by_name.remove(&name);
        }
        if call.request.is_none() && self.serves() {
            self.store.handle(now, Input::Cancel { ticket: id });
            self.collect(now);
        }
        self.forget(id);
    }

    /// Forget a call that nobody waits for and that will not happen any more.
    fn forget(&mut self, id: u64) {
        let done = |call: &Call| !call.open && call.request.is_none();
        if self.calls.get(&id).is_some_and(done) {
            self.calls.remove(&id);
        }
    }

    /// Reads that wait at the store lose their connection.
    fn drop_readers(&mut self, now: Now) {
        let on_their_way = |event: &Event| match event {
            Event::Deliver(id, _) => Some(*id),
            _ => None,
        };
        let answered: BTreeSet<u64> = self.events.values().filter_map(on_their_way).collect();
        let at_store = |(id, call): (&u64, &Call)| {
            let waits = call.open && call.request.is_none() && !answered.contains(id);
            (waits && self.store.waits(*id)).then_some(*id)
        };
        let readers: Vec<u64> = self.calls.iter().filter_map(at_store).collect();
        for id in readers {
            self.store.handle(now, Input::Cancel { ticket: id });
            let message = "connection lost while waiting for a change";
            let failure = Failure::indeterminate(FailureKind::Unavailable, message);
            self.answer_later(now, id, Err(failure));
        }
    }
}

/// An index that was never reached is that of another store: who waited for it has to begin anew,
/// which is what clients of Consul do.
fn begin_anew(after: u64, mut result: Result<Response, Failure>) -> Result<Response, Failure> {
    if let Ok(Response::Entry { index, .. } | Response::Entries { index, .. }) = &mut result
        && *index < after
    {
        *index = 0;
    }
    result
}
