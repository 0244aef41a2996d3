//! A client of the register.

use std::future::Future;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_postgres::Error;

use super::recorder::Recorder;
use super::session::{Login, Session};
use super::writer::Pace;
use super::{BACKOFF, Stop, outcome};
use crate::{Outcome, RegisterOp};

/// Bits of a value that count a client's writes: a quarter of what `bigint` has without its sign.
const WRITE_BITS: u32 = 40;

/// Who reads and writes the register.
#[derive(Clone, Debug)]
pub struct RegisterSpec {
    /// Its number, which no other client of the register has.
    pub client: u16,
    /// Whom it says it is.
    pub login: Login,
    /// How often.
    pub pace: Pace,
}

/// Writes and reads the register in turn until it is stopped.
///
/// A read is an update that changes nothing but a counter, so that it waits for the standbys as a
/// write does: a plain one is answered by a server that does not know yet that it no longer leads,
/// which synchronous replication does not promise to prevent.
pub async fn use_register<C, F, S>(
    spec: &RegisterSpec,
    recorder: &Recorder,
    stop: &Stop,
    mut connect: C,
) where
    C: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session: Option<Session<S>> = None;
    let mut writes = 0_u64;
    let mut is_write = true;
    while !stop.is_stopped() && !recorder.is_full() {
        let asked = recorder.now();
        session = session.filter(|session| !session.is_over());
        if session.is_none() {
            let opening = Session::open(connect(), &spec.login, spec.pace.connect_within);
            session = opening.await.ok();
        }
        let Some(open) = &mut session else {
            // Nothing was sent: nothing to note.
            tokio::time::sleep(BACKOFF.max(spec.pace.every)).await;
            continue;
        };
        let wrote = is_write.then(|| {
            writes += 1;
            u64::from(spec.client) << WRITE_BITS | writes
        });
        is_write = !is_write;
        let op = RegisterOp {
            client: spec.client,
            asked,
            ended: asked,
            wrote,
            read: None,
            outcome: Outcome::Unknown,
        };
        recorder.asks_register(op.clone());
        let answer = timeout(spec.pace.deadline, operate(open, wrote)).await;
        let (outcome, read) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => (outcome::of_sent(&error), None),
            Err(_) => (Outcome::Unknown, None),
        };
        let ended = recorder.now();
        recorder.add_register(RegisterOp {
            ended,
            read,
            outcome,
            ..op
        });
        if outcome != Outcome::Acknowledged {
            session = None;
        }
        let pause = spec.pace.every.saturating_sub(ended.saturating_sub(asked));
        match &mut session {
            Some(session) => session.idle(pause).await,
            None => tokio::time::sleep(pause.max(BACKOFF)).await,
        }
    }
}

async fn operate<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<S>,
    wrote: Option<u64>,
) -> Result<(Outcome, Option<u64>), Error> {
    if let Some(value) = wrote {
        let sql = format!("UPDATE holdfast_workload.register SET value = {value} RETURNING value");
        let (rows, notices) = session.query_with_notices(&sql).await?;
        let confirmed = outcome::warning(&notices).is_none();
        return Ok((of_rows(rows.len(), confirmed), None));
    }
    let sql = "UPDATE holdfast_workload.register SET reads = reads + 1 RETURNING value";
    let (rows, notices) = session.query_with_notices(sql).await?;
    let changed = rows.len();
    let value = rows.into_iter().flatten().next().flatten();
    let value = value.and_then(|text| text.parse().ok());
    let confirmed = outcome::warning(&notices).is_none() && value.is_some();
    let outcome = of_rows(changed, confirmed);
    let known = outcome == Outcome::Acknowledged;
    Ok((outcome, value.filter(|_| known)))
}

/// The register is one row. Without it nothing was written; of several nobody knows which is it.
fn of_rows(changed: usize, confirmed: bool) -> Outcome {
    match (changed, confirmed) {
        (0, _) => Outcome::Failed,
        (1, true) => Outcome::Acknowledged,
        _ => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_update_of_one_row_is_an_acknowledged_one() {
        assert_eq!(of_rows(1, true), Outcome::Acknowledged);
        assert_eq!(of_rows(1, false), Outcome::Unknown);
        assert_eq!(of_rows(0, true), Outcome::Failed);
        assert_eq!(of_rows(2, true), Outcome::Unknown);
    }
}
