//! Highly available Postgres: what Patroni is told, what is checked before it starts, and what the
//! cluster says of itself. What must hold is in `docs/postgres.md`.
//!
//! * [`settings`]: what the user chose; [`place`]: what the machine is.
//! * [`generate`](mod@generate): Patroni's configuration.
//! * [`guard`]: what is checked before Patroni starts; [`watch`]: what is said while it runs.
//! * [`dynamic`]: what lives in the KV; [`tls`]: the certificates.
//! * [`probe`]: how endpoints ask members.
//! * [`host`]: the machine's files and programs; [`real`]: the operating system's.
//! * [`status`]: what the cluster says of itself.

pub mod dynamic;
pub mod generate;
pub mod guard;
pub mod host;
pub mod place;
pub mod probe;
pub mod real;
pub mod settings;
pub mod status;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod watch;

pub use generate::{Generated, generate};
pub use guard::{Guard, Refusal};
pub use place::{Credentials, KvPlace, Place};
pub use probe::RestProbe;
pub use settings::{EndpointSettings, Settings, Synchronous};
pub use status::{EndpointStatus, MemberStatus, PostgresStatus, Role};
