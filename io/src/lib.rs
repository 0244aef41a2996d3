//! How Holdfast touches the world: the traits that drivers need, the drivers, and the real
//! adapters.
//!
//! A driver is a future over [`Clock`](clock::Clock), [`Spawn`](spawn::Spawn) and
//! [`Net`](net::Net): it feeds a machine of `holdfast_core` with what happened and does what
//! the machine says. It decides nothing. Only [`real`] knows the operating system, so the
//! same drivers run on a simulated network and in virtual time.
//!
//! Start reading at [`mesh`].

pub mod clock;
pub mod dump;
pub mod http;
pub mod kv;
pub mod mesh;
pub mod metrics;
pub mod net;
pub mod real;
pub mod route;
pub mod signal;
pub mod signal_http;
pub mod spawn;
