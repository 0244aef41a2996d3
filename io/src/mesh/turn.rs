//! TCP connections to TURN servers: bytes in, writes out, nothing understood.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use holdfast_core::mesh::{Input, TcpAction, TcpEvent};
use tokio::io::AsyncReadExt;

use super::Context;
use crate::clock::{Clock, timeout};
use crate::net::{Net, Stream};
use crate::spawn::{Spawn, Task};

/// Longest time to establish a connection to a TURN server.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest time to send what was written before a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Bytes that may wait to be sent. The machine stops at 256 KiB; beyond this the
/// connection is broken in a way that only closing cures.
const QUEUE_LEN_MAX: usize = 1 << 20;
/// Block that is read at once.
const READ_LEN: usize = 64 << 10;
/// Rounds before another task gets its turn.
const ROUNDS_MAX: usize = 4;

/// All connections to TURN servers.
#[derive(Default)]
pub(super) struct TurnConns(RefCell<BTreeMap<u32, Rc<Conn>>>);

#[derive(Default)]
struct Conn {
    queue: RefCell<VecDeque<Bytes>>,
    queue_len: Cell<usize>,
    closing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    task: RefCell<Option<Task>>,
}

impl Conn {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl TurnConns {
    /// Do what the machine says.
    pub(super) fn act<N: Net, C: Clock, S: Spawn>(
        self: &Rc<Self>,
        cx: &Context<N, C, S>,
        id: u32,
        action: TcpAction,
    ) {
        match action {
            TcpAction::Connect(server) => self.connect(cx, id, server),
            TcpAction::Write(bytes) => self.write(id, bytes),
            TcpAction::Close => self.close(id),
        }
    }

    /// Drop all connections.
    pub(super) fn clear(&self) {
        for conn in std::mem::take(&mut *self.0.borrow_mut()).into_values() {
            drop(conn.task.take());
        }
    }

    fn connect<N: Net, C: Clock, S: Spawn>(
        self: &Rc<Self>,
        cx: &Context<N, C, S>,
        id: u32,
        server: SocketAddr,
    ) {
        let conn = Rc::new(Conn::default());
        self.0.borrow_mut().insert(id, conn.clone());
        let (own, conns, cx_own) = (conn.clone(), self.clone(), cx.clone());
        let task = cx.spawn.spawn("turn connection", async move {
            if let Err(error) = run(&cx_own, id, server, &own).await {
                tracing::debug!(%server, %error, "the connection to the TURN server ended");
            }
            conns.0.borrow_mut().remove(&id);
            if let Some(task) = own.task.take() {
                task.detach();
            }
            if !own.closing.get() {
                let event = TcpEvent::Closed;
                cx_own.node.handle(Input::TurnTcp { conn: id, event });
            }
        });
        *conn.task.borrow_mut() = Some(task);
    }

    fn write(&self, id: u32, bytes: Bytes) {
        if let Some(conn) = self.0.borrow().get(&id) {
            conn.queue_len.set(conn.queue_len.get() + bytes.len());
            conn.queue.borrow_mut().push_back(bytes);
            conn.wake();
        }
    }

    fn close(&self, id: u32) {
        if let Some(conn) = self.0.borrow().get(&id) {
            conn.closing.set(true);
            conn.wake();
        }
    }
}

async fn run<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    id: u32,
    server: SocketAddr,
    conn: &Conn,
) -> io::Result<()> {
    let mut tcp = timeout(&cx.clock, CONNECT_LIMIT, cx.net.connect(None, server)).await??;
    tcp.set_nodelay(true)?;
    // Without it a server that vanished is only noticed later.
    let _ = tcp.give_up_on_silence();
    let local = tcp.local_addr()?;
    let tell = |event| cx.node.handle(Input::TurnTcp { conn: id, event });
    tell(TcpEvent::Connected { local });
    let mut block = BytesMut::new();
    poll_fn(|task| {
        *conn.waker.borrow_mut() = Some(task.waker().clone());
        for _ in 0..ROUNDS_MAX {
            if conn.closing.get() {
                return Poll::Ready(Ok::<(), io::Error>(()));
            }
            let sent = poll_send(task, conn, &mut tcp)?;
            if sent > 0 {
                tell(TcpEvent::Sent(sent));
            }
            match poll_recv(task, &mut block, &mut tcp)? {
                Poll::Ready(bytes) if bytes.is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(bytes) => tell(TcpEvent::Bytes(bytes)),
                Poll::Pending if sent == 0 => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await?;
    // The last words give the allocation back; without them it expires by itself.
    let last = poll_fn(|task| match poll_send(task, conn, &mut tcp) {
        Ok(_) if conn.queue.borrow().is_empty() => Poll::Ready(Ok(())),
        Ok(_) => Poll::Pending,
        Err(error) => Poll::Ready(Err(error)),
    });
    timeout(&cx.clock, CLOSE_LIMIT, last).await?
}

/// Send what is queued, as far as there is room; returns how many bytes went.
fn poll_send<T: Stream>(task: &mut TaskContext<'_>, conn: &Conn, tcp: &mut T) -> io::Result<usize> {
    if conn.queue_len.get() > QUEUE_LEN_MAX {
        return Err(io::Error::other("too many bytes wait to be sent"));
    }
    let mut queue = conn.queue.borrow_mut();
    let mut sent = 0;
    while let Some(bytes) = queue.front_mut() {
        if bytes.is_empty() {
            queue.pop_front();
            continue;
        }
        match Pin::new(&mut *tcp).poll_write(task, bytes) {
            Poll::Pending => break,
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(written)) => {
                bytes.advance(written);
                sent += written;
            }
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    conn.queue_len.set(conn.queue_len.get() - sent);
    Ok(sent)
}

/// The next bytes; none of them when the server has closed.
fn poll_recv<T: Stream>(
    task: &mut TaskContext<'_>,
    block: &mut BytesMut,
    tcp: &mut T,
) -> io::Result<Poll<BytesMut>> {
    block.reserve(READ_LEN);
    // Cancel safe: a future that was not ready has read nothing.
    match pin!(tcp.read_buf(block)).poll(task) {
        Poll::Pending => Ok(Poll::Pending),
        Poll::Ready(result) => result.map(|_| Poll::Ready(block.split())),
    }
}
