//! Real Consul agents with the configurations that the sidecar writes: three servers and a
//! client, on the virtual addresses of four machines. `CONSUL_BIN` names the program, else the one
//! that `make setup` has built is used.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Folder, alone, consul_program};
use holdfast_core::supervise::{Run, Signal};
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::{Client, Endpoint, Method};
use holdfast_io::kv::consul::{Config, Consul};
use holdfast_io::kv::{Condition, Kv, Request, Response};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_sidecar::processes::{Processes, RealProcesses, Spec};
use holdfast_sidecar::registration::{Registrar, Wanted};
use holdfast_sidecar::{Member, Peer, consul_agent, services};
use serde_json::{Value, json};

/// Longest time for an election, a join, a sync: a bound, never a measure.
const PATIENCE: Duration = Duration::from_secs(90);
/// Base64 of 32 bytes, for the gossip of this test.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NAMES: [&str; 4] = [
    "coordinator-0",
    "coordinator-1",
    "coordinator-2",
    "worker-3",
];
/// The first virtual address, beside those that other tests may use.
const VIP_FIRST: u16 = 241;

fn peers() -> Vec<Peer> {
    let peer = |(name, vip): (&str, u16)| Peer {
        id: name.parse().unwrap(),
        vip: vip.try_into().unwrap(),
    };
    NAMES.into_iter().zip(VIP_FIRST..).map(peer).collect()
}

struct Agents {
    folder: Folder,
    processes: RealProcesses,
    program: PathBuf,
    runs: u64,
}

impl Agents {
    /// Start the agent of a machine; `disk` says which disk its id belongs to.
    fn start(&mut self, at: usize, disk: &str) -> Run {
        let peer = &peers()[at];
        let server = at < 3;
        let options = holdfast_sidecar::Consul {
            program: self.program.clone(),
            raft_multiplier: 1,
            ..holdfast_sidecar::Consul::default()
        };
        let data = self.folder.file(&format!("{at}-{disk}"));
        let id = match server {
            true => consul_agent::node_id(&["test", peer.id.as_str(), disk]),
            false => consul_agent::node_id(&["test", peer.id.as_str()]),
        };
        let mut config = consul_agent::config(&options, &member(at), &peers(), server, &id, &data);
        config["encrypt"] = KEY.into();
        // Four agents on one machine: each API at its own address.
        config["client_addr"] = peer.vip.to_string().into();
        config["log_level"] = "WARN".into();
        let path = self.folder.file(&format!("{at}.json"));
        std::fs::write(&path, config.to_string()).unwrap();
        self.runs += 1;
        let run = Run(self.runs);
        let words = ["agent", "-config-file"].map(str::to_owned);
        let spec = Spec {
            name: peer.id.clone(),
            command: [
                vec![self.program.display().to_string()],
                words.to_vec(),
                vec![path.display().to_string()],
            ]
            .concat(),
            user: None,
            group: None,
            env: Vec::new(),
            without: Vec::new(),
            dir: None,
            asks_its_own: false,
        };
        self.processes.spawn(run, &spec).unwrap();
        run
    }

    async fn kill(&self, run: Run) {
        self.processes.signal(run, Signal(libc::SIGKILL));
        assert_eq!(self.processes.ended().await.0, run);
    }
}

fn member(at: usize) -> Member {
    let peer = peers().remove(at);
    Member {
        instance: format!("instance-{at}"),
        slot: u16::try_from(at).unwrap(),
        id: peer.id,
        vip: peer.vip,
    }
}

fn endpoint(at: usize) -> Endpoint {
    format!("http://{}:8500", peers()[at].vip).parse().unwrap()
}

fn consul(at: usize) -> Consul<RealNet, RealClock, RealSpawn> {
    let address = endpoint(at).to_string().parse().unwrap();
    Consul::new(RealNet, RealClock, RealSpawn, Config::new(vec![address])).unwrap()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            RealClock.sleep(Duration::from_millis(20)).await;
        }
    };
    let found = timeout(&RealClock, PATIENCE, looking).await;
    assert!(found.is_ok(), "waited in vain for: {what}");
}

async fn get(at: usize, path: &str) -> Value {
    let mut client = Client::new(RealNet, RealClock, RealSpawn, endpoint(at));
    let asked = client.request(Method::GET, path, Bytes::new(), 1 << 20, PATIENCE);
    match asked.await {
        Ok((_, body)) => serde_json::from_slice(&body).unwrap_or(Value::Null),
        Err(_) => Value::Null,
    }
}

async fn all_alive(at: usize) -> bool {
    match consul(at).agent().members().await {
        Ok(members) => members.len() == 4 && members.iter().all(|member| member.is_alive()),
        Err(_) => false,
    }
}

/// The id that the catalogue has for a name.
async fn catalogued(at: usize) -> Value {
    let path = format!("/v1/catalog/node/{}", NAMES[at]);
    get(0, &path).await["Node"]["ID"].take()
}

#[test]
fn three_servers_and_a_client_become_a_cluster_and_return_without_their_disks_and_a_leader_key_survives_its_agent()
 {
    let Some(program) = consul_program() else {
        return;
    };
    let _one = alone();
    let _log = common::Log::listen();
    block_on(async {
        let mut agents = Agents {
            folder: Folder::new("consul"),
            processes: RealProcesses::new().unwrap(),
            program,
            runs: 0,
        };
        let started = Instant::now();
        let runs: Vec<Run> = (0..4).map(|at| agents.start(at, "a")).collect();
        until("a leader", async || {
            consul(3)
                .agent()
                .leader()
                .await
                .is_ok_and(|leader| leader.is_some())
        })
        .await;
        eprintln!("the client knows a leader after {:?}", started.elapsed());
        until("all alive", async || {
            all_alive(0).await && all_alive(3).await
        })
        .await;
        eprintln!("all four alive after {:?}", started.elapsed());
        wait_for_catalogue(3, "a").await;
        eprintln!(
            "the client is in the catalogue after {:?}",
            started.elapsed()
        );

        let put = Request::put("key", "value", Condition::Any);
        assert_eq!(consul(3).call(put).await.unwrap(), Response::Done(true));
        let read = consul(1).call(Request::get("key")).await.unwrap();
        assert!(
            matches!(read, Response::Entry { entry: Some(entry), .. } if entry.value == "value")
        );

        services_are_kept().await;

        let client = a_leader_key_survives_its_agent(&mut agents, runs[3]).await;

        let again = Instant::now();
        agents.kill(client).await;
        agents.start(3, "b");
        until("the client is back", async || {
            let node = get(3, "/v1/agent/self").await;
            !node["Config"]["NodeID"].is_null() && all_alive(3).await
        })
        .await;
        eprintln!(
            "a client without its disk is back after {:?}",
            again.elapsed()
        );
        until("its services are gone with its disk", async || {
            get(0, "/v1/catalog/service/postgres").await == json!([])
        })
        .await;
        eprintln!("and has synced after {:?}", again.elapsed());

        let again = Instant::now();
        agents.kill(runs[0]).await;
        agents.start(0, "b");
        until("the server is back", async || {
            all_alive(1).await && all_alive(0).await
        })
        .await;
        eprintln!(
            "a server without its disk is alive after {:?}",
            again.elapsed()
        );
        let world = (RealNet, RealClock, RealSpawn);
        let mut registrar = Registrar::new(world, &endpoint(0), None, member(0)).unwrap();
        until("its registrar has the name", async || {
            let nothing = Wanted::default();
            let done = registrar.reconcile(&nothing, |_| true).await.is_ok();
            done && catalogued(0).await == consul_agent::node_id(&["test", NAMES[0], "b"])
        })
        .await;
        eprintln!("it has its name after {:?}", again.elapsed());
        wait_for_voters().await;
        eprintln!("it votes after {:?}", again.elapsed());
        wait_for_catalogue(0, "b").await;
        eprintln!(
            "it is in the catalogue with its new id after {:?}",
            again.elapsed()
        );
    })
    .unwrap();
}

async fn wait_for_catalogue(at: usize, disk: &str) {
    let id = match at < 3 {
        true => consul_agent::node_id(&["test", NAMES[at], disk]),
        false => consul_agent::node_id(&["test", NAMES[at]]),
    };
    until("the catalogue has it", async || catalogued(at).await == id).await;
}

async fn wait_for_voters() {
    until("three voters", async || {
        let raft = get(1, "/v1/operator/raft/configuration").await;
        let servers = raft["Servers"].as_array().cloned().unwrap_or_default();
        servers.len() == 3 && servers.iter().all(|server| server["Voter"] == true)
    })
    .await;
}

async fn services_are_kept() {
    let world = (RealNet, RealClock, RealSpawn);
    let mut registrar = Registrar::new(world, &endpoint(3), None, member(3)).unwrap();
    let text = r#"[{"name":"postgres-master","port":5432,"subset":"master","sidecar_port":21000,
                    "parent":"postgres","registers_parent":true},
                   {"name":"postgres-replica","port":5432,"subset":"replica","parent":"postgres"},
                   {"name":"web","port":80,"check":{"child":"nginx"}}]"#;
    let mut wanted = Wanted::new(services::parse(text).unwrap());
    let role = |word: &str| [("postgres".to_owned(), vec![word.to_owned()])].into();
    wanted.roles = role("replica");
    let started = Instant::now();
    let found = registrar.reconcile(&wanted, |_| false).await.unwrap();
    eprintln!("two services and their entries in {:?}", started.elapsed());
    assert_eq!(found.len(), 2);
    until("the catalogue has the role", async || {
        get(0, "/v1/catalog/service/postgres").await[0]["ServiceTags"] == json!(["replica"])
    })
    .await;
    assert_eq!(
        get(0, "/v1/health/service/web?passing").await,
        json!([]),
        "in maintenance"
    );
    registrar
        .reconcile(&wanted, |name| name == "nginx")
        .await
        .unwrap();
    until("its child is ready", async || {
        get(0, "/v1/health/service/web?passing").await[0]["Service"]["Port"] == 80
    })
    .await;
    let resolver = get(0, "/v1/config/service-resolver/postgres-master").await;
    assert_eq!(
        resolver["Redirect"]["ServiceSubset"], "master",
        "{resolver}"
    );
    let intentions = get(0, "/v1/connect/intentions").await;
    assert_eq!(intentions[0]["DestinationName"], "postgres", "{intentions}");
    wanted.roles = role("master");
    wanted.services.pop();
    let started = Instant::now();
    registrar.reconcile(&wanted, |_| true).await.unwrap();
    until("the new role", async || {
        get(0, "/v1/catalog/service/postgres").await[0]["ServiceTags"] == json!(["master"])
    })
    .await;
    eprintln!("a role is known to a server after {:?}", started.elapsed());
    until("what is stale is gone", async || {
        get(0, "/v1/catalog/service/web").await == json!([])
    })
    .await;
}

/// What Patroni asks for its leader key: a session without checks, which only its TTL ends.
async fn session_like_patronis(at: usize) -> String {
    let body = json!({
        "Name": "demo-worker-3-instance", "Checks": [], "LockDelay": "0.001s",
        "Behavior": "delete", "TTL": "60s",
    });
    let mut client = Client::new(RealNet, RealClock, RealSpawn, endpoint(at));
    let body = Bytes::from(body.to_string());
    let asked = client.request(Method::PUT, "/v1/session/create", body, 1 << 20, PATIENCE);
    let (_, body) = asked.await.unwrap();
    let made: Value = serde_json::from_slice(&body).unwrap();
    let id = made["ID"].as_str().unwrap().to_owned();
    let path = format!("/v1/kv/service/demo/leader?acquire={id}");
    let value = Bytes::from_static(b"worker-3-instance");
    let asked = client.request(Method::PUT, &path, value, 1 << 20, PATIENCE);
    assert_eq!(asked.await.unwrap().1, "true");
    id
}

/// An agent that is killed, or ends as it is asked to, and comes back.
async fn a_leader_key_survives_its_agent(agents: &mut Agents, run: Run) -> Run {
    let session = session_like_patronis(3).await;
    let mut run = run;
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        agents.processes.signal(run, Signal(signal));
        assert_eq!(agents.processes.ended().await.0, run);
        let down = Instant::now();
        until("the servers know", async || {
            let health = get(0, "/v1/health/node/worker-3").await;
            let serf = health[0]["Status"].as_str().unwrap_or_default().to_owned();
            serf == "critical" || signal == libc::SIGTERM
        })
        .await;
        let held = get(0, "/v1/kv/service/demo/leader").await;
        assert_eq!(held[0]["Session"], session, "while the agent is away");
        eprintln!("noticed after {:?}, and the key is held", down.elapsed());
        run = agents.start(3, "a");
        until("the client is back", async || {
            let node = get(3, "/v1/agent/self").await;
            !node["Config"]["NodeID"].is_null() && all_alive(0).await
        })
        .await;
        wait_for_catalogue(3, "a").await;
        let path = format!("/v1/session/renew/{session}");
        // It may not know its servers' leader yet.
        until("it is renewed through the new agent", async || {
            let mut client = Client::new(RealNet, RealClock, RealSpawn, endpoint(3));
            let asked = client.request(Method::PUT, &path, Bytes::new(), 1 << 20, PATIENCE);
            asked.await.is_ok_and(|(status, _)| status.is_success())
        })
        .await;
        let held = get(0, "/v1/kv/service/demo/leader").await;
        assert_eq!(held[0]["Session"], session);
    }
    run
}
