//! What the store holds, and the changes that it is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use holdfast_core::kv::{Entry, NewSession, SessionId};

/// Deleted keys that are remembered, so that the index of a list never goes back. Beyond it they
/// are forgotten together, and every list has at least the index of that moment: a watcher wakes
/// once for nothing.
const TOMBSTONES_MAX: usize = 16_384;
/// The index of an empty store. Never 0: a reader that waits for more than 0 does not wait.
const INDEX_FIRST: u64 = 1;
/// What an entry, a session or a record is reckoned to take besides its bytes.
const OVERHEAD_BYTES: usize = 192;

/// An entry with what only Consul's HTTP API knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The entry.
    pub entry: Entry,
    /// A number that means something to clients.
    pub flags: u64,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its identity.
    pub id: SessionId,
    /// What was asked for.
    pub asked: NewSession,
    /// The index of the change that made it.
    pub create_index: u64,
}

/// Something that the store keeps for its front end: a registered service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its identity.
    pub id: String,
    /// What it is.
    pub body: Bytes,
    /// The index of the change that made it.
    pub create_index: u64,
    /// The index of its last change.
    pub modify_index: u64,
}

/// A change of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The entry is this from now on.
    Entry(Stored),
    /// There is no such entry any more.
    EntryGone(String),
    /// There is this session from now on.
    Session(Session),
    /// There is no such session any more.
    SessionGone(SessionId),
    /// The record is this from now on.
    Record(Record),
    /// There is no such record any more.
    RecordGone(String),
}

/// Changes that happen together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Their index, greater than that of every change before.
    pub index: u64,
    /// The changes, never none.
    pub changes: Vec<Change>,
}

/// What can be waited for besides entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// All sessions.
    Sessions,
    /// All records.
    Records,
}

/// What was kept somewhere is no state of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// An index is greater than that of the store.
    #[error("{what} has the index {found}, but the store's is {index}")]
    Index {
        /// Whose.
        what: String,
        /// Its index.
        found: u64,
        /// The store's.
        index: u64,
    },
    /// The holder of an entry does not exist.
    #[error("the entry {key:?} is held by the session {session}, which does not exist")]
    Holder {
        /// The entry.
        key: String,
        /// Its holder.
        session: SessionId,
    },
}

/// Everything that has to survive.
///
/// Invariants: the holder of every entry exists; no index is greater than the store's; an index
/// to wait with never goes back.
#[derive(Clone, Debug)]
pub struct State {
    index: u64,
    entries: BTreeMap<String, Stored>,
    sessions: BTreeMap<SessionId, Session>,
    records: BTreeMap<String, Record>,
    held: BTreeMap<SessionId, BTreeSet<String>>,
    bytes: usize,
    entries_index: u64,
    sessions_index: u64,
    records_index: u64,
    tombstones: BTreeMap<String, u64>,
    /// The index of the last tombstone that was forgotten.
    forgotten: u64,
}

impl Default for State {
    fn default() -> State {
        State {
            index: INDEX_FIRST,
            entries: BTreeMap::new(),
            sessions: BTreeMap::new(),
            records: BTreeMap::new(),
            held: BTreeMap::new(),
            bytes: 0,
            entries_index: INDEX_FIRST,
            sessions_index: INDEX_FIRST,
            records_index: INDEX_FIRST,
            tombstones: BTreeMap::new(),
            forgotten: 0,
        }
    }
}

impl State {
    /// The state that an earlier one exported with [`State::index`], [`State::entries`],
    /// [`State::sessions`] and [`State::records`].
    ///
    /// Tombstones are not exported: the index of every list is that of the store at first.
    pub fn restore(index: u64, parts: impl Iterator<Item = Change>) -> Result<State, RestoreError> {
        let mut state = State::default();
        let index = index.max(INDEX_FIRST);
        for part in parts {
            let (what, found) = match &part {
                Change::Entry(stored) => (&stored.entry.key, stored.entry.modify_index),
                Change::Session(session) => (&session.asked.name, session.create_index),
                Change::Record(record) => (&record.id, record.modify_index),
                Change::EntryGone(key) | Change::RecordGone(key) => (key, 0),
                Change::SessionGone(_) => continue,
            };
            if found > index {
                let what = what.clone();
                return Err(RestoreError::Index { what, found, index });
            }
            state.apply_one(index, part);
        }
        for (session, keys) in &state.held {
            if let (false, Some(key)) = (state.sessions.contains_key(session), keys.first()) {
                return Err(RestoreError::Holder {
                    key: key.clone(),
                    session: session.clone(),
                });
            }
        }
        state.index = index;
        state.entries_index = index;
        state.sessions_index = index;
        state.records_index = index;
        state.tombstones.clear();
        state.forgotten = index;
        Ok(state)
    }

    /// The index of the last change.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The entries, in the order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = &Stored> {
        self.entries.values()
    }

    /// The entries whose key begins like that, in the order of their keys.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Stored> {
        let range = self.entries.range::<str, _>(from(prefix));
        range
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, stored)| stored)
    }

    /// One entry.
    pub fn entry(&self, key: &str) -> Option<&Stored> {
        self.entries.get(key)
    }

    /// The sessions.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// One session.
    pub fn session(&self, id: &SessionId) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// The records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// One record.
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.records.get(id)
    }

    /// What everything is reckoned to take, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many entries there are.
    pub fn entries_len(&self) -> usize {
        self.entries.len()
    }

    /// How many sessions there are.
    pub fn sessions_len(&self) -> usize {
        self.sessions.len()
    }

    /// How many records there are.
    pub fn records_len(&self) -> usize {
        self.records.len()
    }

    /// The keys of the entries that a session holds, in order.
    pub fn held_by(&self, session: &SessionId) -> impl Iterator<Item = &String> {
        self.held.get(session).into_iter().flatten()
    }

    /// To wait with for an entry: the index of its last change, or if there is none, that of the
    /// last change of any entry.
    pub fn entry_index(&self, key: &str) -> u64 {
        let entry = self.entries.get(key);
        entry.map_or(self.entries_index, |stored| stored.entry.modify_index)
    }

    /// To wait with for all entries below a prefix: the index of the last change of one, a
    /// deletion included; if there never was one, that of the last change of any entry.
    pub fn list_index(&self, prefix: &str) -> u64 {
        if prefix.is_empty() {
            return self.entries_index;
        }
        let entries = self.below(prefix).map(|stored| stored.entry.modify_index);
        let graves = self.tombstones.range::<str, _>(from(prefix));
        let graves = graves
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, index)| *index);
        match entries.chain(graves).max() {
            Some(index) => index.max(self.forgotten),
            None => self.entries_index,
        }
    }

    /// To wait with for a table.
    pub fn table_index(&self, table: Table) -> u64 {
        match table {
            Table::Sessions => self.sessions_index,
            Table::Records => self.records_index,
        }
    }

    /// Make changes happen.
    pub(super) fn apply(&mut self, batch: Batch) {
        debug_assert!(batch.index > self.index, "an index is used once");
        self.index = batch.index;
        for change in batch.changes {
            self.apply_one(batch.index, change);
        }
        if self.tombstones.len() > TOMBSTONES_MAX {
            self.tombstones.clear();
            self.forgotten = self.index;
        }
    }

    fn apply_one(&mut self, index: u64, change: Change) {
        match change {
            Change::Entry(stored) => {
                self.remove_entry(&stored.entry.key);
                self.insert_entry(stored);
                self.entries_index = index;
            }
            Change::EntryGone(key) => {
                self.remove_entry(&key);
                self.tombstones.insert(key, index);
                self.entries_index = index;
            }
            Change::Session(session) => {
                self.bytes += session_bytes(&session);
                self.sessions.insert(session.id.clone(), session);
                self.sessions_index = index;
            }
            Change::SessionGone(id) => {
                let gone = self.sessions.remove(&id);
                self.bytes -= gone.as_ref().map_or(0, session_bytes);
                self.sessions_index = index;
            }
            Change::Record(record) => {
                self.bytes += record_bytes(&record);
                let before = self.records.insert(record.id.clone(), record);
                self.bytes -= before.as_ref().map_or(0, record_bytes);
                self.records_index = index;
            }
            Change::RecordGone(id) => {
                let gone = self.records.remove(&id);
                self.bytes -= gone.as_ref().map_or(0, record_bytes);
                self.records_index = index;
            }
        }
    }

    fn insert_entry(&mut self, stored: Stored) {
        let key = stored.entry.key.clone();
        self.bytes += stored_bytes(&stored);
        self.tombstones.remove(&key);
        if let Some(session) = &stored.entry.session {
            let held = self.held.entry(session.clone()).or_default();
            held.insert(key.clone());
        }
        self.entries.insert(key, stored);
    }

    fn remove_entry(&mut self, key: &str) {
        let Some(stored) = self.entries.remove(key) else {
            return;
        };
        self.bytes -= stored_bytes(&stored);
        let Some(session) = &stored.entry.session else {
            return;
        };
        if let Some(held) = self.held.get_mut(session) {
            held.remove(key);
            if held.is_empty() {
                self.held.remove(session);
            }
        }
    }
}

fn from(prefix: &str) -> (Bound<&str>, Bound<&str>) {
    (Bound::Included(prefix), Bound::Unbounded)
}

pub(super) fn stored_bytes(stored: &Stored) -> usize {
    2 * stored.entry.key.len() + stored.entry.value.len() + OVERHEAD_BYTES
}

pub(super) fn session_bytes(session: &Session) -> usize {
    session.asked.name.len() + OVERHEAD_BYTES
}

pub(super) fn record_bytes(record: &Record) -> usize {
    2 * record.id.len() + record.body.len() + OVERHEAD_BYTES
}
