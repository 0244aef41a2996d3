//! What a request would change: decided here, before anything does.

use bytes::Bytes;
use holdfast_core::kv::{
    Behavior, Condition, Entry, Failure, FailureKind, KEY_LEN_MAX, NewSession, Request, Response,
    SESSION_TTL, SessionId, VALUE_LEN_MAX,
};

use super::state::{self, Change, Record, Session, State, Stored};
use super::{Ask, Limits};

/// Longest name of a session, bytes: Consul has no limit, people have.
const SESSION_NAME_LEN_MAX: usize = 1024;
/// Largest record, bytes: a service with its checks and its metadata is some kilobytes.
const RECORD_LEN_MAX: usize = 64 * 1024;
/// Longest identity of a record, bytes.
const RECORD_ID_LEN_MAX: usize = 512;

/// What a request changes and is answered.
pub(super) struct Plan {
    pub changes: Vec<Change>,
    pub answer: Response,
}

impl Plan {
    fn nothing(done: bool) -> Plan {
        Plan {
            changes: Vec::new(),
            answer: Response::Done(done),
        }
    }

    fn done(changes: Vec<Change>) -> Plan {
        Plan {
            changes,
            answer: Response::Done(true),
        }
    }
}

/// Decides for one request.
pub(super) struct Planner<'a> {
    pub state: &'a State,
    pub limits: &'a Limits,
    /// The index of the changes, if there are any.
    pub index: u64,
    /// The identity of the session, if one is made.
    pub session: SessionId,
    /// Whether nobody gets this key, because a session that held it ended just now.
    pub delayed: &'a dyn Fn(&str) -> bool,
    /// Whether no further key may get a lock delay.
    pub delays_full: bool,
}

impl Planner<'_> {
    /// What `ask`, which is no read, changes.
    pub fn plan(&self, ask: Ask) -> Result<Plan, Failure> {
        match ask {
            Ask::Write { request, flags } => self.request(request, flags),
            Ask::DeleteTree { prefix } => {
                check_prefix(&prefix)?;
                Ok(self.delete_tree(&prefix))
            }
            Ask::PutRecord { id, body } => self.put_record(id, body),
            Ask::DeleteRecord { id } => Ok(match self.state.record(&id) {
                Some(_) => Plan::done(vec![Change::RecordGone(id)]),
                None => Plan::nothing(true),
            }),
            Ask::Wait { .. } => Err(invalid("a read changes nothing")),
        }
    }

    fn request(&self, request: Request, flags: u64) -> Result<Plan, Failure> {
        match request {
            Request::Put {
                key,
                value,
                condition,
            } => self.put(key, value, flags, condition),
            Request::Acquire {
                key,
                value,
                session,
            } => self.acquire(key, value, flags, session),
            Request::Release {
                key,
                value,
                session,
            } => self.release(key, value, flags, &session),
            Request::Delete { key, condition } => self.delete(key, condition),
            Request::SessionCreate(asked) => self.create_session(asked),
            Request::SessionRenew(id) => Ok(Plan::nothing(self.state.session(&id).is_some())),
            Request::SessionDestroy(id) => Ok(match self.state.session(&id) {
                Some(session) => Plan::done(end_session(self.state, session, self.index)),
                None => Plan::nothing(true),
            }),
            Request::Get { .. } | Request::List { .. } => Err(invalid("a read changes nothing")),
        }
    }

    fn put(
        &self,
        key: String,
        value: Bytes,
        flags: u64,
        condition: Condition,
    ) -> Result<Plan, Failure> {
        check_key(&key)?;
        let before = self.state.entry(&key);
        let holds = match condition {
            Condition::Any => true,
            Condition::Absent => before.is_none(),
            Condition::Unchanged(index) => {
                check_index(index)?;
                before.is_some_and(|stored| stored.entry.modify_index == index)
            }
        };
        if !holds {
            return Ok(Plan::nothing(false));
        }
        let session = before.and_then(|stored| stored.entry.session.clone());
        // Consul too: a plain write keeps the holder and loses the count.
        self.write(key, value, flags, session, 0)
    }

    fn acquire(
        &self,
        key: String,
        value: Bytes,
        flags: u64,
        session: SessionId,
    ) -> Result<Plan, Failure> {
        check_key(&key)?;
        if (self.delayed)(&key) {
            return Ok(Plan::nothing(false));
        }
        if self.state.session(&session).is_none() {
            // As Consul says it: clients read it.
            let message = format!("invalid session {:?}", session.0);
            return Err(Failure::determinate(FailureKind::NoSession, message));
        }
        let before = self.state.entry(&key).map(|stored| &stored.entry);
        let lock_index = match before {
            None => 1,
            Some(entry) if entry.session.as_ref() == Some(&session) => entry.lock_index,
            Some(entry) if entry.session.is_some() => return Ok(Plan::nothing(false)),
            Some(entry) => entry.lock_index + 1,
        };
        if self.delays_full {
            return Err(busy("too many keys wait for the end of a lock delay"));
        }
        self.write(key, value, flags, Some(session), lock_index)
    }

    fn release(
        &self,
        key: String,
        value: Bytes,
        flags: u64,
        session: &SessionId,
    ) -> Result<Plan, Failure> {
        check_key(&key)?;
        match self.state.entry(&key) {
            Some(stored) if stored.entry.session.as_ref() == Some(session) => {
                self.write(key, value, flags, None, stored.entry.lock_index)
            }
            _ => Ok(Plan::nothing(false)),
        }
    }

    /// The write itself, when nothing is in its way. One that changes nothing leaves the index
    /// alone, as in Consul.
    fn write(
        &self,
        key: String,
        value: Bytes,
        flags: u64,
        session: Option<SessionId>,
        lock_index: u64,
    ) -> Result<Plan, Failure> {
        check_value(&value)?;
        let before = self.state.entry(&key);
        let after = Stored {
            entry: Entry {
                create_index: before.map_or(self.index, |stored| stored.entry.create_index),
                modify_index: self.index,
                key,
                value,
                lock_index,
                session,
            },
            flags,
        };
        if before.is_some_and(|before| same(before, &after)) {
            return Ok(Plan::nothing(true));
        }
        let more = state::stored_bytes(&after);
        self.check_room(more, before.map_or(0, state::stored_bytes))?;
        if before.is_none() && self.state.entries_len() >= self.limits.entries_max {
            return Err(busy("the store holds as many entries as it may"));
        }
        Ok(Plan::done(vec![Change::Entry(after)]))
    }

    fn delete(&self, key: String, condition: Condition) -> Result<Plan, Failure> {
        check_key(&key)?;
        match condition {
            Condition::Any => {}
            Condition::Absent => return Err(invalid("nothing can be deleted if it is absent")),
            Condition::Unchanged(index) => check_index(index)?,
        }
        let Some(before) = self.state.entry(&key) else {
            // Consul's answer to a conditional one as well: what should be gone is gone.
            return Ok(Plan::nothing(true));
        };
        match condition {
            Condition::Unchanged(index) if index != before.entry.modify_index => {
                Ok(Plan::nothing(false))
            }
            _ => Ok(Plan::done(vec![Change::EntryGone(key)])),
        }
    }

    fn delete_tree(&self, prefix: &str) -> Plan {
        let below = self.state.below(prefix);
        let changes = below.map(|stored| Change::EntryGone(stored.entry.key.clone()));
        Plan::done(changes.collect())
    }

    fn create_session(&self, asked: NewSession) -> Result<Plan, Failure> {
        if !asked.ttl.is_zero() && !SESSION_TTL.contains(&asked.ttl) {
            // As Consul says it: clients read it.
            let message = format!(
                "Invalid Session TTL '{}', must be between [{}s={}s]",
                asked.ttl.as_nanos(),
                SESSION_TTL.start().as_secs(),
                SESSION_TTL.end().as_secs()
            );
            return Err(Failure::determinate(FailureKind::Invalid, message));
        }
        if asked.name.len() > SESSION_NAME_LEN_MAX {
            return Err(invalid("the session's name is too long"));
        }
        if self.state.sessions_len() >= self.limits.sessions_max {
            return Err(busy("the store has as many sessions as it may"));
        }
        let session = Session {
            id: self.session.clone(),
            asked,
            create_index: self.index,
        };
        self.check_room(state::session_bytes(&session), 0)?;
        Ok(Plan {
            answer: Response::Session(session.id.clone()),
            changes: vec![Change::Session(session)],
        })
    }

    fn put_record(&self, id: String, body: Bytes) -> Result<Plan, Failure> {
        if id.is_empty() || id.len() > RECORD_ID_LEN_MAX || body.len() > RECORD_LEN_MAX {
            return Err(invalid("the record or its identity is too large"));
        }
        let before = self.state.record(&id);
        if before.is_some_and(|before| before.body == body) {
            return Ok(Plan::nothing(true));
        }
        if before.is_none() && self.state.records_len() >= self.limits.records_max {
            return Err(busy("the store holds as many services as it may"));
        }
        let record = Record {
            create_index: before.map_or(self.index, |before| before.create_index),
            modify_index: self.index,
            id,
            body,
        };
        let less = before.map_or(0, state::record_bytes);
        self.check_room(state::record_bytes(&record), less)?;
        Ok(Plan::done(vec![Change::Record(record)]))
    }

    fn check_room(&self, more: usize, less: usize) -> Result<(), Failure> {
        match self.state.bytes() - less + more > self.limits.bytes_max && more > less {
            true => Err(busy("the store holds as many bytes as it may")),
            false => Ok(()),
        }
    }
}

/// What the end of a session changes.
pub(super) fn end_session(state: &State, session: &Session, index: u64) -> Vec<Change> {
    let held = state.held_by(&session.id).filter_map(|key| {
        let mut stored = state.entry(key)?.clone();
        Some(match session.asked.behavior {
            Behavior::Delete => Change::EntryGone(stored.entry.key),
            Behavior::Release => {
                stored.entry.session = None;
                stored.entry.modify_index = index;
                Change::Entry(stored)
            }
        })
    });
    let mut changes: Vec<Change> = held.collect();
    changes.push(Change::SessionGone(session.id.clone()));
    changes
}

fn same(before: &Stored, after: &Stored) -> bool {
    before.flags == after.flags
        && before.entry.value == after.entry.value
        && before.entry.session == after.entry.session
        && before.entry.lock_index == after.entry.lock_index
}

pub(super) fn check_key(key: &str) -> Result<(), Failure> {
    match key.is_empty() {
        true => Err(invalid("Missing key name")),
        false => check_prefix(key),
    }
}

/// Consul refuses what cannot be printed, and we what is too long.
pub(super) fn check_prefix(prefix: &str) -> Result<(), Failure> {
    let len = prefix.len();
    if len > KEY_LEN_MAX {
        let message = format!("the key has {len} bytes, at most {KEY_LEN_MAX} are allowed");
        return Err(Failure::determinate(FailureKind::Invalid, message));
    }
    match prefix.chars().any(char::is_control) {
        true => Err(invalid("the key has control characters")),
        false => Ok(()),
    }
}

fn check_value(value: &Bytes) -> Result<(), Failure> {
    if value.len() <= VALUE_LEN_MAX {
        return Ok(());
    }
    let message = format!(
        "the value has {} bytes, at most {VALUE_LEN_MAX} are allowed",
        value.len()
    );
    Err(Failure::determinate(FailureKind::Invalid, message))
}

fn check_index(index: u64) -> Result<(), Failure> {
    match index {
        0 => Err(invalid("no entry has the index 0: use `Absent`")),
        _ => Ok(()),
    }
}

pub(super) fn no_ttl() -> Failure {
    invalid("a session needs a TTL")
}

fn invalid(message: &str) -> Failure {
    Failure::determinate(FailureKind::Invalid, message)
}

pub(super) fn busy(message: &str) -> Failure {
    Failure::determinate(FailureKind::Busy, message)
}
