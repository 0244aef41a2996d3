//! Listeners: whoever connects becomes a session, or is reset when there are too many.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::route::{Input, Pool};

use super::session::Session;
use super::shared::Shared;
use crate::clock::Clock;
use crate::net::{Listener, Net, Stream};
use crate::spawn::{Spawn, Task};

/// Pause before an address that cannot be had is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(1);
/// Pause after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listen for ever. `nth` is its place in the view.
pub(super) fn spawn_listener<N: Net, C: Clock, S: Spawn>(
    shared: &Rc<Shared<N, C, S>>,
    nth: usize,
    addr: SocketAddr,
    pool: Pool,
) -> Task {
    let own = shared.clone();
    shared.spawn.spawn("endpoint", async move {
        loop {
            match own.net.listen(addr).await {
                Ok(listener) => {
                    own.show(nth, |view| {
                        view.address = listener.local_addr().unwrap_or(addr);
                        view.listens = true;
                        view.problem = None;
                    });
                    accept(&own, nth, pool, &listener).await;
                }
                Err(error) => {
                    tracing::debug!(%addr, %error, "an endpoint cannot listen");
                    let problem = format!("cannot listen on {addr}: {error}");
                    own.show(nth, |view| view.problem = Some(problem));
                }
            }
            own.clock.sleep(BIND_PAUSE).await;
        }
    })
}

async fn accept<N: Net, C: Clock, S: Spawn>(
    shared: &Rc<Shared<N, C, S>>,
    nth: usize,
    pool: Pool,
    listener: &N::Listener,
) {
    let mut is_well = true;
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                if !is_well {
                    is_well = true;
                    shared.show(nth, |view| view.problem = None);
                }
                open(shared, pool, client);
            }
            Err(error) => {
                is_well = false;
                let problem = format!("cannot accept: {error}");
                shared.show(nth, |view| view.problem = Some(problem));
                shared.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn open<N: Net, C: Clock, S: Spawn>(shared: &Rc<Shared<N, C, S>>, pool: Pool, client: N::Stream) {
    let (session, slot) = shared.add_session();
    shared.handle(Input::Ask { pool, session });
    if !shared.has_session(session) {
        // Refused at once: no task for it, there may be many of them.
        let _ = client.reset_on_drop();
        return;
    }
    let run = Session {
        shared: shared.clone(),
        _live: shared.live(),
        id: session,
        slot,
        client,
    };
    let task = shared.spawn.spawn("endpoint session", run.run());
    shared.add_task(session, task);
}
