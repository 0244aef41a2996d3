//! The database of a member: Patroni as a child, what the cluster says of itself, and the
//! endpoints. What must hold is in `docs/postgres.md`.

mod secrets;

pub use holdfast_postgres::{Credentials, KvPlace, Settings};
pub use secrets::credentials;

/// The name of Patroni's child.
pub const NAME: &str = "patroni";
/// The name that the database is registered under.
pub const SERVICE: &str = "postgres";

/// The database of a cluster, as one of its machines needs it.
#[derive(Clone)]
pub struct Postgres {
    /// What the user chose.
    pub settings: Settings,
    /// The role whose machines run the database: `worker`. Machines of another role have the
    /// endpoints alone.
    pub role: String,
    /// The KV that Patroni uses where the sidecar runs no Consul agent: the first of
    /// `kv.addresses`. The agent has precedence.
    pub kv: Option<KvPlace>,
    /// What was derived at bootstrap: [`credentials`] reads it.
    pub credentials: Credentials,
}
