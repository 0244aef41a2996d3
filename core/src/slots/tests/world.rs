//! Several machines with clocks of their own, one KV, and requests and answers that arrive when
//! the test says so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::entropy::Seed;
use crate::kv::{Condition, Entry, Failure, FailureKind, Request, Response};
use crate::slots::{CallId, Config, Event, Input, Output, Slot, Slots};
use crate::time::Now;

pub const LEASE: Duration = Duration::from_secs(12);
/// What an owner uses of it.
pub const LIFE: Duration = Duration::from_millis(11_400);
/// Clocks are off by up to a tenth: more than any real one, so that a forgotten factor shows.
pub const DRIFT_PER_MILLE: u32 = 100;

/// The one origin of virtual time of this thread: worlds that are compared share it.
pub fn origin() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
    fn start() -> Instant {
        Instant::now()
    }
    thread_local!(static ORIGIN: Instant = start());
    ORIGIN.with(|origin| *origin)
}

/// Linearizable, and no more than slots need.
#[derive(Clone, Debug, Default)]
pub struct Kv {
    pub index: u64,
    pub entries: BTreeMap<String, Entry>,
    /// When each entry was last set, in true time.
    pub set_at: BTreeMap<String, Duration>,
}

impl Kv {
    pub fn set(&mut self, at: Duration, key: &str, value: &[u8]) {
        self.index += 1;
        let create_index = self.entries.get(key).map_or(self.index, |e| e.create_index);
        let entry = Entry {
            key: key.into(),
            value: value.to_vec().into(),
            create_index,
            modify_index: self.index,
            lock_index: 0,
            session: None,
        };
        self.set_at.insert(key.into(), at);
        self.entries.insert(key.into(), entry);
    }

    pub fn delete(&mut self, key: &str) {
        self.index += 1;
        self.entries.remove(key);
    }

    fn holds(&self, key: &str, condition: Condition) -> bool {
        let found = self.entries.get(key).map(|entry| entry.modify_index);
        match condition {
            Condition::Any => true,
            Condition::Absent => found.is_none(),
            Condition::Unchanged(index) => found == Some(index),
        }
    }

    fn apply(&mut self, at: Duration, request: &Request) -> Response {
        match request {
            Request::List { prefix, .. } => {
                let entries = self.entries.values();
                let entries = entries.filter(|entry| entry.key.starts_with(prefix));
                Response::Entries {
                    index: self.index.max(1),
                    entries: entries.cloned().collect(),
                }
            }
            Request::Put {
                key,
                value,
                condition,
            } => {
                let holds = self.holds(key, *condition);
                if holds {
                    self.check_patience(at, key, value);
                    self.set(at, key, value);
                }
                Response::Done(holds)
            }
            Request::Delete { key, condition } => {
                let holds = self.holds(key, *condition);
                if holds {
                    self.delete(key);
                }
                Response::Done(holds)
            }
            other => panic!("slots do not need {other:?}"),
        }
    }

    /// Nobody sets another's entry before its lease is over by every clock.
    fn check_patience(&self, at: Duration, key: &str, value: &[u8]) {
        let Some(before) = self.entries.get(key) else {
            return;
        };
        let instance = |value: &[u8]| -> Option<String> {
            let json: serde_json::Value = serde_json::from_slice(value).ok()?;
            Some(json["instance"].as_str()?.into())
        };
        let Some(owner) = instance(&before.value) else {
            let own = instance(value).unwrap();
            let plain = std::str::from_utf8(&before.value).unwrap().trim();
            assert_eq!(plain, own, "an entry without a lease is never taken");
            return;
        };
        if Some(owner) != instance(value) {
            let age = at - self.set_at[key];
            let least = LEASE * 1000 / (1000 - DRIFT_PER_MILLE);
            assert!(age >= least, "{key} was taken after {age:?}");
        }
    }
}

/// A request on its way, or its answer.
#[derive(Clone, Debug)]
pub struct Flight {
    /// `None`: nobody waits for the answer any more.
    pub call: Option<CallId>,
    pub request: Request,
    pub sent_at: Duration,
    pub answer: Option<Response>,
}

/// A machine that claims, or one that is off.
#[derive(Clone, Debug)]
pub struct Node {
    pub machine: Option<Slots>,
    pub config: Config,
    /// Of the true time, in parts per thousand.
    pub rate: u32,
    pub starts: u8,
    pub flights: Vec<Flight>,
    pub events: Vec<Event>,
    pub calls: u64,
    /// It owned these in the KV when it started, with a lease that then still lived until.
    expects: Vec<(Slot, Duration)>,
}

#[derive(Clone, Debug)]
pub struct World {
    pub t: Duration,
    pub kv: Kv,
    pub nodes: Vec<Node>,
    seed: u64,
}

pub fn config(instance: &str, slots: u16) -> Config {
    Config {
        cluster: "c".into(),
        instance: instance.into(),
        slots: (0..slots).collect(),
        pinned: None,
        lease: LEASE,
        drift_per_mille: DRIFT_PER_MILLE,
    }
}

impl World {
    /// Machines that are off, with clocks of these rates.
    pub fn new(slots: u16, rates: &[u32], seed: u64) -> World {
        let nodes = rates.iter().enumerate().map(|(n, rate)| Node {
            machine: None,
            config: config(&format!("i-{n}"), slots),
            rate: *rate,
            starts: 0,
            flights: Vec::new(),
            events: Vec::new(),
            calls: 0,
            expects: Vec::new(),
        });
        World {
            t: Duration::ZERO,
            kv: Kv::default(),
            nodes: nodes.collect(),
            seed,
        }
    }

    /// The time by this machine's clock.
    pub fn now(&self, node: usize) -> Now {
        let passed = self.t * self.nodes[node].rate / 1000;
        Now {
            mono: origin() + passed,
            unix: passed,
        }
    }

    pub fn machine(&self, node: usize) -> &Slots {
        self.nodes[node].machine.as_ref().expect("it runs")
    }

    pub fn owned(&self, node: usize) -> Option<Slot> {
        let machine = self.nodes[node].machine.as_ref()?;
        machine.owned(self.now(node))
    }

    /// Start it, unless it runs.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].machine.is_some() {
            return;
        }
        let now = self.now(node);
        let expects = self.own_entries(node);
        let this = &mut self.nodes[node];
        this.starts += 1;
        let mut seed = [this.starts; 32];
        seed[0] = u8::try_from(node).unwrap();
        seed[1..9].copy_from_slice(&self.seed.to_le_bytes());
        let machine = Slots::new(this.config.clone(), Seed::new(seed), now).unwrap();
        this.machine = Some(machine);
        this.expects = expects;
        self.collect(node);
    }

    fn own_entries(&self, node: usize) -> Vec<(Slot, Duration)> {
        let config = &self.nodes[node].config;
        let name = format!("\"{}\"", config.instance);
        let own = config.slots.iter().filter_map(|slot| {
            let key = config.key(*slot);
            let entry = self.kv.entries.get(&key)?;
            // What was given back may yet go.
            let goes =
                |f: &Flight| matches!(&f.request, Request::Delete { key: k, .. } if *k == key);
            if self.nodes[node].flights.iter().any(goes) {
                return None;
            }
            let text = std::str::from_utf8(&entry.value).ok()?;
            let over = self.kv.set_at[&key] + LEASE;
            text.contains(&name).then_some((*slot, over))
        });
        own.collect()
    }

    /// It ends at once; what it has sent may still arrive.
    pub fn crash(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.machine = None;
        for flight in &mut this.flights {
            flight.call = None;
        }
        this.tidy();
    }

    /// Take what the machine wants.
    pub fn collect(&mut self, node: usize) {
        let t = self.t;
        let this = &mut self.nodes[node];
        let Some(machine) = &mut this.machine else {
            return;
        };
        let outputs: Vec<Output> = std::iter::from_fn(|| machine.poll_output()).collect();
        for output in outputs {
            match output {
                Output::Call { call, request } => {
                    this.calls += 1;
                    this.flights.push(Flight {
                        call: Some(call),
                        request,
                        sent_at: t,
                        answer: None,
                    });
                }
                Output::Event(event) => {
                    if let Event::Owned { slot, .. } = event {
                        this.check_return(t, slot);
                    }
                    this.events.push(event);
                }
            }
        }
    }

    /// Whether this request may reach the KV now: one that waits only when it is due.
    pub fn arrives(&self, flight: &Flight) -> bool {
        let wait = match &flight.request {
            Request::List { wait, .. } => *wait,
            _ => None,
        };
        let due = |wait: crate::kv::Wait| {
            self.kv.index > wait.after || self.t >= flight.sent_at + wait.at_most
        };
        flight.answer.is_none() && wait.is_none_or(due)
    }

    /// The request reaches the KV. False: not now.
    pub fn apply(&mut self, node: usize, nth: usize) -> bool {
        let Some(flight) = self.nodes[node].flights.get(nth) else {
            return false;
        };
        if !self.arrives(flight) {
            return false;
        }
        let answer = self.kv.apply(self.t, &flight.request);
        self.nodes[node].flights[nth].answer = Some(answer);
        self.nodes[node].tidy();
        true
    }

    /// The answer reaches the machine.
    pub fn answer(&mut self, node: usize, nth: usize) {
        let flight = self.nodes[node].flights.remove(nth);
        let answer = flight.answer.expect("the KV has answered");
        self.tell(node, flight.call, Ok(answer));
    }

    /// The machine hears of nothing; the request may have arrived, or may yet.
    pub fn lose(&mut self, node: usize, nth: usize) {
        let failure = Failure::indeterminate(FailureKind::Unavailable, "time ran out");
        let call = self.nodes[node].flights[nth].call.take();
        self.nodes[node].tidy();
        self.tell(node, call, Err(failure));
    }

    /// The request never left.
    pub fn refuse(&mut self, node: usize, nth: usize) {
        let failure = Failure::determinate(FailureKind::Unavailable, "connection refused");
        let flight = self.nodes[node].flights.remove(nth);
        self.tell(node, flight.call, Err(failure));
    }

    fn tell(&mut self, node: usize, call: Option<CallId>, result: Result<Response, Failure>) {
        let now = self.now(node);
        if let (Some(machine), Some(call)) = (&mut self.nodes[node].machine, call) {
            machine.handle(now, Input::Answer { call, result });
            self.collect(node);
        }
    }

    pub fn input(&mut self, node: usize, input: Input) {
        let now = self.now(node);
        let machine = self.nodes[node].machine.as_mut().expect("it runs");
        machine.handle(now, input);
        self.collect(node);
    }

    /// Let the machine notice the time, if it wanted to.
    pub fn wake(&mut self, node: usize) -> bool {
        let now = self.now(node);
        let Some(machine) = &mut self.nodes[node].machine else {
            return false;
        };
        let due = machine.deadline().is_some_and(|(at, _)| now.mono >= at);
        if due {
            machine.handle_deadline(now);
            self.collect(node);
        }
        due
    }

    /// The true time at which a machine next wants to wake, or a read that waits ends.
    pub fn next_deadline(&self) -> Option<Duration> {
        let nodes = self.nodes.iter().enumerate();
        let deadlines = nodes.filter_map(|(n, node)| {
            let (at, _) = node.machine.as_ref()?.deadline()?;
            let local = at.saturating_duration_since(origin());
            // Rounded up: by its own clock it is due then.
            let true_ns = (local.as_nanos() * 1000).div_ceil(u128::from(node.rate)) + 1;
            let at = Duration::from_nanos(u64::try_from(true_ns).unwrap());
            (at > self.t || self.now(n).mono < origin()).then_some(at)
        });
        let waits = self.nodes.iter().flat_map(|node| &node.flights);
        let waits = waits.filter_map(|flight| match flight.request {
            Request::List {
                wait: Some(wait), ..
            } => Some(flight.sent_at + wait.at_most),
            _ => None,
        });
        deadlines.chain(waits).filter(|at| *at > self.t).min()
    }

    /// Everything arrives at once and every machine wakes in time, for so long.
    pub fn run(&mut self, time: Duration) {
        let end = self.t + time;
        loop {
            self.settle();
            match self.next_deadline() {
                Some(at) if at <= end => self.t = at,
                _ => break,
            }
        }
        self.t = end;
        self.settle();
    }

    /// Until nobody has anything to do now.
    pub fn settle(&mut self) {
        let mut turns = 0;
        while (0..self.nodes.len()).any(|node| self.step(node)) {
            self.check();
            turns += 1;
            assert!(turns < 100_000, "it never comes to rest");
        }
    }

    /// One thing that this machine can do now.
    pub fn step(&mut self, node: usize) -> bool {
        if self.wake(node) {
            return true;
        }
        for nth in 0..self.nodes[node].flights.len() {
            if self.nodes[node].flights[nth].answer.is_some() {
                self.answer(node, nth);
                return true;
            }
            if self.apply(node, nth) {
                return true;
            }
        }
        false
    }

    /// No slot has two live owners.
    pub fn check(&self) {
        let mut owners = BTreeMap::new();
        for node in 0..self.nodes.len() {
            if let Some(slot) = self.owned(node) {
                let other = owners.insert(slot, node);
                assert_eq!(other, None, "slot {slot} is also owned by {node}");
            }
        }
    }

    pub fn owners(&self) -> Vec<Option<Slot>> {
        (0..self.nodes.len()).map(|node| self.owned(node)).collect()
    }
}

impl Node {
    /// An answer that nobody waits for is of no interest.
    fn tidy(&mut self) {
        let is_read = |flight: &Flight| flight.request.is_read();
        self.flights.retain(|flight| {
            flight.call.is_some() || (flight.answer.is_none() && !is_read(flight))
        });
    }

    /// Whoever returns while its lease lives gets its own slot back.
    fn check_return(&self, t: Duration, slot: Slot) {
        let lives = |(_, over): &&(Slot, Duration)| t < *over;
        let expected: Vec<Slot> = self.expects.iter().filter(lives).map(|(s, _)| *s).collect();
        let back = expected.is_empty() || expected.contains(&slot);
        assert!(back, "it owned {expected:?} and got {slot}");
    }
}
