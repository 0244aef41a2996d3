//! Bytes both ways between two connections, half-close carried through.
//!
//! Back-pressure is pull: one end is read only when the other has taken everything.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{Clock, Sleep};

/// What one read may take: many small messages, or a good part of a socket's buffer.
const BUFFER_LEN: usize = 64 << 10;
/// Buffers kept for the next read, 4 MiB. Sessions at rest have none.
const BUFFERS_FREE_MAX: usize = 64;
/// Rounds before another task gets its turn.
const ROUNDS_MAX: usize = 4;
/// Longest silence of a session one end of which has ended: whoever has something to say to an
/// end that says nothing any more does so, or has vanished.
const HALF_CLOSED_SILENCE_MAX: Duration = Duration::from_secs(600);

/// Buffers that all sessions share: one is taken for a read, and given back when its bytes are
/// written.
#[derive(Default)]
pub(super) struct Buffers {
    free: RefCell<Vec<Box<[u8]>>>,
}

impl Buffers {
    fn take(&self) -> Box<[u8]> {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice())
    }

    fn give(&self, buffer: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        // What came before the first read is in a buffer of its own length.
        if buffer.len() == BUFFER_LEN && free.len() < BUFFERS_FREE_MAX {
            free.push(buffer);
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both ends have ended, and everything has arrived.
    Clean,
    /// A connection broke, or one end has ended and the other is silent.
    Broken,
    /// It was ordered.
    Ordered,
}

/// Move bytes between two connections to their end, or until `ordered` is ready. `early` was read
/// from `a` already.
pub(super) async fn pump<A, B, C: Clock>(
    (a, b): (&mut A, &mut B),
    early: Vec<u8>,
    buffers: &Buffers,
    clock: &C,
    ordered: impl Fn(&mut Context<'_>) -> Poll<()>,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::with(early), Half::default());
    let mut silence: Option<C::Sleep> = None;
    poll_fn(|cx| {
        if ordered(cx).is_ready() {
            return Poll::Ready(End::Ordered);
        }
        for _ in 0..ROUNDS_MAX {
            let moved = up
                .poll(a, b, buffers, cx)
                .and_then(|up| Ok(up | down.poll(b, a, buffers, cx)?));
            let Ok(moved) = moved else {
                return Poll::Ready(End::Broken);
            };
            if up.done && down.done {
                return Poll::Ready(End::Clean);
            }
            if up.done || down.done {
                let until = clock.now().mono + HALF_CLOSED_SILENCE_MAX;
                let sleep = silence.get_or_insert_with(|| clock.sleep_until(until));
                if moved {
                    sleep.reset(until);
                }
                if Pin::new(sleep).poll(cx).is_ready() {
                    return Poll::Ready(End::Broken);
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Half {
    /// What was read and not yet written: `start..end` of it.
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    /// Nothing more is read.
    eof: bool,
    /// And the other end knows.
    done: bool,
}

impl Half {
    fn with(early: Vec<u8>) -> Half {
        Half {
            end: early.len(),
            buffer: (!early.is_empty()).then(|| early.into_boxed_slice()),
            ..Half::default()
        }
    }

    /// Whether anything moved.
    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        from: &mut R,
        to: &mut W,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        if self.done {
            return Ok(false);
        }
        let mut moved = false;
        if self.buffer.is_none() && !self.eof {
            moved = self.read(from, buffers, cx)?;
        }
        while let Some(buffer) = &self.buffer {
            match Pin::new(&mut *to).poll_write(cx, &buffer[self.start..self.end])? {
                Poll::Pending => return Ok(moved),
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.start += written,
            }
            moved = true;
            if self.start == self.end
                && let Some(buffer) = self.buffer.take()
            {
                buffers.give(buffer);
            }
        }
        if self.eof && Pin::new(to).poll_shutdown(cx)?.is_ready() {
            self.done = true;
            moved = true;
        }
        Ok(moved)
    }

    /// Whether something came, or the end.
    fn read<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        let mut buffer = buffers.take();
        let mut space = ReadBuf::new(&mut buffer);
        let read = Pin::new(from).poll_read(cx, &mut space);
        let len = space.filled().len();
        if len > 0 {
            (self.start, self.end) = (0, len);
            self.buffer = Some(buffer);
        } else {
            buffers.give(buffer);
        }
        self.eof = matches!(read, Poll::Ready(Ok(()))) && len == 0;
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(result) => result.map(|()| true),
        }
    }
}
