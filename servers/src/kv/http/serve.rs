//! HTTP/1.1 with headers of its own in the answers, which Consul's clients read.
//!
//! Requests are those of `holdfast_io::http`, and so are the limits; its server gives answers no
//! headers besides their type.

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
use holdfast_io::clock::{Clock, Sleep, timeout};
use holdfast_io::http::{Request, ServerLimits, StatusCode, Stop};
use holdfast_io::net::{Listener, Stream};
use holdfast_io::spawn::Spawn;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

/// How long to rest after the system refused to accept: the condition lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest time for the body of a request, once its headers are there. The limit of the request
/// has to leave room for a read that waits.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// An answer.
pub(super) type Answer = hyper::Response<Full<Bytes>>;

/// Plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = hyper::Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}

/// Answer requests until `stop`: then accept nothing more, and give those in flight
/// [`ServerLimits::drain`].
pub(super) async fn serve<L, C, S, H, F>(
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
    F: Future<Output = Answer> + 'static,
{
    let handler = Rc::new(handler);
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accept = async {
            let slot = slots.clone().acquire_owned().await;
            let slot = slot.expect("nobody closes the semaphore");
            let (stream, source) = listener.accept().await?;
            Ok::<_, std::io::Error>((slot, stream, source))
        };
        let accepted = tokio::select! {
            biased;
            () = stop.wait() => break,
            accepted = accept => accepted,
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
                let task = spawn.spawn("kv connection", async move {
                    connection.run(stream).await;
                    drop(slot);
                });
                task.detach();
            }
            Err(error) => {
                tracing::debug!(%error, "accepting a KV connection failed");
                clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
    // Every connection ends within its own drain limit.
    let _ = slots.acquire_many(all).await;
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
    F: Future<Output = Answer> + 'static,
{
    async fn run<S: Stream>(mut self, stream: S) {
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
                let answer = answer(&clock, &*handler, source, limits.body_len_max, request);
                let answer = answer.await;
                moved.set(clock.now().mono + limits.idle);
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .max_buf_size(limits.head_len_max.max(8 << 10))
            .max_headers(limits.headers_max)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut sleep = self.clock.sleep_until(deadline.get());
        let mut drain_until: Option<Instant> = None;
        let mut stopped = pin!(self.stop.wait());
        poll_fn(|cx| {
            if drain_until.is_none() && stopped.as_mut().poll(cx).is_ready() {
                drain_until = Some(self.clock.now().mono + limits.drain);
                connection.as_mut().graceful_shutdown();
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

async fn answer<C, H, F>(
    clock: &C,
    handler: &H,
    source: SocketAddr,
    body_len_max: usize,
    request: hyper::Request<Incoming>,
) -> Answer
where
    C: Clock,
    H: Fn(Request) -> F,
    F: Future<Output = Answer>,
{
    let (head, body) = request.into_parts();
    let body = timeout(
        clock,
        BODY_LIMIT,
        Limited::new(body, body_len_max).collect(),
    );
    let body = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("Request body too large, max size: {body_len_max} bytes.");
            return text(StatusCode::PAYLOAD_TOO_LARGE, message);
        }
        Ok(Err(_)) => return text(StatusCode::BAD_REQUEST, "the body is cut short"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body is too slow"),
    };
    let request = Request {
        source,
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        headers: head.headers,
        body,
    };
    handler(request).await
}
