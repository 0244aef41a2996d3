//! Consul's client, over HTTP or HTTPS.
//!
//! One [`Consul`] knows several servers and uses one of them as long as that works. Within a call
//! it goes on to the next one when nothing was sent, or when the request changes nothing; a write
//! that may have happened is reported as such and never repeated. Every call ends: within
//! [`Config::limit`], and for a read that waits, its wait and a sixteenth, which Consul adds.

mod address;
mod agent;
mod ask;
mod classify;
mod real;
mod token;
mod wire;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

pub use address::{Address, AddressError};
pub use agent::{Agent, AgentSelf, Check, ListedService, Member, Service};
pub use real::{FileError, tls_from_file, token_from_file};
pub use token::{Token, TokenError};

use super::{Answer, Kv, Request};
use crate::clock::Clock;
use crate::http::{Connection, Tls};
use crate::net::Net;
use crate::spawn::Spawn;

/// Longest time for a call, unless configured: an election takes Consul some seconds, during
/// which servers hold requests back for up to seven.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Most calls at one time that do not wait for a change; more queue up.
const CALLS_MAX: usize = 16;
/// Most reads at one time that wait for a change, each with a connection of its own.
const WATCHES_MAX: usize = 32;
/// Most servers.
const ADDRESSES_MAX: usize = 16;

/// Which servers, and how to speak to them.
#[derive(Clone, Debug)]
pub struct Config {
    /// The servers, 1 to 16.
    pub addresses: Vec<Address>,
    /// The ACL token, if the servers want one.
    pub token: Option<Token>,
    /// Whom to trust; needed when an address is `https`.
    pub tls: Option<Tls>,
    /// Longest time for a call, without the wait that it asks for.
    pub limit: Duration,
}

impl Config {
    /// These servers, without a token, within [`LIMIT`].
    #[must_use]
    pub fn new(addresses: Vec<Address>) -> Config {
        Config {
            addresses,
            token: None,
            tls: None,
            limit: LIMIT,
        }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No server, or too many.
    #[error("{found} addresses of the KV: expected 1 to {ADDRESSES_MAX}")]
    Addresses {
        /// How many.
        found: usize,
    },
    /// Nobody is trusted.
    #[error("{address} needs the authorities to trust: set kv.ca_file")]
    NoAuthorities {
        /// The server.
        address: Address,
    },
    /// No time.
    #[error("the time limit of a call is 0")]
    NoTime,
}

/// A client of Consul.
pub struct Consul<N, C, S> {
    net: N,
    clock: C,
    spawn: S,
    config: Config,
    servers: Vec<Server>,
    /// Which server is used first.
    current: Cell<usize>,
    calls: Semaphore,
    watches: Semaphore,
}

struct Server {
    address: Address,
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl<N: Net, C: Clock, S: Spawn> Consul<N, C, S> {
    /// A client that connects with its first call.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(net: N, clock: C, spawn: S, config: Config) -> Result<Self, ConfigError> {
        let found = config.addresses.len();
        if found == 0 || found > ADDRESSES_MAX {
            return Err(ConfigError::Addresses { found });
        }
        if config.limit.is_zero() {
            return Err(ConfigError::NoTime);
        }
        let untrusted = config.addresses.iter().find(|address| address.tls);
        if let (Some(address), None) = (untrusted, &config.tls) {
            let address = address.clone();
            return Err(ConfigError::NoAuthorities { address });
        }
        let server = |address: &Address| Server {
            address: address.clone(),
            idle: RefCell::default(),
        };
        Ok(Consul {
            net,
            clock,
            spawn,
            servers: config.addresses.iter().map(server).collect(),
            config,
            current: Cell::new(0),
            calls: Semaphore::new(CALLS_MAX),
            watches: Semaphore::new(WATCHES_MAX),
        })
    }

    /// What only a Consul agent can be asked: members, services, intentions.
    pub fn agent(&self) -> Agent<'_, N, C, S> {
        Agent::new(self)
    }

    /// The server that the next call is sent to first.
    pub fn current(&self) -> &Address {
        &self.servers[self.current.get()].address
    }

    /// Close every connection that is not in use, for example when the token has changed.
    pub fn disconnect(&self) {
        for server in &self.servers {
            server.idle.borrow_mut().clear();
        }
    }
}

impl<N: Net, C: Clock, S: Spawn> Kv for Consul<N, C, S> {
    fn call(&self, request: Request) -> Answer<'_> {
        Box::pin(async move { self.ask(&request).await })
    }
}
