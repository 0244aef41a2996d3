//! Conversations by datagrams.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_plan::traffic::{check_datagram, datagram};
use holdfast_plan::{DatagramReport, Op, OpId, Service, What};
use tokio::net::UdpSocket;
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, sleep_until};

use super::{Context, Gaps};

/// Larger than any datagram.
const BUFFER_LEN: usize = 1 << 16;
/// How long a client listens after its last datagram: longer than any path takes.
const LINGER: Duration = Duration::from_secs(2);
/// Largest payload of UDP over IPv4.
const PAYLOAD_MAX: u32 = 65_507;

/// What arrived of one conversation at one end.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    seen: BTreeSet<u32>,
    repeated: u64,
    gaps: Gaps,
}

impl Tally {
    fn arrived(&mut self, at: Duration, sequence: u32) {
        match self.seen.insert(sequence) {
            true => self.gaps.arrived(at),
            false => self.repeated += 1,
        }
    }
}

fn tallies(cx: &Context) -> MutexGuard<'_, BTreeMap<OpId, Tally>> {
    let tallies = cx.world.tallies.lock();
    tallies.unwrap_or_else(PoisonError::into_inner)
}

/// Serve datagrams on an address until the run ends.
pub async fn serve(cx: &Context, service: Service, addr: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(addr).await?;
    let cx = cx.clone();
    spawn_local(async move {
        if service == Service::Stopped {
            // Holds the port, for as long as the run lasts.
            std::future::pending::<()>().await;
        }
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            // An error is that of an answer that nobody took.
            let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            let bytes = &buffer[..len];
            let known = check_datagram(bytes).filter(|(op, _)| {
                let op = cx.world.ops.get(op);
                op.is_some_and(|op| op.to == cx.node && op.service == service)
            });
            let Some((op, sequence)) = known else {
                strange(&cx, from, len);
                continue;
            };
            tallies(&cx)
                .entry(op)
                .or_default()
                .arrived(cx.now(), sequence);
            if service != Service::Sink {
                // As lost on the way.
                let _ = socket.send_to(bytes, from).await;
            }
        }
    });
    Ok(())
}

fn strange(cx: &Context, from: SocketAddr, len: usize) {
    let from = cx.node_at(from.ip());
    cx.saw(What::StrangeDatagram { from, len });
}

/// A client's end. Dropped, it reports: when the conversation is done, or the run is.
struct End<'a> {
    cx: &'a Context,
    op: &'a Op,
    sent: u64,
    tally: Tally,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let tally = match self.op.service {
            Service::Echo => std::mem::take(&mut self.tally),
            // Where nothing comes back, the server knows.
            _ => tallies(self.cx)
                .get(&self.op.id)
                .cloned()
                .unwrap_or_default(),
        };
        self.cx.saw(What::Datagrams(DatagramReport {
            op: self.op.id,
            sent: self.sent,
            received: tally.seen.len() as u64,
            repeated: tally.repeated,
            gap_max: tally.gaps.max,
        }));
    }
}

/// Be the client of an operation.
pub async fn talk(cx: &Context, op: &Op, count: u32, every: Duration, len_bytes: u32) {
    let mut end = End {
        cx,
        op,
        sent: 0,
        tally: Tally::default(),
    };
    let Ok(socket) = connect(cx, op).await else {
        return;
    };
    let mut ticks = interval(every.max(Duration::from_micros(1)));
    let mut buffer = vec![0; BUFFER_LEN];
    let mut until: Option<Instant> = None;
    let mut next = 0;
    loop {
        let over = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ticks.tick(), if next < count => {
                let bytes = datagram(op.id, next, len_bytes.min(PAYLOAD_MAX));
                // The first error is that of an earlier datagram that nobody took.
                if socket.send(&bytes).await.is_ok() || socket.send(&bytes).await.is_ok() {
                    end.sent += 1;
                }
                next += 1;
                until = (next == count).then(|| Instant::now() + LINGER);
            }
            received = socket.recv(&mut buffer) => {
                if let Ok(len) = received {
                    match check_datagram(&buffer[..len]) {
                        Some((id, sequence)) if id == op.id && op.service == Service::Echo => {
                            end.tally.arrived(cx.now(), sequence);
                        }
                        _ => strange(cx, SocketAddr::from((cx.vip(op.to), 0)), len),
                    }
                }
            }
            () = over => return,
        }
    }
}

async fn connect(cx: &Context, op: &Op) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect((cx.vip(op.to), op.service.port())).await?;
    Ok(socket)
}
