//! Servers that Holdfast brings along, so that one machine is enough to try everything.
//!
//! In production coturn serves STUN and TURN. [`turn`] is a small server of the same
//! protocol as a machine without io, so that simulators and tests drive the code that the
//! embedded server runs.

pub mod turn;
