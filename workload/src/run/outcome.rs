//! What an error says of whether it happened.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity};

use crate::Outcome;

/// The longest error that is noted, in characters.
const ERROR_LEN_MAX: usize = 200;

/// SQLSTATEs after which nobody knows whether a statement happened, whatever their severity:
/// `statement_completion_unknown`, `admin_shutdown`, `crash_shutdown` (PostgreSQL, Appendix A).
const INDETERMINATE: [&str; 3] = ["40003", "57P01", "57P02"];
/// The class of broken connections.
const CONNECTION: &str = "08";

/// What a client knows of a statement that it sent, after an error.
pub(super) fn of_sent(error: &Error) -> Outcome {
    match error.as_db_error() {
        Some(told) => of_told(told),
        // The connection broke, or what came over it makes no sense.
        None => Outcome::Unknown,
    }
}

/// The server says ERROR only after it has rolled back. After FATAL and PANIC the session is gone,
/// and the transaction may have been committed before.
fn of_told(told: &DbError) -> Outcome {
    let code = told.code().code();
    let is_error = match told.parsed_severity() {
        Some(severity) => severity == Severity::Error,
        None => told.severity() == "ERROR",
    };
    match is_error && !INDETERMINATE.contains(&code) && !code.starts_with(CONNECTION) {
        true => Outcome::Failed,
        false => Outcome::Unknown,
    }
}

/// A warning that came with a commit says that it waited for a standby in vain: the row is in the
/// leader's WAL and maybe nowhere else (`syncrep.c`). Our statements give no other warning.
pub(super) fn warning(notices: &[DbError]) -> Option<String> {
    let found = notices
        .iter()
        .find(|notice| match notice.parsed_severity() {
            Some(severity) => severity == Severity::Warning,
            None => notice.severity() == "WARNING",
        })?;
    let (code, message) = (found.code().code(), found.message());
    Some(clip(&format!("{code} WARNING: {message}")))
}

/// An error with all its causes, and its SQLSTATE; a line.
pub(super) fn text(error: &Error) -> String {
    if let Some(told) = error.as_db_error() {
        let (code, severity) = (told.code().code(), told.severity());
        return clip(&format!("{code} {severity}: {}", told.message()));
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    clip(&text)
}

/// One line of bounded length: it may come from anybody who answers on that port.
pub(super) fn clip(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(ERROR_LEN_MAX).collect()
}
