//! One process per VM: children, the Consul agent, registration, readiness.
