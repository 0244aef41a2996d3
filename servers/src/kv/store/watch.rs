//! Reads that wait for a change.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Instant;

use super::state::{Change, Table};

/// What a read is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Key(String),
    Prefix(String),
    Table(Table),
}

/// A read that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub subject: Subject,
    pub after: u64,
    pub until: Instant,
}

/// All reads that wait, found by what wakes them.
#[derive(Default)]
pub(super) struct Waiters {
    by_ticket: BTreeMap<u64, Waiter>,
    by_key: BTreeMap<String, BTreeSet<u64>>,
    by_prefix: BTreeMap<String, BTreeSet<u64>>,
    by_table: [BTreeSet<u64>; 2],
    by_end: BTreeSet<(Instant, u64)>,
}

impl Waiters {
    pub fn len(&self) -> usize {
        self.by_ticket.len()
    }

    pub fn insert(&mut self, ticket: u64, waiter: Waiter) {
        self.remove(ticket);
        self.by_end.insert((waiter.until, ticket));
        match &waiter.subject {
            Subject::Key(key) => self.by_key.entry(key.clone()).or_default(),
            Subject::Prefix(prefix) => self.by_prefix.entry(prefix.clone()).or_default(),
            Subject::Table(table) => &mut self.by_table[slot(*table)],
        }
        .insert(ticket);
        self.by_ticket.insert(ticket, waiter);
    }

    pub fn remove(&mut self, ticket: u64) -> Option<Waiter> {
        let waiter = self.by_ticket.remove(&ticket)?;
        self.by_end.remove(&(waiter.until, ticket));
        match &waiter.subject {
            Subject::Key(key) => forget(&mut self.by_key, key, ticket),
            Subject::Prefix(prefix) => forget(&mut self.by_prefix, prefix, ticket),
            Subject::Table(table) => {
                self.by_table[slot(*table)].remove(&ticket);
            }
        }
        Some(waiter)
    }

    pub fn get(&self, ticket: u64) -> Option<&Waiter> {
        self.by_ticket.get(&ticket)
    }

    /// Who may be woken by this change.
    pub fn concerned(&self, change: &Change, tickets: &mut BTreeSet<u64>) {
        let key = match change {
            Change::Entry(stored) => &stored.entry.key,
            Change::EntryGone(key) => key,
            Change::Session(_) | Change::SessionGone(_) => {
                return tickets.extend(&self.by_table[slot(Table::Sessions)]);
            }
            Change::Record(_) | Change::RecordGone(_) => {
                return tickets.extend(&self.by_table[slot(Table::Records)]);
            }
        };
        tickets.extend(self.by_key.get(key).into_iter().flatten());
        let before = (Bound::Unbounded, Bound::Included(key.as_str()));
        let prefixes = self.by_prefix.range::<str, _>(before);
        for (prefix, waiting) in prefixes {
            if key.starts_with(prefix) {
                tickets.extend(waiting);
            }
        }
    }

    /// Everyone.
    pub fn tickets(&self) -> Vec<u64> {
        self.by_ticket.keys().copied().collect()
    }

    /// Whose time is over.
    pub fn over(&self, now: Instant) -> Option<u64> {
        let (until, ticket) = self.by_end.first()?;
        (*until <= now).then_some(*ticket)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.by_end.first().map(|(until, _)| *until)
    }
}

fn slot(table: Table) -> usize {
    match table {
        Table::Sessions => 0,
        Table::Records => 1,
    }
}

fn forget(map: &mut BTreeMap<String, BTreeSet<u64>>, key: &str, ticket: u64) {
    if let Some(tickets) = map.get_mut(key) {
        tickets.remove(&ticket);
        if tickets.is_empty() {
            map.remove(key);
        }
    }
}
