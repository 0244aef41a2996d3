//! A broker in virtual time.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use crate::identity::Identity;
use crate::signal::envelope::seal;
use crate::types::Incarnation;

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[allow(clippy::disallowed_methods, reason = "the one origin of virtual time")]
fn start() -> Now {
    Now {
        mono: Instant::now(),
        unix: Duration::from_secs(1_700_000_000),
    }
}

fn key(n: u8) -> Identity {
    Identity::from_seed([n; 32])
}

fn envelope(from: u8, to: u8, content: &[u8]) -> Vec<u8> {
    let mut entropy = Seed::new([content[0]; 32]).rng();
    let unix = start().unix;
    seal(
        &key(from),
        key(to).public(),
        Incarnation([from; 16]),
        0,
        unix,
        content,
        &mut entropy,
    )
}

struct Broker {
    mailboxes: Mailboxes,
    now: Now,
    ticket: u64,
}

impl Broker {
    fn new() -> Broker {
        let now = start();
        Broker {
            mailboxes: Mailboxes::new(Seed::new([0; 32]), now),
            now,
            ticket: 0,
        }
    }

    fn post(&mut self, envelope: Vec<u8>) -> Output {
        self.ticket += 1;
        let (ticket, source) = (self.ticket, SOURCE);
        let input = Input::Post {
            ticket,
            source,
            envelope,
        };
        self.mailboxes.handle(self.now, input);
        self.mailboxes.poll_output().unwrap()
    }

    fn poll(&mut self, owner: u8, after: Option<Cursor>) -> Option<Output> {
        self.ticket += 1;
        self.mailboxes.handle(
            self.now,
            Input::Poll {
                ticket: self.ticket,
                source: SOURCE,
                mailbox: key(owner).public(),
                after,
                wait: Duration::from_secs(25),
            },
        );
        self.mailboxes.poll_output()
    }

    fn sleep(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.mailboxes.handle_deadline(self.now);
    }
}

fn read(output: Option<Output>) -> (Cursor, Vec<Arc<[u8]>>) {
    match output {
        Some(Output::Messages {
            cursor, envelopes, ..
        }) => (cursor, envelopes),
        other => panic!("expected messages, found {other:?}"),
    }
}

#[test]
fn a_poll_waits_until_an_envelope_arrives() {
    let mut broker = Broker::new();
    assert!(broker.poll(2, None).is_none());
    broker.ticket += 1;
    let (ticket, source) = (broker.ticket, SOURCE);
    let envelope = envelope(1, 2, b"x");
    broker.mailboxes.handle(
        broker.now,
        Input::Post {
            ticket,
            source,
            envelope,
        },
    );
    assert_eq!(read(broker.mailboxes.poll_output()).1.len(), 1);
}

#[test]
fn the_latest_envelope_of_a_sender_replaces_its_earlier_ones() {
    // "First auth wins": stale credentials were handed out, fresh ones dropped.
    let mut broker = Broker::new();
    broker.post(envelope(1, 2, b"old"));
    broker.post(envelope(1, 2, b"new"));
    broker.post(envelope(3, 2, b"other"));
    let (cursor, envelopes) = read(broker.poll(2, None));
    let expected = [envelope(1, 2, b"new"), envelope(3, 2, b"other")];
    assert_eq!(
        envelopes.iter().map(|e| e.to_vec()).collect::<Vec<_>>(),
        expected
    );
    assert!(broker.poll(2, Some(cursor)).is_none(), "nothing is newer");
}

#[test]
fn a_cursor_of_another_run_starts_from_the_beginning() {
    let mut broker = Broker::new();
    broker.post(envelope(1, 2, b"x"));
    let cursor = Cursor { run: 1, seq: 100 };
    assert_eq!(read(broker.poll(2, Some(cursor))).1.len(), 1);
}

#[test]
fn a_poll_ends_empty_when_its_wait_is_over() {
    let mut broker = Broker::new();
    assert!(broker.poll(2, None).is_none());
    broker.sleep(Duration::from_secs(25));
    assert!(read(broker.mailboxes.poll_output()).1.is_empty());
}

#[test]
fn an_unsigned_or_altered_envelope_is_refused() {
    let mut broker = Broker::new();
    let mut forged = envelope(1, 2, b"x");
    forged[140] ^= 1;
    for bad in [forged, vec![], vec![0; 5000]] {
        let answer = broker.post(bad);
        assert!(matches!(
            answer,
            Output::Refused {
                reason: Refusal::Malformed,
                ..
            }
        ));
    }
}

#[test]
fn an_impatient_source_is_slowed_down_and_recovers() {
    let mut broker = Broker::new();
    let mut refused = 0;
    for _ in 0..REQUESTS.burst + 10 {
        let answer = broker.post(vec![]);
        refused += u32::from(matches!(
            answer,
            Output::Refused {
                reason: Refusal::RateLimited,
                ..
            }
        ));
    }
    assert_eq!(refused, 10);
    broker.sleep(Duration::from_secs(1));
    assert!(matches!(
        broker.post(envelope(1, 2, b"x")),
        Output::Posted { .. }
    ));
}

#[test]
fn a_mailbox_is_bounded_and_forgets_what_nobody_fetched() {
    let mut broker = Broker::new();
    for sender in 0..SENDERS_MAX + 5 {
        broker.sleep(REQUESTS.every);
        broker.post(stranger(sender, 255));
    }
    assert_eq!(read(broker.poll(255, None)).1.len(), SENDERS_MAX);
    broker.sleep(KEEP + SWEEP_EVERY);
    assert!(broker.poll(255, None).is_none(), "all expired");
    assert_eq!(broker.mailboxes.counters()[0], ("mailboxes", 0));
}

/// An envelope of the `n`th of many keys.
fn stranger(n: usize, to: u8) -> Vec<u8> {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    let mut entropy = Seed::new(seed).rng();
    let (from, unix) = (Identity::from_seed(seed), start().unix);
    let run = Incarnation([0; 16]);
    seal(&from, key(to).public(), run, 0, unix, b"x", &mut entropy)
}

#[test]
fn a_source_that_fills_the_broker_makes_room_for_others() {
    let mut broker = Broker::new();
    let greedy: IpAddr = "198.51.100.66".parse().unwrap();
    for n in 0..MAILBOXES_MAX {
        // As if each were in a mailbox of its own.
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        let letter = Letter {
            source: greedy,
            incarnation: Incarnation([0; 16]),
            sequence: 0,
            seq: 0,
            at: broker.now.mono,
            bytes: Arc::from(&b""[..]),
        };
        let owner = Identity::from_seed(seed).public();
        let mailbox = broker.mailboxes.boxes.entry(owner).or_default();
        mailbox.letters.insert(owner, letter);
        broker.mailboxes.letters.add(greedy);
    }
    assert!(matches!(
        broker.post(envelope(1, 2, b"x")),
        Output::Posted { .. }
    ));
    assert_eq!(read(broker.poll(2, None)).1.len(), 1);
    assert_eq!(broker.mailboxes.letters.total, 1);
}
