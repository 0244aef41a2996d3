//! What the driver, the pumps and the admin page share: the machine, and who waits for it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use holdfast_core::mesh::{Input, Mesh, ResetReason};
use holdfast_core::types::StreamId;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::status::{Clash, Protocol};
use crate::clock::{Clock, Now};
use crate::spawn::Task;

/// Forwarded TCP connections of this node at one time, both directions together.
pub(super) const CONNECTIONS_MAX: usize = 8192;
/// Block that reads of all pumps share: idle connections own no buffer.
const SCRATCH_LEN: usize = 256 << 10;
/// Room that a read must find, so that few system calls move much.
const SCRATCH_LEN_MIN: usize = 64 << 10;

/// Reads below this are copied out of the block: at most this much per system call.
const COPY_LEN_MAX: usize = 16 << 10;

/// One running node.
pub(super) struct Node<C> {
    mesh: RefCell<Mesh>,
    clock: C,
    driver: RefCell<Option<Waker>>,
    streams: RefCell<BTreeMap<StreamId, Rc<StreamSlot>>>,
    scratch: RefCell<BytesMut>,
    connections: Cell<usize>,
    clashes: RefCell<BTreeMap<(SocketAddr, Protocol), String>>,
    /// What the driver counts.
    pub(super) counters: Counters,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What the driver counts, since the start.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $($(#[doc = $doc])+ pub(super) $name: Cell<u64>,)+
        }

        impl Counters {
            /// Name, explanation and value of each.
            pub(super) fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+), self.$name.get()),)+]
            }
        }
    };
}

counters! {
    /// UDP datagrams received on the node's socket.
    rx_datagrams,
    /// Bytes in them.
    rx_bytes,
    /// System calls that sent on the node's socket.
    tx_batches,
    /// Bytes in them.
    tx_bytes,
    /// Batches that the socket refused for lack of room and took later.
    tx_blocked,
    /// Batches that the system refused for good.
    tx_errors,
    /// Local TCP connections accepted.
    tcp_accepted,
    /// Accepted connections that were reset because their link was not up or had no room.
    tcp_refused,
    /// Connections refused because the node has too many.
    tcp_over_limit,
    /// Connections made for streams of peers.
    tcp_connected,
    /// Streams of peers for which nothing accepted.
    tcp_connect_failed,
    /// UDP datagrams from local applications.
    udp_from_local,
    /// UDP datagrams to local applications.
    udp_to_local,
    /// UDP datagrams to local applications that were dropped.
    udp_dropped,
    /// UDP sockets that could not be opened for a peer's port.
    udp_socket_failed,
    /// Turns of the driver.
    turns,
}

/// Add to a counter.
pub(super) fn count(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get().wrapping_add(by));
}

impl<C: Clock> Node<C> {
    pub(super) fn new(mesh: Mesh, clock: C) -> Rc<Node<C>> {
        Rc::new(Node {
            mesh: RefCell::new(mesh),
            clock,
            driver: RefCell::new(None),
            streams: RefCell::default(),
            scratch: RefCell::default(),
            connections: Cell::new(0),
            clashes: RefCell::default(),
            counters: Counters::default(),
        })
    }

    /// Look at the machine.
    pub(super) fn view<R>(&self, look: impl FnOnce(Now, &Mesh) -> R) -> R {
        look(self.clock.now(), &self.mesh.borrow())
    }

    /// Use the machine, as the driver: nobody is woken.
    pub(super) fn drive<R>(&self, act: impl FnOnce(Now, &mut Mesh) -> R) -> R {
        act(self.clock.now(), &mut self.mesh.borrow_mut())
    }

    /// Use the machine, as anybody else: the driver looks at what comes of it.
    pub(super) fn with<R>(&self, act: impl FnOnce(Now, &mut Mesh) -> R) -> R {
        let result = self.drive(act);
        self.wake_driver();
        result
    }

    pub(super) fn handle(&self, input: Input) {
        self.with(|now, mesh| mesh.handle(now, input));
    }

    pub(super) fn set_driver(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    pub(super) fn wake_driver(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Claim one of the node's connections.
    pub(super) fn claim(self: &Rc<Self>) -> Option<Claim<C>> {
        let used = self.connections.get();
        if used >= CONNECTIONS_MAX {
            count(&self.counters.tcp_over_limit, 1);
            return None;
        }
        self.connections.set(used + 1);
        Some(Claim(self.clone()))
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Make a slot that hears of the stream from now on.
    pub(super) fn add_stream(&self, id: StreamId) -> Rc<StreamSlot> {
        let slot = Rc::new(StreamSlot::default());
        self.streams.borrow_mut().insert(id, slot.clone());
        slot
    }

    pub(super) fn stream(&self, id: StreamId) -> Option<Rc<StreamSlot>> {
        self.streams.borrow().get(&id).cloned()
    }

    pub(super) fn remove_stream(&self, id: StreamId) {
        let slot = self.streams.borrow_mut().remove(&id);
        if let Some(task) = slot.and_then(|slot| slot.task.take()) {
            // The task itself says that it is over.
            task.detach();
        }
    }

    /// Abort all pumps.
    pub(super) fn clear_streams(&self) {
        let streams = std::mem::take(&mut *self.streams.borrow_mut());
        for slot in streams.into_values() {
            drop(slot.task.take());
        }
    }

    /// Read once into the shared block; nothing is ready when the source has ended.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<Bytes>> {
        poll_read_into(&mut self.scratch.borrow_mut(), cx, source)
    }

    /// Note that an address cannot be bound; logged when it is new.
    pub(super) fn add_clash(&self, addr: SocketAddr, protocol: Protocol, error: &io::Error) {
        let text = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another process is bound to port {} of this or of all addresses ({error})",
                addr.port()
            ),
            _ => error.to_string(),
        };
        let old = self
            .clashes
            .borrow_mut()
            .insert((addr, protocol), text.clone());
        if old.as_ref() != Some(&text) {
            let protocol = protocol.as_str();
            tracing::warn!(%addr, protocol, "cannot forward: {text}; trying again each second");
        }
    }

    pub(super) fn remove_clash(&self, addr: SocketAddr, protocol: Protocol) {
        let old = self.clashes.borrow_mut().remove(&(addr, protocol));
        if old.is_some() {
            tracing::info!(%addr, protocol = protocol.as_str(), "forwarding after all");
        }
    }

    /// Nobody wants that address any more.
    pub(super) fn forget_clash(&self, addr: SocketAddr, protocol: Protocol) {
        self.clashes.borrow_mut().remove(&(addr, protocol));
    }

    pub(super) fn clashes(&self) -> Vec<Clash> {
        let clashes = self.clashes.borrow();
        let entries = clashes.iter().map(|((addr, protocol), error)| Clash {
            addr: *addr,
            protocol: *protocol,
            error: error.clone(),
        });
        entries.collect()
    }
}

/// Read once. A large read is handed out without a copy; a small one is copied, because a
/// piece of the block keeps all of it allocated until the peer has acknowledged the piece.
fn poll_read_into(
    scratch: &mut BytesMut,
    cx: &mut Context<'_>,
    source: &mut (impl AsyncRead + Unpin),
) -> Poll<io::Result<Bytes>> {
    if scratch.capacity() - scratch.len() < SCRATCH_LEN_MIN {
        *scratch = BytesMut::with_capacity(SCRATCH_LEN);
    }
    // Cancel safe: a future that was not ready has read nothing.
    let read = pin!(source.read_buf(&mut *scratch)).poll(cx);
    read.map_ok(|_| {
        if scratch.len() >= COPY_LEN_MAX {
            return scratch.split().freeze();
        }
        let copy = Bytes::copy_from_slice(scratch);
        scratch.clear();
        copy
    })
}

/// One of the node's connections, given back when dropped.
pub(super) struct Claim<C: Clock>(Rc<Node<C>>);

impl<C: Clock> Drop for Claim<C> {
    fn drop(&mut self) {
        let connections = &self.0.connections;
        connections.set(connections.get().saturating_sub(1));
    }
}

/// What a pump hears of its stream.
#[derive(Default)]
pub(super) struct StreamSlot {
    /// A read found nothing; `Readable` clears it.
    pub(super) unreadable: Cell<bool>,
    /// A write took less than was offered; `Writable` clears it.
    pub(super) unwritable: Cell<bool>,
    /// The stream has ended without a clean close.
    pub(super) reset: Cell<Option<ResetReason>>,
    /// The pump.
    pub(super) task: RefCell<Option<Task>>,
    waker: RefCell<Option<Waker>>,
}

impl StreamSlot {
    pub(super) fn register(&self, waker: &Waker) {
        let mut own = self.waker.borrow_mut();
        if !own.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *own = Some(waker.clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn small_reads_that_are_kept_do_not_keep_the_block() {
        let mut scratch = BytesMut::new();
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = |scratch: &mut BytesMut, mut source: &[u8]| {
            let Poll::Ready(read) = poll_read_into(scratch, &mut cx, &mut source) else {
                panic!("a slice is always ready");
            };
            read.unwrap()
        };
        read(&mut scratch, b"first");
        let block = scratch.as_ptr();
        let kept: Vec<Bytes> = (0..1000).map(|_| read(&mut scratch, b"small")).collect();
        assert_eq!(scratch.as_ptr(), block, "one block serves them all");
        assert!(kept.iter().all(|chunk| chunk == "small"));
        let large = vec![7; COPY_LEN_MAX];
        assert_eq!(read(&mut scratch, &large).as_ptr(), block, "not copied");
        assert!(read(&mut scratch, b"").is_empty());
    }
}
