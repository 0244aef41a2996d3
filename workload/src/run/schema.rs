//! The tables: made, emptied, filled and read.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::recorder::OPERATIONS_MAX;
use super::session::{Session, WorkError};
use crate::Found;

/// No unique index: a row that is there twice is what is looked for, and an index would hide it.
const TABLES: &str = "
    CREATE SCHEMA IF NOT EXISTS holdfast_workload;
    CREATE TABLE IF NOT EXISTS holdfast_workload.rows (id bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS holdfast_workload.register (value bigint NOT NULL, reads bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS holdfast_workload.filler (payload text NOT NULL);
    TRUNCATE holdfast_workload.rows, holdfast_workload.register;
    INSERT INTO holdfast_workload.register VALUES (0, 0);
";
/// Bytes of one row of filler with its header and its place on the page.
const FILLER_ROW: u64 = 1_024;
/// Of them, text that neither compresses nor is stored apart.
const FILLER_HEX: u64 = 992;
/// Rows of filler in one statement, so that no statement is long: 10 MB.
const FILLER_BATCH: u64 = 10_000;

/// Makes the tables if they are not there, and empties those of rows and register.
///
/// # Errors
/// When the server says no, or it takes longer than `within`.
pub async fn prepare<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<S>,
    within: Duration,
) -> Result<(), WorkError> {
    bounded(within, session.rows(TABLES)).await.map(drop)
}

/// Fills a table of its own until it has so many bytes, with what does not compress. It is at rest
/// then: what fresh rows leave to the first vacuum writes every page once more, some minutes later.
///
/// # Errors
/// When the server says no, or it takes longer than `within`.
pub async fn fill<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<S>,
    bytes: u64,
    within: Duration,
) -> Result<(), WorkError> {
    bounded(within, async {
        let count = "SELECT count(*) FROM holdfast_workload.filler";
        let mut there = number(session.rows(count).await?)?;
        let wanted = bytes / FILLER_ROW;
        while there < wanted {
            let batch = FILLER_BATCH.min(wanted - there);
            // 32 digits of a digest each.
            let digests = FILLER_HEX / 32;
            let sql = format!(
                "INSERT INTO holdfast_workload.filler SELECT (SELECT string_agg(md5(random()::text \
                 || n || d), '') FROM generate_series(1, {digests}) d) FROM generate_series(1, \
                 {batch}) n"
            );
            session.rows(&sql).await?;
            there += batch;
        }
        let rest = "VACUUM (FREEZE, ANALYZE) holdfast_workload.filler";
        session.rows(rest).await.map(drop)
    })
    .await
}

/// All rows that are there. Ask the primary.
///
/// # Errors
/// When the server says no, it takes longer than `within`, or there are more rows than writers can
/// have written.
pub async fn read_rows<S: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session<S>,
    within: Duration,
) -> Result<Vec<Found>, WorkError> {
    let limit = OPERATIONS_MAX + 1;
    let sql = format!(
        "SELECT id, count(*) FROM holdfast_workload.rows GROUP BY id ORDER BY id LIMIT {limit}"
    );
    let rows = bounded(within, session.rows(&sql)).await?;
    if rows.len() >= limit {
        let message = format!("more than {OPERATIONS_MAX} rows");
        return Err(WorkError::Answer(message));
    }
    rows.into_iter().map(found).collect()
}

fn found(row: Vec<Option<String>>) -> Result<Found, WorkError> {
    let wrong = || WorkError::Answer("a row that is no number and its count".to_owned());
    let [Some(id), Some(times)] = row.as_slice() else {
        return Err(wrong());
    };
    Ok(Found {
        id: id.parse().map_err(|_| wrong())?,
        times: times.parse().unwrap_or(u32::MAX),
    })
}

fn number(rows: Vec<Vec<Option<String>>>) -> Result<u64, WorkError> {
    let cell = rows.into_iter().flatten().next().flatten();
    let number = cell.and_then(|text| text.parse().ok());
    number.ok_or_else(|| WorkError::Answer("no number".to_owned()))
}

async fn bounded<T>(
    within: Duration,
    work: impl Future<Output = Result<T, WorkError>>,
) -> Result<T, WorkError> {
    match timeout(within, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(WorkError::Late(within)),
    }
}
