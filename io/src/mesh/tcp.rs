//! TCP forwards: listeners on the peers' virtual addresses, and connections to local
//! services for the streams that peers open.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::mesh::{Input, ResetReason};
use holdfast_core::types::{LinkId, StreamId};

use super::Context;
use super::node::{StreamSlot, count};
use super::pump::Pump;
use super::status::Protocol;
use crate::clock::{Clock, timeout};
use crate::net::{Listener, Net, Stream};
use crate::spawn::{Spawn, Task};

/// Longest time for a local connection: it is this machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Pause before an address that another process holds is tried again.
pub(super) const BIND_PAUSE: Duration = Duration::from_secs(1);
/// Pause after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listen on a peer's virtual address for ever.
pub(super) fn spawn_listener<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    link: LinkId,
    addr: SocketAddr,
) -> Task {
    let own = cx.clone();
    cx.spawn.spawn("tcp forward", async move {
        loop {
            match own.net.listen(addr).await {
                Ok(listener) => {
                    own.node.remove_clash(addr, Protocol::Tcp);
                    accept(&own, link, addr.port(), &listener).await;
                }
                Err(error) => own.node.add_clash(addr, Protocol::Tcp, &error),
            }
            own.clock.sleep(BIND_PAUSE).await;
        }
    })
}

async fn accept<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    link: LinkId,
    port: u16,
    listener: &N::Listener,
) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => open(cx, link, port, tcp),
            Err(error) => {
                tracing::debug!(%error, port, "accepting a local connection failed");
                cx.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Open a stream for an accepted connection, or reset it: its application learns at once.
fn open<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    link: LinkId,
    port: u16,
    tcp: N::Stream,
) {
    let node = &cx.node;
    count(&node.counters.tcp_accepted, 1);
    let claim = node.claim();
    let opened = claim
        .is_some()
        .then(|| node.with(|now, mesh| mesh.stream_open(now, link, port)));
    match (claim, opened) {
        (Some(claim), Some(Ok(id))) => {
            let slot = node.add_stream(id);
            let pump = Pump::new(node.clone(), id, slot.clone(), tcp, claim);
            *slot.task.borrow_mut() = Some(cx.spawn.spawn("tcp pump", pump.run()));
        }
        (_, refused) => {
            if let Some(Err(error)) = refused {
                count(&node.counters.tcp_refused, 1);
                tracing::debug!(link = link.0, port, %error, "a local connection was refused");
            }
            // Without it the application sees a clean end.
            let _ = tcp.reset_on_drop();
        }
    }
}

/// Connect for a stream that a peer opened.
pub(super) fn spawn_incoming<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    id: StreamId,
    from: IpAddr,
    to: [SocketAddr; 2],
) {
    let Some(claim) = cx.node.claim() else {
        cx.node
            .with(|now, mesh| mesh.stream_reset(now, id, ResetReason::Limit));
        return;
    };
    let slot = cx.node.add_stream(id);
    let (own, heard) = (cx.clone(), slot.clone());
    let task = cx.spawn.spawn("tcp pump", async move {
        match connect_first(&own, from, to).await {
            Some(tcp) => {
                count(&own.node.counters.tcp_connected, 1);
                let pump = Pump::new(own.node.clone(), id, heard, tcp, claim);
                pump.run().await;
            }
            None => refuse(&own, id, &heard),
        }
    });
    *slot.task.borrow_mut() = Some(task);
}

fn refuse<N: Net, C: Clock, S: Spawn>(cx: &Context<N, C, S>, id: StreamId, slot: &Rc<StreamSlot>) {
    count(&cx.node.counters.tcp_connect_failed, 1);
    if slot.reset.get().is_none() {
        cx.node.handle(Input::IncomingRefused { stream: id });
    }
    cx.node.remove_stream(id);
}

async fn connect_first<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    from: IpAddr,
    to: [SocketAddr; 2],
) -> Option<N::Stream> {
    for addr in to {
        let connecting = cx.net.connect(Some(from), addr);
        match timeout(&cx.clock, CONNECT_LIMIT, connecting).await {
            Ok(Ok(tcp)) => return Some(tcp),
            Ok(Err(error)) => tracing::trace!(%addr, %error, "a local service refused"),
            Err(error) => tracing::debug!(%addr, %error, "a local service is silent"),
        }
    }
    None
}
