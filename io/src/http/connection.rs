//! One connection to a server, which knows whether a request that failed was sent.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::adapt::Adapted;
use super::client::{CONNECT_LIMIT, ClientError, Endpoint};
use super::tls::Tls;
use crate::clock::{Clock, timeout};
use crate::net::{Net, Stream};
use crate::spawn::{Spawn, Task};

/// A connection, for one request at a time.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    _task: Task,
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// The path and the query, percent-encoded.
    pub path_and_query: String,
    /// Headers besides `Host` and those that follow from the body.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A request that got no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No byte of it was sent.
    #[error("the request was not sent: {0}")]
    NotSent(#[source] ClientError),
    /// It was sent, in whole or in part: the server may have done it.
    #[error("the answer is lost: {0}")]
    Lost(#[source] ClientError),
}

impl ExchangeError {
    /// Why, whether or not it was sent.
    pub fn into_cause(self) -> ClientError {
        match self {
            ExchangeError::NotSent(cause) | ExchangeError::Lost(cause) => cause,
        }
    }
}

impl Connection {
    /// Connect to the first address of the server that accepts, each within five seconds.
    ///
    /// # Errors
    /// [`ClientError::Resolve`], [`ClientError::Connect`], [`ClientError::Tls`], or what HTTP says.
    pub async fn open<N: Net, C: Clock, S: Spawn>(
        (net, clock, spawn): (&N, &C, &S),
        endpoint: &Endpoint,
        tls: Option<&Tls>,
    ) -> Result<Connection, ClientError> {
        let stream = connect(net, clock, endpoint).await?;
        // Without them a request is only slower, and a server that vanished is noticed later.
        let _ = stream.set_nodelay(true);
        let _ = stream.give_up_on_silence();
        let host = endpoint.authority();
        let Some(tls) = tls else {
            return handshake(stream, host, spawn).await;
        };
        let securing = timeout(clock, CONNECT_LIMIT, tls.connect(endpoint.host(), stream));
        let secured = securing.await?.map_err(|source| ClientError::Tls {
            endpoint: endpoint.clone(),
            source,
        })?;
        handshake(secured, host, spawn).await
    }

    /// Whether the server has not closed it, as far as we know.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Send a request and read the whole answer of at most `answer_len_max` bytes. The
    /// connection comes back with the answer, for the next one.
    ///
    /// # Errors
    /// Whether it was sent, and what went wrong. The connection is closed then.
    pub async fn exchange(
        mut self,
        request: Outgoing,
        answer_len_max: usize,
    ) -> Result<(Incoming, Connection), ExchangeError> {
        let not_sent = |error: hyper::Error| ExchangeError::NotSent(error.into());
        self.sender.ready().await.map_err(not_sent)?;
        let request = self.build(request).map_err(ExchangeError::NotSent)?;
        let response = match self.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                // hyper gives the request back if it had not begun to send it.
                let untouched = error.take_message().is_some();
                let cause = ClientError::from(error.into_error());
                return Err(match untouched {
                    true => ExchangeError::NotSent(cause),
                    false => ExchangeError::Lost(cause),
                });
            }
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, answer_len_max).collect().await;
        let body = body.map_err(|error| {
            ExchangeError::Lost(match error.is::<LengthLimitError>() {
                true => ClientError::TooLarge {
                    limit: answer_len_max,
                },
                false => ClientError::Body(error.to_string()),
            })
        })?;
        let answer = Incoming {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        };
        Ok((answer, self))
    }

    fn build(&self, request: Outgoing) -> Result<hyper::Request<Full<Bytes>>, ClientError> {
        let mut built = hyper::Request::builder()
            .method(request.method)
            .uri(request.path_and_query)
            .header(HOST, &self.host)
            .body(Full::new(request.body))
            .map_err(|error| ClientError::Body(error.to_string()))?;
        built.headers_mut().extend(request.headers);
        Ok(built)
    }
}

async fn connect<N: Net, C: Clock>(
    net: &N,
    clock: &C,
    endpoint: &Endpoint,
) -> Result<N::Stream, ClientError> {
    let (host, port) = (endpoint.host(), endpoint.port());
    let resolve = |source| ClientError::Resolve {
        host: host.to_owned(),
        source,
    };
    let resolving = timeout(clock, CONNECT_LIMIT, net.resolve(host, port));
    let addrs = resolving.await?.map_err(resolve)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in addrs {
        let connecting = timeout(clock, CONNECT_LIMIT, net.connect(None, addr));
        match connecting.await.map_err(io::Error::from).flatten() {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(ClientError::Connect {
        endpoint: endpoint.clone(),
        source: last,
    })
}

async fn handshake<T, S>(stream: T, host: String, spawn: &S) -> Result<Connection, ClientError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Spawn,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(Adapted(stream))
        .await?;
    let task = spawn.spawn("http client connection", async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "an HTTP client connection ended");
        }
    });
    Ok(Connection {
        sender,
        host,
        _task: task,
    })
}
