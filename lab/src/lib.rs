//! Network namespaces with NATs on one machine.
//!
//! A [`Lab`] is a small internet made of kernel parts: one public network
//! (`203.0.113.0/24`, a bridge in the namespace `<prefix>-pub`), routers on it, each
//! a NAT of the [kind](Nat) that one asks for, and nodes, each in a namespace of its
//! own behind a router or directly on the public network.
//!
//! ```text
//!             pub: bridge br0, servers 203.0.113.10 and .11
//!              |                |                  |
//!     r1 203.0.113.101   r2 203.0.113.102   node 203.0.113.2x
//!       |         |             |
//!   10.1.1.2   10.1.2.2     10.2.3.2
//! ```
//!
//! ```no_run
//! use holdfast_lab::{Lab, Nat, Place};
//!
//! # fn main() -> Result<(), holdfast_lab::Error> {
//! let lab = Lab::builder("demo")
//!     .router("r1", Nat::default())
//!     .router("r2", Nat::symmetric())
//!     .node("node-1", Place::Behind("r1"))
//!     .node("node-2", Place::Behind("r2"))
//!     .build()?
//!     .up_guarded()?;
//! let status = lab.command("node-1", "ip")?.arg("address").status();
//! # drop(status);
//! # Ok(())
//! # }
//! ```
//!
//! Everything needs root, and `ip` and `nft` in the path. What a lab made is written
//! down before it is made, so that [`Lab::clean`] removes all of it after a crash,
//! and nothing else.
//!
//! A link is a plain veth pair, or, where it needs delay, loss or a rate, a pair of TAP
//! devices joined by the external program `holdfast-wire` (see [`LinkSpec`]).
//! Only IPv4 is routed.

pub mod coturn;
mod error;
mod freezer;
mod lab;
mod link;
mod make;
mod nat;
mod netns;
pub mod process;
mod state;
mod tools;
mod topology;

pub use error::Error;
pub use freezer::Freezer;
pub use lab::{Guard, Lab, LinkStatus, NamespaceStatus, Role, Status};
pub use link::{Direction, LinkSpec, SPEC_LENGTH_MAX};
pub use nat::{Filtering, Mapping, Nat, TCP_PORTS_MAX, Unsolicited};
pub use netns::Door;
pub use tools::preconditions;
pub use topology::{
    Builder, NAME_LENGTH_MAX, NODES_MAX, PREFIX_LENGTH_MAX, PUB, PUBLISHED_MAX, Place, ROUTERS_MAX,
    SERVERS,
};
