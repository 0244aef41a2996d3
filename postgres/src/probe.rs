//! How an endpoint asks a member whether it leads or follows: one `GET /primary` on its REST port.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_core::route::Observation;
use holdfast_core::types::PeerId;
use holdfast_io::clock::Clock;
use holdfast_io::http::{Client, Method};
use holdfast_io::net::Net;
use holdfast_io::route::{Backend, Probe, Probing};
use holdfast_io::spawn::Spawn;

use crate::watch::{ANSWER_LEN_MAX, Answer};

/// How long one question may take at most; the endpoints' own limit is shorter as a rule.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// A leader that was not heard for so long says nothing about who is behind: a switch of timelines
/// may have set positions back.
const POSITION_MEMORY: Duration = Duration::from_secs(60);
/// How long a member may be without a stream while its leader is there. After a failover a replica
/// turns to the new leader within a turn of Patroni's loop; it serves on meanwhile, as without a
/// leader.
const STREAM_GRACE: Duration = Duration::from_secs(15);
/// A leader that is silent for longer was away: the grace begins anew.
const LEADER_SILENCE: Duration = Duration::from_secs(5);
/// More members are none of ours: what is known of them is forgotten.
const MEMBERS_MAX: usize = 300;

/// Asks members of a cluster of databases.
pub struct RestProbe<N, C, S> {
    net: N,
    clock: C,
    spawn: S,
    scope: String,
    rest_port: u16,
    lag_max: u64,
    /// How far the leader was when it was last heard, and by which timeline.
    leader: Cell<Option<Seen>>,
    /// Who is without a stream, since when.
    dry: RefCell<BTreeMap<PeerId, Instant>>,
}

#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    /// Since when it leads by this timeline without a break.
    from: Instant,
    timeline: u64,
    position: u64,
}

impl<N: Net, C: Clock, S: Spawn> RestProbe<N, C, S> {
    /// Ask on `rest_port` of a backend's address. Whose Patroni is of another cluster of databases
    /// than `scope` neither leads nor follows: after a restore or with a wrong setting one may
    /// answer at a member's address, even by a higher timeline. A replica that is further behind than `lag_max`
    /// bytes does not follow; it is measured against what the leader last said of itself.
    pub fn new((net, clock, spawn): (N, C, S), scope: &str, rest_port: u16, lag_max: u64) -> Self {
        RestProbe {
            net,
            clock,
            spawn,
            scope: scope.to_owned(),
            rest_port,
            lag_max,
            leader: Cell::new(None),
            dry: RefCell::default(),
        }
    }

    async fn ask(&self, backend: &Backend) -> Option<Observation> {
        let to = SocketAddr::new(backend.addr.ip(), self.rest_port);
        let endpoint = format!("http://{to}").parse().ok()?;
        // Patroni closes after each answer (HTTP/1.0): nothing would be gained by keeping it.
        let world = (self.net.clone(), self.clock.clone(), self.spawn.clone());
        let mut client = Client::new(world.0, world.1, world.2, endpoint);
        let asked = client.request(
            Method::GET,
            "/primary",
            Bytes::new(),
            ANSWER_LEN_MAX,
            PROBE_LIMIT,
        );
        let (status, body) = asked.await.ok()?;
        Some(self.judge(&backend.name, &Answer::parse(status, &body)?))
    }

    fn judge(&self, name: &PeerId, answer: &Answer) -> Observation {
        if answer.scope != self.scope {
            return Observation::default();
        }
        let now = self.clock.now().mono;
        let leads = answer.leads();
        if let (Some(timeline), Some(position)) = (leads, answer.received) {
            // An older leader that does not know yet is no measure.
            let before = self.leader.get();
            let seen = before.filter(|seen| seen.timeline > timeline);
            if seen.is_none_or(|seen| now.saturating_duration_since(seen.at) > POSITION_MEMORY) {
                let same = before.filter(|seen| {
                    let silence = now.saturating_duration_since(seen.at);
                    seen.timeline == timeline && silence <= LEADER_SILENCE
                });
                self.leader.set(Some(Seen {
                    at: now,
                    from: same.map_or(now, |seen| seen.from),
                    timeline,
                    position,
                }));
            }
        }
        let seen = self.leader.get();
        let seen = seen.filter(|seen| now.saturating_duration_since(seen.at) <= POSITION_MEMORY);
        // What was replayed is what a reader sees.
        let own = answer.replayed.or(answer.received);
        let near = match (seen, own) {
            (Some(seen), Some(own)) => seen.position.saturating_sub(own) <= self.lag_max,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        Observation {
            leads,
            follows: answer.follows() && near && !self.is_dry(name, answer, seen, now),
        }
    }

    /// Whether it was without a stream for the grace while somebody led.
    fn is_dry(&self, name: &PeerId, answer: &Answer, leader: Option<Seen>, now: Instant) -> bool {
        let mut dry = self.dry.borrow_mut();
        if answer.receives() {
            dry.remove(name);
            return false;
        }
        if dry.len() >= MEMBERS_MAX {
            dry.clear();
        }
        let since = *dry.entry(name.clone()).or_insert(now);
        leader.is_some_and(|leader| {
            let both = since.max(leader.from);
            leader.at.saturating_duration_since(both) >= STREAM_GRACE
        })
    }
}

impl<N: Net, C: Clock, S: Spawn> Probe for RestProbe<N, C, S> {
    fn probe<'a>(&'a self, backend: &'a Backend) -> Probing<'a> {
        Box::pin(self.ask(backend))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::rc::Rc;

    use holdfast_io::clock::Now;
    use holdfast_io::real::{RealClock, RealNet, RealSpawn};

    use super::*;
    use crate::status::Role;

    fn member(role: Role, timeline: u64, position: u64) -> Answer {
        Answer {
            holds_key: role == Role::Primary,
            state: "running".to_owned(),
            role,
            timeline: Some(timeline),
            received: Some(position),
            replication_state: match role {
                Role::Replica => "streaming".to_owned(),
                _ => String::new(),
            },
            scope: "demo".to_owned(),
            ..Answer::default()
        }
    }

    fn judge(probe: &RestProbe<RealNet, impl Clock, RealSpawn>, answer: &Answer) -> Observation {
        probe.judge(&"w-1".parse().unwrap(), answer)
    }

    /// Stands where it is put.
    #[derive(Clone)]
    struct StillClock(Rc<Cell<Now>>);

    impl StillClock {
        fn pass(&self, seconds: u64) {
            let mut now = self.0.get();
            now.mono += Duration::from_secs(seconds);
            self.0.set(now);
        }
    }

    impl Clock for StillClock {
        type Sleep = <RealClock as Clock>::Sleep;

        fn now(&self) -> Now {
            self.0.get()
        }

        fn sleep_until(&self, at: Instant) -> Self::Sleep {
            RealClock.sleep_until(at)
        }
    }

    #[test]
    fn who_receives_nothing_for_the_grace_while_somebody_leads_does_not_follow() {
        let clock = StillClock(Rc::new(Cell::new(RealClock.now())));
        let world = (RealNet, clock.clone(), RealSpawn);
        let probe = RestProbe::new(world, "demo", 8008, 100);
        let mut dry = member(Role::Replica, 1, 1000);
        dry.replication_state = String::new();
        // Nobody leads: it serves on.
        for _ in 0..100 {
            clock.pass(1);
            assert!(judge(&probe, &dry).follows);
        }
        // Somebody leads: it has the grace to turn to it.
        let lead = || judge(&probe, &member(Role::Primary, 2, 1000));
        let mut followed_s = 0;
        lead();
        while judge(&probe, &dry).follows {
            clock.pass(1);
            lead();
            followed_s += 1;
        }
        assert_eq!(followed_s, STREAM_GRACE.as_secs());
        for state in ["in archive recovery", "streaming"] {
            let mut wet = dry.clone();
            wet.replication_state = state.to_owned();
            assert!(judge(&probe, &wet).follows, "{state}");
        }
        assert!(judge(&probe, &dry).follows, "the grace begins anew");
    }

    fn probe() -> RestProbe<RealNet, RealClock, RealSpawn> {
        RestProbe::new((RealNet, RealClock, RealSpawn), "demo", 8008, 100)
    }

    #[test]
    fn a_replica_follows_while_it_is_near_what_the_leader_last_said() {
        let probe = probe();
        assert!(
            judge(&probe, &member(Role::Replica, 1, 5)).follows,
            "nobody says how far it is"
        );
        assert_eq!(
            judge(&probe, &member(Role::Primary, 1, 1000)).leads,
            Some(1)
        );
        assert!(judge(&probe, &member(Role::Replica, 1, 900)).follows);
        assert!(!judge(&probe, &member(Role::Replica, 1, 899)).follows);
        assert!(
            judge(&probe, &member(Role::Replica, 1, 2000)).follows,
            "heard later than the leader"
        );
    }

    #[test]
    fn an_older_leader_is_no_measure() {
        let probe = probe();
        judge(&probe, &member(Role::Primary, 2, 1000));
        assert_eq!(
            judge(&probe, &member(Role::Primary, 1, 9000)).leads,
            Some(1)
        );
        assert!(judge(&probe, &member(Role::Replica, 2, 950)).follows);
    }

    #[test]
    fn who_is_of_another_cluster_neither_leads_nor_follows_nor_is_a_measure() {
        let probe = probe();
        for role in [Role::Primary, Role::Replica] {
            let mut answer = member(role, 9, 9000);
            answer.scope = "other".to_owned();
            assert_eq!(judge(&probe, &answer), Observation::default());
        }
        assert!(judge(&probe, &member(Role::Replica, 1, 5)).follows);
    }

    #[test]
    fn who_starts_or_stops_neither_leads_nor_follows() {
        for state in ["starting", "stopped", "stopping", "crashed", ""] {
            for role in [Role::Primary, Role::Replica] {
                let mut answer = member(role, 1, 1);
                answer.state = state.to_owned();
                assert_eq!(judge(&probe(), &answer), Observation::default(), "{state}");
            }
        }
    }
}
