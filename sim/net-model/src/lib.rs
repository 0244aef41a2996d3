//! A pure model of links and NATs: what happens to a packet, and when.
//!
//! The crate has no dependencies, no clock and no generator. Time is a [`Duration`] since
//! the start of the world and only ever an argument; randomness comes through [`Draw`], or
//! [`Streams`] for one generator per device, so that a harness forks its streams by label and
//! a seed replays to the nanosecond.
//!
//! * [`pipeline`]: one direction of one link: black hole, MTU, queue with a rate, loss,
//!   delay and jitter, duplication. The kernel link emulator drives this very code.
//! * [`spec`]: the language in which a link's configuration is written.
//! * [`nat`]: one address translator with every behaviour of RFC 4787.
//! * [`network`]: hosts joined through chains of those devices, and the packets in flight.
//! * [`oracle`]: says from the topology whether a direct path must be found.
//!
//! The event loop of a world in virtual time:
//!
//! ```
//! use holdfast_net_model::{Draw, Links, Network, Packet, Protocol, Uplink};
//! use std::{net::SocketAddr, time::Duration};
//!
//! struct Counter(u64); // a real harness forks a generator here
//! impl Draw for Counter {
//!     fn next_u64(&mut self) -> u64 {
//!         self.0 += 1;
//!         self.0
//!     }
//! }
//!
//! let mut draw = Counter(0);
//! let mut network = Network::<&str>::new();
//! let a: SocketAddr = "198.51.100.1:1000".parse().expect("an address");
//! let b: SocketAddr = "198.51.100.2:2000".parse().expect("an address");
//! let alice = network.add_host(Uplink::Core, &[a.ip()], Links::ideal()).expect("a free address");
//! let bob = network.add_host(Uplink::Core, &[b.ip()], Links::ideal()).expect("a free address");
//!
//! let packet = Packet { protocol: Protocol::Udp, src: a, dst: b, len_bytes: 1200, payload: "hi" };
//! network.send(Duration::ZERO, alice, packet, &mut draw);
//! let mut deliveries = Vec::new();
//! while let Some(now) = network.deadline() {
//!     network.poll(now, &mut draw, &mut deliveries);
//! }
//! assert_eq!((deliveries[0].to, deliveries[0].packet.payload), (bob, "hi"));
//! ```
//!
//! [`Duration`]: std::time::Duration

pub mod draw;
pub mod nat;
pub mod network;
pub mod oracle;
pub mod pipeline;
pub mod spec;

pub use draw::{Draw, Ratio};
pub use nat::{Filtering, Mapping, Nat, NatConfig, Protocol};
pub use network::{
    Delivery, Direction, HostId, Links, NatId, Network, NetworkDrops, Packet, Stream, Streams,
    TopologyError, Uplink,
};
pub use pipeline::{Counters, DropCause, Fate, LinkConfig, Loss, Order, Pipeline};
pub use spec::SpecError;

#[cfg(test)]
mod testing;
