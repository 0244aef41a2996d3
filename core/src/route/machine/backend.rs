//! A server, by what it said.

use std::time::Instant;

use super::super::{BackendView, CheckId, Loss, Name, Observation, Pool};

/// What is known of a server.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) check: Check,
    /// It has answered once: from then on `rise` counts.
    answered: bool,
    /// The last outcome of a check; `None`: there was none yet.
    last: Option<Option<Observation>>,
    pub(super) leads: Health,
    pub(super) follows: Health,
    /// By which term it leads: by its last answer, while that counts.
    pub(super) term: Option<u64>,
}

/// When it is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    /// Next at this moment.
    Due(Instant),
    /// It was, and has not answered.
    Asked { check: CheckId, at: Instant },
}

/// Whether it is up for a pool, and how many answers in a row speak against that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    pub(super) up: bool,
    against: u32,
}

impl Health {
    /// An answer: whether it changed something, when so many in a row are needed.
    fn count(&mut self, good: bool, needed: u32) -> bool {
        if good == self.up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        if self.against < needed {
            return false;
        }
        *self = Health {
            up: good,
            against: 0,
        };
        true
    }
}

/// A server is up (`None`) or down for a pool.
pub(super) type Change = (Pool, Option<Loss>);

impl Backend {
    pub(super) fn new(now: Instant) -> Backend {
        Backend {
            check: Check::Due(now),
            answered: false,
            last: None,
            leads: Health::default(),
            follows: Health::default(),
            term: None,
        }
    }

    pub(super) fn health(&self, pool: Pool) -> Health {
        match pool {
            Pool::Exclusive => self.leads,
            Pool::Shared => self.follows,
        }
    }

    /// Whether its last check was not answered.
    pub(super) fn is_silent(&self) -> bool {
        self.last == Some(None)
    }

    /// A check is over.
    pub(super) fn observe(
        &mut self,
        observation: Option<Observation>,
        rise: u32,
        fall: u32,
    ) -> impl Iterator<Item = Change> + use<> {
        self.last = Some(observation);
        let changes = match observation {
            None => self.silent(fall),
            Some(observation) => self.said(observation, rise, fall),
        };
        if !self.leads.up && observation.is_none() {
            self.term = None;
        }
        changes.into_iter().flatten()
    }

    fn silent(&mut self, fall: u32) -> [Option<Change>; 2] {
        let lost = |pool, changed: bool| changed.then_some((pool, Some(Loss::Silent)));
        [
            lost(Pool::Exclusive, self.leads.count(false, fall)),
            lost(Pool::Shared, self.follows.count(false, fall)),
        ]
    }

    fn said(&mut self, said: Observation, rise: u32, fall: u32) -> [Option<Change>; 2] {
        let rise = if self.answered { rise } else { 1 };
        self.answered = true;
        self.term = said.leads;
        let leads = said.leads.is_some();
        let follows = said.follows && !leads;
        let change = |pool, good: bool, changed: bool| {
            let loss = (!good).then_some(Loss::RoleLost);
            changed.then_some((pool, loss))
        };
        // Who leads and then says that it does not has lost it; who follows and then leads, too.
        let needed = if leads { rise } else { 1 };
        let exclusive = self.leads.count(leads, needed);
        let needed = match (follows, leads) {
            (true, _) => rise,
            (false, true) => 1,
            (false, false) => fall,
        };
        let shared = self.follows.count(follows, needed);
        [
            change(Pool::Exclusive, leads, exclusive),
            change(Pool::Shared, follows, shared),
        ]
    }

    /// For people.
    pub(super) fn view(&self, name: &Name) -> BackendView {
        let mut why = match (self.last, self.term) {
            (None, _) => "it was not asked yet".to_owned(),
            (Some(None), _) => Loss::Silent.to_string(),
            (Some(Some(_)), Some(term)) => format!("it leads by term {term}"),
            (Some(Some(said)), None) if said.follows => "it follows".to_owned(),
            (Some(Some(_)), None) => "it answers that it neither leads nor follows".to_owned(),
        };
        let against = self.leads.against.max(self.follows.against);
        if against > 0 {
            why.push_str(&format!(" ({against} in a row)"));
        }
        BackendView {
            name: name.as_str().to_owned(),
            leads: self.leads.up,
            follows: self.follows.up,
            term: self.term,
            why,
        }
    }
}
