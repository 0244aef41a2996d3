//! One process per VM: children, the Consul agent, registration, readiness.
//!
//! [`run`] is `holdfast sidecar`, without its command line and its configuration file. What it
//! decides, it asks machines of `holdfast_core` for: [`claim`] drives the claim of a slot,
//! [`children`] the supervision of children. What must hold is in `docs/membership.md`.
//!
//! Signals, as PID 1 or not:
//!
//! | signal | what happens |
//! |---|---|
//! | SIGTERM, SIGINT | ordered shutdown; a second one: every child gets SIGKILL, the mesh says goodbye |
//! | SIGHUP | children, services, hosts and peers are read again |
//! | SIGUSR2, SIGWINCH | sent on to every child that runs, but not to the Consul agent; SIGUSR2 ends a program that does not handle it |
//! | SIGUSR1 | not touched here: the caller dumps the flight recorder |
//! | SIGCHLD | processes that ended are reaped, those that were left to us too |

mod admin;
pub mod children;
pub mod claim;
pub mod consul_agent;
mod error;
pub mod hosts;
mod inside;
mod options;
pub mod postgres;
mod probe;
pub mod processes;
pub mod registration;
mod run;
pub mod services;
mod signals;
mod status;

pub use error::Error;
pub use options::{
    Bootstrap, Child, Consul, MakeMesh, Member, MeshReloading, Options, Peer, Prepared, ReadAgain,
    Ready, ReadyError, Reload, SlotOptions, peer_id, slots_of,
};
pub use postgres::Postgres;
pub use run::{lock, run, run_asked};
pub use services::Service;
pub use signals::Ask;
pub use status::{
    ChildStatus, ConsulStatus, ServiceStatus, Shared, SidecarStatus, SlotEntry, SlotStatus,
};
