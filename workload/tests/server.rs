//! Writers against a real PostgreSQL on loopback: what a client is told, and what is there after.
//!
//! Skipped, loudly, where no PostgreSQL is installed.
