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
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

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
/// Longest id, in hexadecimal digits; dstack's have 40 and 64.
const ID_LEN_MAX: usize = 128;
/// How much of an error's text is shown, characters.
const DETAIL_LEN_MAX: usize = 200;
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
                detail: detail(&body),
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

    fn shape(&self, call: &'static str, found: String, expected: &'static str) -> TeeError {
        TeeError::Shape {
            endpoint: self.endpoint.clone(),
            call,
            found,
            expected,
        }
    }

    /// The fields of an answer. What serde says of an answer may quote it, so it is not shown.
    fn parse<'a, T: Deserialize<'a>>(
        &self,
        call: &'static str,
        body: &'a [u8],
        expected: &'static str,
    ) -> Result<T, TeeError> {
        serde_json::from_slice(body).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "JSON with other fields",
                _ => "something that is no JSON",
            };
            let (line, column, len) = (error.line(), error.column(), body.len());
            let found = format!("{what} ({len} bytes, line {line}, column {column})");
            self.shape(call, found, expected)
        })
    }
}

/// Names of the calls, as in the path of the request.
const INFO: &str = "/Info";
const GET_KEY: &str = "/GetKey";
const GET_QUOTE: &str = "/GetQuote";

#[derive(Deserialize)]
struct InfoAnswer {
    app_id: String,
    instance_id: String,
    #[serde(default)]
    compose_hash: String,
}

/// Borrowed, so that no copy of the key is left behind.
#[derive(Deserialize)]
struct KeyAnswer<'a> {
    key: &'a str,
}

#[derive(Deserialize)]
struct QuoteAnswer {
    quote: String,
    #[serde(default)]
    event_log: String,
    #[serde(default)]
    vm_config: String,
    #[serde(default)]
    report_data: String,
}

impl<N: Net, C: Clock> Dstack<N, C> {
    async fn get_info(&self) -> Result<Info, TeeError> {
        let body = self.call(INFO, json!({}), ANSWER_LEN_MAX).await?;
        let answer: InfoAnswer = self.parse(
            INFO,
            &body,
            "an object with the texts app_id and instance_id",
        )?;
        let digits = "hexadecimal digits, at most 128";
        let id = |name: &str, text: String| match is_hex_id(&text) {
            true => Ok(text.to_ascii_lowercase()),
            false => Err(self.shape(INFO, format!("{name} = {:?}", shortened(&text)), digits)),
        };
        if answer.app_id.is_empty() {
            return Err(self.shape(INFO, "an empty app_id".to_owned(), digits));
        }
        let non_empty = |text: String| (!text.is_empty()).then_some(text);
        Ok(Info {
            app_id: id("app_id", answer.app_id)?,
            instance_id: non_empty(id("instance_id", answer.instance_id)?),
            compose_hash: non_empty(id("compose_hash", answer.compose_hash)?),
        })
    }

    async fn get_key(&self, path: &str, purpose: &str) -> Result<Zeroizing<[u8; 32]>, TeeError> {
        const EXPECTED: &str = "an object with `key`, 64 hexadecimal digits";
        check_key_name(path)?;
        check_key_name(purpose)?;
        let request = json!({"path": path, "purpose": purpose, "algorithm": "secp256k1"});
        let body = self.call(GET_KEY, request, KEY_ANSWER_LEN_MAX).await?;
        // The one buffer that is ours to overwrite, where nobody else holds it.
        let body = Zeroizing::new(Vec::from(body));
        let answer: KeyAnswer<'_> = self.parse(GET_KEY, &body, EXPECTED)?;
        let mut key = Zeroizing::new([0; 32]);
        hex::decode(answer.key, key.as_mut()).ok_or_else(|| {
            let found = format!("`key` of {} characters", answer.key.chars().count());
            self.shape(GET_KEY, found, EXPECTED)
        })?;
        match key.iter().all(|byte| *byte == 0) {
            true => Err(self.shape(GET_KEY, "a key of zeroes".to_owned(), EXPECTED)),
            false => Ok(key),
        }
    }

    async fn get_quote(&self, report_data: &[u8; 64]) -> Result<Quote, TeeError> {
        const EXPECTED: &str = "an object with `quote`, hexadecimal digits, for our report_data";
        let asked = hex::encode(report_data);
        let request = json!({"report_data": *asked});
        let body = self.call(GET_QUOTE, request, ANSWER_LEN_MAX).await?;
        let answer: QuoteAnswer = self.parse(GET_QUOTE, &body, EXPECTED)?;
        let wrong = |found: String| self.shape(GET_QUOTE, found, EXPECTED);
        if !answer.report_data.is_empty() && !answer.report_data.eq_ignore_ascii_case(&asked) {
            return Err(wrong("a quote for another report_data".to_owned()));
        }
        let mut quote = vec![0; answer.quote.len() / 2];
        match hex::decode(&answer.quote, &mut quote) {
            Some(()) if !quote.is_empty() => Ok(Quote {
                quote,
                event_log: answer.event_log,
                vm_config: answer.vm_config,
            }),
            _ => Err(wrong(format!("`quote` of {} bytes", answer.quote.len()))),
        }
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

fn is_hex_id(text: &str) -> bool {
    text.len() <= ID_LEN_MAX && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn shortened(text: &str) -> String {
    text.chars().take(DETAIL_LEN_MAX).collect()
}

/// What the agent says about its refusal: `{"error": "..."}`. Quoted, so that it cannot forge
/// lines of a log.
fn detail(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => format!(" and {:?}", shortened(&refusal.error)),
        Err(_) => String::new(),
    }
}
