//! The embedded key-value store: one node, durable, speaking the subset of Consul's HTTP API that
//! Holdfast and Patroni use.
