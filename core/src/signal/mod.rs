//! Signaling with one peer: who it is this time, and how to reach it.
//!
//! Invariants:
//!
//! * An incarnation of the peer is accepted only when it echoes the challenge that we made
//!   after we accepted the previous one (at first: after our start). So a recorded message
//!   can never bring a dead run back, to a restarted node or to a running one.
//! * Within an incarnation each sequence number counts once, and only the latest snapshot
//!   has a say.
//! * The session between two runs is (our incarnation, the peer's, epoch). Both ends derive
//!   their own ICE credentials from that, and the higher epoch wins: there is nothing to
//!   race for, so nothing that near-simultaneous restarts could abort for each other.

pub mod envelope;
pub mod snapshot;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::entropy::{Entropy, Seed};
use crate::identity::{Identity, PublicKey};
use crate::time::Now;
use crate::types::{Incarnation, LinkId};

use envelope::{Envelope, EnvelopeError};
use snapshot::{Challenge, IceCredentials, OFFERS_MAX, Offer, Snapshot, SnapshotError};
use window::SequenceWindow;

/// First repeat of a message that nobody answered. A broker's round trip is below it.
const REPEAT_FIRST: Duration = Duration::from_millis(250);
/// Repeats are this far apart in the end: peers may start minutes apart.
const REPEAT_LAST: Duration = Duration::from_secs(5);
/// Messages are at least this far apart, whatever a broker replays at us.
const GAP_MIN: Duration = Duration::from_millis(30);

/// Why a message had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The envelope is bad.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The content is bad.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It was made with another key than the peer's.
    #[error("not from the peer's key")]
    WrongKey,
    /// Its incarnation has yet to prove that it is live; it was challenged.
    #[error("its incarnation is not proven to be live")]
    Unproven,
    /// It was seen before, or a newer one was.
    #[error("replayed or overtaken")]
    Stale,
}

/// What an accepted message changes.
#[derive(Debug, PartialEq, Eq)]
pub struct News {
    /// It comes from an incarnation that was not known until now.
    pub restarted: bool,
    /// How to address checks of the current session to the peer, if it has offered that.
    pub credentials: Option<IceCredentials>,
    /// The peer's candidates.
    pub candidates: Vec<String>,
    /// The peer is stopping.
    pub goodbye: bool,
}

/// A run of the peer that we have heard of and may not have accepted.
#[derive(Clone, Copy, Debug)]
struct Heard {
    incarnation: Incarnation,
    challenge: Challenge,
    sequence: u64,
}

/// The run of the peer that is live.
#[derive(Debug)]
struct Accepted {
    incarnation: Incarnation,
    window: SequenceWindow,
    epoch: u32,
    /// Whether it has accepted our own run.
    knows_us: bool,
}

/// Signaling with one peer.
#[derive(Debug)]
pub struct Signaling {
    us: Arc<Identity>,
    link: LinkId,
    peer: PublicKey,
    incarnation: Incarnation,
    credentials: Seed,
    entropy: Entropy,
    challenge: Challenge,
    heard: VecDeque<Heard>,
    accepted: Option<Accepted>,
    sequence: u64,
    goodbye: bool,
    sent_at: Option<Instant>,
    send_at: Option<Instant>,
    repeat: Duration,
    quiet: bool,
}

impl Signaling {
    /// Signaling that has nothing to say until [`Signaling::announce`].
    pub fn new(
        us: Arc<Identity>,
        link: LinkId,
        peer: PublicKey,
        incarnation: Incarnation,
        seed: &Seed,
    ) -> Signaling {
        let mut entropy = seed.fork("signal").rng();
        Signaling {
            us,
            link,
            peer,
            incarnation,
            credentials: seed.fork("credentials"),
            challenge: Challenge(entropy.bytes()),
            entropy,
            heard: VecDeque::new(),
            accepted: None,
            sequence: 0,
            goodbye: false,
            sent_at: None,
            send_at: None,
            repeat: REPEAT_FIRST,
            quiet: false,
        }
    }

    /// The peer's live incarnation, once one is accepted.
    pub fn peer_incarnation(&self) -> Option<Incarnation> {
        self.accepted.as_ref().map(|accepted| accepted.incarnation)
    }

    /// The epoch of the current session.
    pub fn epoch(&self) -> u32 {
        self.accepted.as_ref().map_or(0, |accepted| accepted.epoch)
    }

    /// Our ICE credentials in the current session.
    pub fn own_credentials(&self) -> Option<IceCredentials> {
        let accepted = self.accepted.as_ref()?;
        Some(self.credentials_for(accepted.incarnation, accepted.epoch))
    }

    /// What can fill, and how full it is.
    pub fn queues(&self, push: &mut impl FnMut(&str, usize, usize)) {
        push("runs_heard", self.heard.len(), OFFERS_MAX);
    }

    /// Start a new session with the same run of the peer.
    pub fn bump_epoch(&mut self, now: Now) {
        if let Some(accepted) = &mut self.accepted {
            accepted.epoch = accepted.epoch.saturating_add(1);
        }
        self.announce(now);
    }

    /// There is something new to say: say it soon.
    pub fn announce(&mut self, now: Now) {
        let earliest = self.sent_at.map_or(now.mono, |at| at + GAP_MIN);
        let soon = earliest.max(now.mono);
        self.send_at = Some(self.send_at.map_or(soon, |at| at.min(soon)));
        self.repeat = REPEAT_FIRST;
    }

    /// Whether repeats are pointless, because the link is up or the peer is gone.
    pub fn set_quiet(&mut self, now: Now, quiet: bool) {
        if self.quiet && !quiet {
            self.announce(now);
        }
        self.quiet = quiet;
    }

    /// Say goodbye with the next message, and no more after it.
    pub fn goodbye(&mut self, now: Now) {
        self.goodbye = true;
        self.quiet = true;
        self.announce(now);
    }

    /// Whether the goodbye has been handed out.
    pub fn has_said_goodbye(&self) -> bool {
        self.goodbye && self.send_at.is_none()
    }

    /// A message that claims to come from the peer.
    pub fn handle(&mut self, now: Now, envelope: &Envelope<'_>) -> Result<News, Rejected> {
        if envelope.sender != self.peer {
            return Err(Rejected::WrongKey);
        }
        let content = envelope.open(&self.us, now.unix)?;
        let snapshot = Snapshot::decode(&content)?;
        self.remember(envelope, snapshot.challenge);
        let offer = snapshot
            .offers
            .iter()
            .find(|offer| offer.to == self.incarnation);

        let restarted = self.peer_incarnation() != Some(envelope.incarnation);
        if restarted {
            let proven = offer.is_some_and(|offer| offer.echo == self.challenge);
            if !proven && !planted!(AcceptStaleIncarnation) {
                mark!("signal/unproven");
                self.announce(now);
                return Err(Rejected::Unproven);
            }
            self.accept(envelope.incarnation);
        }
        let accepted = self.accepted.as_mut().expect("accepted above or before");
        if !accepted.window.accept(envelope.sequence)
            || !accepted.window.is_latest(envelope.sequence)
        {
            mark!("signal/stale");
            return Err(Rejected::Stale);
        }

        accepted.knows_us = offer.is_some_and(|offer| offer.accepted);
        let mut credentials = None;
        let mut behind = !accepted.knows_us;
        if let Some(offer) = offer {
            behind |= offer.epoch < accepted.epoch;
            if planted!(EpochRace) && offer.epoch != accepted.epoch {
                accepted.epoch = accepted.epoch.max(offer.epoch).saturating_add(1);
            }
            if offer.epoch >= accepted.epoch {
                accepted.epoch = offer.epoch;
                credentials = Some(offer.credentials.clone());
            }
        }
        mark!("signal/accepted");
        if restarted || (behind && !snapshot.goodbye) {
            self.announce(now);
        }
        Ok(News {
            restarted,
            credentials,
            candidates: snapshot.candidates,
            goodbye: snapshot.goodbye,
        })
    }

    /// When [`Signaling::poll`] has something.
    pub fn deadline(&self) -> Option<Instant> {
        self.send_at
    }

    /// The next envelope for the peer, when it is due.
    pub fn poll(&mut self, now: Now, candidates: &[String]) -> Option<Vec<u8>> {
        if self.send_at? > now.mono {
            return None;
        }
        self.sent_at = Some(now.mono);
        self.send_at = self.next_repeat(now);
        let content = self.snapshot(candidates).encode();
        let sequence = self.sequence;
        self.sequence += 1;
        Some(envelope::seal(
            &self.us,
            self.peer,
            self.incarnation,
            sequence,
            now.unix,
            &content,
            &mut self.entropy,
        ))
    }

    /// Jitter of a quarter keeps nodes that started together from asking together.
    fn next_repeat(&mut self, now: Now) -> Option<Instant> {
        let knows_us = self.accepted.as_ref().is_some_and(|peer| peer.knows_us);
        if self.goodbye || (self.quiet && knows_us) {
            return None;
        }
        let quarter_ms = self.repeat.as_millis() as u64 / 4;
        let jitter = Duration::from_millis(self.entropy.below(quarter_ms.max(1)));
        let at = now.mono + self.repeat + jitter;
        if self.repeat > REPEAT_FIRST {
            mark!("signal/repeated");
        }
        self.repeat = (self.repeat * 2).min(REPEAT_LAST);
        Some(at)
    }

    fn snapshot(&self, candidates: &[String]) -> Snapshot {
        let offers = self.heard.iter().map(|heard| {
            let accepted = self
                .accepted
                .as_ref()
                .filter(|accepted| accepted.incarnation == heard.incarnation);
            let epoch = accepted.map_or(0, |accepted| accepted.epoch);
            Offer {
                to: heard.incarnation,
                echo: heard.challenge,
                accepted: accepted.is_some(),
                epoch,
                credentials: self.credentials_for(heard.incarnation, epoch),
            }
        });
        Snapshot {
            challenge: self.challenge,
            goodbye: self.goodbye,
            offers: offers.collect(),
            candidates: candidates.to_vec(),
        }
    }

    /// Credentials bound to one session. The user fragment starts with the link, so that a
    /// check on the shared socket names its link; 96 and 192 bits of it are unguessable
    /// (RFC 8445 section 5.3 asks for 24 and 128).
    fn credentials_for(&self, peer: Incarnation, epoch: u32) -> IceCredentials {
        let mut context = peer.0.to_vec();
        context.extend_from_slice(&epoch.to_be_bytes());
        let bytes = Zeroizing::new(self.credentials.derive(&context));
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        IceCredentials {
            ufrag: format!("{:04x}{}", self.link.0, hex(&bytes[..8])),
            password: Zeroizing::new(hex(&bytes[8..])),
        }
    }

    /// Keep the latest challenge of each run, the latest run first. The live run is never
    /// pushed out by replays of dead ones.
    fn remember(&mut self, envelope: &Envelope<'_>, challenge: Challenge) {
        let live = self.peer_incarnation();
        let (incarnation, sequence) = (envelope.incarnation, envelope.sequence);
        let same = |heard: &&Heard| heard.incarnation == incarnation;
        if self
            .heard
            .iter()
            .find(same)
            .is_some_and(|known| known.sequence >= sequence)
        {
            // A recording: its challenge is spent.
            return;
        }
        self.heard.retain(|heard| heard.incarnation != incarnation);
        self.heard.push_front(Heard {
            incarnation,
            challenge,
            sequence,
        });
        while self.heard.len() > OFFERS_MAX {
            let oldest = self
                .heard
                .iter()
                .rposition(|heard| Some(heard.incarnation) != live)
                .expect("more runs than the live one");
            self.heard.remove(oldest);
        }
    }

    fn accept(&mut self, incarnation: Incarnation) {
        self.accepted = Some(Accepted {
            incarnation,
            window: SequenceWindow::default(),
            epoch: 0,
            knows_us: false,
        });
        // The echo is spent: a recording of it proves nothing any more.
        self.challenge = Challenge(self.entropy.bytes());
    }
}

/// The link that a user fragment of ours belongs to.
pub fn link_of_ufrag(ufrag: &str) -> Option<LinkId> {
    let digits = ufrag.get(..4)?;
    u16::from_str_radix(digits, 16).ok().map(LinkId)
}

#[cfg(test)]
mod tests;
