//! A small HTTP server: whole requests in, whole responses out, a limit on everything.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::adapt::Adapted;
use crate::clock::{Clock, Sleep, timeout};
use crate::net::{Listener, Stream};
use crate::spawn::Spawn;

/// How long to rest after the system refused to accept, for example without free file
/// descriptors: the condition lasts, and trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections at one time; more wait in the system's backlog.
    pub connections_max: usize,
    /// Largest request line with headers, in bytes.
    pub head_len_max: usize,
    /// Most headers.
    pub headers_max: usize,
    /// Largest body, in bytes; beyond it the answer is 413.
    pub body_len_max: usize,
    /// Longest time from one answer (or the start) to the end of the next request's headers.
    pub idle: Duration,
    /// Longest time from the end of the headers to the answer, a long poll included.
    pub request: Duration,
    /// Longest time for the body of it; beyond it the answer is 408.
    pub body: Duration,
    /// Longest time that requests in flight have to finish after the stop.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            connections_max: 256,
            // hyper does not take less than 8 KiB.
            head_len_max: 16 << 10,
            headers_max: 64,
            body_len_max: 64 << 10,
            idle: Duration::from_secs(30),
            request: Duration::from_secs(60),
            body: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// A request with its whole body.
#[derive(Debug)]
pub struct Request {
    /// Where the connection came from.
    pub source: SocketAddr,
    /// The method.
    pub method: Method,
    /// The path, still percent-encoded.
    pub path: String,
    /// The query without its `?`.
    pub query: Option<String>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A response with its whole body.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The media type of the body.
    pub content_type: &'static str,
    /// What else is said about it.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// Nothing but a status.
    pub fn empty(status: StatusCode) -> Response {
        Response::text(status, "")
    }

    /// Plain text.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response {
        Response::new(status, "text/plain; charset=utf-8", body)
    }

    /// JSON that is already encoded.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
        Response::new(status, "application/json", body)
    }

    /// A body of this media type.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
        Response {
            status,
            content_type,
            headers: HeaderMap::new(),
            body: body.into(),
        }
    }

    fn into_hyper(self) -> hyper::Response<Full<Bytes>> {
        let mut response = hyper::Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if self.status != StatusCode::NO_CONTENT {
            let value = HeaderValue::from_static(self.content_type);
            response.headers_mut().insert(CONTENT_TYPE, value);
        }
        response
    }
}

/// Says when to stop: becomes true, or its sender is dropped.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A stop and the switch that throws it.
    pub fn new() -> (watch::Sender<bool>, Stop) {
        let (sender, receiver) = watch::channel(false);
        (sender, Stop(receiver))
    }

    /// Wait for it.
    pub async fn wait(&mut self) {
        // A dropped sender is a stop as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether it is there already.
    pub fn is_set(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl From<watch::Receiver<bool>> for Stop {
    fn from(receiver: watch::Receiver<bool>) -> Stop {
        Stop(receiver)
    }
}

/// Answer requests until `stop`: then accept nothing more, let requests in flight finish
/// within [`ServerLimits::drain`], and return.
///
/// `handler` is called once per request. Its future is dropped when the client goes away or
/// the time runs out, so that a guard inside it can tell.
pub async fn serve<L, C, S, H, F>(
    listener: L,
    clock: C,
    spawn: S,
    limits: ServerLimits,
    mut stop: Stop,
    handler: H,
) where
    L: Listener,
    C: Clock,
    S: Spawn,
    H: Fn(Request) -> F + 'static,
    F: Future<Output = Response> + 'static,
{
    let handler = Rc::new(handler);
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.wait() => break,
            accepted = accept_with_slot(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((slot, stream, source)) => {
                let connection = Connection {
                    clock: clock.clone(),
                    limits,
                    stop: stop.clone(),
                    handler: handler.clone(),
                    source,
                };
                let task = spawn.spawn("http connection", async move {
                    connection.run(stream).await;
                    drop(slot);
                });
                task.detach();
            }
            Err(error) => {
                tracing::debug!(%error, "accepting an HTTP connection failed");
                clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
    // Every connection ends within its own drain limit.
    let _ = slots.acquire_many(all).await;
}

async fn accept_with_slot<L: Listener>(
    listener: &L,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(OwnedSemaphorePermit, L::Stream, SocketAddr)> {
    let slot = slots.clone().acquire_owned().await;
    let slot = slot.expect("nobody closes the semaphore");
    let (stream, source) = listener.accept().await?;
    Ok((slot, stream, source))
}

struct Connection<C, H> {
    clock: C,
    limits: ServerLimits,
    stop: Stop,
    handler: Rc<H>,
    source: SocketAddr,
}

impl<C, H, F> Connection<C, H>
where
    C: Clock,
    H: Fn(Request) -> F + 'static,
    F: Future<Output = Response> + 'static,
{
    async fn run<S: Stream>(self, stream: S) {
        // Small answers must not wait for acknowledgements; without it they are only slower.
        let _ = stream.set_nodelay(true);
        let limits = self.limits;
        let deadline = Rc::new(Cell::new(self.clock.now().mono + limits.idle));
        let (clock, handler, source) = (self.clock.clone(), self.handler.clone(), self.source);
        let moved = deadline.clone();
        let service = service_fn(move |request| {
            moved.set(clock.now().mono + limits.request);
            let (clock, moved, handler) = (clock.clone(), moved.clone(), handler.clone());
            async move {
                let response = answer(&clock, &*handler, source, limits, request).await;
                moved.set(clock.now().mono + limits.idle);
                Ok::<_, Infallible>(response.into_hyper())
            }
        });
        let connection = http1::Builder::new()
            .max_buf_size(limits.head_len_max.max(8 << 10))
            .max_headers(limits.headers_max)
            .serve_connection(Adapted(stream), service);
        self.drive(connection, &deadline).await;
    }

    async fn drive<T: Drainable>(mut self, connection: T, deadline: &Cell<Instant>) {
        let mut connection = pin!(connection);
        let mut sleep = self.clock.sleep_until(deadline.get());
        let mut drain_until = None;
        let mut stopped = pin!(self.stop.wait());
        poll_fn(|cx| {
            if drain_until.is_none() && stopped.as_mut().poll(cx).is_ready() {
                drain_until = Some(self.clock.now().mono + self.limits.drain);
                connection.as_mut().drain();
            }
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            loop {
                let until = drain_until.map_or(deadline.get(), |d| d.min(deadline.get()));
                sleep.reset(until);
                if Pin::new(&mut sleep).poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.clock.now().mono >= until {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }
}

/// A connection future that can be told to finish.
trait Drainable: Future {
    fn drain(self: Pin<&mut Self>);
}

impl<S, V> Drainable for http1::Connection<Adapted<S>, V>
where
    S: Stream,
    V: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    V::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn answer<C, H, F>(
    clock: &C,
    handler: &H,
    source: SocketAddr,
    limits: ServerLimits,
    request: hyper::Request<Incoming>,
) -> Response
where
    C: Clock,
    H: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    let (head, body) = request.into_parts();
    let body = Limited::new(body, limits.body_len_max).collect();
    let body = match timeout(clock, limits.body, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("the body is larger than {} bytes\n", limits.body_len_max);
            return Response::text(StatusCode::PAYLOAD_TOO_LARGE, text);
        }
        Ok(Err(_)) => return Response::text(StatusCode::BAD_REQUEST, "the body is cut short\n"),
        Err(_) => return Response::text(StatusCode::REQUEST_TIMEOUT, "the body is too slow\n"),
    };
    handler(Request {
        source,
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
    })
    .await
}
