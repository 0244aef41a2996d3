//! Endpoints: at every worker, which server the primary's address leads to.
//!
//! As `docs/postgres.md` has it: every member is asked at a pace, is up after one good answer and
//! down after some bad ones; of two that say that they lead, the higher timeline does, and a lower
//! one than was seen never.

use holdfast_plan::drill::Point;

use crate::calibration as cal;
use crate::draw::At;
use crate::sim::Event;
use crate::world::World;

/// A worker's endpoint.
pub(crate) struct Endpoint {
    /// The server that it leads to.
    pub(crate) led: Option<usize>,
    timeline: u32,
    members: Vec<Checks>,
}

#[derive(Clone, Copy, Default)]
struct Checks {
    /// With which timeline it is up.
    up: Option<u32>,
    bad: u8,
}

impl Endpoint {
    pub(crate) fn new(members: usize) -> Self {
        Self {
            led: None,
            timeline: 0,
            members: vec![Checks::default(); members],
        }
    }

    fn choose(&self) -> Option<usize> {
        let all = self.members.iter().enumerate();
        let up = all.filter_map(|(member, checks)| Some((checks.up?, member)));
        let best = up
            .filter(|(timeline, _)| *timeline >= self.timeline)
            .max_by_key(|(timeline, member)| (*timeline, self.led == Some(*member)));
        best.map(|(_, member)| member)
    }
}

impl World {
    pub(crate) fn endpoint_starts(&mut self, endpoint: usize) {
        let members = self.settings.members;
        self.endpoints[endpoint] = Endpoint::new(members);
        for member in 0..members {
            let wait = self.dice.between(0, cal::CHECK_EVERY);
            self.agenda.after(wait, Event::Check { endpoint, member });
        }
    }

    /// An endpoint asks a member's Patroni.
    pub(crate) fn check(&mut self, endpoint: usize, member: usize) {
        if !self.hosts[endpoint].up {
            return;
        }
        let (wait, leads) = self.ask_leads(endpoint, member);
        self.agenda.after(
            wait,
            Event::Checked {
                endpoint,
                member,
                leads,
            },
        );
        self.agenda.after(
            cal::CHECK_EVERY.max(wait),
            Event::Check { endpoint, member },
        );
    }

    /// How long the answer to `GET /primary` takes, and with which timeline it leads.
    fn ask_leads(&mut self, endpoint: usize, member: usize) -> (At, Option<u32>) {
        let silent = !self.reach(endpoint, member) || self.still(member);
        if self.refuses(endpoint, member) {
            return (cal::WAY_LOOPBACK.draw(&mut self.dice), None);
        }
        if silent {
            return (cal::CHECK_PATIENCE, None);
        }
        let way = 2 * self.way(endpoint, member);
        if !self.patroni[member].alive {
            return (way, None);
        }
        let wait = way + cal::CHECK_ANSWER.draw(&mut self.dice);
        let leads = self.leads(member);
        if wait >= cal::CHECK_PATIENCE {
            return (cal::CHECK_PATIENCE, None);
        }
        (wait, leads)
    }

    /// What a member's Patroni answers to `GET /primary`.
    fn leads(&self, member: usize) -> Option<u32> {
        let leads =
            self.patroni[member].leader_until > self.agenda.now && self.pg[member].primary();
        leads.then(|| self.wal.timeline(self.pg[member].branch))
    }

    pub(crate) fn checked(&mut self, endpoint: usize, member: usize, leads: Option<u32>) {
        if !self.hosts[endpoint].up {
            return;
        }
        let old = member == self.seen.leader;
        let checks = &mut self.endpoints[endpoint].members[member];
        match leads {
            Some(timeline) => {
                *checks = Checks {
                    up: Some(timeline),
                    bad: 0,
                }
            }
            None => {
                checks.bad = checks.bad.saturating_add(1);
                if checks.bad == 1 && checks.up.is_some() && old {
                    self.mark(Point::Detected, Some(member), "an endpoint's health check");
                }
                let checks = &mut self.endpoints[endpoint].members[member];
                if checks.bad >= cal::CHECK_FALL {
                    checks.up = None;
                }
            }
        }
        self.route(endpoint);
    }

    fn route(&mut self, endpoint: usize) {
        let chosen = self.endpoints[endpoint].choose();
        let state = &mut self.endpoints[endpoint];
        let before = std::mem::replace(&mut state.led, chosen);
        if let Some(member) = chosen {
            let timeline = state.members[member].up.unwrap_or(0);
            state.timeline = state.timeline.max(timeline);
        }
        if chosen == before {
            return;
        }
        if let Some(member) = chosen.filter(|member| *member != self.seen.leader) {
            self.mark(Point::Switched, Some(member), "an endpoint");
        }
        self.endpoint_moved(endpoint, before);
    }
}
