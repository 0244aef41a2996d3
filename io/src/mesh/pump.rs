//! One forwarded TCP connection: bytes both ways, half-close and reset carried through.
//!
//! Back-pressure is pull on both sides: the connection is read only while the stream has
//! taken everything, and the stream is read only while the connection has.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use holdfast_core::mesh::{Read, ResetReason};
use holdfast_core::types::StreamId;

use super::node::{Claim, Node, StreamSlot};
use crate::clock::Clock;
use crate::net::Stream;

/// Bytes taken from the stream before they are written to the connection: one system call
/// for a whole flight of packets.
const DOWN_LEN_MAX: usize = 256 << 10;
/// Chunks in one vectored write. A chunk is what one packet carried.
const SLICES_MAX: usize = 64;
/// Rounds before another task gets its turn.
const ROUNDS_MAX: usize = 4;

/// Both directions of one connection.
pub(super) struct Pump<C: Clock, T> {
    pub(super) node: Rc<Node<C>>,
    pub(super) id: StreamId,
    pub(super) slot: Rc<StreamSlot>,
    pub(super) tcp: T,
    /// Given back when the pump ends.
    pub(super) _claim: Claim<C>,
    up: Up,
    down: Down,
}

/// From the connection to the stream.
#[derive(Default)]
struct Up {
    chunk: Bytes,
    done: bool,
}

/// From the stream to the connection.
#[derive(Default)]
struct Down {
    queue: VecDeque<Bytes>,
    finished: bool,
    done: bool,
}

/// Why a pump gives up.
enum Broken {
    /// The connection broke: tell the peer.
    Connection,
    /// The stream broke: reset the connection.
    Stream,
}

impl<C: Clock, T: Stream> Pump<C, T> {
    pub(super) fn new(
        node: Rc<Node<C>>,
        id: StreamId,
        slot: Rc<StreamSlot>,
        tcp: T,
        claim: Claim<C>,
    ) -> Pump<C, T> {
        Pump {
            node,
            id,
            slot,
            tcp,
            _claim: claim,
            up: Up::default(),
            down: Down::default(),
        }
    }

    /// Run to the end of both directions.
    pub(super) async fn run(mut self) {
        // Segments leave as they come: the other end has already decided what belongs together.
        let _ = self.tcp.set_nodelay(true);
        let result = poll_fn(|cx| self.poll(cx)).await;
        match result {
            Ok(()) => {}
            Err(Broken::Connection) => self
                .node
                .with(|now, mesh| mesh.stream_reset(now, self.id, ResetReason::Reset)),
            Err(Broken::Stream) => {
                // Without it the application sees a clean end, which would be a lie.
                let _ = self.tcp.reset_on_drop();
            }
        }
        self.node.remove_stream(self.id);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.slot.register(cx.waker());
        for _ in 0..ROUNDS_MAX {
            if self.slot.reset.get().is_some() {
                return Poll::Ready(Err(Broken::Stream));
            }
            let moved = self.poll_up(cx)? | self.poll_down(cx)?;
            if self.up.done && self.down.done {
                return Poll::Ready(Ok(()));
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether anything moved.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        if self.up.done {
            return Ok(false);
        }
        let mut moved = false;
        if self.up.chunk.is_empty() {
            match self.node.poll_read(cx, &mut self.tcp) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(_)) => return Err(Broken::Connection),
                Poll::Ready(Ok(chunk)) if chunk.is_empty() => {
                    self.node.with(|now, mesh| mesh.stream_finish(now, self.id));
                    self.up.done = true;
                    return Ok(true);
                }
                Poll::Ready(Ok(chunk)) => self.up.chunk = chunk,
            }
            moved = true;
        }
        if self.slot.unwritable.get() {
            return Ok(moved);
        }
        let chunks = std::slice::from_mut(&mut self.up.chunk);
        let taken = self
            .node
            .with(|now, mesh| mesh.stream_write(now, self.id, chunks));
        let taken = taken.map_err(|_| Broken::Stream)?;
        self.slot.unwritable.set(!self.up.chunk.is_empty());
        Ok(moved || taken > 0)
    }

    /// Whether anything moved.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        if self.down.done {
            return Ok(false);
        }
        let mut moved = self.fill_down()?;
        while !self.down.queue.is_empty() {
            match self.poll_write(cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Err(_)) => return Err(Broken::Connection),
                Poll::Ready(Ok(_)) => moved = true,
            }
        }
        if self.down.finished {
            match Pin::new(&mut self.tcp).poll_shutdown(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(_)) => return Err(Broken::Connection),
                Poll::Ready(Ok(())) => {
                    self.down.done = true;
                    moved = true;
                }
            }
        }
        Ok(moved)
    }

    /// Take from the stream what one or two writes can carry, once everything taken before
    /// is written.
    fn fill_down(&mut self) -> Result<bool, Broken> {
        let down = &mut self.down;
        if !down.queue.is_empty() || down.finished || self.slot.unreadable.get() {
            return Ok(false);
        }
        let (id, slot) = (self.id, &self.slot);
        self.node.with(|now, mesh| {
            let mut room = DOWN_LEN_MAX;
            while room > 0 && down.queue.len() < 2 * SLICES_MAX {
                match mesh
                    .stream_read(now, id, room)
                    .map_err(|_| Broken::Stream)?
                {
                    Read::Data(chunk) => {
                        room = room.saturating_sub(chunk.len());
                        down.queue.push_back(chunk);
                    }
                    Read::Blocked => {
                        slot.unreadable.set(true);
                        break;
                    }
                    Read::Finished => {
                        down.finished = true;
                        break;
                    }
                }
            }
            Ok(!down.queue.is_empty() || down.finished)
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let queue = &mut self.down.queue;
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = queue.len().min(SLICES_MAX);
        for (slice, chunk) in slices.iter_mut().zip(queue.iter()) {
            *slice = IoSlice::new(chunk);
        }
        let tcp = Pin::new(&mut self.tcp);
        tcp.poll_write_vectored(cx, &slices[..count])
            .map(|written| {
                let written = written?;
                if written == 0 && queue.iter().any(|chunk| !chunk.is_empty()) {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                advance(queue, written);
                Ok(written)
            })
    }
}

/// Drop `written` bytes from the front, and chunks that are empty.
fn advance(queue: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(chunk) = queue.front_mut() {
        if chunk.len() > written {
            chunk.advance(written);
            return;
        }
        written -= chunk.len();
        queue.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_write_leaves_the_rest_in_order() {
        let chunks = [&b"abc"[..], b"", b"defg", b"h"];
        let all: Vec<u8> = chunks.concat();
        for written in 0..=all.len() {
            let mut queue: VecDeque<Bytes> = chunks.iter().copied().map(Bytes::from).collect();
            advance(&mut queue, written);
            let left: Vec<u8> = queue.iter().flat_map(|chunk| chunk.to_vec()).collect();
            assert_eq!(left, all[written..], "after {written} bytes");
        }
    }
}
