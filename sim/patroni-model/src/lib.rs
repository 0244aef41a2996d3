//! Patroni and PostgreSQL in virtual time: what a drill does to them, without either.
