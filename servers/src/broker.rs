//! The signaling broker: [`Mailboxes`] behind HTTP.
//!
//! What node and broker say to each other is in `holdfast_io::signal_http`. Besides that:
//!
//! * `GET /healthz`: 200 while it serves.
//! * `GET /metrics`: counters in Prometheus' text format.
//! * `GET /status`: the same as JSON.
//!
//! Limits are counted per address that a connection comes from; of an IPv6 address the first 64
//! bits count, since one host has all the others to itself. Headers that proxies add
//! (`X-Forwarded-For`, `Forwarded`) are not read, because anyone can send them: behind a
//! proxy all clients share one address and its limits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_core::entropy::Seed;
use holdfast_core::rendezvous::{ENVELOPE_LEN_MAX, Input, Mailboxes, Output, POLL_WAIT_MAX};
use holdfast_io::clock::Clock;
use holdfast_io::http::{Method, Request, Response, ServerLimits, StatusCode, Stop, serve};
use holdfast_io::net::Listener;
use holdfast_io::signal_http::{Route, encode_answer, refusal_status};
use holdfast_io::spawn::Spawn;
use tokio::sync::{Notify, oneshot};

use crate::per_source::PerSource;
use crate::relay::TurnMonitor;

/// What the broker allows its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerLimits {
    /// Connections at one time. Default 4096; a node keeps one or two.
    pub connections_max: usize,
    /// Connections of one IPv4 address or IPv6 network of 64 bits. Default 1024: all nodes of a
    /// large mesh may share a NAT, and still leave most connections to others.
    pub connections_per_source_max: usize,
    /// Longest time a connection may be without a complete request. Default 30 s.
    pub idle: Duration,
}

impl Default for BrokerLimits {
    fn default() -> BrokerLimits {
        BrokerLimits {
            connections_max: 4096,
            connections_per_source_max: 1024,
            idle: Duration::from_secs(30),
        }
    }
}

impl BrokerLimits {
    fn http(&self) -> ServerLimits {
        ServerLimits {
            connections_max: self.connections_max,
            head_len_max: 8 << 10,
            headers_max: 32,
            body_len_max: ENVELOPE_LEN_MAX,
            idle: self.idle,
            // A long poll, and time to send a body over a bad line.
            request: POLL_WAIT_MAX + Duration::from_secs(15),
            body: Duration::from_secs(15),
            drain: Duration::from_secs(1),
        }
    }
}

/// Serve signaling on `listener` until `stop`. `turn` is shown in metrics and status.
pub async fn serve_broker<L: Listener, C: Clock, S: Spawn>(
    listener: L,
    limits: BrokerLimits,
    turn: Option<TurnMonitor>,
    clock: C,
    spawn: S,
    seed: Seed,
    stop: Stop,
) {
    let broker = Rc::new(Broker {
        mailboxes: RefCell::new(Mailboxes::new(seed, clock.now())),
        waiting: RefCell::default(),
        tickets: Cell::new(0),
        started: clock.now().mono,
        armed: Cell::new(None),
        wake: Notify::new(),
        turn,
        clock: clock.clone(),
    });
    let tending = broker.clone().tend();
    let _tending = spawn.spawn("broker deadlines", tending);
    let listener = PerSource::new(listener, limits.connections_per_source_max);
    let handler = move |request| answer(broker.clone(), request);
    serve(listener, clock, spawn, limits.http(), stop, handler).await;
}

struct Broker<C> {
    mailboxes: RefCell<Mailboxes>,
    /// Who waits for the answer to which ticket.
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Output>>>,
    tickets: Cell<u64>,
    started: Instant,
    /// The deadline that is waited for.
    armed: Cell<Option<Instant>>,
    wake: Notify,
    turn: Option<TurnMonitor>,
    clock: C,
}

async fn answer<C: Clock>(broker: Rc<Broker<C>>, request: Request) -> Response {
    match request.path.as_str() {
        "/healthz" | "/metrics" | "/status" if request.method != Method::GET => {
            Response::empty(StatusCode::METHOD_NOT_ALLOWED)
        }
        "/healthz" => Response::text(StatusCode::OK, "ok\n"),
        "/metrics" => Response::text(StatusCode::OK, broker.metrics()),
        "/status" => Response::json(StatusCode::OK, broker.status()),
        _ => broker.signal(request).await,
    }
}

impl<C: Clock> Broker<C> {
    async fn signal(self: Rc<Self>, request: Request) -> Response {
        let route = Route::parse(&request.method, &request.path, request.query.as_deref());
        let ticket = self.tickets.replace(self.tickets.get() + 1);
        let source = request.source.ip().to_canonical();
        let input = match route {
            Ok(Route::Post) => Input::Post {
                ticket,
                source,
                envelope: request.body.to_vec(),
            },
            Ok(Route::Poll {
                mailbox,
                wait,
                after,
            }) => Input::Poll {
                ticket,
                source,
                mailbox,
                after,
                wait,
            },
            Err(error) => return Response::text(error.status(), format!("{error}\n")),
        };
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(ticket, sender);
        // When the client goes away, this future is dropped, and the ticket with it.
        let _cancel = Ticket {
            broker: self.clone(),
            ticket,
        };
        self.input(input);
        match receiver.await {
            Ok(output) => response(output),
            Err(_) => Response::empty(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    fn input(&self, input: Input) {
        let now = self.clock.now();
        self.mailboxes.borrow_mut().handle(now, input);
        self.deliver();
    }

    fn deliver(&self) {
        loop {
            let Some(output) = self.mailboxes.borrow_mut().poll_output() else {
                break;
            };
            let ticket = ticket_of(&output);
            if let Some(waiting) = self.waiting.borrow_mut().remove(&ticket) {
                // It may have gone away just now.
                let _ = waiting.send(output);
            }
        }
        if self.deadline() != self.armed.get() {
            self.wake.notify_one();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.mailboxes.borrow().deadline().map(|(at, _why)| at)
    }

    /// Keep the deadlines of the mailboxes.
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
                    self.mailboxes.borrow_mut().handle_deadline(self.clock.now());
                    self.deliver();
                }
            }
        }
    }

    /// Prometheus' text format, version 0.0.4.
    fn metrics(&self) -> String {
        let mut text = String::new();
        let mut line = |part: &str, name: &str, value: u64| {
            let metric = format!("holdfast_{part}_{name}");
            writeln!(text, "# TYPE {metric} untyped\n{metric} {value}")
                .expect("writing to a string does not fail");
        };
        for (name, value) in self.mailboxes.borrow().counters() {
            line("broker", name, value);
        }
        if let Some(turn) = &self.turn {
            line("turn", "allocations_now", turn.allocations() as u64);
            line("turn", "tcp_clients_now", turn.tcp_clients() as u64);
            for (name, value) in turn.counters().list() {
                line("turn", name, value);
            }
        }
        text
    }

    fn status(&self) -> String {
        let counters = |list: &[(&'static str, u64)]| -> serde_json::Map<_, _> {
            let pairs = list.iter().copied();
            pairs
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect()
        };
        let uptime = self
            .clock
            .now()
            .mono
            .saturating_duration_since(self.started);
        let turn = self.turn.as_ref().map(|turn| {
            serde_json::json!({
                "allocations": turn.allocations(),
                "tcp_clients": turn.tcp_clients(),
                "counters": counters(&turn.counters().list()),
            })
        });
        serde_json::json!({
            "uptime_s": uptime.as_secs(),
            "broker": counters(&self.mailboxes.borrow().counters()),
            "turn": turn,
        })
        .to_string()
    }
}

/// Cancels its request when it is dropped before the answer.
struct Ticket<C: Clock> {
    broker: Rc<Broker<C>>,
    ticket: u64,
}

impl<C: Clock> Drop for Ticket<C> {
    fn drop(&mut self) {
        let unanswered = self.broker.waiting.borrow_mut().remove(&self.ticket);
        if unanswered.is_some() {
            let ticket = self.ticket;
            self.broker.input(Input::Cancel { ticket });
        }
    }
}

fn ticket_of(output: &Output) -> u64 {
    match output {
        Output::Posted { ticket }
        | Output::Messages { ticket, .. }
        | Output::Refused { ticket, .. } => *ticket,
    }
}

fn response(output: Output) -> Response {
    match output {
        Output::Posted { .. } => Response::empty(StatusCode::NO_CONTENT),
        Output::Messages {
            cursor, envelopes, ..
        } => Response::json(StatusCode::OK, encode_answer(cursor, &envelopes)),
        Output::Refused { reason, .. } => {
            Response::text(refusal_status(reason), format!("{reason}\n"))
        }
    }
}
