//! An HTTP client that keeps one connection to one server.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method, StatusCode};

use super::connection::{Connection, ExchangeError, Outgoing};
use crate::clock::{Clock, Elapsed, timeout};
use crate::net::Net;
use crate::spawn::Spawn;

/// Longest time to establish a connection.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest accepted URL of a server.
const URL_LEN_MAX: usize = 512;

/// `http://host:port`: a server, without a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    host: String,
    port: u16,
}

/// A URL that names no [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no server address: expected http://host:port, without a path")]
pub struct EndpointError {
    found: String,
}

impl Endpoint {
    /// The host: a name, an IPv4 address, or an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 80 when the URL has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        parse_endpoint(text).ok_or_else(|| EndpointError {
            found: text.chars().take(80).collect(),
        })
    }
}

fn parse_endpoint(text: &str) -> Option<Endpoint> {
    let rest = text.strip_prefix("http://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                port.strip_prefix(':').or(port.is_empty().then_some("80"))?,
            )
        }
        None => rest.rsplit_once(':').unwrap_or((rest, "80")),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let name = !host.is_empty() && (rest.starts_with('[') || host.bytes().all(plain));
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    (name && digits && text.len() <= URL_LEN_MAX).then_some(())?;
    Some(Endpoint {
        host: host.to_owned(),
        port: port.parse().ok().filter(|port| *port != 0)?,
    })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The name has no address.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No address of the server accepts.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// The server.
        endpoint: Endpoint,
        /// Why, of the last address.
        source: io::Error,
    },
    /// The server cannot prove to be the one that was meant.
    #[error("no secure connection to {endpoint}: {source}")]
    Tls {
        /// The server.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or the server does not speak HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error(transparent)]
    Elapsed(#[from] Elapsed),
    /// The answer is too large.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The answer ended early.
    #[error("the answer is cut short: {0}")]
    Body(String),
}

/// One server, and the connection to it while it lasts. One request at a time.
pub struct Client<N, C, S> {
    net: N,
    clock: C,
    spawn: S,
    endpoint: Endpoint,
    open: Option<Connection>,
}

impl<N: Net, C: Clock, S: Spawn> Client<N, C, S> {
    /// A client that connects with its first request.
    pub fn new(net: N, clock: C, spawn: S, endpoint: Endpoint) -> Client<N, C, S> {
        Client {
            net,
            clock,
            spawn,
            endpoint,
            open: None,
        }
    }

    /// The server.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Close the connection that is kept, if any.
    pub fn disconnect(&mut self) {
        self.open = None;
    }

    /// Whether a connection is kept for the next request.
    pub fn is_connected(&self) -> bool {
        self.open.is_some()
    }

    /// Send a request and read the whole answer of at most `answer_len_max` bytes, all within
    /// `limit`. After an error the next request makes a new connection. A request on a kept
    /// connection that the server had closed already is sent once more on a new one.
    pub async fn request(
        &mut self,
        method: Method,
        path_and_query: &str,
        body: Bytes,
        answer_len_max: usize,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        // Taken out while in use: a request that is dropped half way leaves no connection.
        let kept = self.open.take().filter(Connection::is_open);
        let clock = self.clock.clone();
        let request = Outgoing {
            method,
            path_and_query: path_and_query.to_owned(),
            headers: HeaderMap::new(),
            body,
        };
        let exchange = async {
            if let Some(open) = kept {
                match self.exchange(open, request.clone(), answer_len_max).await {
                    Err(ClientError::Http(error)) if never_processed(&error) => {}
                    other => return other,
                }
            }
            let world = (&self.net, &self.clock, &self.spawn);
            let open = Connection::open(world, &self.endpoint, None).await?;
            self.exchange(open, request, answer_len_max).await
        };
        timeout(&clock, limit, exchange).await?
    }

    async fn exchange(
        &mut self,
        open: Connection,
        request: Outgoing,
        answer_len_max: usize,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let exchanged = open.exchange(request, answer_len_max).await;
        let (answer, open) = exchanged.map_err(ExchangeError::into_cause)?;
        self.open = Some(open);
        Ok((answer.status, answer.body))
    }
}

/// Whether a kept connection turned out to be closed before the server saw the request.
fn never_processed(error: &hyper::Error) -> bool {
    error.is_closed() || error.is_canceled() || error.is_incomplete_message()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port_and_nothing_else() {
        for (text, host, port) in [
            ("http://broker:7000", "broker", 7000),
            ("http://10.0.0.1:80/", "10.0.0.1", 80),
            ("http://broker.example", "broker.example", 80),
            ("http://[::1]:8080", "::1", 8080),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{text}");
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
        }
        for bad in [
            "",
            "broker:1",
            "https://a:1",
            "http://",
            "http://:1",
            "http://a:0",
            "http://a:b",
            "http://a:65536",
            "http://a/b:1",
            "http://a:1/x",
            "http://u@a:1",
            "http://[a]:1",
            "http://a b:1",
            "http://a:+1",
            "http://a:",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?} must be refused");
        }
    }
}
