//! A worker, for tests.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::PathBuf;
use std::time::Duration;

use holdfast_core::types::Vip;
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
