//! Two stacks and a wire that loses, delays, repeats and reorders.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use proptest::prelude::*;

const PORT: u16 = 7000;
const DELAY: Duration = Duration::from_millis(10);

/// What becomes of a segment on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    Late(u64),
    Twice,
    Passes,
}

struct Pair {
    ends: [Stack; 2],
    now: Duration,
    wire: BTreeMap<(Duration, u64), (usize, SocketAddr, SocketAddr, Segment)>,
    sequence: u64,
    /// Fates of segments in turn, then they pass.
    fates: VecDeque<Fate>,
    /// What this end sends vanishes.
    dark: [bool; 2],
    events: [Vec<(ConnId, SocketEvent)>; 2],
    received: [Vec<u8>; 2],
    /// Whether the owner at that end reads.
    reads: [bool; 2],
    sent: u64,
}

impl Pair {
    fn new() -> Pair {
        let stack = |n: u8| Stack::new(IpAddr::from([10, 0, 0, n]));
        let mut pair = Pair {
            ends: [stack(1), stack(2)],
            now: Duration::ZERO,
            wire: BTreeMap::new(),
            sequence: 0,
            fates: VecDeque::new(),
            dark: [false; 2],
            events: [Vec::new(), Vec::new()],
            received: [Vec::new(), Vec::new()],
            reads: [true; 2],
            sent: 0,
        };
        pair.ends[1].listen(PORT, true);
        pair
    }

    fn server() -> SocketAddr {
        SocketAddr::new([10, 0, 0, 2].into(), PORT)
    }

    /// A connection that both ends know: the client's and the server's name of it.
    fn connected() -> (Pair, ConnId, ConnId) {
        let mut pair = Pair::new();
        let client = pair.ends[0].connect(pair.now, Pair::server());
        pair.run(Duration::from_secs(1));
        let accepted = pair.events[1].first().expect("it was accepted").0;
        assert_eq!(pair.events[0], [(client, SocketEvent::Connected)]);
        (pair, client, accepted)
    }

    fn drain(&mut self, end: usize) {
        while let Some(output) = self.ends[end].poll_output() {
            match output {
                Output::Event { conn, event, .. } => {
                    self.events[end].push((conn, event));
                    if self.reads[end] {
                        self.read(end, conn);
                    }
                }
                Output::Send { src, dst, segment } => {
                    self.sent += 1;
                    let fate = self.fates.pop_front().unwrap_or(Fate::Passes);
                    let late = match fate {
                        _ if self.dark[end] => continue,
                        Fate::Lost => continue,
                        Fate::Late(ms) => Duration::from_millis(ms),
                        Fate::Twice | Fate::Passes => Duration::ZERO,
                    };
                    for copy in 0..if fate == Fate::Twice { 2 } else { 1 } {
                        self.sequence += 1;
                        let at = self.now + DELAY + late + DELAY * copy;
                        let flight = (1 - end, src, dst, (*segment).clone());
                        self.wire.insert((at, self.sequence), flight);
                    }
                }
            }
        }
    }

    fn read(&mut self, end: usize, conn: ConnId) {
        while let Some(bytes) = self.ends[end].read(conn) {
            self.received[end].extend_from_slice(&bytes);
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.drain(0);
            self.drain(1);
            let wire = self.wire.first_key_value().map(|((at, _), _)| *at);
            let deadlines = self.ends.iter().filter_map(Stack::deadline);
            let next = deadlines.chain(wire).min();
            let Some(next) = next.filter(|at| *at <= until) else {
                break;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry()
                && entry.key().0 <= self.now
            {
                let (to, src, dst, segment) = entry.remove();
                self.ends[to].handle(self.now, src, dst, segment);
                self.drain(to);
            }
            for end in &mut self.ends {
                end.handle_deadline(self.now);
            }
        }
        self.now = until;
    }

    fn saw(&self, end: usize, event: SocketEvent) -> bool {
        self.events[end].iter().any(|(_, seen)| *seen == event)
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

/// Send all of it as room comes, and give it time.
fn send_all(pair: &mut Pair, client: ConnId, bytes: &[u8]) {
    let mut at = 0;
    for _ in 0..4000 {
        at += pair.ends[0].write(pair.now, client, &bytes[at..]);
        pair.run(Duration::from_millis(50));
        if pair.received[1].len() == bytes.len() {
            return;
        }
    }
}

#[test]
fn bytes_cross_in_both_directions_and_a_close_is_seen_after_the_last() {
    let (mut pair, client, server) = Pair::connected();
    pair.ends[0].write(pair.now, client, b"question");
    pair.ends[1].write(pair.now, server, b"answer");
    pair.ends[0].close(pair.now, client);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.received[1], b"question");
    assert_eq!(pair.events[1].last(), Some(&(server, SocketEvent::Closed)));
    pair.ends[1].close(pair.now, server);
    pair.run(Duration::from_secs(1));
    assert!(pair.ends[0].is_empty() && pair.ends[1].is_empty());
}

#[test]
fn a_port_where_nothing_listens_refuses_at_once() {
    let mut pair = Pair::new();
    pair.ends[1].listen(PORT, false);
    pair.ends[0].connect(pair.now, Pair::server());
    pair.run(DELAY * 2);
    assert!(pair.saw(0, SocketEvent::Closed));
}

#[test]
fn a_dark_link_is_given_up_within_seconds_whether_or_not_it_was_connected() {
    let mut pair = Pair::new();
    pair.dark[1] = true;
    pair.ends[0].connect(pair.now, Pair::server());
    pair.run(GIVE_UP - Duration::from_secs(1));
    assert!(!pair.saw(0, SocketEvent::Closed));
    pair.run(RTO_MAX + Duration::from_secs(1));
    assert!(pair.saw(0, SocketEvent::Closed));

    let (mut pair, client, _) = Pair::connected();
    pair.run(Duration::from_secs(600));
    assert!(
        !pair.saw(0, SocketEvent::Closed),
        "an idle one is left alone"
    );
    pair.dark[1] = true;
    pair.ends[0].write(pair.now, client, b"anyone?");
    pair.run(GIVE_UP + RTO_MAX);
    assert!(pair.saw(0, SocketEvent::Closed));
    assert!(pair.sent < 30, "{} segments: it backs off", pair.sent);
}

#[test]
fn a_link_that_heals_before_it_is_given_up_loses_nothing() {
    let (mut pair, client, _) = Pair::connected();
    pair.dark = [true; 2];
    pair.ends[0].write(pair.now, client, &bytes(50_000));
    pair.run(Duration::from_secs(6));
    pair.dark = [false; 2];
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.received[1], bytes(50_000));
    assert!(!pair.saw(0, SocketEvent::Closed));
}

#[test]
fn a_reset_is_seen_at_once_and_so_is_a_peer_that_forgot_the_connection() {
    let (mut pair, client, _) = Pair::connected();
    pair.ends[0].abort(client);
    pair.run(DELAY);
    assert!(pair.saw(1, SocketEvent::Closed));

    let (mut pair, client, _) = Pair::connected();
    pair.ends[1] = Stack::new([10, 0, 0, 2].into());
    pair.ends[0].write(pair.now, client, b"still there?");
    pair.run(DELAY * 2);
    assert!(pair.saw(0, SocketEvent::Closed));
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_gets_everything_when_it_goes_on() {
    let (mut pair, client, server) = Pair::connected();
    pair.reads[1] = false;
    let sent = bytes(2 * (SEND_BUFFER + RECEIVE_BUFFER));
    let mut at = 0;
    for _ in 0..100 {
        at += pair.ends[0].write(pair.now, client, &sent[at..]);
        pair.run(Duration::from_secs(1));
    }
    assert!(at <= SEND_BUFFER + RECEIVE_BUFFER + MSS, "{at}");
    assert!(at >= SEND_BUFFER + RECEIVE_BUFFER - MSS, "{at}");
    assert!(
        !pair.saw(0, SocketEvent::Closed),
        "it answers, so it is no silence"
    );
    pair.reads[1] = true;
    pair.events[0].clear();
    pair.read(1, server);
    pair.run(Duration::from_secs(1));
    assert!(pair.saw(0, SocketEvent::Writable));
    send_all(&mut pair, client, &sent[at..]);
    assert_eq!(pair.received[1], sent);
}

#[test]
fn a_lost_segment_is_sent_again_without_waiting_for_the_timer() {
    let (mut pair, client, _) = Pair::connected();
    pair.fates = VecDeque::from([Fate::Lost]);
    pair.ends[0].write(pair.now, client, &bytes(8 * MSS));
    pair.run(DELAY * 5);
    assert_eq!(pair.received[1], bytes(8 * MSS));
}

#[test]
fn a_segment_that_takes_a_second_longer_disturbs_nothing() {
    let (mut pair, client, _) = Pair::connected();
    pair.fates = VecDeque::from([Fate::Passes, Fate::Late(1000), Fate::Twice, Fate::Late(30)]);
    let sent = bytes(100 * MSS);
    send_all(&mut pair, client, &sent);
    assert_eq!(pair.received[1], sent);
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        1 => Just(Fate::Lost),
        2 => (1u64..200).prop_map(Fate::Late),
        1 => Just(Fate::Twice),
        4 => Just(Fate::Passes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_arrive_once_and_in_order_whatever_the_wire_does(
        fates in prop::collection::vec(fate(), 0..300),
        len in 1usize..300_000,
    ) {
        let (mut pair, client, server) = Pair::connected();
        pair.fates = fates.into();
        let sent = bytes(len);
        send_all(&mut pair, client, &sent);
        prop_assert!(sent.starts_with(&pair.received[1]));
        if pair.saw(0, SocketEvent::Closed) {
            // Half a dozen in a row were lost: that is silence.
            return Ok(());
        }
        prop_assert_eq!(pair.received[1].len(), sent.len());
        pair.ends[0].close(pair.now, client);
        pair.run(Duration::from_secs(30));
        prop_assert_eq!(pair.events[1].last(), Some(&(server, SocketEvent::Closed)));
        prop_assert!(pair.ends[0].is_empty());
    }
}
