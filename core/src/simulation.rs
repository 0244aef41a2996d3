//! For simulations only: mistakes to plant, so that a test suite proves that it would notice
//! them, and marks that show which decisions a run has reached.
//!
//! Both belong to the thread, so that runs beside each other do not meet. The feature
//! `simulation` is off in everything that ships.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::entropy::Seed;
use crate::signal::envelope::{self, Envelope};
use crate::signal::snapshot::{Challenge, Snapshot};

/// A planted mistake: one line at the decision, as somebody could have written it.
///
/// Each says what breaks, and which observation should give it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// A run of the peer is accepted without an echo of our challenge: recordings bring dead
    /// runs back. Seen by: a link that restarts or goes down when a broker replays, and by
    /// `PeerRestarted` with an incarnation that no node has.
    AcceptStaleIncarnation,
    /// Envelopes count whoever signed them: anyone who knows the peer's public key speaks for
    /// it. Seen by: a link that leaves `Up` when forged goodbyes are posted, see
    /// [`forged_goodbye`].
    TrustUnsigned,
    /// Peers reach every port. Seen by: an answer from a service that is not on the allowlist.
    SkipAllowlist,
    /// A path whose checks go unanswered is never taken for dead. Seen by: traffic that does
    /// not come back when the path in use goes dark and another works.
    ForgetDeadPair,
    /// Candidates that arrive with the credentials are noted and never checked. Seen by: links
    /// between NATs that do not come up in time.
    DropEarlyCandidates,
    /// Now and then the halves of a chunk change places. Seen by: the content of a stream.
    ReorderStreamBytes,
    /// The broker's limits are not enforced. Seen by: a table of `Mailboxes::queues` above its
    /// bound when strangers post under many keys.
    UnboundedMailbox,
    /// A session without a path is kept for good. Seen by: a link that is `Down` for longer
    /// than the grace period, and by streams that neither go on nor end.
    NeverExpireSession,
    /// Now and then a datagram is delivered twice. Seen by: the count per datagram.
    DuplicateDatagram,
    /// Now and then a datagram has one bit changed. Seen by: its content.
    AlteredDatagram,
    /// A new run of the peer is not looked at while there is a session with the old one. Seen
    /// by: the time that a link needs after a crash and a start.
    IgnoreRestart,
    /// Traffic never leaves the first path it took. Seen by: links that stay down or relayed
    /// when another path works.
    NoPathSwitch,
    /// Now and then a stream is reported as ended before its last bytes. Seen by: the length
    /// of what was received.
    EarlyFinish,
    /// A change of our addresses is not looked at. Seen by: links that do not come back after
    /// a node has moved.
    IgnoreAddressChange,
    /// A path counts as alive when something is received on it, whether or not our own checks
    /// are answered. Seen by: traffic that does not come back when one direction goes dark.
    OneWayBlind,
    /// Two ends in different epochs both go on to another one, rather than to the higher. Seen
    /// by: links that do not come up again after a long cut.
    EpochRace,
    /// Another instance's slot counts as free after half of its lease, and clocks are trusted.
    /// Seen by: two live owners of one slot, when an owner is cut off from the KV.
    StealEarly,
    /// An owner that cannot renew goes on. Seen by: two live owners of one slot, when an owner is
    /// cut off from the KV for longer than its lease.
    OutliveLease,
}

impl Mutant {
    /// Every mistake.
    pub const ALL: &[Mutant] = &[
        Mutant::AcceptStaleIncarnation,
        Mutant::TrustUnsigned,
        Mutant::SkipAllowlist,
        Mutant::ForgetDeadPair,
        Mutant::DropEarlyCandidates,
        Mutant::ReorderStreamBytes,
        Mutant::UnboundedMailbox,
        Mutant::NeverExpireSession,
        Mutant::DuplicateDatagram,
        Mutant::AlteredDatagram,
        Mutant::IgnoreRestart,
        Mutant::NoPathSwitch,
        Mutant::EarlyFinish,
        Mutant::IgnoreAddressChange,
        Mutant::OneWayBlind,
        Mutant::EpochRace,
        Mutant::StealEarly,
        Mutant::OutliveLease,
    ];

    /// Its name, in kebab case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mutant::AcceptStaleIncarnation => "accept-stale-incarnation",
            Mutant::TrustUnsigned => "trust-unsigned",
            Mutant::SkipAllowlist => "skip-allowlist",
            Mutant::ForgetDeadPair => "forget-dead-pair",
            Mutant::DropEarlyCandidates => "drop-early-candidates",
            Mutant::ReorderStreamBytes => "reorder-stream-bytes",
            Mutant::UnboundedMailbox => "unbounded-mailbox",
            Mutant::NeverExpireSession => "never-expire-session",
            Mutant::DuplicateDatagram => "duplicate-datagram",
            Mutant::AlteredDatagram => "altered-datagram",
            Mutant::IgnoreRestart => "ignore-restart",
            Mutant::NoPathSwitch => "no-path-switch",
            Mutant::EarlyFinish => "early-finish",
            Mutant::IgnoreAddressChange => "ignore-address-change",
            Mutant::OneWayBlind => "one-way-blind",
            Mutant::EpochRace => "epoch-race",
            Mutant::StealEarly => "steal-early",
            Mutant::OutliveLease => "outlive-lease",
        }
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No mistake has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no mutant is called {0:?}")]
pub struct UnknownMutant(pub String);

impl FromStr for Mutant {
    type Err = UnknownMutant;

    fn from_str(name: &str) -> Result<Mutant, UnknownMutant> {
        let found = Mutant::ALL.iter().find(|mutant| mutant.as_str() == name);
        found.copied().ok_or_else(|| UnknownMutant(name.into()))
    }
}

/// Every place that [`take_marks`] counts: decisions that faults in a small mesh can reach.
pub const MARKS: &[&str] = &[
    // The states of a link, and what ends a session.
    "link/up",
    "link/down",
    "link/peer-goodbye",
    "link/grace-ran-out",
    "link/peer-restarted",
    "link/epoch-restarted",
    "link/peer-epoch-higher",
    "link/streams-cut",
    // What brokers hand over.
    "signal/accepted",
    "signal/unproven",
    "signal/stale",
    "signal/forged",
    "signal/stranger",
    "signal/malformed",
    "signal/repeated",
    "signal/goodbye-said",
    // Which path traffic takes.
    "path/first",
    "path/switched-dead",
    "path/switched-better",
    "path/suspect",
    "path/dead",
    "path/revived",
    "path/doubted-by-peer",
    "path/held-back",
    "path/relayed",
    "path/peer-reflexive",
    "path/pairs-renewed",
    "path/candidate-gone",
    // Our own addresses, and the relays.
    "gather/address-changed",
    "gather/mapping-changed",
    "gather/doubt-again",
    "gather/tcp-tried",
    "turn/allocated",
    "turn/allocated-again",
    "turn/lost",
    "turn/channel-bound",
    "turn/channel-mismatch",
    "turn/permission-asked",
    // Streams.
    "stream/not-allowed",
    "stream/refused",
    "stream/reset-by-peer",
    "stream/link-not-up",
    "stream/blocked",
    "stream/writable-again",
    "stream/finished",
    // Datagrams of applications.
    "datagram/as-stream",
    "datagram/dropped",
    "datagram/link-not-up",
    "datagram/not-allowed",
    // Strangers, and what is left of earlier sessions.
    "stranger/stun",
    "stranger/packet",
    // The claim of a slot.
    "slots/claimed",
    "slots/rejoined",
    "slots/taken-over",
    "slots/renewed",
    "slots/race-lost",
    "slots/indeterminate",
    "slots/lease-over",
];

/// What somebody could post who reads along at a broker and has no key of the cluster's: a
/// goodbye in the name of the sender of `recorded`, an envelope of its present run, later than
/// all it has sent, sealed to the same receiver as anyone can, and signed by nobody. `None`:
/// `recorded` is no envelope.
pub fn forged_goodbye(recorded: &[u8], seed: &Seed) -> Option<Vec<u8>> {
    let recorded = Envelope::parse(recorded).ok()?;
    let mut entropy = seed.rng();
    let goodbye = Snapshot {
        challenge: Challenge(entropy.bytes()),
        goodbye: true,
        offers: Vec::new(),
        candidates: Vec::new(),
    };
    let mut envelope = envelope::seal_from(
        recorded.sender,
        recorded.receiver,
        recorded.incarnation,
        recorded.sequence.saturating_add(FORGED_AHEAD),
        recorded.expiry,
        &goodbye.encode(),
        &mut entropy,
    );
    envelope.extend_from_slice(&entropy.bytes::<64>());
    Some(envelope)
}

/// How far ahead of a recording's sequence number a forgery is: more than is sent meanwhile.
const FORGED_AHEAD: u64 = 1000;

/// The place of a mark in [`MARKS`].
///
/// # Panics
///
/// When it is not there: while compiling, because [`MARKS`] is complete.
pub const fn index_of(name: &str) -> usize {
    let mut index = 0;
    while index < MARKS.len() {
        if is_same(MARKS[index].as_bytes(), name.as_bytes()) {
            return index;
        }
        index += 1;
    }
    panic!("not in simulation::MARKS")
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

thread_local! {
    static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) };
    static TURNS: Cell<u64> = const { Cell::new(0) };
    static COUNTS: RefCell<[u64; MARKS.len()]> = const { RefCell::new([0; MARKS.len()]) };
}

/// Plant a mistake in everything that runs on this thread, instead of the one before.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
    TURNS.set(0);
}

/// Whether this mistake is planted on this thread.
pub fn is_planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}

/// Whether this mistake is planted on this thread and it is its turn: every `every`-th time.
pub fn is_due(mutant: Mutant, every: u64) -> bool {
    if !is_planted(mutant) {
        return false;
    }
    TURNS.set(TURNS.get() + 1);
    TURNS.get().is_multiple_of(every)
}

/// Count a mark, by its place in [`MARKS`].
pub fn hit(index: usize) {
    COUNTS.with_borrow_mut(|counts| counts[index] += 1);
}

/// How often each mark was reached on this thread since the last call; without those that
/// were not.
pub fn take_marks() -> BTreeMap<&'static str, u64> {
    let counts = COUNTS.replace([0; MARKS.len()]);
    let named = MARKS.iter().copied().zip(counts);
    named.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_is_found_by_its_name_and_no_other_name_is() {
        for mutant in Mutant::ALL {
            assert_eq!(mutant.as_str().parse(), Ok(*mutant));
        }
        let unknown = "good-code".parse::<Mutant>();
        assert_eq!(unknown, Err(UnknownMutant("good-code".into())));
    }

    #[test]
    fn a_mutant_is_planted_until_another_is_and_takes_its_turns() {
        plant(Some(Mutant::EarlyFinish));
        assert!(planted!(EarlyFinish));
        assert!(!planted!(EpochRace));
        let turns: Vec<bool> = (0..6).map(|_| planted!(EarlyFinish, 3)).collect();
        assert_eq!(turns, [false, false, true, false, false, true]);
        plant(None);
        assert!(!planted!(EarlyFinish));
    }

    #[test]
    fn marks_are_counted_until_they_are_taken() {
        take_marks();
        mark!("link/up");
        mark!("link/up");
        mark!("link/down");
        let expected = BTreeMap::from([("link/up", 2), ("link/down", 1)]);
        assert_eq!(take_marks(), expected);
        assert!(take_marks().is_empty());
    }

    #[test]
    fn no_mark_is_listed_twice() {
        let unique: std::collections::BTreeSet<_> = MARKS.iter().collect();
        assert_eq!(unique.len(), MARKS.len());
    }
}
