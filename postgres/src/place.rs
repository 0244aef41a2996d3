//! What the machine is, once it has a slot.

use std::fmt;
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
#[derive(Clone, PartialEq, Eq)]
pub struct KvPlace {
    /// `http://host:port` or `https://host:port`.
    pub address: String,
    /// Its ACL token.
    pub token: Option<Zeroizing<String>>,
    /// Certificates that it is checked against.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for KvPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvPlace")
            .field("address", &self.address)
            .field("token", &self.token.as_ref().map(|_| "********"))
            .field("ca_file", &self.ca_file)
            .finish()
    }
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

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(********)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_printed_for_debugging() {
        let secret = || Zeroizing::new("hush".to_owned());
        let kv = KvPlace {
            address: "http://127.0.0.1:8500".to_owned(),
            token: Some(secret()),
            ca_file: None,
        };
        let credentials = Credentials {
            superuser: secret(),
            replication: secret(),
            rewind: secret(),
            rest: secret(),
            ca: Zeroizing::new([7; 32]),
        };
        let printed = format!("{kv:?} {credentials:?}");
        assert!(printed.contains("127.0.0.1:8500"), "{printed}");
        assert!(
            !printed.contains("hush") && !printed.contains("[9"),
            "{printed}"
        );
    }
}
