//! Two ends of signaling and a broker between them that does as the test pleases.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

struct End {
    signaling: Signaling,
    now: Now,
}

fn identity(n: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed([n; 32]))
}

fn start() -> Now {
    Now {
        // An arbitrary origin; only differences matter.
        mono: test_origin(),
        unix: Duration::from_secs(1_700_000_000),
    }
}

#[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
fn test_origin() -> Instant {
    Instant::now()
}

impl End {
    fn new(own: u8, peer: u8, run: u8, now: Now) -> End {
        let seed = Seed::new([run; 32]);
        let mut signaling = Signaling::new(
            identity(own),
            LinkId(0),
            identity(peer).public(),
            Incarnation([run; 16]),
            &seed,
        );
        signaling.announce(now);
        End { signaling, now }
    }

    /// What it says next, with time moved on to when it says it.
    fn say(&mut self) -> Vec<u8> {
        let at = self.signaling.deadline().unwrap();
        let wait = at.saturating_duration_since(self.now.mono);
        self.now = self.now.plus(wait);
        self.signaling
            .poll(self.now, &["candidate".into()])
            .unwrap()
    }

    fn hear(&mut self, message: &[u8]) -> Result<News, Rejected> {
        self.signaling
            .handle(self.now, &Envelope::parse(message).unwrap())
    }
}

/// Exchange until both have accepted each other; returns all messages of `a`.
fn meet(a: &mut End, b: &mut End) -> Vec<Vec<u8>> {
    let mut said = Vec::new();
    for _ in 0..4 {
        let message = a.say();
        let _ = b.hear(&message);
        said.push(message);
        let _ = a.hear(&b.say());
    }
    assert_eq!(
        a.signaling.peer_incarnation(),
        Some(b.signaling.incarnation)
    );
    assert_eq!(
        b.signaling.peer_incarnation(),
        Some(a.signaling.incarnation)
    );
    said
}

#[test]
fn two_strangers_agree_in_three_messages() {
    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    assert_eq!(b.hear(&a.say()), Err(Rejected::Unproven));
    let news = a.hear(&b.say()).unwrap();
    assert!(news.restarted && news.credentials.is_some());
    let news = b.hear(&a.say()).unwrap();
    assert!(news.restarted && news.credentials.is_some());
    assert_eq!(news.credentials, a.signaling.own_credentials());
}

#[test]
fn unexpired_messages_replayed_to_a_restarted_node_do_not_revive_the_dead_peer() {
    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    let recorded = meet(&mut a, &mut b);
    let mut restarted = End::new(2, 1, 33, now);
    for message in &recorded {
        assert_eq!(restarted.hear(message), Err(Rejected::Unproven));
    }
    let mut live = End::new(1, 2, 44, now);
    meet(&mut live, &mut restarted);
    for message in &recorded {
        assert_eq!(restarted.hear(message), Err(Rejected::Unproven));
        assert_eq!(
            restarted.signaling.peer_incarnation(),
            Some(Incarnation([44; 16]))
        );
    }
    // The live run is still answered after the replays.
    let answer = restarted.say();
    assert!(live.hear(&answer).unwrap().credentials.is_some());
}

#[test]
fn messages_of_a_previous_run_do_not_displace_the_live_one() {
    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    let recorded = meet(&mut a, &mut b);
    let mut a2 = End::new(1, 2, 12, now);
    meet(&mut a2, &mut b);
    for message in &recorded {
        assert!(b.hear(message).is_err());
    }
    assert_eq!(b.signaling.peer_incarnation(), Some(Incarnation([12; 16])));
}

#[test]
fn a_repeated_message_counts_once() {
    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    meet(&mut a, &mut b);
    a.signaling.announce(a.now);
    let message = a.say();
    assert!(b.hear(&message).is_ok());
    assert_eq!(b.hear(&message), Err(Rejected::Stale));
}

#[test]
fn near_simultaneous_restarts_converge_without_a_race() {
    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    meet(&mut a, &mut b);
    let (mut a2, mut b2) = (End::new(1, 2, 12, now), End::new(2, 1, 23, now));
    // Each first hears the other's dead run as well.
    a.signaling.announce(a.now);
    b.signaling.announce(b.now);
    let _ = a2.hear(&b.say());
    let _ = b2.hear(&a.say());
    meet(&mut a2, &mut b2);
}

#[test]
fn a_clock_set_back_an_hour_does_not_keep_peers_apart() {
    let now = start();
    let hour_ago = Now {
        unix: now.unix - Duration::from_secs(3600),
        ..now
    };
    let (mut a, mut b) = (End::new(1, 2, 11, hour_ago), End::new(2, 1, 22, now));
    meet(&mut a, &mut b);
}

#[test]
fn the_higher_epoch_wins_on_both_sides() {
    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    meet(&mut a, &mut b);
    a.signaling.bump_epoch(a.now);
    b.signaling.bump_epoch(b.now);
    b.signaling.bump_epoch(b.now);
    let (from_a, from_b) = (a.say(), b.say());
    assert!(a.hear(&from_b).unwrap().credentials.is_some());
    assert_eq!(
        b.hear(&from_a).unwrap().credentials,
        None,
        "an older session"
    );
    assert_eq!((a.signaling.epoch(), b.signaling.epoch()), (2, 2));
}

#[test]
fn a_message_under_another_key_is_refused() {
    let now = start();
    let mut b = End::new(2, 1, 22, now);
    let mut mallory = End::new(3, 2, 33, now);
    assert_eq!(b.hear(&mallory.say()), Err(Rejected::WrongKey));
}

#[test]
fn replays_cannot_make_a_node_flood_its_broker() {
    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    let message = a.say();
    let mut sent = 0;
    for ms in 0..1000 {
        b.now = now.plus(Duration::from_millis(ms));
        let _ = b.hear(&message);
        while b.signaling.poll(b.now, &[]).is_some() {
            sent += 1;
        }
    }
    assert!(sent <= 35, "{sent} messages in a second");
}

#[test]
fn an_unanswered_node_repeats_itself_forever_and_calms_down() {
    let mut a = End::new(1, 2, 11, start());
    let mut gaps = Vec::new();
    for _ in 0..50 {
        let before = a.now.mono;
        a.say();
        gaps.push(a.now.mono - before);
    }
    assert!(gaps[1] < Duration::from_millis(400), "{:?}", gaps[1]);
    assert!(
        gaps[49] >= REPEAT_LAST && gaps[49] < REPEAT_LAST * 2,
        "{:?}",
        gaps[49]
    );
}

#[cfg(feature = "simulation")]
#[test]
fn a_forged_goodbye_is_refused_unless_that_mistake_is_planted() {
    use crate::simulation::{Mutant, forged_goodbye, plant};

    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    let said = meet(&mut a, &mut b);
    let forged = forged_goodbye(&said[0], &Seed::new([7; 32])).unwrap();
    assert_eq!(Envelope::parse(&forged).unwrap_err(), EnvelopeError::Forged);
    plant(Some(Mutant::TrustUnsigned));
    let news = b.hear(&forged);
    plant(None);
    assert!(news.unwrap().goodbye);
}

#[cfg(feature = "simulation")]
#[test]
fn a_recording_of_an_earlier_run_is_accepted_only_if_that_mistake_is_planted() {
    use crate::simulation::{Mutant, plant};

    let now = start();
    let (mut a, mut b) = (End::new(1, 2, 11, now), End::new(2, 1, 22, now));
    let said = meet(&mut a, &mut b);
    let mut again = End::new(1, 2, 33, a.now);
    meet(&mut again, &mut b);
    assert_eq!(b.hear(&said[3]).unwrap_err(), Rejected::Unproven);
    plant(Some(Mutant::AcceptStaleIncarnation));
    let news = b.hear(&said[3]);
    plant(None);
    assert!(news.unwrap().restarted);
}
