//! The embedded KV behind HTTP, as the first server runs it, and what an observer sees of its
//! entries: who changed which, and that they outlive its process.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use holdfast_core::entropy::Seed;
use holdfast_core::time::Now;
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::net::{Listener, Stream};
use holdfast_plan::{NodeIndex, SERVERS, SlotOwner, SlotSeen, What};
use holdfast_servers::kv::http::{KvOptions, serve_kv};
use holdfast_servers::kv::store::{
    Batch, Change, Config, Journal, JournalError, RestoreError, State, Store, Stored,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::claims::prefix;
use crate::clock::SimClock;
use crate::net::{SimListener, SimStream};
use crate::shared::Shared;
use crate::spawn::SimSpawn;

/// Where the KV is: Consul's port.
pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(SERVERS[0]), 8500);

/// What outlives a KV's process. Claims make neither sessions nor records.
#[derive(Default)]
pub struct Kept {
    index: u64,
    entries: BTreeMap<String, Stored>,
}

impl Kept {
    fn state(&self) -> Result<State, RestoreError> {
        let entries = self.entries.values().cloned().map(Change::Entry);
        State::restore(self.index, entries)
    }

    fn keep(&mut self, batch: &Batch) {
        self.index = batch.index;
        for change in &batch.changes {
            match change {
                Change::Entry(stored) => {
                    let key = stored.entry.key.clone();
                    self.entries.insert(key, stored.clone());
                }
                Change::EntryGone(key) => drop(self.entries.remove(key)),
                Change::Session(_)
                | Change::SessionGone(_)
                | Change::Record(_)
                | Change::RecordGone(_) => {}
            }
        }
    }
}

/// Serve what was kept, for ever.
pub async fn serve(
    shared: Rc<Shared>,
    listener: SimListener,
    clock: SimClock,
    spawn: SimSpawn,
    seed: Seed,
) {
    let asker = Rc::<Cell<Option<IpAddr>>>::default();
    let journal = Observed {
        shared: shared.clone(),
        asker: asker.clone(),
    };
    let kept = shared.kept.borrow().state();
    let kept = kept.map_err(|error| error.to_string());
    let store = kept.and_then(|state| {
        Store::with_journal(Config::default(), seed, clock.now(), state, journal)
            .map_err(|error| error.to_string())
    });
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            let line = format!("the KV cannot begin: {error}");
            return shared.note(None, What::Error { line });
        }
    };
    let (_never, stop) = Stop::new();
    let listener = AskerListener { listener, asker };
    serve_kv(listener, KvOptions::default(), store, clock, spawn, stop).await;
}

/// Keeps changes, and tells the world's journal of them.
struct Observed {
    shared: Rc<Shared>,
    asker: Rc<Cell<Option<IpAddr>>>,
}

impl Observed {
    /// The node whose request is being answered.
    fn asker(&self) -> Option<NodeIndex> {
        let ip = self.asker.get()?;
        let hosts = &self.shared.hosts[..self.shared.nodes.len()];
        let found = hosts.iter().position(|host| ip == host.turmoil_ip)?;
        Some(NodeIndex(u16::try_from(found).ok()?))
    }
}

impl Journal for Observed {
    fn record(&mut self, _: Now, _: &State, batch: &Batch) -> Result<(), JournalError> {
        for change in &batch.changes {
            let (key, owner, is_gone) = match change {
                Change::Entry(stored) => (
                    &stored.entry.key,
                    SlotOwner::of_entry(&stored.entry.value),
                    false,
                ),
                Change::EntryGone(key) => (key, None, true),
                _ => continue,
            };
            let ordinal = key.strip_prefix(&prefix());
            let what = SlotSeen::SlotEntry {
                key: key.clone(),
                slot: ordinal.and_then(|ordinal| ordinal.parse().ok()),
                index: batch.index,
                owner,
                is_gone,
            };
            self.shared.note_slot(self.asker(), what);
        }
        self.shared.kept.borrow_mut().keep(batch);
        Ok(())
    }

    fn recover(&mut self) -> Result<State, JournalError> {
        let state = self.shared.kept.borrow().state();
        state.map_err(|error| JournalError::Refused(error.to_string()))
    }
}

/// Remembers who was read from last. A request is answered in the task of its connection, right
/// after its last byte was read: whoever was read from is who asks.
struct AskerListener {
    listener: SimListener,
    asker: Rc<Cell<Option<IpAddr>>>,
}

impl Listener for AskerListener {
    type Stream = AskerStream;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    async fn accept(&self) -> io::Result<(AskerStream, SocketAddr)> {
        let (stream, from) = self.listener.accept().await?;
        let asker = self.asker.clone();
        let ip = from.ip();
        Ok((AskerStream { stream, ip, asker }, from))
    }
}

struct AskerStream {
    stream: SimStream,
    ip: IpAddr,
    asker: Rc<Cell<Option<IpAddr>>>,
}

impl Stream for AskerStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.stream.set_nodelay(on)
    }

    fn give_up_on_silence(&self) -> io::Result<()> {
        self.stream.give_up_on_silence()
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        self.stream.reset_on_drop()
    }
}

impl AsyncRead for AskerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.asker.set(Some(self.ip));
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for AskerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
