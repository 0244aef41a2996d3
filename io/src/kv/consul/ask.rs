//! How a call becomes requests: which server, which connection, how long, and whether again.

use std::time::{Duration, Instant};

use tokio::sync::SemaphorePermit;

use super::wire::{self, Call};
use super::{Consul, Idle, Server, classify};
use crate::clock::{Clock, timeout};
use crate::http::{
    ClientError, Connection, ExchangeError, HeaderMap, HeaderName, Incoming, Outgoing, StatusCode,
};
use crate::kv::{Failure, FailureKind, Request, Response};
use crate::net::Net;
use crate::spawn::Spawn;

/// Longest time to connect to one server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Most connections that are kept to one server.
const IDLE_MAX: usize = 8;
/// How long an unused connection is kept: shorter than gateways on the way keep theirs.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
/// Name of the header with the ACL token.
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-consul-token");
/// Name of the header that says whether the server knows a leader.
const KNOWN_LEADER_HEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");

/// What became of a request at one server.
enum Outcome {
    Answered(Incoming),
    /// It failed, and may be asked of the next server.
    Next(Failure),
    /// It failed, and may not.
    Final {
        failure: Failure,
        /// Whether later requests do better elsewhere.
        server_is_bad: bool,
    },
}

/// When the steps of a request at one server have to be over.
#[derive(Clone, Copy)]
struct Deadlines {
    connected: Instant,
    answered: Instant,
}

impl<N: Net, C: Clock, S: Spawn> Consul<N, C, S> {
    pub(super) async fn ask(&self, request: &Request) -> Result<Response, Failure> {
        let call = wire::encode(request)?;
        let (answer, at) = self.perform(&call).await?;
        wire::decode(request, &answer).map_err(|failure| {
            // Whoever answers like that is no Consul.
            self.avoid(at);
            self.name(failure, &call, at)
        })
    }

    /// Ask the servers in turn, as far as that is permitted. Returns also who answered.
    pub(super) async fn perform(&self, call: &Call) -> Result<(Incoming, usize), Failure> {
        let now = self.clock.now().mono;
        let wait_until = now + call.wait + call.wait / 16;
        let _permit = self.permit(call).await?;
        let deadline = now + self.config.limit;
        let (first, count) = (self.current.get(), self.servers.len());
        let mut failures: Vec<Failure> = Vec::new();
        for step in 0..count {
            let at = (first + step) % count;
            let left = u32::try_from(count - step).unwrap_or(u32::MAX);
            let deadlines = self.deadlines(call, deadline, wait_until, left);
            match self.ask_one(at, call, deadlines).await {
                Outcome::Answered(answer) => return Ok((answer, at)),
                Outcome::Next(failure) => {
                    self.avoid(at);
                    failures.push(self.name(failure, call, at));
                }
                Outcome::Final {
                    failure,
                    server_is_bad,
                } => {
                    if server_is_bad {
                        self.avoid(at);
                    }
                    failures.push(self.name(failure, call, at));
                    break;
                }
            }
        }
        Err(merge(failures))
    }

    /// Each server has an equal share of the time that is left; a write that was sent has all of
    /// it, since nobody else will be asked.
    fn deadlines(
        &self,
        call: &Call,
        deadline: Instant,
        wait_until: Instant,
        left: u32,
    ) -> Deadlines {
        let now = self.clock.now().mono;
        let share = deadline.saturating_duration_since(now) / left;
        let wait = wait_until.saturating_duration_since(now);
        Deadlines {
            connected: now + share.min(CONNECT_LIMIT),
            answered: match call.is_read {
                true => now + share + wait,
                false => deadline,
            },
        }
    }

    async fn permit(&self, call: &Call) -> Result<SemaphorePermit<'_>, Failure> {
        let (semaphore, what) = match call.wait.is_zero() {
            true => (&self.calls, "calls"),
            false => (&self.watches, "watches"),
        };
        match timeout(&self.clock, self.config.limit, semaphore.acquire()).await {
            Ok(permit) => Ok(permit.expect("nobody closes the semaphore")),
            Err(elapsed) => {
                let message = format!("too many {what} of the KV at one time: {elapsed}");
                Err(Failure::determinate(FailureKind::Busy, message))
            }
        }
    }

    async fn ask_one(&self, at: usize, call: &Call, deadlines: Deadlines) -> Outcome {
        let server = &self.servers[at];
        loop {
            let kept = self.take_idle(server);
            let was_kept = kept.is_some();
            let connection = match kept {
                Some(connection) => connection,
                None => match self.connect(server, deadlines.connected).await {
                    Ok(connection) => connection,
                    Err(error) => return Outcome::Next(classify::not_sent(&error)),
                },
            };
            let exchange = connection.exchange(self.outgoing(call), call.answer_len_max);
            let limit = self.until(deadlines.answered);
            let error = match timeout(&self.clock, limit, exchange).await {
                Ok(Ok((answer, connection))) => {
                    self.keep(server, connection);
                    return outcome(call, answer);
                }
                // Whoever kept silent may be asked no more, or the time would be over.
                Err(elapsed) => return lost(call, &elapsed.into()),
                Ok(Err(error)) => error,
            };
            match error {
                // A connection that the server had closed meanwhile: there are only so many.
                ExchangeError::NotSent(_) if was_kept => {}
                ExchangeError::Lost(_) if was_kept && call.is_read => {}
                ExchangeError::NotSent(error) => return Outcome::Next(classify::not_sent(&error)),
                ExchangeError::Lost(error) => return lost(call, &error),
            }
        }
    }

    async fn connect(&self, server: &Server, until: Instant) -> Result<Connection, ClientError> {
        let world = (&self.net, &self.clock, &self.spawn);
        let tls = self.config.tls.as_ref().filter(|_| server.address.tls);
        let opening = Connection::open(world, &server.address.endpoint, tls);
        timeout(&self.clock, self.until(until), opening).await?
    }

    fn outgoing(&self, call: &Call) -> Outgoing {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.config.token {
            headers.insert(TOKEN_HEADER, token.header());
        }
        Outgoing {
            method: call.method.clone(),
            path_and_query: call.path_and_query.clone(),
            headers,
            body: call.body.clone(),
        }
    }

    fn until(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.clock.now().mono)
    }

    fn take_idle(&self, server: &Server) -> Option<Connection> {
        let now = self.clock.now().mono;
        let mut idle = server.idle.borrow_mut();
        idle.retain(|kept| {
            now.saturating_duration_since(kept.since) < IDLE_LIMIT && kept.connection.is_open()
        });
        idle.pop().map(|kept| kept.connection)
    }

    fn keep(&self, server: &Server, connection: Connection) {
        let mut idle = server.idle.borrow_mut();
        if connection.is_open() && idle.len() < IDLE_MAX {
            idle.push(Idle {
                connection,
                since: self.clock.now().mono,
            });
        }
    }

    /// Use the next server first, unless another call has moved on already.
    fn avoid(&self, at: usize) {
        if self.current.get() == at {
            self.current.set((at + 1) % self.servers.len());
        }
    }

    /// Say who failed at what, and leave the token out.
    pub(super) fn name(&self, failure: Failure, call: &Call, at: usize) -> Failure {
        let address = &self.servers[at].address;
        let path = call.path_and_query.split('?').next().unwrap_or_default();
        let message = format!("{address}: {} {path}: {}", call.method, failure.message);
        let message = match &self.config.token {
            Some(token) => token.mask(&message),
            None => message,
        };
        Failure { message, ..failure }
    }
}

/// The last failure decides; the others are told.
fn merge(mut failures: Vec<Failure>) -> Failure {
    let Some(last) = failures.pop() else {
        return Failure::determinate(FailureKind::Unavailable, "there is no server");
    };
    let mut message = String::new();
    for earlier in &failures {
        message += &earlier.message;
        message += "; ";
    }
    message += &last.message;
    Failure { message, ..last }
}

/// What an answer of any status means.
fn outcome(call: &Call, answer: Incoming) -> Outcome {
    let absent = call.may_be_absent && answer.status == StatusCode::NOT_FOUND;
    let known = answer.headers.get(KNOWN_LEADER_HEADER);
    if call.needs_leader && known.is_some_and(|known| known == "false") {
        let message = "the server knows no leader";
        let failure = Failure::indeterminate(FailureKind::Unavailable, message);
        return settle(call, failure, true);
    }
    if answer.status == StatusCode::OK || absent {
        return Outcome::Answered(answer);
    }
    let failure = classify::status(answer.status, &answer.body);
    let server_is_bad = matches!(
        failure.kind,
        FailureKind::Unavailable | FailureKind::Busy | FailureKind::Garbled
    );
    settle(call, failure, server_is_bad)
}

/// What a lost answer means.
fn lost(call: &Call, error: &ClientError) -> Outcome {
    settle(call, classify::lost(error), true)
}

fn settle(call: &Call, failure: Failure, server_is_bad: bool) -> Outcome {
    match call.is_read && server_is_bad {
        true => Outcome::Next(failure),
        false => Outcome::Final {
            failure,
            server_is_bad,
        },
    }
}
