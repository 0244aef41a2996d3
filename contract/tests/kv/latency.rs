//! How long each operation takes, one after the other: `--ignored latency`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_io::kv::consul::Config;
use holdfast_io::kv::{
    Behavior, Condition, Consistency, Kv, NewSession, Request, Response, SessionId,
};
use libtest_mimic::Trial;

use super::consul::{plain, secure_config};
use super::real::{Missing, RealConsul, run};

/// How often each operation is measured.
const ROUNDS: usize = 200;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("consul", plain),
        trial("consul-tls-acl", secure_config),
    ]
}

fn trial(implementation: &'static str, connect: fn() -> Result<Config, Missing>) -> Trial {
    let name = format!("kv/{implementation}/latency");
    let trial = Trial::test(name, move || {
        run(
            &connect,
            |kv| async move { measure(implementation, kv).await },
        )
    });
    trial.with_ignored_flag(true)
}

pub async fn measure(implementation: &str, kv: Rc<RealConsul>) {
    let session = session(&kv).await;
    let key = |n: usize| format!("latency/{n}");
    let read = |consistency| {
        move |n| Request::Get {
            key: key(n),
            consistency,
            wait: None,
        }
    };
    let lock = |n| Request::Acquire {
        key: key(n),
        value: "lock".into(),
        session: session.clone(),
    };
    let unlock = |n| Request::Release {
        key: key(n),
        value: "free".into(),
        session: session.clone(),
    };
    let delete = |n| Request::Delete {
        key: key(n),
        condition: Condition::Any,
    };
    let mut table = format!(
        "{implementation}, ms{:>16}{:>8}{:>8}\n",
        "median", "p99", "max"
    );
    let mut row = |what: &str, took: Vec<Duration>| table += &line(what, took);
    row(
        "create if absent",
        each(&kv, |n| Request::put(key(n), "value", Condition::Absent)).await,
    );
    row(
        "get, consistent",
        each(&kv, read(Consistency::Consistent)).await,
    );
    row("get, default", each(&kv, read(Consistency::Default)).await);
    row("get, stale", each(&kv, read(Consistency::Stale)).await);
    row(
        "put",
        each(&kv, |n| Request::put(key(n), n.to_string(), Condition::Any)).await,
    );
    row(
        "list of 200",
        each(&kv, |_| Request::list("latency/")).await,
    );
    row("acquire", each(&kv, lock).await);
    row("release", each(&kv, unlock).await);
    row(
        "renew a session",
        each(&kv, |_| Request::SessionRenew(session.clone())).await,
    );
    row("delete", each(&kv, delete).await);
    println!("\n{table}");
}

async fn session(kv: &RealConsul) -> SessionId {
    let request = Request::SessionCreate(NewSession {
        name: "latency".to_owned(),
        ttl: Duration::from_secs(600),
        behavior: Behavior::Delete,
        lock_delay: Duration::ZERO,
    });
    match kv.call(request).await.unwrap() {
        Response::Session(session) => session,
        other => panic!("expected a session, found {other:?}"),
    }
}

async fn each(kv: &RealConsul, request: impl Fn(usize) -> Request) -> Vec<Duration> {
    let mut took = Vec::with_capacity(ROUNDS);
    for n in 0..ROUNDS {
        let request = request(n);
        let began = Instant::now();
        let answer = kv.call(request).await;
        took.push(began.elapsed());
        assert_ne!(answer, Ok(Response::Done(false)));
        answer.unwrap();
    }
    took.sort_unstable();
    took
}

fn line(what: &str, took: Vec<Duration>) -> String {
    let ms = |at: usize| took[at].as_secs_f64() * 1000.0;
    let (median, p99, max) = (ms(ROUNDS / 2), ms(ROUNDS * 99 / 100), ms(ROUNDS - 1));
    format!("  {what:<20}{median:8.2}{p99:8.2}{max:8.2}\n")
}
