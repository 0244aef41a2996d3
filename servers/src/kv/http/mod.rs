//! The subset of Consul's HTTP API that Holdfast and Patroni use, in front of a [`Store`].
//!
//! | path | methods |
//! |---|---|
//! | `/v1/kv/<key>` | GET (`recurse`, `keys`, `separator`, `raw`, `index`, `wait`), PUT (`cas`, `acquire`, `release`, `flags`), DELETE (`recurse`, `cas`) |
//! | `/v1/session/{create,renew,destroy,info,node,list}` | PUT, GET |
//! | `/v1/agent/service/{register,deregister}`, `/v1/agent/services`, `/v1/agent/check/{register,deregister,pass,warn,fail,update}`, `/v1/agent/checks`, `/v1/agent/self`, `/v1/agent/members` | PUT, GET |
//! | `/v1/catalog/{nodes,services,service/<name>}`, `/v1/health/{service/<name>,checks/<name>}` | GET |
//! | `/v1/config`, `/v1/config/<kind>/<name>`, `/v1/connect/intentions/{exact,check}` | PUT, GET, DELETE |
//! | `/v1/status/{leader,peers}` | GET, without a token |
//!
//! Checks of services are not carried out: one with a TTL is as its owner says, any other passes.
//! Config entries and intentions are kept and given back, no more.
//! Whoever has the token may do everything; there is no other access control.

mod agent;
mod entries;
mod mesh;
mod query;
mod services;
mod sessions;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_core::kv::{
    Failure, FailureKind, Request as Asked, Response, VALUE_LEN_MAX, WAIT_MAX,
};
use holdfast_io::clock::Clock;
use holdfast_io::http::{
    HeaderMap, HeaderValue, Method, Request, Response as Answer, ServerLimits, StatusCode, Stop,
    serve,
};
use holdfast_io::net::Listener;
use holdfast_io::spawn::Spawn;
use tokio::sync::{Notify, oneshot};

use super::store::{Ask, Input, Journal, Output, Store};
use crate::per_source::PerSource;
use query::{BadRequest, Query};

/// What the server is told.
#[derive(Clone)]
pub struct KvOptions {
    /// The name of the only node. Default `holdfast`.
    pub node: String,
    /// Its datacenter. Default `dc1`.
    pub datacenter: String,
    /// Who may ask: whoever sends this as `X-Consul-Token` or bearer token. Default: everybody.
    pub token: Option<String>,
    /// Connections at one time. Default 512.
    pub connections_max: usize,
    /// Connections of one IPv4 address or IPv6 network of 64 bits. Default 256.
    pub connections_per_source_max: usize,
    /// Longest time a connection may be without a complete request, or a client may take to read
    /// an answer. Default 60 s: clients keep connections between the turns of their loops.
    pub idle: Duration,
}

impl Default for KvOptions {
    fn default() -> KvOptions {
        KvOptions {
            node: "holdfast".into(),
            datacenter: "dc1".into(),
            token: None,
            connections_max: 512,
            connections_per_source_max: 256,
            idle: Duration::from_secs(60),
        }
    }
}

impl KvOptions {
    fn http(&self) -> ServerLimits {
        ServerLimits {
            connections_max: self.connections_max,
            head_len_max: 16 << 10,
            headers_max: 64,
            body_len_max: VALUE_LEN_MAX,
            idle: self.idle,
            // The longest wait, and time for the body.
            request: WAIT_MAX + Duration::from_secs(45),
            body: Duration::from_secs(30),
            drain: Duration::from_secs(1),
        }
    }
}

/// Serve `store` on `listener` until `stop`.
///
/// Changes are written to the journal on the calling task's thread: a journal on disk holds it up
/// for one sync per change.
pub async fn serve_kv<L: Listener, C: Clock, S: Spawn, J: Journal + 'static>(
    listener: L,
    options: KvOptions,
    store: Store<J>,
    clock: C,
    spawn: S,
    stop: Stop,
) {
    let limits = options.http();
    let listener = PerSource::new(listener, options.connections_per_source_max);
    let address = listener.local_addr();
    let server = Rc::new(Server {
        store: RefCell::new(store),
        waiting: RefCell::default(),
        tickets: Cell::new(0),
        armed: Cell::new(None),
        wake: Notify::new(),
        address: address.map_or_else(|_| "127.0.0.1:0".into(), |address| address.to_string()),
        options,
        clock: clock.clone(),
    });
    let _tending = spawn.spawn("kv deadlines", server.clone().tend());
    let handler = move |request| {
        let server = server.clone();
        async move { server.answer(request).await }
    };
    serve(listener, clock, spawn, limits, stop, handler).await;
}

struct Server<C, J> {
    store: RefCell<Store<J>>,
    /// Who waits for the answer to which ticket.
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Told>>>,
    tickets: Cell<u64>,
    /// The deadline that is waited for.
    armed: Cell<Option<Instant>>,
    wake: Notify,
    address: String,
    options: KvOptions,
    clock: C,
}

/// What the store answered.
struct Told {
    result: Result<Response, Failure>,
    /// The flags of the entries in it, in their order.
    flags: Vec<u64>,
}

/// Why there is no good answer.
enum Refusal {
    Bad(BadRequest),
    Failed(Failure),
    /// Exactly this.
    Status(StatusCode, String),
}

impl From<BadRequest> for Refusal {
    fn from(bad: BadRequest) -> Refusal {
        Refusal::Bad(bad)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Failed(failure)
    }
}

impl Refusal {
    fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::Status(StatusCode::NOT_FOUND, message.into())
    }

    fn method() -> Refusal {
        let message = "method not allowed".to_owned();
        Refusal::Status(StatusCode::METHOD_NOT_ALLOWED, message)
    }

    fn answer(self) -> Answer {
        match self {
            Refusal::Bad(BadRequest(message)) => Answer::text(StatusCode::BAD_REQUEST, message),
            Refusal::Status(status, message) => Answer::text(status, message),
            Refusal::Failed(failure) => {
                let status = match failure.kind {
                    // Consul says this with 500, and Patroni reads it there.
                    FailureKind::Invalid if failure.message.starts_with("Invalid Session") => {
                        StatusCode::INTERNAL_SERVER_ERROR
                    }
                    FailureKind::Invalid => StatusCode::BAD_REQUEST,
                    FailureKind::Forbidden => StatusCode::FORBIDDEN,
                    FailureKind::Busy => StatusCode::TOO_MANY_REQUESTS,
                    FailureKind::NoSession | FailureKind::Unavailable | FailureKind::Garbled => {
                        StatusCode::INTERNAL_SERVER_ERROR
                    }
                };
                Answer::text(status, failure.message)
            }
        }
    }
}

/// What a handler answers.
type Served = Result<Answer, Refusal>;

impl<C: Clock, J: Journal> Server<C, J> {
    async fn answer(self: Rc<Self>, request: Request) -> Answer {
        let query = match Query::parse(request.query.as_deref()) {
            Ok(query) => query,
            Err(bad) => return Refusal::Bad(bad).answer(),
        };
        let path = request.path.clone();
        let Some(path) = path.strip_prefix("/v1/") else {
            return Refusal::not_found("").answer();
        };
        if !self.permits(&request.headers, &query) && !path.starts_with("status/") {
            let message = "Permission denied: the token is missing or another one".to_owned();
            return Refusal::Status(StatusCode::FORBIDDEN, message).answer();
        }
        let (area, rest) = path.split_once('/').unwrap_or((path, ""));
        let served = match area {
            "kv" => self.entries(rest, &query, request).await,
            "session" => self.sessions(rest, &query, request).await,
            "agent" => self.agent(rest, &query, request).await,
            "catalog" | "health" => self.services(area, rest, &query, &request).await,
            "status" => self.status(rest, &request),
            "config" => self.config(rest, request).await,
            "connect" => self.intentions(rest, &query, request).await,
            _ => Err(Refusal::not_found("")),
        };
        served.unwrap_or_else(Refusal::answer)
    }

    fn permits(&self, headers: &HeaderMap, query: &Query) -> bool {
        let Some(token) = &self.options.token else {
            return true;
        };
        let bearer = headers.get("authorization").map(HeaderValue::as_bytes);
        let bearer = bearer.and_then(|value| value.strip_prefix(b"Bearer "));
        let header = headers.get("x-consul-token").map(HeaderValue::as_bytes);
        let given = query.get("token").map(str::as_bytes);
        let given = given.or(header).or(bearer);
        given.is_some_and(|given| same(given, token.as_bytes()))
    }

    /// Ask the store and wait for its answer.
    async fn ask(self: &Rc<Self>, ask: impl Into<ToStore>) -> Result<Told, Failure> {
        let ticket = self.tickets.replace(self.tickets.get() + 1);
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(ticket, sender);
        // When the client goes away, this future is dropped, and the ticket with it.
        let _cancel = Ticket {
            server: self.clone(),
            ticket,
        };
        self.input(match ask.into() {
            ToStore::Request(request) => Input::Call { ticket, request },
            ToStore::Ask(ask) => Input::Ask { ticket, ask },
        });
        let told = receiver.await.map_err(|_| {
            Failure::indeterminate(FailureKind::Unavailable, "the store is shutting down")
        })?;
        match told.result {
            Ok(_) => Ok(told),
            Err(failure) => Err(failure),
        }
    }

    /// Ask for a change that is done or not.
    async fn ask_done(self: &Rc<Self>, ask: impl Into<ToStore>) -> Result<bool, Failure> {
        let told = self.ask(ask).await?;
        Ok(matches!(told.result, Ok(Response::Done(true))))
    }

    fn input(&self, input: Input) {
        let now = self.clock.now();
        self.store.borrow_mut().handle(now, input);
        self.deliver();
    }

    fn deliver(&self) {
        loop {
            let mut store = self.store.borrow_mut();
            let Some(Output::Answer { ticket, result }) = store.poll_output() else {
                break;
            };
            let flag = |key: &str| store.state().entry(key).map_or(0, |stored| stored.flags);
            let flags = match &result {
                Ok(Response::Entry { entry, .. }) => {
                    entry.iter().map(|entry| flag(&entry.key)).collect()
                }
                Ok(Response::Entries { entries, .. }) => {
                    entries.iter().map(|entry| flag(&entry.key)).collect()
                }
                _ => Vec::new(),
            };
            if let Some(waiting) = self.waiting.borrow_mut().remove(&ticket) {
                // It may have gone away just now.
                let _ = waiting.send(Told { result, flags });
            }
        }
        if self.deadline() != self.armed.get() {
            self.wake.notify_one();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.store.borrow().deadline().map(|(at, _why)| at)
    }

    /// Keep the deadlines of the store.
    async fn tend(self: Rc<Self>) {
        loop {
            self.armed.set(self.deadline());
            let Some(at) = self.armed.get() else {
                self.wake.notified().await;
                continue;
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.clock.sleep_until(at) => {
                    self.store.borrow_mut().handle_deadline(self.clock.now());
                    self.deliver();
                }
            }
        }
    }

    fn status(&self, rest: &str, request: &Request) -> Served {
        get_only(request)?;
        match rest {
            "leader" => Ok(json(&self.address)),
            "peers" => Ok(json(&[&self.address])),
            _ => Err(Refusal::not_found("")),
        }
    }
}

/// What can be asked of a store.
enum ToStore {
    Request(Asked),
    Ask(Ask),
}

impl From<Asked> for ToStore {
    fn from(request: Asked) -> ToStore {
        ToStore::Request(request)
    }
}

impl From<Ask> for ToStore {
    fn from(ask: Ask) -> ToStore {
        ToStore::Ask(ask)
    }
}

/// Cancels its request when it is dropped before the answer.
struct Ticket<C: Clock, J: Journal> {
    server: Rc<Server<C, J>>,
    ticket: u64,
}

impl<C: Clock, J: Journal> Drop for Ticket<C, J> {
    fn drop(&mut self) {
        let ticket = self.ticket;
        let unanswered = self.server.waiting.borrow_mut().remove(&ticket);
        if unanswered.is_some() {
            self.server.input(Input::Cancel { ticket });
        }
    }
}

/// In a time that does not tell how much of it is the same.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differs = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && differs == 0
}

fn get_only(request: &Request) -> Result<(), Refusal> {
    match request.method == Method::GET {
        true => Ok(()),
        false => Err(Refusal::method()),
    }
}

fn put_only(request: &Request) -> Result<(), Refusal> {
    match request.method == Method::PUT {
        true => Ok(()),
        false => Err(Refusal::method()),
    }
}

/// An answer in JSON.
fn json(value: &(impl serde::Serialize + ?Sized)) -> Answer {
    let body = serde_json::to_vec(value).expect("the types here have no unusual keys");
    Answer::json(StatusCode::OK, body)
}

/// Say what index an answer is of.
fn indexed(mut answer: Answer, index: u64) -> Answer {
    let headers = &mut answer.headers;
    // 0 would mean "do not wait" to whoever passes it on.
    headers.insert("x-consul-index", HeaderValue::from(index.max(1)));
    headers.insert("x-consul-knownleader", HeaderValue::from_static("true"));
    headers.insert("x-consul-lastcontact", HeaderValue::from_static("0"));
    answer
}
