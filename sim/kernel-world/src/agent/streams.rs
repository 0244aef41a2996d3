//! Streams: the services that take them and the clients that open them.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use holdfast_plan::traffic::{Check, HEADER_LEN, Source};
use holdfast_plan::{NodeIndex, Op, OpId, Service, Side, StreamReport, What};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::{Context, Gaps, sleep};

/// How much is read or written at a time, bytes.
const CHUNK_LEN: usize = 16 << 10;
/// Pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Longest time for a connection, which is to this machine itself.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Most streams that all services of a node serve at a time; more are closed at once.
const SERVING_MAX: usize = 4_096;
/// Pause after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One end of a stream. Dropped, it reports: when the stream is done, or the run is.
struct End {
    cx: Context,
    /// The kills of the node before this stream was opened.
    kills: u32,
    live: RefCell<Live>,
}

struct Live {
    side: Side,
    op: Option<OpId>,
    peer: Option<NodeIndex>,
    attempts: u32,
    opened_at: Option<Duration>,
    check: Check,
    /// Whether anything should arrive here.
    expects: bool,
    sent: u64,
    gaps: Gaps,
    finished_at: Option<Duration>,
    reset: Option<String>,
}

impl End {
    fn new(cx: &Context, live: Live) -> End {
        End {
            cx: cx.clone(),
            kills: cx.kills(),
            live: RefCell::new(live),
        }
    }

    fn opened(&self) {
        self.live.borrow_mut().opened_at = Some(self.cx.now());
    }

    fn sent(&self, bytes: usize) {
        self.live.borrow_mut().sent += bytes as u64;
    }

    fn received(&self, bytes: &[u8]) {
        let mut live = self.live.borrow_mut();
        live.gaps.arrived(self.cx.now());
        live.check.feed(bytes);
    }

    /// The end was read.
    ///
    /// The kernel ends the connections of a killed process as if it had closed them. No program
    /// can prevent that, so such an end is no clean one unless everything has arrived.
    fn finished(&self) -> io::Result<()> {
        let mut live = self.live.borrow_mut();
        let is_whole = live.expects && live.check.is_complete();
        if self.cx.kills() != self.kills && !is_whole {
            return Err(io::Error::other("the node was killed"));
        }
        live.finished_at = Some(self.cx.now());
        Ok(())
    }

    fn broke(&self, error: &io::Error) {
        self.live.borrow_mut().reset = Some(error.to_string());
    }

    fn is_complete(&self) -> bool {
        self.live.borrow().is_complete()
    }
}

impl Live {
    fn is_complete(&self) -> bool {
        match self.expects {
            // A client waits for the last byte only, a server is told of the end as well.
            true => {
                let told = self.side == Side::Client || self.finished_at.is_some();
                told && self.check.is_complete()
            }
            false => self.finished_at.is_some() && self.check.received() == 0,
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let live = self.live.borrow();
        self.cx.saw(What::Stream(StreamReport {
            side: live.side,
            op: match live.side {
                Side::Client => live.op,
                Side::Server => live.check.op(),
            },
            peer: live.peer,
            attempts: live.attempts,
            opened_at: live.opened_at,
            first_byte_at: live.gaps.first,
            sent: live.sent,
            received: live.check.received(),
            altered_at: live.check.altered_at(),
            finished_at: live.finished_at,
            complete: live.is_complete(),
            reset: live.reset.clone(),
            gap_max: live.gaps.max,
        }));
    }
}

/// Serve streams on an address until the run ends.
pub async fn serve(cx: &Context, service: Service, addr: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(addr).await?;
    let cx = cx.clone();
    spawn_local(async move {
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            if cx.serving.get() < SERVING_MAX {
                spawn_local(accepted(cx.clone(), service, stream, from));
            }
        }
    });
    Ok(())
}

async fn accepted(cx: Context, service: Service, mut stream: TcpStream, from: SocketAddr) {
    let serving = Serving::new(&cx);
    let live = Live {
        side: Side::Server,
        op: None,
        peer: cx.node_at(from.ip()),
        attempts: 0,
        opened_at: Some(cx.now()),
        check: Check::new(),
        expects: true,
        sent: 0,
        gaps: Gaps::default(),
        finished_at: None,
        reset: None,
    };
    let end = End::new(&cx, live);
    let served = match service {
        Service::Sink => read_all(&mut stream.split().0, &end).await,
        // For as long as the run lasts.
        Service::Stopped => std::future::pending().await,
        Service::Echo | Service::Forbidden | Service::Closed => echo(&mut stream, &end).await,
    };
    if let Err(error) = served {
        end.broke(&error);
    }
    drop(serving);
}

/// One of the streams that [`SERVING_MAX`] bounds.
struct Serving(Context);

impl Serving {
    fn new(cx: &Context) -> Serving {
        cx.serving.set(cx.serving.get() + 1);
        Serving(cx.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.set(self.0.serving.get() - 1);
    }
}

async fn echo(stream: &mut TcpStream, end: &End) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        let len = stream.read(&mut chunk).await?;
        if len == 0 {
            end.finished()?;
            return stream.shutdown().await;
        }
        end.received(&chunk[..len]);
        stream.write_all(&chunk[..len]).await?;
        end.sent(len);
    }
}

async fn read_all(stream: &mut ReadHalf<'_>, end: &End) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        let len = stream.read(&mut chunk).await?;
        if len == 0 {
            return end.finished();
        }
        end.received(&chunk[..len]);
    }
}

/// Be the client of an operation, as often as its patience allows.
pub async fn talk(cx: &Context, op: &Op, bytes: u64, patience: Duration) {
    let source = Source::new(op.id, bytes.max(HEADER_LEN as u64));
    let began = cx.now();
    let fresh = |attempts| Live {
        side: Side::Client,
        op: Some(op.id),
        peer: Some(op.to),
        attempts,
        opened_at: None,
        check: Check::expecting(source),
        expects: op.service == Service::Echo,
        sent: 0,
        gaps: Gaps::default(),
        finished_at: None,
        reset: None,
    };
    let mut end = End::new(cx, fresh(1));
    let addr = SocketAddr::from((cx.vip(op.to), op.service.port()));
    for attempts in 1.. {
        // The report is of the last try only.
        end.live.replace(fresh(attempts));
        end.kills = cx.kills();
        let Err(error) = attempt(addr, source, &end).await else {
            return;
        };
        end.broke(&error);
        if end.is_complete() || cx.now().saturating_sub(began) + RETRY_PAUSE > patience {
            return;
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn attempt(addr: SocketAddr, source: Source, end: &End) -> io::Result<()> {
    let mut stream = timeout(CONNECT_LIMIT, TcpStream::connect(addr)).await??;
    end.opened();
    let (mut read, mut write) = stream.split();
    let (writing, reading) = (send(&mut write, source, end), read_all(&mut read, end));
    tokio::pin!(reading);
    tokio::select! {
        // A server that closes before all was sent wants no more.
        read = &mut reading => return read,
        written = writing => written?,
    }
    reading.await
}

async fn send(stream: &mut WriteHalf<'_>, source: Source, end: &End) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_LEN];
    let mut offset = 0;
    loop {
        let len = source.read_at(offset, &mut chunk);
        if len == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&chunk[..len]).await?;
        end.sent(len);
        offset += len as u64;
    }
}
