//! A server: the real broker, the real TURN server and the real KV, each of which may go and come.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::entropy::Seed;
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::net::Net;
use holdfast_io::spawn::{Spawn, Task};
use holdfast_plan::{Action, BROKER_PORT, SERVERS, TURN_PORT, What};
use holdfast_servers::broker::BrokerLimits;
use holdfast_servers::relay::{TurnOptions, TurnServer};
use holdfast_servers::rendezvous::{RendezvousOptions, run_rendezvous};
use holdfast_servers::turn::SharedSecret;

use crate::clock::SimClock;
use crate::kv;
use crate::lossy::{BEHIND, serve_front};
use crate::node::TURN_SECRET;
use crate::shared::Shared;
use crate::spawn::SimSpawn;

/// Tries to open sockets that a predecessor is about to give back.
const BIND_TRIES: u32 = 100;
/// Pause between two.
const BIND_PAUSE: Duration = Duration::from_millis(1);

/// One of a server's programs.
#[derive(Default)]
struct Program {
    runs: u32,
    running: Option<(SimSpawn, Task)>,
}

impl Program {
    /// Start it, or kill it without a word, unless it is as it should be.
    fn set<F: Future<Output = ()> + 'static>(
        &mut self,
        (host, name): (usize, &'static str),
        wanted: bool,
        start: impl FnOnce(u32, SimSpawn) -> F,
    ) {
        match (wanted, self.running.take()) {
            (true, None) => {
                self.runs += 1;
                let group = SimSpawn::new(host);
                let task = group.spawn(name, start(self.runs, group.clone()));
                self.running = Some((group, task));
            }
            (false, Some((group, task))) => {
                drop(task);
                group.kill();
            }
            (_, running) => self.running = running,
        }
    }
}

/// A server's programs, for ever.
pub async fn run_server(shared: Rc<Shared>, server: usize) -> turmoil::Result {
    let host = shared.server_host(server).number;
    shared.hosts[host].clock.begin(shared.now.get());
    let state = &shared.servers[server];
    let (mut broker, mut turn, mut kv): (Program, Program, Program) = Default::default();
    let with_kv = server == 0 && shared.plan.membership.is_some();
    loop {
        broker.set((host, "broker"), state.broker.get(), |run, group| {
            run_broker(shared.clone(), server, run, group)
        });
        // The first server is the one with STUN and TURN.
        turn.set(
            (host, "turn"),
            state.turn.get() && server == 0,
            |run, group| run_turn(shared.clone(), server, run, group),
        );
        kv.set((host, "kv"), state.kv.get() && with_kv, |run, group| {
            run_kv(shared.clone(), run, group)
        });
        state.changed.notified().await;
    }
}

fn seed(shared: &Shared, server: usize, run: u32) -> Seed {
    shared.seed.fork(&format!("server/{server}/{run}"))
}

async fn run_broker(shared: Rc<Shared>, server: usize, run: u32, group: SimSpawn) {
    let host = shared.server_host(server).clone();
    let clock = SimClock(host.clock.clone());
    let addr = SocketAddr::new(SERVERS[server].into(), BROKER_PORT);
    let lossy = shared
        .plan
        .steps
        .iter()
        .any(|s| matches!(s.action, Action::BrokerLoss { .. }));
    let _front = lossy.then(|| {
        let front = run_front(shared.clone(), (server, run), addr, group.clone());
        group.spawn("lossy front", front)
    });
    for _ in 0..BIND_TRIES {
        let (_never, stop) = Stop::new();
        let options = RendezvousOptions {
            listen: if lossy { BEHIND } else { addr },
            limits: BrokerLimits::default(),
            turn: None,
        };
        let seed = seed(&shared, server, run);
        let net = shared.net(&host);
        if run_rendezvous(options, net, clock.clone(), group.clone(), seed, stop)
            .await
            .is_ok()
        {
            return;
        }
        clock.sleep(BIND_PAUSE).await;
    }
    let line = format!("broker {server} cannot open its sockets");
    shared.note(None, What::Error { line });
}

/// What loses and repeats, where nodes look for the broker.
async fn run_front(
    shared: Rc<Shared>,
    (server, run): (usize, u32),
    addr: SocketAddr,
    group: SimSpawn,
) {
    let host = shared.server_host(server).clone();
    let (net, clock) = (shared.net(&host), SimClock(host.clock.clone()));
    for _ in 0..BIND_TRIES {
        if let Ok(listener) = net.listen(addr).await {
            let entropy = seed(&shared, server, run).fork("front").rng();
            return serve_front(listener, shared, (net, clock, group), entropy).await;
        }
        clock.sleep(BIND_PAUSE).await;
    }
    let line = format!("the front of broker {server} cannot open its socket");
    shared.note(None, What::Error { line });
}

async fn run_turn(shared: Rc<Shared>, server: usize, run: u32, group: SimSpawn) {
    let host = shared.server_host(server).clone();
    let clock = SimClock(host.clock.clone());
    let addr = SocketAddr::new(SERVERS[server].into(), TURN_PORT);
    for _ in 0..BIND_TRIES {
        let (_never, stop) = Stop::new();
        let secret = SharedSecret::new(TURN_SECRET.as_bytes().to_vec());
        let options = TurnOptions::on(addr, secret.expect("a short secret"));
        let seed = seed(&shared, server, run);
        let net = shared.net(&host);
        let bound = TurnServer::bind(options, net, clock.clone(), group.clone(), seed).await;
        if let Ok(turn) = bound {
            return turn.run(stop).await;
        }
        clock.sleep(BIND_PAUSE).await;
    }
    let line = "the TURN server cannot open its sockets".to_owned();
    shared.note(None, What::Error { line });
}

async fn run_kv(shared: Rc<Shared>, run: u32, group: SimSpawn) {
    let host = shared.server_host(0).clone();
    let (net, clock) = (shared.net(&host), SimClock(host.clock.clone()));
    for _ in 0..BIND_TRIES {
        if let Ok(listener) = net.listen(kv::ADDRESS).await {
            let seed = seed(&shared, 0, run).fork("kv");
            return kv::serve(shared, listener, clock, group, seed).await;
        }
        clock.sleep(BIND_PAUSE).await;
    }
    let line = "the KV cannot open its socket".to_owned();
    shared.note(None, What::Error { line });
}
