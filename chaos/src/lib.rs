//! Scenarios, faults, oracles, shrinking.
