//! Patroni as a child of the sidecar.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::supervise::{Name, RESTARTS_MAX};
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::real::RealClock;
use tokio::sync::watch;

use super::{NAME, postmaster};
use crate::children::{Check, Cleanup, Hooks, Job, Look, Supervised};
use crate::options::{Child, Ready};

use holdfast_postgres::{Place, Settings};

/// How long PostgreSQL has for a clean shutdown: a checkpoint, and what replicas have not received
/// yet. After that it is shut down immediately, which loses nothing that was acknowledged.
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// First and longest wait before another start. Long enough for a log that can be read, short
/// enough that what was mended goes on by itself, and that Patroni is back long before its key
/// expires.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LAST: Duration = Duration::from_secs(10);
/// Longest time for all that is checked: programs are run, and the KV is asked several times.
const CHECK_LIMIT: Duration = Duration::from_secs(90);
/// How long a server may take to end cleanly that nobody manages.
const ABANDONED_LIMIT: Duration = Duration::from_secs(5);
/// Variables that would change what Patroni, PostgreSQL or libpq are told by files.
const NOT_INHERITED: [&str; 2] = ["PATRONI_", "PG"];

/// The child.
pub(super) fn supervised(
    settings: &Settings,
    place: &Place,
    after: Vec<Name>,
    guard: Look,
) -> Supervised {
    let rest = format!("http://{}:{}", place.vip.addr(), settings.rest_port);
    let config = place.run_dir.join("patroni.yml");
    let command = [&settings.patroni, &config].map(|word| word.display().to_string());
    let child = Child {
        user: Some(settings.user.clone()),
        after,
        // A primary, or a replica that follows: what a copy is being made for is neither yet.
        ready: Ready::Http {
            endpoint: rest.parse().expect("an address with a port is a server's"),
            path: "/readiness".to_owned(),
        },
        env: environment(settings, place),
        // Anybody can be there: `initdb` and `pg_ctl` come back to where they were started.
        dir: Some("/".into()),
        stop_deadline: STOP_DEADLINE,
        backoff_first: BACKOFF_FIRST,
        backoff_last: BACKOFF_LAST,
        // No rest: PostgreSQL would run on meanwhile, and nobody would manage it.
        max_restarts: RESTARTS_MAX,
        ..Child::new(NAME.parse().expect("letters are a name"), command.to_vec())
    };
    let hooks = Hooks {
        check: Some(Check {
            look: fenced(settings, guard),
            limit: CHECK_LIMIT,
        }),
        cleanup: Some(cleanup(settings)),
    };
    let mut supervised = Supervised::from(&child).with(hooks);
    if let Job::Process(process) = &mut supervised.job {
        process.spec.without = NOT_INHERITED.map(str::to_owned).to_vec();
    }
    supervised
}

/// The user may have no home, or one that is not there: what libpq and Python look for is in the
/// folder of its own.
fn environment(settings: &Settings, place: &Place) -> Vec<(String, String)> {
    let home = holdfast_postgres::generate::Paths::below(&place.run_dir).own;
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        settings.bin_dir.display()
    );
    let pairs = [
        ("HOME", home.display().to_string()),
        ("PATH", path),
        // PostgreSQL's messages as they are looked for, whatever the system speaks.
        ("LC_ALL", "C.UTF-8".to_owned()),
        // Logs as PostgreSQL's.
        ("TZ", "UTC".to_owned()),
        // Lines as they come, not when a buffer is full.
        ("PYTHONUNBUFFERED", "1".to_owned()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

/// A check that also ends the server which a Patroni that was killed has left, when the next one
/// stays refused: nobody manages it, and soon another may be promoted.
fn fenced(settings: &Settings, guard: Look) -> Look {
    let data_dir = settings.data_dir.clone();
    let patience = patience(settings);
    let refused_since = Rc::new(Cell::new(None));
    Rc::new(move || {
        let (looking, data_dir) = (guard(), data_dir.clone());
        let refused_since = refused_since.clone();
        Box::pin(async move {
            let began = RealClock.now().mono;
            let result = looking.await;
            if result.is_ok() {
                refused_since.set(None);
                return result;
            }
            let since = refused_since.get().unwrap_or(began);
            refused_since.set(Some(since));
            if RealClock.now().mono >= since + patience {
                end_within(&data_dir, ABANDONED_LIMIT).await;
            }
            result
        })
    })
}

/// How long a server may run on without Patroni before it is ended. The key that it may lead by
/// was renewed up to `loop_wait` before Patroni ended, and expires `ttl` after that; the next look
/// comes after up to the longest wait, and the server needs some time to end.
fn patience(settings: &Settings) -> Duration {
    let needed = settings.loop_wait + BACKOFF_LAST + ABANDONED_LIMIT;
    settings.ttl.saturating_sub(needed)
}

fn cleanup(settings: &Settings) -> Cleanup {
    let data_dir = settings.data_dir.clone();
    Rc::new(move |hurry| {
        let data_dir = data_dir.clone();
        Box::pin(async move {
            postmaster::end(&data_dir, hurry, &RealClock).await;
        })
    })
}

/// End a server that nobody manages: cleanly, if that is done in time.
pub(super) async fn end_within(data_dir: &Path, limit: Duration) {
    let (switch, hurry) = watch::channel(limit.is_zero());
    let ending = postmaster::end(data_dir, Stop::from(hurry), &RealClock);
    let late = async {
        RealClock.sleep(limit).await;
        // Without a receiver it has ended.
        let _ = switch.send(true);
        std::future::pending::<()>().await
    };
    tokio::select! {
        _ = ending => {}
        () = late => {}
    }
}
