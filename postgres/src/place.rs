//! What the machine is, once it has a slot.

use std::path::PathBuf;

use holdfast_core::types::{PeerId, Vip};
use zeroize::Zeroizing;

/// What the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The cluster's name.
    pub cluster: String,
    /// The machine's own name.
    pub id: PeerId,
    /// The same at every start of this machine.
    pub instance: String,
    /// Its virtual address.
    pub vip: Vip,
    /// All members that may run a database, with this one.
    pub members: Vec<(PeerId, Vip)>,
    /// The KV that Patroni uses.
    pub kv: KvPlace,
    /// Where generated files go: `patroni.yml`, `ca.pem`. It does not survive a restart.
    pub run_dir: PathBuf,
}

/// The KV that Patroni uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvPlace {
    /// `http://host:port` or `https://host:port`.
    pub address: String,
    /// Its ACL token.
    pub token: Option<Zeroizing<String>>,
    /// Certificates that it is checked against.
    pub ca_file: Option<PathBuf>,
}

/// What was derived at bootstrap.
#[derive(Clone)]
pub struct Credentials {
    /// Of PostgreSQL's superuser, `postgres`.
    pub superuser: Zeroizing<String>,
    /// Of the role `replicator`.
    pub replication: Zeroizing<String>,
    /// Of the role `rewind`.
    pub rewind: Zeroizing<String>,
    /// Of Patroni's REST API, for what changes something.
    pub rest: Zeroizing<String>,
    /// What the key of the certificate authority is made from.
    pub ca: Zeroizing<[u8; 32]>,
}
