//! One writer.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::recorder::Recorder;
use super::session::{Login, Session};
use super::{BACKOFF, Stop, outcome};
use crate::{Outcome, Write};

/// Bits of a row's key that count a writer's rows: a write each microsecond for twelve days.
const ROW_BITS: u32 = 40;

/// How often, and how patiently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From one write to the next, if the first is over by then.
    pub every: Duration,
    /// A write that takes longer is unknown, and its connection closed.
    pub deadline: Duration,
    /// A connect, with login, that takes longer is given up; the write of it failed.
    pub connect_within: Duration,
}

/// Who writes.
#[derive(Clone, Debug)]
pub struct WriterSpec {
    /// Its number, which no other writer of the history has.
    pub number: u16,
    /// Through which member's endpoint.
    pub member: String,
    /// Whom it says it is.
    pub login: Login,
    /// How often.
    pub pace: Pace,
}

/// The key of a writer's n-th row.
#[must_use]
pub const fn row_id(writer: u16, n: u64) -> u64 {
    (writer as u64) << ROW_BITS | (n & ((1 << ROW_BITS) - 1))
}

/// Writes rows at a steady pace until it is stopped. `connect` makes a stream to the endpoint.
pub async fn write_rows<C, F, S>(
    spec: &WriterSpec,
    recorder: &Recorder,
    stop: &Stop,
    mut connect: C,
) where
    C: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session: Option<Session<S>> = None;
    let mut n = 0;
    while !stop.is_stopped() && !recorder.is_full() {
        let asked = recorder.now();
        session = session.filter(|session| !session.is_over());
        let id = row_id(spec.number, n);
        let write = Write {
            id,
            member: spec.member.clone(),
            asked,
            ended: asked,
            outcome: Outcome::Unknown,
            server: None,
            error: None,
        };
        recorder.asks(write.clone());
        let (outcome, server, error) = match session {
            Some(_) => write_row(&mut session, id, spec.pace.deadline).await,
            None => match Session::open(connect(), &spec.login, spec.pace.connect_within).await {
                Ok(opened) => {
                    session = Some(opened);
                    write_row(&mut session, id, spec.pace.deadline).await
                }
                // Nothing of the row was sent.
                Err(error) => (
                    Outcome::Failed,
                    None,
                    Some(outcome::clip(&error.to_string())),
                ),
            },
        };
        let ended = recorder.now();
        recorder.add(Write {
            ended,
            outcome,
            server,
            error,
            ..write
        });
        n += 1;
        let pause = spec.pace.every.saturating_sub(ended.saturating_sub(asked));
        match &mut session {
            Some(session) => session.idle(pause).await,
            None => tokio::time::sleep(pause.max(BACKOFF)).await,
        }
    }
}

/// Writes one row; the session is gone if nobody knows what state it is in.
async fn write_row<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Option<Session<S>>,
    id: u64,
    deadline: Duration,
) -> (Outcome, Option<String>, Option<String>) {
    let Some(open) = session else {
        return (Outcome::Failed, None, None);
    };
    let server = open.server().map(str::to_owned);
    let sql = format!("INSERT INTO holdfast_workload.rows (id) VALUES ({id})");
    let (outcome, error) = match timeout(deadline, open.execute(&sql)).await {
        Ok(Ok(notices)) => match outcome::warning(&notices) {
            None => (Outcome::Acknowledged, None),
            Some(warning) => (Outcome::Unknown, Some(warning)),
        },
        Ok(Err(error)) => (outcome::of_sent(&error), Some(outcome::text(&error))),
        Err(_) => {
            let error = format!("no answer within {deadline:?}");
            (Outcome::Unknown, Some(error))
        }
    };
    // A server that takes no writes is the wrong one: the endpoint may know a better one by now.
    if outcome != Outcome::Acknowledged {
        *session = None;
    }
    (outcome, server, error)
}
