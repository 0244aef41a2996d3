//! The guest agent of dstack: POST with JSON over a unix socket, or over TCP.
//!
//! The API is the unversioned one of dstack OS 0.5, which 0.6 serves unchanged (`GetKey`,
//! `GetQuote`, `Info`; bytes are hexadecimal text). The agent before it, tappd (until 0.4),
//! gives no such keys and is not supported. `GetKey` derives from the path alone.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::Endpoint;
use holdfast_io::net::Net;
use serde_json::json;
use zeroize::Zeroizing;

use super::answers::{self, Wrong};
use super::http::{Failure, Post, post};
use super::{Info, LocalBoxFuture, Quote, Tee, TeeError, check_key_name, millis};
use crate::hex;

/// Longest time of one call, from the connection to the end of the answer: a quote takes about
/// 2 s on real hardware.
pub const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);
/// Largest answer with a key, which is about 400 bytes.
const KEY_ANSWER_LEN_MAX: usize = 16 << 10;
/// Largest other answer: an event log has some hundred kilobytes at most.
const ANSWER_LEN_MAX: usize = 2 << 20;
/// Longest path of a socket, bytes (unix(7)).
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Where the agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEndpoint {
    /// `unix:/path/to/socket`.
    Unix(PathBuf),
    /// `http://host:port`.
    Http(Endpoint),
}

/// A text that names no [`AgentEndpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no guest agent: expected unix:/var/run/dstack.sock or http://host:port")]
pub struct AgentEndpointError {
    found: String,
}

impl FromStr for AgentEndpoint {
    type Err = AgentEndpointError;

    fn from_str(text: &str) -> Result<AgentEndpoint, AgentEndpointError> {
        let wrong = || AgentEndpointError {
            found: text.chars().take(120).collect(),
        };
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(AgentEndpoint::Http).map_err(|_| wrong());
        };
        let usable = path.starts_with('/')
            && path.len() <= SOCKET_PATH_LEN_MAX
            && !path.contains(|c: char| c.is_control());
        usable
            .then(|| AgentEndpoint::Unix(path.into()))
            .ok_or_else(wrong)
    }
}

impl fmt::Display for AgentEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AgentEndpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            AgentEndpoint::Http(endpoint) => endpoint.fmt(f),
        }
    }
}

/// A client of the guest agent: a new connection and one attempt per call.
/// [`super::Patient`] tries again.
pub struct Dstack<N, C> {
    net: N,
    clock: C,
    to: Connect,
    endpoint: String,
    limit: Duration,
}

/// What a connection is opened to, with a [`Net`].
enum Connect {
    /// A socket in the file system: the [`Net`] ignores the address.
    Unix(PathBuf),
    /// A server.
    Http(Endpoint),
}

impl<N: Net, C: Clock> Dstack<N, C> {
    /// The agent at `endpoint` by way of TCP.
    pub fn http(net: N, clock: C, endpoint: Endpoint) -> Dstack<N, C> {
        let shown = endpoint.to_string();
        Dstack::new(net, clock, Connect::Http(endpoint), shown)
    }

    /// The agent on a socket in the file system; `net` connects to it whatever the address is
    /// ([`crate::real::UnixNet`]).
    pub fn unix(net: N, clock: C, path: &Path) -> Dstack<N, C> {
        let shown = format!("unix:{}", path.display());
        Dstack::new(net, clock, Connect::Unix(path.to_owned()), shown)
    }

    fn new(net: N, clock: C, to: Connect, endpoint: String) -> Dstack<N, C> {
        Dstack {
            net,
            clock,
            to,
            endpoint,
            limit: ATTEMPT_LIMIT,
        }
    }

    /// Another limit than [`ATTEMPT_LIMIT`].
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Dstack<N, C> {
        self.limit = limit;
        self
    }

    /// The body of the answer with status 200.
    async fn call(
        &self,
        call: &'static str,
        body: serde_json::Value,
        answer_len_max: usize,
    ) -> Result<Bytes, TeeError> {
        let body = Bytes::from(body.to_string());
        let exchange = self.exchange(call, body, answer_len_max);
        let endpoint = || self.endpoint.clone();
        let (status, body) = match timeout(&self.clock, self.limit, exchange).await {
            Ok(answer) => answer?,
            Err(_) => {
                return Err(TeeError::Slow {
                    endpoint: endpoint(),
                    call,
                    limit_ms: millis(self.limit),
                });
            }
        };
        match status {
            200 => Ok(body),
            status => Err(TeeError::Status {
                endpoint: endpoint(),
                call,
                status,
                detail: match status {
                    404 => " (dstack OS has this call since 0.5)".to_owned(),
                    _ => answers::detail(&body),
                },
            }),
        }
    }

    async fn exchange(
        &self,
        call: &'static str,
        body: Bytes,
        answer_len_max: usize,
    ) -> Result<(u16, Bytes), TeeError> {
        let endpoint = self.endpoint.clone();
        let stream = self.connect().await?;
        let request = Post {
            host: "dstack",
            path: call,
            body,
            answer_len_max,
        };
        post(stream, request)
            .await
            .map_err(|failure| match failure {
                Failure::Broken(reason) => TeeError::Broken { endpoint, reason },
                Failure::NotHttp => TeeError::NotHttp { endpoint, call },
                Failure::TooLarge => TeeError::Shape {
                    endpoint,
                    call,
                    found: format!("more than {answer_len_max} bytes"),
                    expected: "less",
                },
            })
    }

    async fn connect(&self) -> Result<N::Stream, TeeError> {
        match &self.to {
            Connect::Unix(path) => {
                let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
                let connecting = self.net.connect(None, anywhere).await;
                connecting.map_err(|error| self.unix_error(path, &error))
            }
            Connect::Http(server) => {
                let resolving = self.net.resolve(server.host(), server.port()).await;
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for addr in resolving.map_err(|error| self.broken(&error))? {
                    match self.net.connect(None, addr).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => last = error,
                    }
                }
                Err(match last.kind() {
                    io::ErrorKind::ConnectionRefused => TeeError::Refused {
                        endpoint: self.endpoint.clone(),
                    },
                    io::ErrorKind::NotFound => TeeError::Broken {
                        endpoint: self.endpoint.clone(),
                        reason: "the name has no address".to_owned(),
                    },
                    _ => self.broken(&last),
                })
            }
        }
    }

    fn unix_error(&self, path: &Path, error: &io::Error) -> TeeError {
        let endpoint = self.endpoint.clone();
        match error.kind() {
            io::ErrorKind::NotFound => TeeError::Missing { endpoint },
            io::ErrorKind::PermissionDenied => TeeError::Denied { endpoint },
            // The system refuses what is no socket in the same way.
            io::ErrorKind::ConnectionRefused => match crate::real::what_is(path) {
                Some(found) => TeeError::NotASocket { endpoint, found },
                None => TeeError::Refused { endpoint },
            },
            io::ErrorKind::NotADirectory => TeeError::NotASocket {
                endpoint,
                found: "below something that is no folder",
            },
            _ => self.broken(error),
        }
    }

    fn broken(&self, error: &io::Error) -> TeeError {
        TeeError::Broken {
            endpoint: self.endpoint.clone(),
            reason: error.to_string(),
        }
    }

    fn shape(&self, call: &'static str, wrong: Wrong) -> TeeError {
        TeeError::Shape {
            endpoint: self.endpoint.clone(),
            call,
            found: wrong.found,
            expected: wrong.expected,
        }
    }
}

/// Names of the calls, as in the path of the request.
const INFO: &str = "/Info";
const GET_KEY: &str = "/GetKey";
const GET_QUOTE: &str = "/GetQuote";

impl<N: Net, C: Clock> Dstack<N, C> {
    async fn get_info(&self) -> Result<Info, TeeError> {
        let body = self.call(INFO, json!({}), ANSWER_LEN_MAX).await?;
        answers::info(&body).map_err(|wrong| self.shape(INFO, wrong))
    }

    async fn get_key(&self, path: &str, purpose: &str) -> Result<Zeroizing<[u8; 32]>, TeeError> {
        check_key_name(path)?;
        check_key_name(purpose)?;
        let request = json!({"path": path, "purpose": purpose, "algorithm": "secp256k1"});
        let body = self.call(GET_KEY, request, KEY_ANSWER_LEN_MAX).await?;
        // The one buffer that is ours to overwrite, where nobody else holds it.
        let body = Zeroizing::new(Vec::from(body));
        answers::key(&body).map_err(|wrong| self.shape(GET_KEY, wrong))
    }

    async fn get_quote(&self, report_data: &[u8; 64]) -> Result<Quote, TeeError> {
        let request = json!({"report_data": *hex::encode(report_data)});
        let body = self.call(GET_QUOTE, request, ANSWER_LEN_MAX).await?;
        answers::quote(&body, report_data).map_err(|wrong| self.shape(GET_QUOTE, wrong))
    }
}

impl<N: Net, C: Clock> Tee for Dstack<N, C> {
    fn info(&self) -> LocalBoxFuture<'_, Result<Info, TeeError>> {
        Box::pin(self.get_info())
    }

    fn key<'a>(
        &'a self,
        path: &'a str,
        purpose: &'a str,
    ) -> LocalBoxFuture<'a, Result<Zeroizing<[u8; 32]>, TeeError>> {
        Box::pin(self.get_key(path, purpose))
    }

    fn quote<'a>(
        &'a self,
        report_data: &'a [u8; 64],
    ) -> LocalBoxFuture<'a, Result<Quote, TeeError>> {
        Box::pin(self.get_quote(report_data))
    }
}

impl<N, C> fmt::Debug for Dstack<N, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dstack")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
