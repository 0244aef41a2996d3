//! Another configuration for a node that runs.
//!
//! What did not change is not touched: the links to peers that stay keep their sessions, paths and
//! streams, and servers that stay keep their allocations.

use std::sync::Arc;
use std::time::Duration;

use super::Mesh;
use crate::config::{Config, ConfigError, PeerConfig};
use crate::ice::LocalCandidate;
use crate::link::{Link, Shared};
use crate::recorder::Record;
use crate::time::Now;
use crate::types::{Incarnation, LinkId, PeerId, Vip};

/// A peer that was taken out is told for this long: a signaling message is due within a second,
/// and the end of its connection is said at once, and again when packets of the peer come.
const RETIRE_TIME: Duration = Duration::from_secs(3);
/// Before a link's number is used again. Whatever arrives for the former link is refused by the
/// new one anyway, since its credentials and connection ids are others and its sessions are
/// numbered on; so this is only to count strangers where they belong.
const VACANT_TIME: Duration = Duration::from_secs(60);
/// Most numbers in use, with those that rest: sixteen times all peers.
const LINKS_MAX: usize = 4096;

/// What [`Mesh::reload`] did. The driver unbinds what belongs to `removed`, then binds for
/// `added`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Links that are gone: their streams have ended, and nothing more is said of them.
    pub removed: Vec<(LinkId, PeerId, Vip)>,
    /// Links that are new. A peer with another key or virtual address is in both.
    pub added: Vec<(LinkId, PeerId, Vip)>,
    /// How many stay as they are.
    pub kept: usize,
    /// Whether the allowlist is another one. Streams that are open go on; datagrams and new
    /// streams meet the new one.
    pub allow_changed: bool,
}

/// Why a configuration was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// It contradicts itself.
    #[error("{}", shown(.0))]
    Config(Vec<ConfigError>),
    /// That cannot change while the node runs.
    #[error("{0} is another one: restart the process to change it")]
    Fixed(&'static str),
    /// Peers come and go faster than the numbers of their links may be used again.
    #[error("too many peers have changed within a minute: try again later")]
    TooManyLinks,
    /// The node is about to end.
    #[error("the node is stopping")]
    Stopping,
}

fn shown(problems: &[ConfigError]) -> String {
    let problems: Vec<String> = problems.iter().map(ConfigError::to_string).collect();
    problems.join("; ")
}

impl Mesh {
    /// Go on with another configuration. Its STUN and TURN servers replace all that are known,
    /// also those that came with [`Input::Servers`](super::Input::Servers).
    ///
    /// # Errors
    ///
    /// A [`ReloadError`]; then everything is as it was.
    pub fn reload(&mut self, now: Now, config: Config) -> Result<Reloaded, ReloadError> {
        let what = format!("reload with {} peers", config.peers.len());
        self.recorder.record(now.mono, Record::Input { what });
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(ReloadError::Config(problems));
        }
        if self.stopping {
            return Err(ReloadError::Stopping);
        }
        self.check_fixed(&config)?;
        let (gone, new) = self.compare(config.peers);
        let free = LINKS_MAX.saturating_sub(self.links.len());
        let rested = self.vacant.iter().filter(|(at, _)| now.mono >= *at).count();
        if new.len() > free + rested {
            return Err(ReloadError::TooManyLinks);
        }

        self.reloads += 1;
        let mut reloaded = Reloaded {
            kept: self.live().count() - gone.len(),
            allow_changed: self.shared.allow[..] != config.allow[..],
            ..Reloaded::default()
        };
        if reloaded.allow_changed {
            self.set_allow(config.allow.into());
        }
        let seed = self.seed.fork(&format!("reload/{}", self.reloads));
        let changed = self
            .gather
            .set_servers(now, &config.stun, config.turn, &seed);
        self.candidates_changed(now, changed);
        for link in gone {
            reloaded.removed.push(self.named(link));
            self.retire(now, link);
        }
        for peer in new {
            let link = self.add(now, peer);
            reloaded.added.push(self.named(link));
        }
        self.drain_gather();
        Ok(reloaded)
    }

    /// What is bound, signed or promised for as long as the process runs.
    fn check_fixed(&self, config: &Config) -> Result<(), ReloadError> {
        let shared = &self.shared;
        let fixed = [
            ("the node's name", config.id == self.id),
            ("its virtual address", config.vip == shared.vip),
            (
                "its key",
                config.identity.public() == shared.identity.public(),
            ),
            ("the UDP port", config.udp_port == self.gather.udp_port()),
            ("the path policy", config.paths == self.gather.policy()),
            ("congestion control", config.congestion == shared.congestion),
            ("a limit", config.limits == shared.limits),
        ];
        match fixed.into_iter().find(|(_, same)| !same) {
            Some((what, _)) => Err(ReloadError::Fixed(what)),
            None => Ok(()),
        }
    }

    /// Links whose peer is not in the list like that, and peers without a link.
    fn compare(&self, peers: Vec<PeerConfig>) -> (Vec<LinkId>, Vec<PeerConfig>) {
        let links = self.links.iter().enumerate();
        let gone = links.filter(|(_, link)| !link.is_retired() && !peers.contains(link.peer()));
        let gone = gone.map(|(n, _)| LinkId(n as u16)).collect();
        let is_new = |peer: &PeerConfig| self.live().all(|link| link.peer() != peer);
        let mut new: Vec<PeerConfig> = peers.into_iter().filter(is_new).collect();
        new.sort_by(|a, b| a.id.cmp(&b.id));
        (gone, new)
    }

    fn named(&self, link: LinkId) -> (LinkId, PeerId, Vip) {
        let peer = self.links[link.index()].peer();
        (link, peer.id.clone(), peer.vip)
    }

    fn set_allow(&mut self, allow: Arc<[crate::config::AllowRule]>) {
        let before = &self.shared;
        self.shared = Arc::new(Shared {
            id: before.id.clone(),
            identity: before.identity.clone(),
            vip: before.vip,
            incarnation: before.incarnation,
            allow,
            congestion: before.congestion,
            limits: before.limits,
        });
        for link in &mut self.links {
            link.set_shared(self.shared.clone());
        }
    }

    fn retire(&mut self, now: Now, link: LinkId) {
        let key = self.links[link.index()].peer().key;
        self.keys.remove(key.as_bytes());
        self.links[link.index()].retire(now);
        self.touch(now, link);
        self.retiring.push_back((now.mono + RETIRE_TIME, link));
    }

    /// Links that have had their time are no more than a number.
    pub(super) fn bury(&mut self, now: Now) {
        while let Some((_, link)) = self.retiring.pop_front_if(|(at, _)| *at <= now.mono) {
            self.links[link.index()].bury();
            self.refresh_deadline(link);
            self.vacant.push_back((now.mono + VACANT_TIME, link));
        }
    }

    /// A former link to this peer has nothing more to say: the new one makes it plain that it is
    /// over, and brokers keep only the latest message.
    fn silence(&mut self, now: Now, peer: &PeerConfig) {
        for (at, link) in &mut self.retiring {
            if self.links[link.index()].peer().key == peer.key {
                *at = now.mono;
            }
        }
        self.retiring.make_contiguous().sort_unstable();
        self.bury(now);
    }

    fn add(&mut self, now: Now, peer: PeerConfig) -> LinkId {
        self.silence(now, &peer);
        let vacant = self.vacant.pop_front_if(|(at, _)| *at <= now.mono);
        let id = vacant.map_or(self.links.len(), |(_, id)| id.index());
        let former = self.links.get(id).map_or(0, Link::sessions);
        let id = LinkId(u16::try_from(id).expect("links are limited"));
        // The peer may remember a link of this run, and would take messages that count from the
        // beginning for repetitions: each link that is made later is a run of its own.
        let seed = self
            .seed
            .fork(&format!("link/{}/{}", peer.id, self.reloads));
        let incarnation = Incarnation(seed.fork("incarnation").rng().bytes());
        self.keys.insert(*peer.key.as_bytes(), id);
        let shared = self.shared.clone();
        let mut link = Link::again(id, peer, shared, (incarnation, former), seed, now);
        let candidates = self.gather.candidates();
        let lines = candidates
            .iter()
            .copied()
            .filter_map(LocalCandidate::to_line);
        link.set_candidates(now, candidates, &lines.collect::<Vec<String>>());
        if id.index() == self.links.len() {
            self.links.push(link);
            self.deadline_of.push(None);
            self.is_ready.push(false);
        } else {
            self.links[id.index()] = link;
        }
        self.touch(now, id);
        id
    }
}
