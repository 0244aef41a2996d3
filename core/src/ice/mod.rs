//! Paths to one peer: ICE (RFC 8445) on the `is` crate, and our own watch over what it finds.
//!
//! `is` pairs candidates, checks them and discovers peer-reflexive ones. Which of the pairs
//! that work carries traffic is decided here, in `path.rs`: `is` keeps a silent pair for 15 s
//! and more and can only give up whole candidates, so we check every pair that ever worked
//! ourselves (with the same authenticated Binding requests) and move within a second and a
//! half. Each end chooses for itself from the same evidence and accepts traffic on any pair.

mod check;
mod path;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ::is::stun::{StunMessage, StunPacket};
use ::is::{Candidate, CandidateKind, IceAgent, IceCreds, Protocol, Sha1HmacProvider};
use ring::hmac;

use crate::entropy::{Entropy, Seed};
use crate::signal::link_of_ufrag;
use crate::signal::snapshot::{CANDIDATE_LEN_MAX, CANDIDATES_MAX, IceCredentials};
use crate::status::PathStatus;
use crate::stun::transaction_id;
use crate::types::LinkId;
pub use check::TransactionId;
use check::{Checks, is_answer, is_request};
pub use path::{Base, Pair, Path, PathState, RemoteKind};

/// Most paths that are watched. Beyond it the least useful is forgotten.
const PATHS_MAX: usize = 32;
/// Most checks whose answer is awaited.
const ASKED_MAX: usize = 256;
/// Checks that wait to be sent at a time: they leave with the next poll, and every pair is
/// checked once until then.
const UNSENT_MAX: usize = PAIRS_MAX + PATHS_MAX;
/// An answer may be this late: a full queue on the way holds it up for seconds.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// Candidate pairs of the agent (RFC 8445 section 6.1.2.5 suggests 100).
const PAIRS_MAX: usize = 64;
/// Remote candidates that one agent may collect before it is made afresh.
const AGENT_CANDIDATES_MAX: usize = 48;
/// Peer-reflexive sources that one agent may collect: a NAT that rebinds makes one each time.
const SOURCES_MAX: usize = 32;
/// Agents that collected too many are made afresh this often at most.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Pace of checks (Ta): the default of 50 ms makes every further pair wait.
const PACE: Duration = Duration::from_millis(5);
/// Checks while looking for a path: early repeats find one soon in spite of loss.
const SEARCH: Timing = Timing {
    initial: Duration::from_millis(100),
    max: Duration::from_millis(500),
};
/// Checks by the agent once it had its time and a path works: our own watch does the rest.
const RELAXED: Timing = Timing {
    initial: Duration::from_secs(60),
    max: Duration::from_secs(600),
};
/// Time for the agent to check everything several times, after something has changed.
const SEARCH_FOR: Duration = Duration::from_secs(3);
/// Unanswered checks after which the agent gives a pair up.
const RETRANSMITS: usize = 6;
/// First wait before all pairs are formed again when none, or no direct one, works.
const RETRY_FIRST: Duration = Duration::from_secs(3);
/// Longest such wait.
const RETRY_LAST: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Timing {
    initial: Duration,
    max: Duration,
}

/// A candidate of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LocalCandidate {
    /// An address of this machine.
    Host(SocketAddr),
    /// What a STUN server sees of one.
    ServerReflexive {
        /// What it sees.
        addr: SocketAddr,
        /// Of which.
        base: SocketAddr,
    },
    /// An address that a TURN server relays for us.
    Relayed(SocketAddr),
}

impl LocalCandidate {
    fn to_is(self) -> Option<Candidate> {
        match self {
            LocalCandidate::Host(addr) => Candidate::host(addr, Protocol::Udp),
            LocalCandidate::ServerReflexive { addr, base } => {
                Candidate::server_reflexive(addr, base, Protocol::Udp)
            }
            LocalCandidate::Relayed(addr) => Candidate::relayed(addr, addr, Protocol::Udp),
        }
        .ok()
    }

    /// As `kind address`, for people.
    pub fn describe(self) -> String {
        match self {
            LocalCandidate::Host(addr) => format!("host {addr}"),
            LocalCandidate::ServerReflexive { addr, .. } => format!("srflx {addr}"),
            LocalCandidate::Relayed(addr) => format!("relay {addr}"),
        }
    }

    /// As an RFC 8839 candidate line, for signaling.
    pub fn to_line(self) -> Option<String> {
        let line = self.to_is()?.to_sdp_string();
        (line.len() <= CANDIDATE_LEN_MAX).then_some(line)
    }
}

/// What a STUN message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StunVerdict {
    /// Ours, and genuine.
    Accepted,
    /// It cannot be read.
    Malformed,
    /// Its credentials are stale or wrong, or nobody asked for it.
    Rejected,
}

/// A STUN message to send on a candidate pair.
#[derive(Debug)]
pub struct IceTransmit {
    /// The pair.
    pub pair: Pair,
    /// The message.
    pub contents: Vec<u8>,
    /// Whose answer is this link's, unless the transaction itself says so.
    pub asks: Option<TransactionId>,
}

#[derive(Debug)]
struct Asked {
    id: TransactionId,
    pair: Pair,
    at: Instant,
    /// Whether the agent sent it; otherwise we did.
    by_agent: bool,
}

/// ICE for one session of a link.
pub struct Ice {
    agent: IceAgent,
    /// When the agent has something to do.
    agent_at: Option<Instant>,
    checks: Checks,
    /// Names the link in the transactions of our own checks.
    link: LinkId,
    timing: Timing,
    controlling: bool,
    tie_breaker: u64,
    own: IceCredentials,
    remote: IceCredentials,
    entropy: Entropy,
    local: Vec<LocalCandidate>,
    remote_lines: Vec<String>,
    remote_known: Vec<(SocketAddr, RemoteKind)>,
    agent_candidates: usize,
    /// Sources of genuine requests that the peer did not tell us of.
    sources: Vec<SocketAddr>,
    renewed_at: Option<Instant>,
    paths: Vec<Path>,
    asked: VecDeque<Asked>,
    selected: Option<Pair>,
    retry_at: Option<Instant>,
    retry: Duration,
    /// Until when the agent looks for pairs eagerly.
    search_until: Option<Instant>,
    transmits: VecDeque<IceTransmit>,
    /// The deadline, until something changes it: it is asked for after every packet.
    deadline: Option<(Instant, &'static str)>,
    deadline_known: bool,
}

impl Ice {
    /// An agent without candidates.
    pub fn new(
        own: IceCredentials,
        remote: IceCredentials,
        controlling: bool,
        seed: &Seed,
        now: Instant,
    ) -> Ice {
        let mut entropy = seed.fork("ice").rng();
        let tie_breaker = entropy.u64();
        let mut ice = Ice {
            agent: new_agent(
                &own,
                &remote,
                controlling,
                tie_breaker,
                SEARCH,
                &mut entropy,
            ),
            agent_at: None,
            checks: Checks::new(&own, &remote, controlling, tie_breaker),
            link: link_of_ufrag(&own.ufrag).unwrap_or(LinkId(u16::MAX)),
            timing: SEARCH,
            controlling,
            tie_breaker,
            own,
            remote,
            entropy,
            local: Vec::new(),
            remote_lines: Vec::new(),
            remote_known: Vec::new(),
            agent_candidates: 0,
            sources: Vec::new(),
            renewed_at: None,
            paths: Vec::new(),
            asked: VecDeque::new(),
            selected: None,
            retry_at: Some(now + RETRY_FIRST),
            retry: RETRY_FIRST,
            search_until: Some(now + SEARCH_FOR),
            transmits: VecDeque::new(),
            deadline: None,
            deadline_known: false,
        };
        ice.run_agent(now);
        ice
    }

    /// The pair that traffic takes.
    pub fn selected(&self) -> Option<Pair> {
        self.selected
    }

    /// The path that traffic takes.
    pub fn selected_path(&self) -> Option<&Path> {
        self.path(self.selected?)
    }

    /// Whether the path in use works, to the best of our knowledge.
    pub fn is_connected(&self) -> bool {
        self.selected_path().is_some_and(Path::is_usable)
    }

    /// Whether this pair works, to the best of our knowledge.
    pub fn works(&self, pair: Pair) -> bool {
        self.path(pair).is_some_and(Path::is_usable)
    }

    fn path(&self, pair: Pair) -> Option<&Path> {
        self.paths.iter().find(|path| path.pair == pair)
    }

    /// Our candidates are these now.
    pub fn set_local(&mut self, now: Instant, candidates: &[LocalCandidate]) {
        self.deadline_known = false;
        self.seed_thread();
        let gone: Vec<LocalCandidate> = self.local.clone();
        for gone in gone.iter().filter(|old| !candidates.contains(old)) {
            mark!("path/candidate-gone");
            if let Some(candidate) = gone.to_is() {
                self.agent.invalidate_candidate(&candidate);
            }
            let base = match gone {
                LocalCandidate::Host(addr) => Base::Host(*addr),
                LocalCandidate::Relayed(addr) => Base::Relay(*addr),
                LocalCandidate::ServerReflexive { .. } => continue,
            };
            self.paths.retain(|path| path.pair.base != base);
        }
        if self.selected.is_some() && self.selected_path().is_none() {
            self.check_all(now);
        }
        let known = std::mem::replace(&mut self.local, candidates.to_vec());
        for new in candidates.iter().filter(|new| !known.contains(new)) {
            if let Some(candidate) = new.to_is() {
                self.agent.add_local_candidate(candidate);
            }
        }
        self.search(now);
        self.run_agent(now);
        self.select(now);
    }

    /// The peer's candidates are these now.
    pub fn set_remote(&mut self, now: Instant, lines: &[String]) {
        self.deadline_known = false;
        self.seed_thread();
        let mut known = std::mem::take(&mut self.remote_lines);
        let early = planted!(DropEarlyCandidates) && self.selected.is_none();
        for line in lines.iter().take(CANDIDATES_MAX) {
            let Ok(candidate) = Candidate::from_sdp_string(line) else {
                continue;
            };
            if !self.may_check(candidate.addr()) {
                continue;
            }
            if !known.contains(line) {
                known.push(line.clone());
                self.note_remote_kind(candidate.addr(), candidate.kind());
                if early {
                    continue;
                }
                self.agent_candidates += 1;
                self.agent.add_remote_candidate(candidate);
            }
        }
        known.retain(|line| lines.contains(line));
        self.remote_lines = known;
        if self.agent_candidates > AGENT_CANDIDATES_MAX {
            self.renew_agent(now);
        }
        self.search(now);
        self.run_agent(now);
    }

    /// Whether a peer may have us send checks there: not to services of this very machine.
    fn may_check(&self, addr: SocketAddr) -> bool {
        let on_loopback = self
            .local
            .iter()
            .any(|local| matches!(local, LocalCandidate::Host(host) if host.ip().is_loopback()));
        let ip = addr.ip();
        addr.port() != 0
            && !ip.is_unspecified()
            && !ip.is_multicast()
            && (on_loopback || !ip.is_loopback())
    }

    /// Addresses that the peer told us of, to permit on our relays.
    pub fn remote_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.remote_known.iter().map(|(addr, _)| addr.ip())
    }

    fn note_remote_kind(&mut self, addr: SocketAddr, kind: CandidateKind) {
        let kind = match kind {
            CandidateKind::Host => RemoteKind::Host,
            CandidateKind::ServerReflexive => RemoteKind::ServerReflexive,
            CandidateKind::PeerReflexive => RemoteKind::PeerReflexive,
            CandidateKind::Relayed => RemoteKind::Relayed,
        };
        self.remote_known.retain(|(known, _)| *known != addr);
        self.remote_known.push((addr, kind));
        if self.remote_known.len() > AGENT_CANDIDATES_MAX {
            self.remote_known.remove(0);
        }
        for path in self.paths.iter_mut().filter(|p| p.pair.remote == addr) {
            path.remote_kind = kind;
        }
    }

    fn remote_kind(&self, addr: SocketAddr) -> RemoteKind {
        let known = self.remote_known.iter().find(|(known, _)| *known == addr);
        known.map_or(RemoteKind::PeerReflexive, |(_, kind)| *kind)
    }

    /// A STUN message arrived at `base` from `from`.
    pub fn handle_stun(
        &mut self,
        now: Instant,
        base: Base,
        from: SocketAddr,
        data: &[u8],
    ) -> StunVerdict {
        let pair = Pair { base, remote: from };
        let known = if is_request(data) {
            self.handle_request(now, pair, data)
        } else if is_answer(data) {
            self.handle_answer(now, pair, data)
        } else {
            None
        };
        known.unwrap_or_else(|| self.handle_by_agent(now, pair, data))
    }

    /// A request on a path that works, which is most of them: the agent has nothing to learn
    /// from it. `None`: it is another one.
    fn handle_request(&mut self, now: Instant, pair: Pair, data: &[u8]) -> Option<StunVerdict> {
        let selected = self.selected == Some(pair);
        let path = self.paths.iter_mut().find(|path| path.pair == pair)?;
        if !path.is_usable() {
            return None;
        }
        let id = self.checks.genuine_request(data)?;
        self.deadline_known = false;
        path.heard(now, selected, !self.controlling);
        let rtt = path.rtt.unwrap_or_default();
        let contents = self.checks.answer(id, pair.remote);
        self.transmits.push_back(IceTransmit {
            pair,
            contents,
            asks: None,
        });
        if planted!(OneWayBlind) {
            self.answered(now, pair, rtt);
        }
        Some(StunVerdict::Accepted)
    }

    /// An answer to a check that we made ourselves. `None`: it is another one.
    fn handle_answer(&mut self, now: Instant, pair: Pair, data: &[u8]) -> Option<StunVerdict> {
        let id = transaction_id(data)?;
        let mut asked = self.asked.iter();
        let at = asked.position(|asked| asked.id == id && !asked.by_agent)?;
        let asked = &self.asked[at];
        // An answer over another path says nothing of this one (RFC 8445 section 7.2.5.2.1).
        if asked.pair != pair || !self.checks.is_genuine_answer(data) {
            return Some(StunVerdict::Rejected);
        }
        let rtt = now.saturating_duration_since(asked.at);
        self.asked.remove(at);
        self.deadline_known = false;
        self.answered(now, pair, rtt);
        Some(StunVerdict::Accepted)
    }

    fn handle_by_agent(&mut self, now: Instant, pair: Pair, data: &[u8]) -> StunVerdict {
        let Ok(message) = StunMessage::parse(data) else {
            return StunVerdict::Malformed;
        };
        self.deadline_known = false;
        self.seed_thread();
        let from = pair.remote;
        if message.is_binding_request() && !self.admit_source(now, from, &message) {
            return StunVerdict::Rejected;
        }
        let is_answer = message.is_successful_binding_response();
        let id = transaction_id(data).filter(|_| is_answer);
        let asked = id
            .and_then(|id| self.take_asked(id))
            .filter(|asked| asked.pair == pair);
        let packet = StunPacket {
            proto: Protocol::Udp,
            source: from,
            destination: pair.base.addr(),
            message,
        };
        if !self.agent.handle_packet(now, packet) {
            return StunVerdict::Rejected;
        }
        if let Some(asked) = asked {
            self.answered(now, asked.pair, now.saturating_duration_since(asked.at));
        }
        self.run_agent(now);
        StunVerdict::Accepted
    }

    /// Every new source of a genuine request becomes a peer-reflexive candidate, which `is`
    /// keeps for good. Genuine requests can be sent again from anywhere, so their sources are
    /// bounded: when there are too many, the agent is made afresh, seldom.
    fn admit_source(&mut self, now: Instant, from: SocketAddr, request: &StunMessage<'_>) -> bool {
        let told = self.remote_known.iter().any(|(addr, _)| *addr == from);
        if told || self.sources.contains(&from) {
            return true;
        }
        let password = self.own.password.as_bytes();
        if !request.verify(password, |key, parts| HmacSha1.sha1_hmac(key, parts)) {
            return false;
        }
        mark!("path/peer-reflexive");
        if self.sources.len() >= SOURCES_MAX {
            if self.renewed_at.is_some_and(|at| now < at + RENEW_EVERY) {
                return false;
            }
            self.renew_agent(now);
        }
        // A way that nobody told us of: there may be pairs to find.
        self.search(now);
        self.sources.push(from);
        true
    }

    fn take_asked(&mut self, id: TransactionId) -> Option<Asked> {
        let at = self.asked.iter().position(|asked| asked.id == id)?;
        self.asked.remove(at)
    }

    fn answered(&mut self, now: Instant, pair: Pair, rtt: Duration) {
        let selected = self.selected == Some(pair);
        self.watch(now, pair);
        if let Some(path) = self.paths.iter_mut().find(|path| path.pair == pair) {
            path.answered(now, rtt, selected);
        }
        self.select(now);
    }

    /// The peer has left a path of ours for dead.
    pub fn doubt_selected(&mut self, now: Instant) {
        self.deadline_known = false;
        self.check_all(now);
        let selected = self.selected;
        if let Some(path) = self.paths.iter_mut().find(|p| Some(p.pair) == selected) {
            path.doubt(now);
        }
    }

    /// By the time the path in use is given up, it is known which others work.
    fn check_all(&mut self, now: Instant) {
        for path in &mut self.paths {
            path.check_now(now);
        }
    }

    /// Time passed.
    pub fn handle_deadline(&mut self, now: Instant) {
        self.deadline_known = false;
        if self.retry_at.is_some_and(|at| at <= now) {
            self.seed_thread();
            self.search_until = Some(now + SEARCH_FOR);
            self.set_timing(SEARCH);
            self.renew_agent(now);
            self.retry = (self.retry * 2).min(RETRY_LAST);
            self.retry_at = Some(now + self.retry);
        }
        self.relax(now);
        if self.agent_at.is_none_or(|at| at <= now) {
            self.seed_thread();
            self.run_agent(now);
        }
        self.watch_paths(now);
        self.select(now);
    }

    /// When to call [`Ice::handle_deadline`], and why.
    pub fn deadline(&mut self) -> Option<(Instant, &'static str)> {
        if !self.deadline_known {
            self.deadline = self.next_deadline();
            self.deadline_known = true;
        }
        self.deadline
    }

    fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        let current = self.selected_path();
        let prove = self
            .paths
            .iter()
            .filter_map(|path| path.beats_at(current?))
            .min();
        let watch = self
            .paths
            .iter()
            .filter_map(|path| path.deadline(self.selected == Some(path.pair)))
            .min();
        [
            (self.agent_at, "ICE checks"),
            (watch, "a path is checked or judged"),
            (prove, "a better path has held long enough"),
            (self.retry_at, "candidate pairs are formed again"),
            (self.search_until, "candidate pairs had their time"),
        ]
        .into_iter()
        .filter_map(|(at, why)| Some((at?, why)))
        .min_by_key(|(at, _)| *at)
    }

    /// The next STUN message to send.
    pub fn poll_transmit(&mut self) -> Option<IceTransmit> {
        self.transmits.pop_front()
    }

    /// Every pair that is known, the one in use first.
    pub fn status(&self, now: Instant) -> Vec<PathStatus> {
        let selected = self.selected_path();
        let mut paths: Vec<&Path> = self.paths.iter().collect();
        paths.sort_by_key(|path| {
            let used = Some(path.pair) == self.selected;
            (!used, !path.is_usable(), path.relays(), path.pair)
        });
        let status = |path: &&Path| PathStatus {
            local: path.pair.base.addr().to_string(),
            local_kind: match path.pair.base {
                Base::Host(_) => "host".into(),
                Base::Relay(_) => "relay".into(),
            },
            remote: path.pair.remote.to_string(),
            remote_kind: path.remote_kind.as_str().into(),
            class: path.class().into(),
            state: match path.state {
                PathState::Checking => "checking".into(),
                PathState::Valid => "valid".into(),
                PathState::Suspect => "suspect".into(),
                PathState::Dead => "dead".into(),
            },
            selected: Some(path.pair) == self.selected,
            why: path.why(selected, now),
            rtt_us: path.rtt.map(|rtt| rtt.as_micros() as u64),
            answered_ms: path
                .answered_at
                .map(|at| now.saturating_duration_since(at).as_millis() as u64),
        };
        paths.iter().map(status).collect()
    }

    /// What can fill, and how full it is.
    pub fn queues(&self, push: &mut impl FnMut(&str, usize, usize)) {
        push("paths", self.paths.len(), PATHS_MAX);
        push("checks_asked", self.asked.len(), ASKED_MAX);
        push("checks_unsent", self.transmits.len(), UNSENT_MAX);
        push("check_sources", self.sources.len(), SOURCES_MAX);
        let lines = self.remote_lines.len();
        push("remote_candidates", lines, CANDIDATES_MAX);
        // The snapshot that goes over the bound is still taken in.
        let known_max = AGENT_CANDIDATES_MAX + CANDIDATES_MAX;
        push("agent_candidates", self.agent_candidates, known_max);
    }

    /// `is` draws transaction ids from `fastrand`'s thread-local generator.
    fn seed_thread(&mut self) {
        fastrand::seed(self.entropy.u64());
    }

    /// Something changed: look for pairs eagerly again.
    fn search(&mut self, now: Instant) {
        self.set_timing(SEARCH);
        self.retry = RETRY_FIRST;
        self.retry_at = Some(now + RETRY_FIRST);
        self.search_until = Some(now + SEARCH_FOR);
    }

    /// Once a path works and the agent had its time, leave the rest to our own watch.
    fn relax(&mut self, now: Instant) {
        if self.search_until.is_none_or(|at| now < at) {
            return;
        }
        if self.is_connected() {
            self.search_until = None;
            self.set_timing(RELAXED);
        } else {
            self.search_until = Some(now + SEARCH_FOR);
        }
    }

    fn set_timing(&mut self, timing: Timing) {
        if self.timing != timing {
            self.timing = timing;
            self.agent.set_initial_stun_rto(timing.initial);
            self.agent.set_max_stun_rto(timing.max);
            self.agent_at = self.agent.poll_timeout();
        }
    }

    /// Form all pairs anew, those that `is` gave up among them.
    fn renew_agent(&mut self, now: Instant) {
        mark!("path/pairs-renewed");
        let (own, remote) = (&self.own, &self.remote);
        let entropy = &mut self.entropy;
        self.agent = new_agent(
            own,
            remote,
            self.controlling,
            self.tie_breaker,
            self.timing,
            entropy,
        );
        self.seed_thread();
        for candidate in self.local.iter().filter_map(|local| local.to_is()) {
            self.agent.add_local_candidate(candidate);
        }
        self.sources.clear();
        self.renewed_at = Some(now);
        self.agent_candidates = self.remote_lines.len();
        for line in &self.remote_lines {
            if planted!(DropEarlyCandidates) {
                break;
            }
            if let Ok(candidate) = Candidate::from_sdp_string(line) {
                self.agent.add_remote_candidate(candidate);
            }
        }
        self.run_agent(now);
    }

    /// Let the agent act and collect what it wants to send.
    fn run_agent(&mut self, now: Instant) {
        if self.agent.poll_timeout().is_none_or(|at| at <= now) {
            self.agent.handle_timeout(now);
        }
        while self.agent.poll_event().is_some() {
            // Nominations are not followed: see the module's first paragraph.
        }
        while let Some(transmit) = self.agent.poll_transmit() {
            let relayed = self
                .local
                .contains(&LocalCandidate::Relayed(transmit.source));
            let base = match relayed {
                true => Base::Relay(transmit.source),
                false => Base::Host(transmit.source),
            };
            let remote = transmit.destination;
            let pair = Pair { base, remote };
            let contents: Vec<u8> = transmit.contents.into();
            let asks = transaction_id(&contents).filter(|_| is_request(&contents));
            if let Some(id) = asks {
                self.note_asked(now, id, pair, true);
                self.watch(now, pair);
            }
            self.transmits.push_back(IceTransmit {
                pair,
                contents,
                asks,
            });
        }
        self.agent_at = self.agent.poll_timeout();
    }

    fn note_asked(&mut self, now: Instant, id: TransactionId, pair: Pair, by_agent: bool) {
        while self.asked.len() >= ASKED_MAX
            || self
                .asked
                .front()
                .is_some_and(|asked| now >= asked.at + ANSWER_MAX)
        {
            self.asked.pop_front();
        }
        let at = now;
        self.asked.push_back(Asked {
            id,
            pair,
            at,
            by_agent,
        });
    }

    /// Keep an eye on this pair from now on.
    fn watch(&mut self, now: Instant, pair: Pair) {
        if self.path(pair).is_some() {
            return;
        }
        if self.paths.len() >= PATHS_MAX {
            let least = self.paths.iter().position(|path| !path.is_usable());
            match least {
                Some(least) => drop(self.paths.remove(least)),
                None => return,
            }
        }
        let kind = self.remote_kind(pair.remote);
        self.paths.push(Path::new(pair, kind, now));
    }

    /// Judge every path, and check those that are due.
    fn watch_paths(&mut self, now: Instant) {
        let selected = self.selected;
        self.paths
            .retain(|path| Some(path.pair) == selected || !path.is_forgettable(now));
        let mut due = Vec::new();
        let mut doubtful = false;
        for path in &mut self.paths {
            let was_valid = path.state == PathState::Valid;
            let is_selected = selected == Some(path.pair);
            if path.tick(now, is_selected) {
                due.push(path.pair);
            }
            doubtful |= is_selected && was_valid && path.state == PathState::Suspect;
        }
        if doubtful {
            self.check_all(now);
        }
        for pair in due {
            self.probe(now, pair);
        }
    }

    /// An authenticated Binding request of our own, which the peer's agent answers like any.
    fn probe(&mut self, now: Instant, pair: Pair) {
        let id = self.own_transaction();
        let contents = self.checks.request(id);
        self.note_asked(now, id, pair, false);
        self.transmits.push_back(IceTransmit {
            pair,
            contents,
            asks: None,
        });
    }

    /// The link, so that the answer finds it, and 80 random bits.
    fn own_transaction(&mut self) -> TransactionId {
        let mut id: TransactionId = self.entropy.bytes();
        id[..2].copy_from_slice(&self.link.0.to_be_bytes());
        id
    }

    /// Whether we wait for the answer to this check of our own.
    pub fn has_asked(&self, id: TransactionId) -> bool {
        let mut asked = self.asked.iter();
        asked.any(|asked| asked.id == id && !asked.by_agent)
    }

    fn select(&mut self, now: Instant) {
        let chosen = path::choose(&self.paths, self.selected, now);
        // Without any that works, the last one stays: it may come back.
        let known = self.selected.filter(|pair| self.path(*pair).is_some());
        let next = chosen.or(known);
        if next != self.selected {
            self.selected = next;
            let chosen = self.paths.iter_mut().find(|path| Some(path.pair) == next);
            if let Some(path) = chosen {
                path.select(now);
            }
        }
        let direct = self
            .selected_path()
            .is_some_and(|path| path.is_usable() && path.relays() == 0);
        if direct {
            self.retry_at = None;
        } else if self.retry_at.is_none() {
            self.search(now);
        }
    }
}

fn new_agent(
    own: &IceCredentials,
    remote: &IceCredentials,
    controlling: bool,
    tie_breaker: u64,
    timing: Timing,
    entropy: &mut Entropy,
) -> IceAgent {
    fastrand::seed(entropy.u64());
    let credentials = |from: &IceCredentials| IceCreds {
        ufrag: from.ufrag.clone(),
        pass: from.password.to_string(),
    };
    let mut agent = IceAgent::with_hmac(credentials(own), &HmacSha1);
    agent.set_controlling(controlling);
    agent.set_control_tie_breaker(tie_breaker);
    agent.set_timing_advance(PACE);
    agent.set_initial_stun_rto(timing.initial);
    agent.set_max_stun_rto(timing.max);
    agent.set_max_stun_retransmits(RETRANSMITS);
    agent.set_max_candidate_pairs(PAIRS_MAX);
    agent.set_remote_credentials(credentials(remote));
    agent
}

/// HMAC-SHA-1, as STUN's MESSAGE-INTEGRITY demands (RFC 8489 section 14.5).
#[derive(Debug)]
struct HmacSha1;

impl Sha1HmacProvider for HmacSha1 {
    fn sha1_hmac(&self, key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
        let mut context = hmac::Context::with_key(&key);
        for payload in payloads {
            context.update(payload);
        }
        let mut out = [0; 20];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}
