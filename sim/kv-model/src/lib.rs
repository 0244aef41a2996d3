//! A key-value store that fails as Consul does, in virtual time.
