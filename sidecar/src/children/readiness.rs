//! Whether a process does what it is there for, looked at for as long as it runs.

use std::time::Duration;

use holdfast_core::supervise::{Input, Name, Run};
use holdfast_io::clock::Clock;
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;
use tokio::sync::mpsc;

use super::Told;
use crate::options::Ready;
use crate::probe;

/// First and longest pause between looks at a child that is not ready.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(1);
/// Pause between looks at one that is.
const LOOK_READY: Duration = Duration::from_secs(5);
/// So many looks in a row have to fail before a child is no longer ready: one may meet a pause.
const LOOKS_FAILED: u32 = 3;
/// Not ready for so long is worth a word in the log, and again every time it has doubled.
const LOOK_TELL: Duration = Duration::from_secs(10);

/// Look until the task is dropped.
pub(super) async fn keep_looking<N: Net, C: Clock, S: Spawn>(
    run: Run,
    child: Name,
    ready: Ready,
    (net, clock, spawn): (N, C, S),
    told: mpsc::Sender<Told>,
) {
    let world = (&net, &clock, &spawn);
    loop {
        until_ready(run, &child, &ready, world, &told).await;
        // Without a receiver everything has ended already; so too below.
        let _ = told.send(Input::Ready(run).into()).await;
        let why = until_unready(&ready, world).await;
        tracing::warn!(%child, "no longer ready: {why}");
        let _ = told.send(Input::Unready(run).into()).await;
        let _ = told.send(Told::NotReady { run, why }).await;
    }
}

async fn until_ready<N: Net, C: Clock, S: Spawn>(
    run: Run,
    child: &Name,
    ready: &Ready,
    world: (&N, &C, &S),
    told: &mpsc::Sender<Told>,
) {
    let clock = world.1;
    let since = clock.now().mono;
    let (mut pause, mut tell) = (LOOK_FIRST, LOOK_TELL);
    let mut last = String::new();
    while let Err(why) = probe::look(ready, world).await {
        let waited = clock.now().mono.saturating_duration_since(since);
        if waited >= tell {
            tracing::info!(%child, waited_s = waited.as_secs(), "not ready yet: {why}");
            tell = waited * 2;
        }
        // The first looks meet a process that is about to begin: nothing to tell.
        if why != last && pause == LOOK_LAST {
            last.clone_from(&why);
            let _ = told.send(Told::NotReady { run, why }).await;
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}

async fn until_unready<N: Net, C: Clock, S: Spawn>(ready: &Ready, world: (&N, &C, &S)) -> String {
    let mut failed = 0;
    loop {
        let pause = match failed {
            0 => LOOK_READY,
            _ => LOOK_LAST,
        };
        world.1.sleep(pause).await;
        match probe::look(ready, world).await {
            Ok(()) => failed = 0,
            Err(why) => {
                failed += 1;
                if failed >= LOOKS_FAILED {
                    return why;
                }
            }
        }
    }
}
