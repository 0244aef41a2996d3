//! The model, played.

mod drills;
mod look;
