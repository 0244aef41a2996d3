//! Two real Patronis with real PostgreSQLs, from what is generated, on the embedded KV: they come
//! up, replicate and switch over, and what is said of them is true.
//!
//! Needs root: it has a network namespace of its own, and the databases' user is not root.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::Stop;
use holdfast_io::kv::{Condition, Kv, Request, Response};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_io::route::{Backend, Probe};
use holdfast_postgres::{Guard, PostgresStatus, RestProbe, Role};
use world::{Member, World};

/// All of it: an idle machine takes a tenth of that, one that compiles beside it half.
const LIMIT: Duration = Duration::from_secs(300);

type RealGuard = Guard<RealNet, RealClock, RealSpawn>;

/// What a watch has told.
#[derive(Default)]
struct Told {
    roles: Vec<Role>,
    status: PostgresStatus,
}

#[test]
fn two_real_members_come_up_replicate_and_switch_over() {
    let Some(world) = World::open() else {
        return;
    };
    let within = async { timeout(&RealClock, LIMIT, play(&world)).await };
    block_on(within).unwrap().expect("it takes too long");
}

async fn until(what: &str, began: Instant, holds: impl Fn() -> bool) {
    let from = RealClock.now().mono;
    while !holds() {
        assert!(from.elapsed() < LIMIT / 3, "waited in vain: {what}");
        RealClock.sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{:6.2} s {what}", began.elapsed().as_secs_f64());
}

async fn play(world: &World) {
    let began = Instant::now();
    let kv = world.serve_kv().await;
    let members = [world.member(1), world.member(2)];
    let guards: Vec<Rc<RealGuard>> = members
        .iter()
        .map(|member| Rc::new(member.guard(kv.clone())))
        .collect();
    let told = [Rc::new(RefCell::new(Told::default())), Rc::default()];
    let (_switch, stop) = Stop::new();
    let mut watches = Vec::new();
    for (guard, told) in guards.iter().zip(&told) {
        watches.push(watch(guard.clone(), told.clone(), stop.clone()));
    }
    guards[0].before_start().await.unwrap();
    let mut first = members[0].start();
    until("the first leads", began, || {
        told[0].borrow().roles.last() == Some(&Role::Primary)
    })
    .await;
    guards[1].before_start().await.unwrap();
    let mut second = members[1].start();
    until("the second follows", began, || {
        told[1].borrow().roles.last() == Some(&Role::Replica)
    })
    .await;
    until("a commit waits for the second", began, || {
        let status = told[0].borrow().status.clone();
        status
            .members
            .iter()
            .any(|m| m.peer == "w-2" && m.sync.as_deref() == Some("quorum"))
    })
    .await;
    verified_by_tls(&members).await;
    assert_eq!(observed(&members).await, [(Some(1), false), (None, true)]);
    members[0]
        .sql("create table t (n int); insert into t values (1)")
        .await;
    no_secrets(world, &members);

    let switched = Instant::now();
    members[0]
        .switch_over(guards[0].name(), guards[1].name())
        .await;
    until("the roles are exchanged", began, || {
        let last = |n: usize| told[n].borrow().roles.last().copied();
        (last(0), last(1)) == (Some(Role::Replica), Some(Role::Primary))
    })
    .await;
    eprintln!(
        "         {:.2} s after it was asked for",
        switched.elapsed().as_secs_f64()
    );
    assert_eq!(members[1].sql("select n from t").await.trim(), "1");
    assert_eq!(observed(&members).await, [(None, true), (Some(2), false)]);
    until("the timeline is told", began, || {
        told[0].borrow().status.timeline == Some(2)
    })
    .await;

    edit_live(&*kv).await;
    until("a live edit is told", began, || {
        problem(&told[1], "differs from the file: loop_wait is 2")
    })
    .await;
    guards[1].before_start().await.unwrap();
    assert!(problem(&told[1], "differs"), "it is left alone");
    wrong_passwords(&members[0], kv.clone(), began).await;
    no_secrets(world, &members);

    first.end().await;
    until("the first says nothing", began, || {
        told[0].borrow().roles.last() == Some(&Role::Unknown)
    })
    .await;
    // Who leads would mend what is wrong in the KV.
    second.end().await;
    refuses_another_system(&members[0], &guards[0], &*kv).await;
}

fn problem(told: &RefCell<Told>, part: &str) -> bool {
    told.borrow()
        .status
        .problems
        .iter()
        .any(|problem| problem.contains(part))
}

fn watch(guard: Rc<RealGuard>, told: Rc<RefCell<Told>>, stop: Stop) -> holdfast_io::spawn::Task {
    use holdfast_io::spawn::Spawn;
    RealSpawn.spawn("watch", async move {
        let on_role = |role| told.borrow_mut().roles.push(role);
        let on_status = |status| told.borrow_mut().status = status;
        guard.watch(on_role, on_status, stop).await;
    })
}

/// psql trusts the servers by their addresses and by their names, with nothing but the authority.
async fn verified_by_tls(members: &[Member; 2]) {
    for (n, member) in members.iter().enumerate() {
        for host in [
            member.vip.to_string(),
            "127.0.0.1".into(),
            format!("w-{}", n + 1),
            "127.10.0.1".into(),
        ] {
            let url = format!(
                "host={host} hostaddr={} port=5432 user=postgres dbname=postgres sslmode=verify-full sslrootcert={}",
                member.vip,
                member.place.run_dir.join("ca.pem").display()
            );
            let said = member
                .psql(
                    &url,
                    "select version from pg_stat_ssl where pid = pg_backend_pid()",
                )
                .await;
            assert_eq!(said.trim(), "TLSv1.3", "{host}");
        }
        let url = format!(
            "host=elsewhere hostaddr={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={}",
            member.vip,
            member.place.run_dir.join("ca.pem").display()
        );
        let said = member.psql(&url, "select 1").await;
        assert!(said.contains("does not match host name"), "{said}");
    }
}

async fn observed(members: &[Member; 2]) -> [(Option<u64>, bool); 2] {
    let world = (RealNet, RealClock, RealSpawn);
    let probe = RestProbe::new(world, "demo", 8008, 16 << 20);
    let mut found = [(None, false); 2];
    for (n, member) in members.iter().enumerate() {
        let backend = Backend {
            name: format!("w-{}", n + 1).parse().unwrap(),
            addr: (member.vip.addr(), 5432).into(),
        };
        let observation = probe.probe(&backend).await.expect("an answer");
        found[n] = (observation.leads, observation.follows);
    }
    found
}

async fn edit_live(kv: &dyn Kv) {
    let key = "service/demo/config";
    let Ok(Response::Entry {
        entry: Some(entry), ..
    }) = kv.call(Request::get(key)).await
    else {
        panic!("no {key}");
    };
    let mut config: serde_json::Value = serde_json::from_slice(&entry.value).unwrap();
    config["loop_wait"] = 2.into();
    let condition = Condition::Unchanged(entry.modify_index);
    let put = Request::put(key, config.to_string().into_bytes(), condition);
    assert_eq!(kv.call(put).await, Ok(Response::Done(true)));
}

/// Of a replica: a leader asks itself over the socket in its folder, and this is another one.
async fn wrong_passwords(member: &Member, kv: Rc<dyn Kv>, began: Instant) {
    let guard = Rc::new(member.with_other_passwords().guard(kv));
    let told = Rc::new(RefCell::new(Told::default()));
    // Only the passwords differ: it writes its files, and then it is not taken.
    guard.before_start().await.unwrap();
    let (_switch, stop) = Stop::new();
    let _watch = watch(guard, told.clone(), stop);
    until("each wrong password is told", began, || {
        let told = |role| problem(&told, &format!("refuses our password of {role}:"));
        ["postgres", "rewind", "replicator"].into_iter().all(told)
    })
    .await;
}

async fn refuses_another_system(member: &Member, guard: &RealGuard, kv: &dyn Kv) {
    let put = Request::put(
        "service/demo/initialize",
        "7000000000000000042",
        Condition::Any,
    );
    assert_eq!(kv.call(put).await, Ok(Response::Done(true)));
    let refusal = guard.before_start().await.unwrap_err().to_string();
    assert!(
        refusal.contains("expected 7000000000000000042, as service/demo/initialize"),
        "{refusal}"
    );
    assert!(
        member.settings.data_dir.join("PG_VERSION").exists(),
        "nothing is removed"
    );
    let marker = member.settings.data_dir.with_file_name("data.made");
    let made = std::fs::read_to_string(marker).unwrap();
    assert!(
        refusal.contains(&format!("system {}: expected", made.trim())),
        "{refusal}: that it was made is kept beside it as {made}"
    );
}

/// No password is in a command line, an environment, or a log.
fn no_secrets(world: &World, members: &[Member; 2]) {
    let mut looked_at = 0;
    let secrets = world::secrets();
    let clean = |what: &str, text: &[u8]| {
        for secret in &secrets {
            let found = text
                .windows(secret.len())
                .any(|part| part == secret.as_bytes());
            assert!(!found, "{what} has a password in it");
        }
    };
    for pid in world.processes() {
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            if let Ok(text) = std::fs::read(&path) {
                clean(&path, &text);
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 20, "only {looked_at} files of processes");
    for member in members {
        let log = std::fs::read(&member.log).unwrap();
        assert!(log.len() > 1000, "an empty log");
        clean("the log", &log);
    }
}
