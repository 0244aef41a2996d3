//! One candidate pair as a path: whether it works, how well, and whether to use it.
//!
//! A path is alive as long as *round trips* on it succeed. Hearing the peer is not enough:
//! when only one direction goes dark, the side that still hears would wait for the other.
//! Both ends see the same round trips fail, so both leave a dead path within the same time.
//!
//! ```text
//! Checking --answer--> Valid --an answer is overdue--> Suspect --silence--> Dead
//!                        ^------------answer--------------'                   |
//!                        ^------------------------answer----------------------'
//! ```
//!
//! Both ends check, and one round trip tells both enough: who is asked at an even pace puts
//! its own check off, because a peer asks at that pace only while it is answered. A peer
//! whose answers stop asks in a hurry, and then we check at once. A path is judged by checks
//! alone: by how long the earliest one has had no answer. So a check that was put off costs
//! no time, because the pace at which it follows the last word of the peer is the same.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Checks of the path in use are this far apart, as long as they are answered.
const PROBE_SELECTED: Duration = Duration::from_millis(500);
/// Checks of a path that is kept in reserve. Keeps its NAT mappings alive (RFC 4787 REQ-5);
/// when the path in use becomes suspect, all others are checked at once.
const PROBE_STANDBY: Duration = Duration::from_secs(10);
/// Requests of the peer's that are closer together say that it waits for an answer: it
/// repeats after [`PROBE_SUSPECT`]. A check that is put off is never closer to the one before.
const CALM_MIN: Duration = Duration::from_millis(350);
/// However often the peer asks, our own checks are at most so many tenths of their interval
/// apart, at the one end and at the other: they measure the round trip, and nobody can stand
/// in for the peer by repeating its requests. Half an interval lies between the two, so that
/// the ends do not fall into step.
const OWN_CHECK_TENTHS: [u32; 2] = [58, 63];
/// An answer within this time says that a path in reserve works now.
const FRESH: Duration = Duration::from_secs(2);
/// Checks of a path whose answer is overdue: many, so that loss alone does not kill it.
const PROBE_SUSPECT: Duration = Duration::from_millis(100);
/// First check of a dead path; the gap doubles up to [`PROBE_DEAD_LAST`].
const PROBE_DEAD_FIRST: Duration = Duration::from_millis(500);
/// Checks of a path that stays dead.
const PROBE_DEAD_LAST: Duration = Duration::from_secs(4);
/// A path that has been dead this long is forgotten; a new check of the peer's brings it back.
const FORGET: Duration = Duration::from_secs(300);
/// Silence that makes a path dead, at small round-trip times.
const SILENCE_MIN: Duration = Duration::from_millis(1300);
/// Silence that makes a path dead, at most: a slow path is slow, not dead.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// First time that a path which died must hold before traffic returns to it; doubles with
/// each death, so that a flapping path is left alone.
const PENALTY_FIRST: Duration = Duration::from_secs(1);
/// Longest such time.
const PENALTY_MAX: Duration = Duration::from_secs(60);
/// A path that held this long has its deaths forgiven.
const FORGIVE: Duration = Duration::from_secs(300);

/// Where packets of a path leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// An address of this machine.
    Host(SocketAddr),
    /// An address that a TURN server relays for us.
    Relay(SocketAddr),
}

impl Base {
    /// The address.
    pub fn addr(self) -> SocketAddr {
        match self {
            Base::Host(addr) | Base::Relay(addr) => addr,
        }
    }
}

/// A candidate pair (RFC 8445 section 6.1.2): where packets leave, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The local base.
    pub base: Base,
    /// The remote address.
    pub remote: SocketAddr,
}

/// Kinds of remote candidates (RFC 8445 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteKind {
    /// An address of the peer's machine.
    Host,
    /// What a STUN server saw of the peer.
    ServerReflexive,
    /// What we saw of the peer and it did not tell.
    PeerReflexive,
    /// Relayed for the peer.
    Relayed,
}

impl RemoteKind {
    /// As in a candidate line (RFC 8839 section 5.1).
    pub fn as_str(self) -> &'static str {
        match self {
            RemoteKind::Host => "host",
            RemoteKind::ServerReflexive => "srflx",
            RemoteKind::PeerReflexive => "prflx",
            RemoteKind::Relayed => "relay",
        }
    }
}

/// Whether a path works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// No check was answered yet.
    Checking,
    /// Checks are answered.
    Valid,
    /// An answer is overdue.
    Suspect,
    /// Silent for too long.
    Dead,
}

/// One candidate pair.
#[derive(Clone, Debug)]
pub struct Path {
    /// Which.
    pub pair: Pair,
    /// What the remote address is.
    pub remote_kind: RemoteKind,
    /// Where it stands.
    pub state: PathState,
    /// Smoothed round-trip time of its checks.
    pub rtt: Option<Duration>,
    /// When a check was last answered.
    pub answered_at: Option<Instant>,
    /// When traffic took to it while it was valid: it is not judged by the silence before.
    selected_at: Option<Instant>,
    /// When the earliest check was made that has no answer yet.
    asked_at: Option<Instant>,
    /// When the latest was made.
    checked_at: Option<Instant>,
    /// When the peer last made one.
    heard_at: Option<Instant>,
    /// When we first heard of it, or when it last died.
    since: Instant,
    /// When its present run of answers began.
    valid_since: Instant,
    deaths: u32,
    probe_at: Option<Instant>,
    probe_gap: Duration,
    /// The peer says it is dead: it has until then to prove otherwise.
    doubted_until: Option<Instant>,
}

impl Path {
    /// A pair that is being checked.
    pub fn new(pair: Pair, remote_kind: RemoteKind, now: Instant) -> Path {
        Path {
            pair,
            remote_kind,
            state: PathState::Checking,
            rtt: None,
            answered_at: None,
            selected_at: None,
            asked_at: None,
            checked_at: None,
            heard_at: None,
            since: now,
            valid_since: now,
            deaths: 0,
            probe_at: None,
            probe_gap: PROBE_DEAD_FIRST,
            doubted_until: None,
        }
    }

    /// How many relays it crosses: the fewer, the better.
    pub fn relays(&self) -> u8 {
        let local = matches!(self.pair.base, Base::Relay(_));
        let remote = self.remote_kind == RemoteKind::Relayed;
        u8::from(local) + u8::from(remote)
    }

    /// `direct` or `relay`.
    pub fn class(&self) -> &'static str {
        if self.relays() == 0 {
            "direct"
        } else {
            "relay"
        }
    }

    /// Whether traffic may take it.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, PathState::Valid | PathState::Suspect)
    }

    /// A check was answered after `rtt`.
    pub fn answered(&mut self, now: Instant, rtt: Duration, selected: bool) {
        // RFC 6298 section 2: an eighth of each new sample.
        self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        self.answered_at = Some(now);
        self.asked_at = None;
        self.doubted_until = None;
        if !self.is_usable() {
            self.valid_since = now;
        }
        if self.state == PathState::Dead {
            mark!("path/revived");
        }
        if now.saturating_duration_since(self.valid_since) > FORGIVE {
            self.deaths = 0;
        }
        let was_valid = self.state == PathState::Valid;
        self.state = PathState::Valid;
        self.probe_gap = PROBE_DEAD_FIRST;
        let next = now + self.interval(selected);
        // An answer puts off checks of a path in reserve, whoever asked. Checks of the path in
        // use keep their pace, so that a long queue on the way does not thin them out. What was
        // put off before stays so.
        let keep = self.probe_at.filter(|at| match *at < next {
            true => selected && *at > now,
            false => was_valid,
        });
        self.probe_at = Some(keep.unwrap_or(next));
    }

    /// The peer checked it: that counts for a check of our own, unless it is in a hurry. When
    /// both ends check at the same time, the one that `yields` lets the other go on.
    pub fn heard(&mut self, now: Instant, selected: bool, yields: bool) {
        let before = self.heard_at.replace(now);
        let together = self.asked_at.is_some();
        if self.state != PathState::Valid || (together && !yields) {
            return;
        }
        let lately = |at: Option<Instant>| at.is_some_and(|at| now < at + CALM_MIN);
        if selected && lately(before) {
            // Unless we have just checked: two ends must not egg each other on.
            if !lately(self.checked_at) {
                self.check_now(now);
            }
            return;
        }
        let interval = self.interval(selected);
        let wait = match together {
            true => interval * 3 / 2,
            false => interval,
        };
        let own = interval * OWN_CHECK_TENTHS[usize::from(yields)] / 10;
        let own = self.answered_at.map_or(now, |at| at + own);
        let put_off = own.min(now + wait);
        self.probe_at = self.probe_at.max(Some(put_off));
    }

    fn interval(&self, selected: bool) -> Duration {
        if selected {
            PROBE_SELECTED
        } else {
            PROBE_STANDBY
        }
    }

    /// How long a check may be unanswered before the path is dead: longer on a slow path. On
    /// the path in use it counts from the last word before that check.
    fn patience(&self, selected: bool) -> Duration {
        let rtt = self.rtt.unwrap_or_default();
        let silence = (SILENCE_MIN + rtt * 2).min(SILENCE_MAX);
        if selected {
            silence - PROBE_SELECTED
        } else {
            silence
        }
    }

    /// How long a check may be unanswered before its answer is overdue. A path in reserve has
    /// time, and loss on it nobody notices.
    fn overdue(&self, selected: bool) -> Duration {
        let rtt = self.rtt.unwrap_or_default();
        let late = (rtt * 2).clamp(Duration::from_millis(80), SILENCE_MIN);
        if selected {
            rtt + late
        } else {
            PROBE_SELECTED + late
        }
    }

    /// The peer says that the path is dead for it: check now, and believe it unless an
    /// answer comes soon.
    pub fn doubt(&mut self, now: Instant) {
        if self.is_usable() && self.doubted_until.is_none() {
            let patience = (self.rtt.unwrap_or_default() * 3).max(Duration::from_millis(300));
            self.doubted_until = Some(self.asked_at.unwrap_or(now) + patience);
            self.state = PathState::Suspect;
            self.probe_at = Some(now);
        }
    }

    /// Traffic takes it from now on.
    pub fn select(&mut self, now: Instant) {
        if self.state == PathState::Valid {
            self.selected_at = Some(now);
        }
        self.check_now(now);
    }

    /// When the answer to a check becomes overdue.
    fn overdue_at(&self, selected: bool) -> Option<Instant> {
        let since = self.unanswered_since(selected)?;
        Some(since + self.overdue(selected))
    }

    /// Since when a check has had no answer, as far as that is held against the path.
    fn unanswered_since(&self, selected: bool) -> Option<Instant> {
        let asked = self.asked_at?;
        match self.selected_at {
            Some(at) if selected => Some(asked.max(at)),
            _ => Some(asked),
        }
    }

    /// Check it now: traffic may have to take it soon.
    pub fn check_now(&mut self, now: Instant) {
        self.probe_at = Some(now);
    }

    /// Whether it was seen to work a moment ago.
    fn is_fresh(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| now < at + FRESH)
    }

    /// Its address or its relay is gone.
    pub fn kill(&mut self, now: Instant) {
        if self.state != PathState::Dead {
            mark!("path/dead");
            self.deaths += u32::from(self.is_usable());
            self.state = PathState::Dead;
            self.since = now;
            self.doubted_until = None;
            self.probe_gap = PROBE_DEAD_FIRST;
            self.probe_at = Some(now + self.probe_gap);
        }
    }

    /// When [`Path::tick`] has something to do.
    pub fn deadline(&self, selected: bool) -> Option<Instant> {
        let judge = match self.state {
            PathState::Valid => self.overdue_at(selected),
            PathState::Suspect => self.death_at(selected),
            PathState::Checking | PathState::Dead => None,
        };
        [judge, self.probe_at].into_iter().flatten().min()
    }

    fn death_at(&self, selected: bool) -> Option<Instant> {
        if planted!(ForgetDeadPair) {
            return None;
        }
        let silence = self
            .unanswered_since(selected)
            .map(|at| at + self.patience(selected));
        [silence, self.doubted_until].into_iter().flatten().min()
    }

    /// Time passed. Returns whether a check is due.
    pub fn tick(&mut self, now: Instant, selected: bool) -> bool {
        if self.state == PathState::Valid && self.overdue_at(selected).is_some_and(|at| now >= at) {
            mark!("path/suspect");
            self.state = PathState::Suspect;
            self.probe_at = Some(now);
        }
        if self.state == PathState::Suspect && self.death_at(selected).is_some_and(|at| now >= at) {
            self.kill(now);
        }
        if self.probe_at.is_none_or(|at| now < at) {
            return false;
        }
        self.probe_at = Some(now + self.next_gap(selected));
        self.asked_at.get_or_insert(now);
        self.checked_at = Some(now);
        true
    }

    fn next_gap(&mut self, selected: bool) -> Duration {
        match self.state {
            PathState::Checking | PathState::Valid => self.interval(selected),
            PathState::Suspect if selected => PROBE_SUSPECT,
            PathState::Suspect => PROBE_SELECTED,
            PathState::Dead => {
                let gap = self.probe_gap;
                self.probe_gap = (gap * 2).min(PROBE_DEAD_LAST);
                gap
            }
        }
    }

    /// Whether it has been of no use for so long that it may be forgotten.
    pub fn is_forgettable(&self, now: Instant) -> bool {
        !self.is_usable() && now.saturating_duration_since(self.since) > FORGET
    }

    /// Until when a path that died before must hold to be chosen over one that works.
    fn trusted_at(&self) -> Instant {
        match self.deaths {
            0 => self.valid_since,
            n => {
                let penalty = PENALTY_FIRST * 2u32.saturating_pow(n.min(8) - 1);
                self.valid_since + penalty.min(PENALTY_MAX)
            }
        }
    }

    /// Whether to prefer it to `current`, which works.
    pub fn beats(&self, current: &Path, now: Instant) -> bool {
        self.state == PathState::Valid
            && self.relays() < current.relays()
            && self.trusted_at() <= now
    }

    /// When a better path that has to prove itself will have done so.
    pub fn beats_at(&self, current: &Path) -> Option<Instant> {
        let better = self.state == PathState::Valid && self.relays() < current.relays();
        if planted!(NoPathSwitch) {
            return None;
        }
        if better {
            mark!("path/held-back");
        }
        better.then(|| self.trusted_at())
    }

    /// Why traffic takes it or not, for `holdfast status PEER`.
    pub fn why(&self, selected: Option<&Path>, now: Instant) -> String {
        let silent = |at: Option<Instant>| match at {
            Some(at) => now.saturating_duration_since(at).as_millis(),
            None => 0,
        };
        match (self.state, selected) {
            (PathState::Checking, _) => "no check was answered yet".into(),
            (PathState::Dead, _) => {
                format!("no check was answered for {} ms", silent(self.answered_at))
            }
            (_, Some(current)) if current.pair == self.pair => match self.relays() {
                0 => "in use: direct".into(),
                _ => "in use: no direct path works".into(),
            },
            (PathState::Suspect, _) => "an answer is overdue".into(),
            (_, Some(current)) if self.relays() > current.relays() => {
                "in reserve: crosses more relays".into()
            }
            (_, Some(current)) if self.relays() < current.relays() => format!(
                "better, but died {} times: must hold {} ms more",
                self.deaths,
                self.trusted_at().saturating_duration_since(now).as_millis()
            ),
            _ => "in reserve: no better than the one in use".into(),
        }
    }
}

/// The path to use: stay while the present one works and none is clearly better; otherwise
/// the working one with the fewest relays, then the shortest round trip.
pub fn choose(paths: &[Path], current: Option<Pair>, now: Instant) -> Option<Pair> {
    let current = paths
        .iter()
        .find(|path| Some(path.pair) == current && path.is_usable());
    let best = paths
        .iter()
        .filter(|path| match current {
            Some(_) if planted!(NoPathSwitch) => false,
            Some(current) => path.beats(current, now),
            None => path.is_usable(),
        })
        .min_by_key(|path| {
            (
                path.state != PathState::Valid,
                !path.is_fresh(now),
                path.relays(),
                path.deaths,
                path.rtt,
                path.pair,
            )
        });
    best.or(current).map(|path| path.pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn path(relay: bool, now: Instant) -> Path {
        let addr = |n: u8| SocketAddr::from(([10, 0, 0, n], 1));
        let base = if relay {
            Base::Relay(addr(1))
        } else {
            Base::Host(addr(2))
        };
        let pair = Pair {
            base,
            remote: addr(3),
        };
        Path::new(pair, RemoteKind::Host, now)
    }

    const RTT: Duration = Duration::from_millis(20);

    #[test]
    fn a_silent_path_is_suspected_then_dead_within_a_second_and_a_half() {
        let now = start();
        let mut direct = path(false, now);
        direct.answered(now, RTT, true);
        let mut dead_after = None;
        for ms in 0..3000 {
            let at = now + Duration::from_millis(ms);
            direct.tick(at, true);
            if direct.state == PathState::Dead {
                dead_after = dead_after.or(Some(ms));
            }
        }
        assert_eq!(dead_after, Some(1340));
    }

    #[test]
    fn a_dead_path_that_answers_has_to_hold_before_traffic_returns() {
        let now = start();
        let (mut direct, mut relay) = (path(false, now), path(true, now));
        direct.answered(now, RTT, true);
        relay.answered(now, RTT, false);
        direct.kill(now);
        let mut paths = [direct, relay];
        let chosen = choose(&paths, Some(paths[0].pair), now);
        assert_eq!(chosen, Some(paths[1].pair));
        paths[0].answered(now, RTT, false);
        let soon = now + PENALTY_FIRST / 2;
        assert_eq!(choose(&paths, chosen, soon), Some(paths[1].pair));
        let later = now + PENALTY_FIRST;
        assert_eq!(choose(&paths, chosen, later), Some(paths[0].pair));
    }

    #[test]
    fn a_path_that_was_never_dead_is_preferred_at_once_when_it_is_better() {
        let now = start();
        let (mut direct, mut relay) = (path(false, now), path(true, now));
        relay.answered(now, RTT, true);
        direct.answered(now, RTT * 10, false);
        let paths = [direct, relay];
        assert_eq!(
            choose(&paths, Some(paths[1].pair), now),
            Some(paths[0].pair)
        );
    }

    #[test]
    fn the_peers_word_makes_us_check_at_once_but_an_answer_clears_the_path() {
        let now = start();
        let mut direct = path(false, now);
        direct.answered(now, RTT, true);
        direct.doubt(now);
        assert!(direct.tick(now, true), "a check is due");
        let mut cleared = direct.clone();
        cleared.answered(now + RTT, RTT, true);
        cleared.tick(now + Duration::from_millis(350), true);
        assert_eq!(cleared.state, PathState::Valid);
        direct.tick(now + Duration::from_millis(350), true);
        assert_eq!(direct.state, PathState::Dead);
    }

    /// Two ends of a path that watch it, a few milliseconds apart.
    struct Watched {
        now: Instant,
        ends: [Path; 2],
        /// When each message arrives, whether it is a request, and at which end.
        flying: Vec<(Instant, bool, usize, Instant)>,
        /// Whether what this end sends arrives.
        open: [bool; 2],
        requests: [u32; 2],
        dead_at: [Option<Instant>; 2],
    }

    impl Watched {
        fn new(apart: Duration) -> Watched {
            let now = start();
            let mut ends = [path(false, now), path(false, now)];
            ends[0].answered(now, RTT, true);
            ends[1].answered(now, RTT, true);
            ends[1].probe_at = ends[1].probe_at.map(|at| at + apart);
            Watched {
                now,
                ends,
                flying: Vec::new(),
                open: [true; 2],
                requests: [0; 2],
                dead_at: [None; 2],
            }
        }

        fn send(&mut self, from: usize, request: bool, asked_at: Instant) {
            if self.open[from] {
                let at = self.now + RTT / 2;
                self.flying.push((at, request, 1 - from, asked_at));
            }
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(1);
                let now = self.now;
                let due = self.flying.extract_if(.., |(at, ..)| *at <= now);
                for (_, request, end, asked_at) in due.collect::<Vec<_>>() {
                    if request {
                        self.ends[end].heard(now, true, end == 1);
                        self.send(end, false, asked_at);
                    } else {
                        self.ends[end].answered(now, now - asked_at, true);
                    }
                }
                for end in 0..2 {
                    if self.ends[end].tick(now, true) {
                        self.requests[end] += 1;
                        self.send(end, true, now);
                    }
                    if self.ends[end].state == PathState::Dead {
                        self.dead_at[end].get_or_insert(now);
                    }
                }
            }
        }
    }

    #[test]
    fn two_ends_share_one_round_trip_per_interval() {
        for apart_ms in [0, 1, 5, 9, 10, 11, 15, 20, 100, 250, 499] {
            let mut path = Watched::new(Duration::from_millis(apart_ms));
            path.run(Duration::from_secs(100));
            let [a, b] = path.requests;
            assert!(a + b <= 230, "{apart_ms} ms apart: {a} and {b} requests");
            assert!(a.min(b) >= 15, "{apart_ms} ms apart: {a} and {b} requests");
        }
    }

    #[test]
    fn a_black_hole_in_any_direction_is_noticed_by_both_ends_in_time() {
        for open in [[false, false], [true, false], [false, true]] {
            for after_ms in (5_000..8_000).step_by(7) {
                let mut path = Watched::new(Duration::from_millis(200));
                path.run(Duration::from_millis(after_ms));
                assert_eq!(path.dead_at, [None; 2]);
                let cut_at = path.now;
                path.open = open;
                path.run(Duration::from_secs(3));
                let took = path.dead_at.map(|at| at.expect("dead") - cut_at);
                let first = took[0].min(took[1]);
                let second = took[0].max(took[1]);
                assert!(first <= SILENCE_MIN + RTT * 2, "{open:?}: {took:?}");
                assert!(
                    second <= SILENCE_MIN + Duration::from_millis(300),
                    "{open:?}: {took:?}"
                );
            }
        }
    }
}
