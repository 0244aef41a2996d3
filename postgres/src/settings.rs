//! What the user chose, `[postgres]` of the configuration.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

/// Which commits wait for whom: Patroni's `synchronous_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// `quorum`: any one of the replicas has it.
    #[default]
    Quorum,
    /// `on`: the one synchronous standby has it.
    On,
    /// `off`: what was acknowledged last is lost with the leader.
    Off,
}

/// What the user chose. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where `postgres`, `initdb` and the rest are.
    pub bin_dir: PathBuf,
    /// Patroni's program.
    pub patroni: PathBuf,
    /// Who runs both.
    pub user: String,
    /// PostgreSQL's data directory.
    pub data_dir: PathBuf,
    /// Patroni's `scope`: the name of the cluster of databases.
    pub scope: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// The port of Patroni's REST API.
    pub rest_port: u16,
    /// Which commits wait for whom.
    pub synchronous: Synchronous,
    /// Patroni's `ttl`.
    pub ttl: Duration,
    /// Patroni's `loop_wait`.
    pub loop_wait: Duration,
    /// Patroni's `retry_timeout`.
    pub retry_timeout: Duration,
    /// Patroni's `maximum_lag_on_failover`, bytes.
    pub maximum_lag_on_failover: u64,
    /// PostgreSQL's parameters, as in `postgresql.conf`.
    pub parameters: BTreeMap<String, String>,
    /// A file in Patroni's own format that is laid over what is generated.
    pub overlay: Option<PathBuf>,
    /// Whether clients can speak TLS.
    pub tls: bool,
    /// Less than this free on the disk, bytes, is a full disk.
    pub disk_free_min: u64,
    /// Where clients come in.
    pub endpoints: EndpointSettings,
}

/// `[postgres.endpoints]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Leads to the primary.
    pub primary: SocketAddr,
    /// Leads to the replicas.
    pub replicas: SocketAddr,
    /// A replica that is further behind is none, bytes.
    pub lag_max: u64,
    /// Without a replica, `replicas` leads to the primary.
    pub replicas_fall_back: bool,
    /// How long a new connection waits for a server.
    pub hold: Duration,
    /// So many sessions at once.
    pub sessions_max: usize,
    /// How long a connect to a server may take.
    pub connect_timeout: Duration,
    /// How often every member is asked.
    pub check_interval: Duration,
    /// How long it may take to answer.
    pub check_timeout: Duration,
    /// So many good answers in a row make a member up.
    pub rise: u32,
    /// So many bad ones make it down.
    pub fall: u32,
}

impl Default for EndpointSettings {
    fn default() -> EndpointSettings {
        let at = |last| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 10, 0, last), 5432));
        EndpointSettings {
            primary: at(1),
            replicas: at(2),
            lag_max: 16 << 20,
            replicas_fall_back: true,
            hold: Duration::from_secs(5),
            sessions_max: 1000,
            connect_timeout: Duration::from_secs(3),
            check_interval: Duration::from_millis(500),
            check_timeout: Duration::from_secs(1),
            rise: 1,
            fall: 2,
        }
    }
}
