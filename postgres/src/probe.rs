//! How an endpoint asks a member whether it leads or follows: one `GET /primary` on its REST port.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_core::route::Observation;
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
}

#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    timeline: u64,
    position: u64,
}

impl<N: Net, C: Clock, S: Spawn> RestProbe<N, C, S> {
    /// Ask on `rest_port` of a backend's address. Whose Patroni is of another cluster of databases
    /// than `scope` neither leads nor follows: after a restore or with a wrong setting one may
    /// answer at a member's address, even by a higher timeline. A replica that is further behind than `lag_max`
    /// bytes does not follow; it is measured against what the leader last said of itself.
    pub fn new(
        (net, clock, spawn): (N, C, S),
        scope: &str,
        rest_port: u16,
        lag_max: u64,
    ) -> Self {
        RestProbe {
            net,
            clock,
            spawn,
            scope: scope.to_owned(),
            rest_port,
            lag_max,
            leader: Cell::new(None),
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
        Some(self.judge(&Answer::parse(status, &body)?))
    }

    fn judge(&self, answer: &Answer) -> Observation {
        if answer.scope != self.scope {
            return Observation::default();
        }
        let now = self.clock.now().mono;
        let leads = answer.leads();
        if let (Some(timeline), Some(position)) = (leads, answer.received) {
            // An older leader that does not know yet is no measure.
            let seen = self.leader.get().filter(|seen| seen.timeline > timeline);
            if seen.is_none_or(|seen| now.saturating_duration_since(seen.at) > POSITION_MEMORY) {
                self.leader.set(Some(Seen {
                    at: now,
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
            follows: answer.follows() && near,
        }
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
            scope: "demo".to_owned(),
            ..Answer::default()
        }
    }

    fn probe() -> RestProbe<RealNet, RealClock, RealSpawn> {
        RestProbe::new((RealNet, RealClock, RealSpawn), "demo", 8008, 100)
    }

    #[test]
    fn a_replica_follows_while_it_is_near_what_the_leader_last_said() {
        let probe = probe();
        assert!(
            probe.judge(&member(Role::Replica, 1, 5)).follows,
            "nobody says how far it is"
        );
        assert_eq!(probe.judge(&member(Role::Primary, 1, 1000)).leads, Some(1));
        assert!(probe.judge(&member(Role::Replica, 1, 900)).follows);
        assert!(!probe.judge(&member(Role::Replica, 1, 899)).follows);
        assert!(
            probe.judge(&member(Role::Replica, 1, 2000)).follows,
            "heard later than the leader"
        );
    }

    #[test]
    fn an_older_leader_is_no_measure() {
        let probe = probe();
        probe.judge(&member(Role::Primary, 2, 1000));
        assert_eq!(probe.judge(&member(Role::Primary, 1, 9000)).leads, Some(1));
        assert!(probe.judge(&member(Role::Replica, 2, 950)).follows);
    }

    #[test]
    fn who_is_of_another_cluster_neither_leads_nor_follows_nor_is_a_measure() {
        let probe = probe();
        for role in [Role::Primary, Role::Replica] {
            let mut answer = member(role, 9, 9000);
            answer.scope = "other".to_owned();
            assert_eq!(probe.judge(&answer), Observation::default());
        }
        assert!(probe.judge(&member(Role::Replica, 1, 5)).follows);
    }

    #[test]
    fn who_starts_or_stops_neither_leads_nor_follows() {
        for state in ["starting", "stopped", "stopping", "crashed", ""] {
            for role in [Role::Primary, Role::Replica] {
                let mut answer = member(role, 1, 1);
                answer.state = state.to_owned();
                assert_eq!(probe().judge(&answer), Observation::default(), "{state}");
            }
        }
    }
}
