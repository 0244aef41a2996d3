//! The operating system: the only place that starts runtimes, reads clocks and opens sockets.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the place that the rules keep everything else away from"
)]
