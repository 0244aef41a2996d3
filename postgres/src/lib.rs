//! Highly available Postgres: what Patroni is told, what is checked before it starts, and what the
//! cluster says of itself. What must hold is in `docs/postgres.md`.
//!
//! * [`settings`]: what the user chose; [`place`]: what the machine is.
//! * [`generate`](mod@generate): Patroni's configuration.
//! * [`status`]: what the cluster says of itself.

pub mod generate;
pub mod place;
pub mod settings;
pub mod status;
#[cfg(test)]
mod testing;

pub use generate::{Generated, generate};
pub use place::{Credentials, KvPlace, Place};
pub use settings::{EndpointSettings, Settings, Synchronous};
pub use status::{EndpointStatus, MemberStatus, PostgresStatus, Role};
