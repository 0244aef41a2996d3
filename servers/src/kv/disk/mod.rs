//! A journal on disk: a `redb` database that holds the state as it is.
//!
//! Every batch is one transaction, synced before it counts: after a crash, at any moment, the
//! file holds all batches up to one. The file is made beside its place and renamed, so that at its
//! place there is a whole database or none; what is there and is none is refused, never replaced.

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::kv::{Behavior, Entry, NewSession, SessionId};
use holdfast_core::time::Now;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};

use super::store::{
    Batch, Change, Journal, JournalError, Record, RestoreError, Session, State, Stored,
};

/// The format of the tables below. A file with another one is refused.
const FORMAT: u64 = 1;
/// Pages kept in memory: everything is there already, so that few are ever read again.
const CACHE_BYTES: usize = 4 << 20;

const META: TableDefinition<&str, u64> = TableDefinition::new("holdfast-kv");
const META_FORMAT: &str = "format";
const META_INDEX: &str = "index";

/// Value, flags, the three indices (create, modify, lock), the holder or "".
type EntryRow = (&'static [u8], u64, u64, u64, u64, &'static str);
const ENTRIES: TableDefinition<&str, EntryRow> = TableDefinition::new("entries");

/// Name, TTL in ns, whether its entries are deleted, lock delay in ns, create index.
type SessionRow = (&'static str, u64, bool, u64, u64);
const SESSIONS: TableDefinition<&str, SessionRow> = TableDefinition::new("sessions");

/// Body, create index, modify index.
type RecordRow = (&'static [u8], u64, u64);
const RECORDS: TableDefinition<&str, RecordRow> = TableDefinition::new("records");

/// The file does not serve as a journal.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The system refuses.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("{path}: another process serves from this file; two must not")]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// It is no database, or a damaged one.
    #[error(
        "{path}: not a key-value database that can be read ({reason}); it is left as it is: \
         move it away to begin with an empty store, or bring back a copy of it"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
}

/// A journal in one file.
pub struct Disk {
    path: PathBuf,
    /// Nothing only while it is opened again.
    database: Option<Database>,
}

impl Disk {
    /// Open the file, or make it, and read what it holds. Its folder has to exist.
    ///
    /// # Errors
    /// When the file is another's, damaged, or not to be read. It is not replaced then.
    pub fn open(path: &Path) -> Result<(Disk, State), DiskError> {
        if !path.try_exists().map_err(io(path, "look for it"))? {
            create(path)?;
        }
        sync_folder(path)?;
        let database = open(path)?;
        let state = load(&database).map_err(|error| error.at(path))?;
        let disk = Disk {
            path: path.to_owned(),
            database: Some(database),
        };
        Ok((disk, state))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), JournalError> {
        let database = self.database.as_ref();
        let database = database.ok_or_else(|| unsure(self.path.display()))?;
        // After an error of the system redb refuses everything until it is opened again.
        let write = database.begin_write().map_err(unsure)?;
        let written = write_batch(&write, batch);
        match written {
            Ok(()) => write.commit().map_err(unsure),
            Err(error) => {
                let refused = JournalError::Unsure(error.to_string());
                write.abort().map_err(unsure)?;
                Err(refused)
            }
        }
    }
}

impl Journal for Disk {
    fn record(&mut self, _now: Now, _before: &State, batch: &Batch) -> Result<(), JournalError> {
        self.write(batch)
    }

    fn recover(&mut self) -> Result<State, JournalError> {
        // It has to be closed first: it is locked.
        self.database = None;
        let refused = |error: DiskError| JournalError::Refused(error.to_string());
        let database = open(&self.path).map_err(refused)?;
        let state = load(&database).map_err(|error| refused(error.at(&self.path)))?;
        self.database = Some(database);
        Ok(state)
    }
}

/// Make an empty database beside its place, and move it there when it is whole.
fn create(path: &Path) -> Result<(), DiskError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io(&fresh, "remove what an earlier start left")(error));
        }
        _ => {}
    }
    let made = (|| -> Result<(), redb::Error> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&fresh)?;
        let write = database.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            meta.insert(META_FORMAT, FORMAT)?;
            meta.insert(META_INDEX, State::default().index())?;
            write.open_table(ENTRIES)?;
            write.open_table(SESSIONS)?;
            write.open_table(RECORDS)?;
        }
        write.commit()?;
        Ok(())
    })();
    made.map_err(|error| match error {
        redb::Error::Io(source) => io(&fresh, "make it")(source),
        other => io(&fresh, "make it")(std::io::Error::other(other.to_string())),
    })?;
    fs::rename(&fresh, path).map_err(io(path, "move it to its place"))
}

/// Also of a file that an earlier start has made: it may have been killed before it came to this.
fn sync_folder(path: &Path) -> Result<(), DiskError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(io(folder, "sync the folder"))
}

fn open(path: &Path) -> Result<Database, DiskError> {
    let unreadable = |reason: String| DiskError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder.set_check_integrity_on_open(true);
    use redb::{DatabaseError, StorageError};
    builder.open(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => DiskError::Taken {
            path: path.to_owned(),
        },
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != std::io::ErrorKind::InvalidData
                && source.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            io(path, "open it")(source)
        }
        other => unreadable(other.to_string()),
    })
}

/// Why the tables cannot be read.
enum LoadError {
    Database(redb::Error),
    Format(String),
}

impl LoadError {
    fn at(self, path: &Path) -> DiskError {
        let path = path.to_owned();
        match self {
            LoadError::Database(redb::Error::Io(source)) => io(&path, "read it")(source),
            LoadError::Database(error) => DiskError::Unreadable {
                path,
                reason: error.to_string(),
            },
            LoadError::Format(reason) => DiskError::Unreadable { path, reason },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> LoadError {
        LoadError::Database(error.into())
    }
}

fn load(database: &Database) -> Result<State, LoadError> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(LoadError::Format(
                "it is a database of something else".into(),
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let format = meta.get(META_FORMAT)?.map(|format| format.value());
    if format != Some(FORMAT) {
        let message = format!("its format is {format:?}, this version reads {FORMAT}");
        return Err(LoadError::Format(message));
    }
    let index = meta.get(META_INDEX)?.map_or(0, |index| index.value());
    let parts = load_parts(&read)?;
    State::restore(index, parts.into_iter())
        .map_err(|error: RestoreError| LoadError::Format(error.to_string()))
}

fn load_parts(read: &ReadTransaction) -> Result<Vec<Change>, LoadError> {
    let mut parts = Vec::new();
    for row in read.open_table(SESSIONS)?.iter()? {
        let (id, row) = row?;
        let (name, ttl_ns, delete, lock_delay_ns, create_index) = row.value();
        parts.push(Change::Session(Session {
            id: SessionId(id.value().into()),
            asked: NewSession {
                name: name.to_owned(),
                ttl: Duration::from_nanos(ttl_ns),
                behavior: match delete {
                    true => Behavior::Delete,
                    false => Behavior::Release,
                },
                lock_delay: Duration::from_nanos(lock_delay_ns),
            },
            create_index,
        }));
    }
    for row in read.open_table(ENTRIES)?.iter()? {
        let (key, row) = row?;
        let (value, flags, create_index, modify_index, lock_index, holder) = row.value();
        let entry = Entry {
            key: key.value().to_owned(),
            value: Bytes::copy_from_slice(value),
            create_index,
            modify_index,
            lock_index,
            session: (!holder.is_empty()).then(|| SessionId(holder.into())),
        };
        parts.push(Change::Entry(Stored { entry, flags }));
    }
    for row in read.open_table(RECORDS)?.iter()? {
        let (id, row) = row?;
        let (body, create_index, modify_index) = row.value();
        parts.push(Change::Record(Record {
            id: id.value().to_owned(),
            body: Bytes::copy_from_slice(body),
            create_index,
            modify_index,
        }));
    }
    Ok(parts)
}

fn write_batch(write: &WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    write.open_table(META)?.insert(META_INDEX, batch.index)?;
    for change in &batch.changes {
        match change {
            Change::Entry(stored) => {
                let entry = &stored.entry;
                let row = (
                    entry.value.as_ref(),
                    stored.flags,
                    entry.create_index,
                    entry.modify_index,
                    entry.lock_index,
                    entry.session.as_ref().map_or("", |session| &session.0),
                );
                let mut entries = write.open_table(ENTRIES)?;
                entries.insert(entry.key.as_str(), row)?;
            }
            Change::EntryGone(key) => {
                write.open_table(ENTRIES)?.remove(key.as_str())?;
            }
            Change::Session(session) => {
                let asked = &session.asked;
                let row = (
                    asked.name.as_str(),
                    nanos(asked.ttl),
                    asked.behavior == Behavior::Delete,
                    nanos(asked.lock_delay),
                    session.create_index,
                );
                write.open_table(SESSIONS)?.insert(&*session.id.0, row)?;
            }
            Change::SessionGone(id) => {
                write.open_table(SESSIONS)?.remove(&*id.0)?;
            }
            Change::Record(record) => {
                let row = (
                    record.body.as_ref(),
                    record.create_index,
                    record.modify_index,
                );
                write.open_table(RECORDS)?.insert(record.id.as_str(), row)?;
            }
            Change::RecordGone(id) => {
                write.open_table(RECORDS)?.remove(id.as_str())?;
            }
        }
    }
    Ok(())
}

/// Half a millennium is as good as for ever.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn unsure(error: impl std::fmt::Display) -> JournalError {
    JournalError::Unsure(error.to_string())
}

fn io(path: &Path, what: &'static str) -> impl Fn(std::io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io {
        path: path.clone(),
        what,
        source,
    }
}
