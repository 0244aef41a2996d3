//! Replays disasters from a seed.

fn main() {}
