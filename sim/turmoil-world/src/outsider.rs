//! Somebody who is not in the cluster: reads along at the brokers, as anybody can, writes into
//! mailboxes over the brokers' own protocol, and sends datagrams to nodes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::entropy::Entropy;
use holdfast_core::identity::{Identity, PublicKey};
use holdfast_core::rendezvous::ENVELOPE_LEN_MAX;
use holdfast_core::signal::envelope::seal;
use holdfast_core::signal::snapshot::{Challenge, Snapshot};
use holdfast_core::simulation::forged_goodbye;
use holdfast_core::types::Incarnation;
use holdfast_io::clock::Clock;
use holdfast_io::http::{Client, Endpoint, Method, StatusCode};
use holdfast_io::signal_http::{ANSWER_LEN_MAX, Route, decode_answer};
use holdfast_io::spawn::Spawn;
use holdfast_plan::{Action, Attack, BROKER_PORT, NodeIndex, SERVERS};

use crate::clock::SimClock;
use crate::net::SimNet;
use crate::node::{cluster_secret, peer_id};
use crate::shared::Shared;
use crate::spawn::SimSpawn;

/// Envelopes of one burst of garbage.
const GARBAGE_COUNT: usize = 64;
/// Keys of nobody that envelopes are signed with.
const FOREIGN_COUNT: usize = 8;
/// Different envelopes kept for each mailbox.
const SEEN_MAX: usize = 4096;
/// How long to wait for news of a mailbox.
const POLL_WAIT: Duration = Duration::from_secs(20);
/// Longest time for one request.
const LIMIT: Duration = Duration::from_secs(25);
/// Pause after a failed request.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest datagram of a stranger: what passes any link.
const DATAGRAM_LEN_MAX: usize = 1200;
/// The stranger's address (TEST-NET-2, RFC 5737), which no plan uses.
const STRANGER: [u8; 4] = [198, 51, 100, 99];

/// Everything that was posted into one mailbox, without repetitions.
#[derive(Default)]
struct Seen {
    known: BTreeSet<Vec<u8>>,
    order: Vec<Vec<u8>>,
}

type HttpClient = Client<SimNet, SimClock, SimSpawn>;

/// The outsider, for ever.
pub async fn run_outsider(shared: Rc<Shared>, spawn: SimSpawn) -> turmoil::Result {
    let host = shared.outsider_host().clone();
    host.clock.begin(shared.now.get());
    let outsider = Outsider {
        entropy: shared.seed.fork("outsider").rng(),
        seen: shared.nodes.iter().map(|_| Rc::default()).collect(),
        spawn,
        shared,
    };
    outsider.run().await
}

struct Outsider {
    shared: Rc<Shared>,
    spawn: SimSpawn,
    entropy: Entropy,
    seen: Vec<Rc<RefCell<Seen>>>,
}

impl Outsider {
    async fn run(mut self) -> turmoil::Result {
        for victim in victims(&self.shared) {
            let mailbox = self.mailbox(victim)?;
            for broker in 0..self.shared.servers.len() {
                let seen = self.seen[victim.index()].clone();
                let task = read_along(self.client(broker)?, self.clock(), mailbox, seen);
                self.spawn.spawn("reading along", task).detach();
            }
        }
        loop {
            let (victim, attack) = self.shared.attacks.next().await;
            let mailbox = self.mailbox(victim)?;
            let envelopes = self.envelopes(victim, mailbox, attack);
            for broker in 0..self.shared.servers.len() {
                let task = post(self.client(broker)?, envelopes.clone());
                self.spawn.spawn("attack", task).detach();
            }
        }
    }

    fn clock(&self) -> SimClock {
        SimClock(self.shared.outsider_host().clock.clone())
    }

    fn client(&self, broker: usize) -> Result<HttpClient, String> {
        let url = format!("http://{}:{BROKER_PORT}", SERVERS[broker]);
        let endpoint: Endpoint = url.parse().map_err(|_| format!("{url} is no server"))?;
        let net = self.shared.net(self.shared.outsider_host());
        Ok(Client::new(net, self.clock(), self.spawn.clone(), endpoint))
    }

    fn mailbox(&self, victim: NodeIndex) -> Result<PublicKey, String> {
        let topology = &self.shared.plan.topology;
        let secret = cluster_secret(topology.node(victim).cluster);
        Ok(secret.identity(&peer_id(topology, victim)?).public())
    }

    fn envelopes(&mut self, victim: NodeIndex, to: PublicKey, attack: Attack) -> Vec<Vec<u8>> {
        let seen = self.seen[victim.index()].borrow().order.clone();
        match attack {
            Attack::Replay => seen,
            Attack::Corrupt => seen.into_iter().map(|e| self.corrupted(e)).collect(),
            Attack::Foreign => self.foreign(to, &seen),
            Attack::Garbage => (0..GARBAGE_COUNT)
                .map(|_| garbage(&mut self.entropy, ENVELOPE_LEN_MAX))
                .collect(),
        }
    }

    fn corrupted(&mut self, mut envelope: Vec<u8>) -> Vec<u8> {
        let at = self.entropy.below(envelope.len().max(1) as u64) as usize;
        let bit = self.entropy.below(8);
        if let Some(byte) = envelope.get_mut(at) {
            *byte ^= 1 << bit;
        }
        envelope
    }

    /// News under keys of nobody, and goodbyes in the name of whoever wrote before.
    fn foreign(&mut self, to: PublicKey, seen: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let unix = self.clock().now().unix;
        let mut envelopes = Vec::new();
        for _ in 0..FOREIGN_COUNT {
            let news = Snapshot {
                challenge: Challenge(self.entropy.bytes()),
                goodbye: false,
                offers: Vec::new(),
                candidates: Vec::new(),
            };
            let nobody = Identity::from_seed(self.entropy.bytes());
            let run = Incarnation(self.entropy.bytes());
            let entropy = &mut self.entropy;
            envelopes.push(seal(&nobody, to, run, 1, unix, &news.encode(), entropy));
        }
        for recorded in seen {
            let seed = holdfast_core::entropy::Seed::new(self.entropy.bytes());
            envelopes.extend(forged_goodbye(recorded, &seed));
        }
        envelopes
    }
}

/// Whom the plan attacks with what was posted before.
fn victims(shared: &Shared) -> BTreeSet<NodeIndex> {
    let attacks = shared
        .plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Attack { node, attack } if *attack != Attack::Garbage => Some(*node),
            _ => None,
        });
    attacks.collect()
}

async fn read_along(
    mut client: HttpClient,
    clock: SimClock,
    mailbox: PublicKey,
    seen: Rc<RefCell<Seen>>,
) {
    let mut after = None;
    loop {
        let route = Route::Poll {
            mailbox,
            wait: POLL_WAIT,
            after,
        };
        let path = route.path_and_query();
        let polled = client.request(Method::GET, &path, Bytes::new(), ANSWER_LEN_MAX, LIMIT);
        let answer = match polled.await {
            Ok((StatusCode::OK, body)) => decode_answer(&body).ok(),
            _ => None,
        };
        let Some(answer) = answer else {
            after = None;
            clock.sleep(PAUSE).await;
            continue;
        };
        after = Some(answer.cursor);
        let mut seen = seen.borrow_mut();
        for envelope in answer.envelopes {
            if seen.order.len() < SEEN_MAX && seen.known.insert(envelope.clone()) {
                seen.order.push(envelope);
            }
        }
    }
}

async fn post(mut client: HttpClient, envelopes: Vec<Vec<u8>>) {
    for envelope in envelopes {
        let path = Route::Post.path_and_query();
        // What the broker refuses is refused; the next is another one.
        let _ = client
            .request(Method::POST, &path, envelope.into(), ANSWER_LEN_MAX, LIMIT)
            .await;
    }
}

fn garbage(entropy: &mut Entropy, len_max: usize) -> Vec<u8> {
    let mut bytes = vec![0; entropy.below(len_max as u64) as usize];
    entropy.fill(&mut bytes);
    bytes
}

/// Datagrams of strangers for a node's socket, each with its source: noise, and what looks
/// like STUN and QUIC.
pub fn strangers(entropy: &mut Entropy, count: u32) -> Vec<(SocketAddr, Bytes)> {
    let datagrams = (0..count).map(|n| {
        let mut bytes = garbage(entropy, DATAGRAM_LEN_MAX);
        match (n % 3, bytes.as_mut_slice()) {
            // A STUN Binding request (RFC 8489 section 5), and a QUIC Initial (RFC 9000
            // section 17.2.2), as far as anyone could tell.
            (0, [a, b, _, _, c, d, e, f, ..]) => {
                [*a, *b] = [0, 1];
                [*c, *d, *e, *f] = [0x21, 0x12, 0xa4, 0x42];
            }
            (1, [a, b, c, d, e, ..]) => [*a, *b, *c, *d, *e] = [0xc3, 0, 0, 0, 1],
            _ => {}
        }
        let port = 1024 + (n % 60_000) as u16;
        (SocketAddr::new(STRANGER.into(), port), bytes.into())
    });
    datagrams.collect()
}
