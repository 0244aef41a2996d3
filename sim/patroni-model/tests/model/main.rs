//! The model, played.

mod calibrated;
mod claims;
mod deterministic;
mod drills;
mod obstacles;
mod storms;
