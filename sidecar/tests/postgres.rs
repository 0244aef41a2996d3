//! A worker with a database: Patroni as a child, roles, and endpoints.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::database::{self, Kv, OTHER_REST, PASSWORD, PRIMARY, REPLICAS, SERVER, Says};
use common::sidecar::{Known, Sidecar, is_ready, options, peers, state_of};
use common::{Folder, PATIENCE, alone, consul_alone, root, runs, until};
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::{Client, Method};
use holdfast_io::net::{Listener, Net};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_io::spawn::{Spawn, Task};
use holdfast_postgres::{PostgresStatus, Role};
use holdfast_sidecar::{Ask, Consul, Options, Reload, SidecarStatus, consul_agent};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A role is a tag within so long (docs/postgres.md).
const ROLE_LIMIT: Duration = Duration::from_secs(1);

fn with_database(folder: &Folder, kv: Option<&Kv>) -> Options<Known> {
    let mut options = options(folder);
    options.bootstrap = Known(Some(database::postgres(database::settings(folder), kv)));
    options.run_dir = folder.file("run");
    std::fs::create_dir_all(&options.run_dir).unwrap();
    options
}

fn of(status: &SidecarStatus) -> PostgresStatus {
    status.postgres.clone().unwrap_or_default()
}

fn says(role: &'static str) -> Says {
    Rc::new(RefCell::new(Some(role)))
}

/// Echoes, in the place of PostgreSQL, until it is dropped.
async fn fake_server() -> Task {
    let listener = RealNet.listen(SERVER.parse().unwrap()).await.unwrap();
    RealSpawn.spawn("server", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let echo = async move {
                let (mut from, mut to) = tokio::io::split(&mut stream);
                let _ = tokio::io::copy(&mut from, &mut to).await;
            };
            RealSpawn.spawn("echo", echo).detach();
        }
    })
}

#[test]
fn patroni_is_refused_by_name_and_started_when_that_is_mended() {
    let _one = alone();
    let folder = Folder::new("pg-refused");
    block_on(async {
        let kv = Kv::start().await;
        database::fake_programs(&folder, "12.22");
        let options = with_database(&folder, Some(&kv));
        let _rest = database::fake_rest(says("replica")).await;
        let sidecar = Sidecar::start(options);
        let is_refused = |status: &SidecarStatus| {
            let mut why = status.not_ready.iter();
            why.any(|why| why.contains("patroni is backoff") && why.contains("PostgreSQL 13"))
        };
        sidecar.until("it says what is too old", is_refused).await;
        database::fake_programs(&folder, "15.18");
        let status = sidecar.until("it goes on by itself", is_ready).await;
        let patroni = status.children.iter().find(|child| child.name == "patroni");
        assert_eq!(patroni.unwrap().problem, None);
        assert_eq!(state_of(&status, "endpoints"), "ready");
        let yaml = folder.file("run/patroni.yml");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&yaml).unwrap());
        assert_eq!(mode & 0o7777, 0o600);
        assert!(
            folder
                .text("run/patroni.yml")
                .contains("worker-3-instance-1")
        );
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

#[test]
fn patroni_has_an_environment_that_says_nothing_of_patroni_and_libpq() {
    let _one = alone();
    let folder = Folder::new("pg-env");
    // SAFETY: tests that use the environment run one at a time.
    unsafe { std::env::set_var("PATRONI_SCOPE", "another") };
    // SAFETY: as above.
    unsafe { std::env::set_var("PGHOST", "elsewhere") };
    block_on(async {
        let kv = Kv::start().await;
        database::fake_programs(&folder, "15.18");
        let _rest = database::fake_rest(says("primary")).await;
        let sidecar = Sidecar::start(with_database(&folder, Some(&kv)));
        sidecar.until("ready", is_ready).await;
        let own = "run/postgres/environment";
        until("its environment", || folder.text(own).contains("PATH=")).await;
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
        let found = folder.text(own);
        assert!(
            !found.contains("PATRONI_SCOPE") && !found.contains("PGHOST"),
            "{found}"
        );
        assert!(!found.contains(PASSWORD), "{found}");
        let bin = folder.file("bin").display().to_string();
        assert!(found.contains(&format!("PATH={bin}:")), "{found}");
    })
    .unwrap();
    // SAFETY: as above.
    unsafe { std::env::remove_var("PATRONI_SCOPE") };
    // SAFETY: as above.
    unsafe { std::env::remove_var("PGHOST") };
}

#[test]
fn sessions_of_the_primarys_endpoint_end_with_its_role() {
    let _one = alone();
    let folder = Folder::new("pg-endpoint");
    block_on(async {
        let kv = Kv::start().await;
        database::fake_programs(&folder, "15.18");
        let role = says("primary");
        let _rest = database::fake_rest(role.clone()).await;
        let _server = fake_server().await;
        let sidecar = Sidecar::start(with_database(&folder, Some(&kv)));
        let leads = |status: &SidecarStatus| {
            let mut endpoints = of(status).endpoints.into_iter();
            endpoints.any(|one| one.name == "primary" && one.leads_to == ["worker-3"])
        };
        let status = sidecar.until("the endpoint leads to it", leads).await;
        assert_eq!(of(&status).scope, "north");
        let mut stream = RealNet
            .connect(None, PRIMARY.parse().unwrap())
            .await
            .unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
        role.replace(Some("replica"));
        let ended = timeout(&RealClock, ROLE_LIMIT, stream.read(&mut answer)).await;
        assert!(!matches!(ended.unwrap(), Ok(1..)), "it ends");
        let mut stream = RealNet
            .connect(None, REPLICAS.parse().unwrap())
            .await
            .unwrap();
        stream.write_all(b"pong").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"pong");
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_peer_that_a_reload_brings_is_led_to() {
    let _one = alone();
    let folder = Folder::new("pg-reload");
    block_on(async {
        let kv = Kv::start().await;
        database::fake_programs(&folder, "15.18");
        let _rest = database::fake_rest(says("replica")).await;
        let _other = database::fake_rest_at(OTHER_REST, says("primary")).await;
        let mut options = with_database(&folder, Some(&kv));
        options.peers.truncate(1);
        options.reload = Box::new(|_| {
            Ok(Reload {
                peers: peers(),
                ..Reload::default()
            })
        });
        let sidecar = Sidecar::start(options);
        let leads_to = |status: &SidecarStatus, name: &str| {
            let endpoints = of(status).endpoints;
            let mut primary = endpoints.iter().filter(|one| one.name == "primary");
            primary.any(|one| one.leads_to.iter().any(|to| to == name))
        };
        let before = sidecar.until("ready", is_ready).await;
        assert!(!leads_to(&before, "worker-4"));
        sidecar.ask(Ask::Reload).await;
        let after = sidecar
            .until("the new one leads", |status| leads_to(status, "worker-4"))
            .await;
        let pid = |status: &SidecarStatus| patroni_pid(status).unwrap();
        assert_eq!(pid(&after), pid(&before), "Patroni is the same");
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

/// Waits until Consul's catalogue has one database, with this tag and no other.
async fn until_catalogued(tag: &str) {
    let mut agent = Client::new(RealNet, RealClock, RealSpawn, consul_agent::endpoint());
    let mut found = Value::Null;
    let looking = async {
        while found[0]["ServiceTags"] != json!([tag]) || !found[1].is_null() {
            RealClock.sleep(Duration::from_millis(5)).await;
            let path = "/v1/catalog/service/postgres";
            let asked = agent.request(Method::GET, path, Bytes::new(), 1 << 20, PATIENCE);
            let body = asked.await.map_or_else(|_| Bytes::new(), |(_, body)| body);
            found = serde_json::from_slice(&body).unwrap_or_default();
        }
    };
    let result = timeout(&RealClock, PATIENCE, looking).await;
    assert!(result.is_ok(), "waited in vain for the tag {tag}: {found}");
}

#[test]
fn a_role_is_a_tag_in_the_catalogue_within_a_second() {
    let _one = alone();
    let Some(program) = consul_alone() else {
        return;
    };
    let folder = Folder::new("pg-tags");
    block_on(async {
        database::fake_programs(&folder, "15.18");
        let role = says("replica");
        let _rest = database::fake_rest(role.clone()).await;
        let mut options = with_database(&folder, None);
        // One peer, so that the lone agent is a server that elects itself.
        options.peers.truncate(1);
        options.consul = Some(Consul {
            program,
            raft_multiplier: 1,
            server_role: "worker".to_owned(),
            ..Consul::default()
        });
        let sidecar = Sidecar::start(options);
        sidecar.until("ready", is_ready).await;
        until_catalogued("replica").await;
        for (word, expected) in [("primary", Role::Primary), ("replica", Role::Replica)] {
            let told = Instant::now();
            role.replace(Some(word));
            until_catalogued(word).await;
            let took = told.elapsed();
            eprintln!("{word} is a tag after {took:?}");
            assert!(took < ROLE_LIMIT, "{word} is a tag after {took:?}");
            let is_known = |status: &SidecarStatus| of(status).role == expected;
            sidecar.until("the status says so too", is_known).await;
        }
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

/// PostgreSQL's and Patroni's real programs, where they are.
fn real_programs() -> Option<(PathBuf, PathBuf)> {
    let opt = std::env::var_os("HOLDFAST_OPT").unwrap_or_else(|| "/opt/holdfast".into());
    let patroni = PathBuf::from(opt).join("bin/patroni");
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    versions.sort();
    let bin = versions.pop().filter(|_| patroni.exists());
    if bin.is_none() {
        eprintln!("left out: no PostgreSQL or Patroni: run deploy/setup.sh");
    }
    Some((bin?, patroni))
}

fn patroni_pid(status: &SidecarStatus) -> Option<u32> {
    let mut children = status.children.iter();
    children.find(|child| child.name == "patroni")?.pid
}

fn kill(pid: u32) {
    // SAFETY: two integers: the Patroni that this test has started.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), libc::SIGKILL) };
}

fn postmaster(folder: &Folder) -> Option<i32> {
    folder
        .text("data/postmaster.pid")
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}

/// One statement through an endpoint; what it says, or why it does not.
async fn psql(bin: &std::path::Path, folder: &Folder, at: &str, statement: &str) -> String {
    let (host, port) = at.split_once(':').unwrap();
    let ca = folder.file("run/ca.pem");
    let dsn = format!(
        "host={host} port={port} user=postgres dbname=postgres connect_timeout=5 \
         sslmode=verify-full sslrootcert={}",
        ca.display()
    );
    let out = folder.file("psql.out");
    let file = std::fs::File::create(&out).unwrap();
    let mut command = Command::new(bin.join("psql"));
    command
        .args(["-X", "-A", "-t", "-c", statement, &dsn])
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file);
    // This thread serves the endpoint. The reaper may take the status: what is said is what counts.
    let running = std::thread::spawn(move || drop(command.status()));
    until("psql has ended", || running.is_finished()).await;
    folder.text("psql.out").trim().to_owned()
}

#[test]
fn a_real_database_is_made_adopted_after_a_crash_of_patroni_and_shut_down_cleanly() {
    let Some((bin, patroni)) = root().then(real_programs).flatten() else {
        return;
    };
    let _one = alone();
    let folder = Folder::new("pg-real");
    block_on(async {
        let kv = Kv::start().await;
        let mut settings = database::settings(&folder);
        settings.bin_dir = bin.clone();
        settings.patroni = patroni;
        settings.user = "postgres".to_owned();
        let mut options = with_database(&folder, None);
        options.bootstrap = Known(Some(database::postgres(settings, Some(&kv))));
        let began = Instant::now();
        let sidecar = Sidecar::start(options);
        let leads = |status: &SidecarStatus| {
            let mut endpoints = of(status).endpoints.into_iter();
            is_ready(status) && endpoints.any(|one| one.leads_to == ["worker-3"])
        };
        let status = sidecar.until("a primary", leads).await;
        eprintln!("a primary, from nothing, after {:?}", began.elapsed());
        assert_eq!(of(&status).role, Role::Primary);
        let made = psql(&bin, &folder, PRIMARY, "create table t as select 1 as n").await;
        assert_eq!(made, "SELECT 1");

        let before = postmaster(&folder).unwrap();
        let old = patroni_pid(&status).unwrap();
        let killed = Instant::now();
        kill(old);
        let is_back = |status: &SidecarStatus| {
            is_ready(status) && patroni_pid(status).is_some_and(|new| new != old)
        };
        sidecar.until("Patroni is back", is_back).await;
        eprintln!("Patroni is back after {:?}", killed.elapsed());
        assert_eq!(postmaster(&folder), Some(before), "the same server");
        sidecar.until("it leads again", leads).await;
        assert_eq!(psql(&bin, &folder, PRIMARY, "select n from t").await, "1");

        let stopping = Instant::now();
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
        eprintln!("ended after {:?}", stopping.elapsed());
        assert!(!runs(before), "no PostgreSQL is left");
        assert_eq!(postmaster(&folder), None);
        let mut control = Command::new(bin.join("pg_controldata"));
        let said = control.arg(folder.file("data")).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("shut down\n"), "{said}");
    })
    .unwrap();
}

#[test]
fn a_server_that_nobody_can_manage_is_ended_and_so_is_one_that_is_left_at_the_end() {
    let Some((bin, patroni)) = root().then(real_programs).flatten() else {
        return;
    };
    let _one = alone();
    let folder = Folder::new("pg-left");
    block_on(async {
        let kv = Kv::start().await;
        let mut settings = database::settings(&folder);
        settings.bin_dir = bin;
        settings.patroni = patroni;
        settings.user = "postgres".to_owned();
        let mut options = with_database(&folder, None);
        options.bootstrap = Known(Some(database::postgres(settings, Some(&kv))));
        let sidecar = Sidecar::start(options);
        let leads = |status: &SidecarStatus| is_ready(status) && of(status).role == Role::Primary;
        let status = sidecar.until("a primary", leads).await;

        let server = postmaster(&folder).unwrap();
        let mode = |mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(folder.file("data"), mode).unwrap();
        };
        mode(0o777);
        let killed = Instant::now();
        kill(patroni_pid(&status).unwrap());
        let is_refused = |status: &SidecarStatus| {
            let mut why = status.not_ready.iter();
            why.any(|why| why.contains("has the mode 0777"))
        };
        sidecar.until("the next start is refused", is_refused).await;
        until("its server is ended", || !runs(server)).await;
        eprintln!("nobody managed it for {:?}", killed.elapsed());
        mode(0o700);
        sidecar.until("it is mended", leads).await;

        // Its role and its server are told by two.
        let its = || postmaster(&folder).filter(|new| *new != server && runs(*new));
        until("its next server", || its().is_some()).await;
        let server = its().unwrap();
        sidecar.ask(Ask::Stop).await;
        // Asked again: Patroni is killed before it has done anything.
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
        assert!(!runs(server), "no PostgreSQL is left");
    })
    .unwrap();
}
