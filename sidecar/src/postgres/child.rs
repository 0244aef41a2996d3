//! Patroni as a child of the sidecar.

use std::rc::Rc;
use std::time::Duration;

use holdfast_core::supervise::{Name, RESTARTS_MAX};
use holdfast_io::real::RealClock;

use super::{NAME, postmaster};
use crate::children::{Check, Cleanup, Hooks, Job, Look, Supervised};
use crate::options::{Child, Ready};

use holdfast_postgres::{Place, Settings};

/// How long PostgreSQL has for a clean shutdown: a checkpoint, and what replicas have not received
/// yet. After that it is shut down immediately, which loses nothing that was acknowledged.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// Longest wait before another start, however often it ended: the fence ends a server that has had
/// no Patroni for 5 s.
const BACKOFF_LAST: Duration = Duration::from_secs(2);
/// Patroni that was ready for as long has recovered: the next wait is the first again.
const RECOVERED: Duration = Duration::from_secs(10);
/// Longest time for all that is checked: programs are run, and the KV is asked several times.
const CHECK_LIMIT: Duration = Duration::from_secs(90);
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
        backoff_last: BACKOFF_LAST,
        window: RECOVERED,
        // No rest: PostgreSQL would run on meanwhile, and nobody would manage it.
        max_restarts: RESTARTS_MAX,
        ..Child::new(NAME.parse().expect("letters are a name"), command.to_vec())
    };
    let hooks = Hooks {
        check: Some(Check {
            look: guard,
            limit: CHECK_LIMIT,
        }),
        cleanup: Some(cleanup(settings)),
    };
    let mut supervised = Supervised::from(&child).with(hooks);
    if let Job::Process(process) = &mut supervised.job {
        process.spec.without = NOT_INHERITED.map(str::to_owned).to_vec();
        // Copies, rewinds and `initdb` are in its group: Patroni cancels them when it may.
        process.spec.asks_its_own = true;
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

fn cleanup(settings: &Settings) -> Cleanup {
    let data_dir = settings.data_dir.clone();
    Rc::new(move |hurry| {
        let data_dir = data_dir.clone();
        Box::pin(async move {
            postmaster::end(&data_dir, hurry, &RealClock).await;
        })
    })
}
