//! A worker, for tests.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::types::Vip;
use holdfast_io::kv::{Answer, Condition, Entry, Failure, FailureKind, Kv, Request, Response};
use zeroize::Zeroizing;

use crate::place::{Credentials, KvPlace, Place};
use crate::settings::{EndpointSettings, Settings, Synchronous};

/// What a user chose who chose nothing.
pub(crate) fn settings() -> Settings {
    Settings {
        bin_dir: PathBuf::from("/usr/lib/postgresql/15/bin"),
        patroni: PathBuf::from("/opt/holdfast/bin/patroni"),
        user: "postgres".to_owned(),
        data_dir: PathBuf::from("/var/lib/holdfast/postgres"),
        scope: "demo".to_owned(),
        port: 5432,
        rest_port: 8008,
        synchronous: Synchronous::Quorum,
        ttl: Duration::from_secs(30),
        loop_wait: Duration::from_secs(10),
        retry_timeout: Duration::from_secs(10),
        maximum_lag_on_failover: 1 << 20,
        parameters: [("shared_buffers".to_owned(), "256MB".to_owned())].into(),
        overlay: None,
        tls: true,
        disk_free_min: 64 << 20,
        endpoints: EndpointSettings::default(),
    }
}

/// The first of three workers.
pub(crate) fn place() -> Place {
    let member = |n: u16| {
        (
            format!("worker-{n}").parse().unwrap(),
            Vip::new(10 + n).unwrap(),
        )
    };
    Place {
        cluster: "demo".to_owned(),
        id: "worker-1".parse().unwrap(),
        instance: "0a1b2c3d".to_owned(),
        vip: Vip::new(11).unwrap(),
        members: (1..=3).map(member).collect(),
        kv: KvPlace {
            address: "http://127.0.0.1:8500".to_owned(),
            token: None,
            ca_file: None,
        },
        run_dir: PathBuf::from("/run/holdfast"),
    }
}

/// Passwords that can be told apart.
pub(crate) fn credentials() -> Credentials {
    let secret = |of: &str| Zeroizing::new(format!("of-{of}"));
    Credentials {
        superuser: secret("superuser"),
        replication: secret("replication"),
        rewind: secret("rewind"),
        rest: secret("rest"),
        ca: Zeroizing::new([7; 32]),
    }
}

/// A key-value store without sessions.
#[derive(Clone, Default)]
pub(crate) struct TestKv(Rc<RefCell<(u64, BTreeMap<String, Entry>)>>);

impl TestKv {
    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        self.0.borrow().1.get(key).map(|entry| entry.value.clone())
    }

    pub(crate) fn set(&self, key: &str, value: impl Into<Bytes>) {
        let (index, entries) = &mut *self.0.borrow_mut();
        *index += 1;
        let entry = Entry {
            key: key.to_owned(),
            value: value.into(),
            create_index: *index,
            modify_index: *index,
            lock_index: 0,
            session: None,
        };
        entries.insert(key.to_owned(), entry);
    }

    pub(crate) fn delete(&self, key: &str) {
        self.0.borrow_mut().1.remove(key);
    }

    /// How many changes there were.
    pub(crate) fn changes(&self) -> u64 {
        self.0.borrow().0
    }

    fn answer(&self, request: Request) -> Result<Response, Failure> {
        let index = self.changes();
        match request {
            Request::Get { key, .. } => Ok(Response::Entry {
                index,
                entry: self.0.borrow().1.get(&key).cloned(),
            }),
            Request::List { prefix, .. } => Ok(Response::Entries {
                index,
                entries: {
                    let all = self.0.borrow();
                    let below = all
                        .1
                        .values()
                        .filter(|entry| entry.key.starts_with(&prefix));
                    below.cloned().collect()
                },
            }),
            Request::Put {
                key,
                value,
                condition,
            } => {
                let found = self.0.borrow().1.get(&key).map(|entry| entry.modify_index);
                let holds = match condition {
                    Condition::Any => true,
                    Condition::Absent => found.is_none(),
                    Condition::Unchanged(at) => found == Some(at),
                };
                if holds {
                    self.set(&key, value);
                }
                Ok(Response::Done(holds))
            }
            _ => Err(Failure::determinate(
                FailureKind::Invalid,
                "not in this test",
            )),
        }
    }
}

impl Kv for TestKv {
    fn call(&self, request: Request) -> Answer<'_> {
        Box::pin(std::future::ready(self.answer(request)))
    }
}

/// Run what waits for nothing.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    holdfast_io::real::block_on(future).unwrap()
}
