//! What an answer that is none means: did it happen, and what kind of failure is it?
//!
//! The table is in `docs/membership.md`; what is not known there is indeterminate.

use std::error::Error;

use crate::http::{ClientError, StatusCode};
use crate::kv::{Failure, FailureKind};

/// How much of a server's words goes into a message, characters.
const EXCERPT_LEN_MAX: usize = 200;

/// A status that is no success, with the body that explains it.
pub(super) fn status(status: StatusCode, body: &[u8]) -> Failure {
    let said = excerpt(body);
    let message = match said.is_empty() {
        true => status.to_string(),
        false => format!("{status}: {said}"),
    };
    let says = |words: &str| said.to_ascii_lowercase().contains(words);
    match status.as_u16() {
        400 | 404 | 405 | 411 | 413 | 414 | 415 | 422 | 431 => {
            Failure::determinate(FailureKind::Invalid, message)
        }
        401 | 403 => Failure::determinate(FailureKind::Forbidden, message),
        429 => Failure::determinate(FailureKind::Busy, message),
        // The state machine itself says so, after it was asked: it changed nothing.
        500 if says("invalid session \"") => Failure::determinate(FailureKind::NoSession, message),
        500 if says("invalid session ttl") => Failure::determinate(FailureKind::Invalid, message),
        500 if says("permission denied") || says("acl not found") => {
            Failure::indeterminate(FailureKind::Forbidden, message)
        }
        500 | 503 if says("rate limit") => Failure::indeterminate(FailureKind::Busy, message),
        408 | 500..=599 => Failure::indeterminate(FailureKind::Unavailable, message),
        _ => Failure::indeterminate(FailureKind::Garbled, message),
    }
}

/// The cause of a connection that never was.
pub(super) fn not_sent(error: &ClientError) -> Failure {
    Failure::determinate(FailureKind::Unavailable, chain(error))
}

/// The cause of an answer that never came, or not whole.
pub(super) fn lost(error: &ClientError) -> Failure {
    let garbled = match error {
        ClientError::TooLarge { .. } => true,
        ClientError::Http(error) => error.is_parse(),
        _ => false,
    };
    let kind = match garbled {
        true => FailureKind::Garbled,
        false => FailureKind::Unavailable,
    };
    Failure::indeterminate(kind, chain(error))
}

/// An answer with a good status that makes no sense.
pub(super) fn garbled(message: impl Into<String>) -> Failure {
    Failure::indeterminate(FailureKind::Garbled, message)
}

/// A request that no server would take.
pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::determinate(FailureKind::Invalid, message)
}

/// The error with all that caused it, without repetitions.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

/// The beginning of what a server said, on one line, fit for a terminal.
pub(super) fn excerpt(body: &[u8]) -> String {
    let head = body.get(..EXCERPT_LEN_MAX * 4).unwrap_or(body);
    let text = String::from_utf8_lossy(head);
    let text: String = text
        .trim()
        .chars()
        .take(EXCERPT_LEN_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::kv::Determinacy::{Determinate, Indeterminate};

    #[test]
    fn every_status_says_whether_it_happened_and_what_to_do() {
        use FailureKind::{Busy, Forbidden, Garbled, Invalid, NoSession, Unavailable};
        for (code, body, determinacy, kind) in [
            (400, "Missing key name", Determinate, Invalid),
            (403, "ACL not found", Determinate, Forbidden),
            (413, "too large", Determinate, Invalid),
            (
                429,
                "rate limit exceeded, try again later",
                Determinate,
                Busy,
            ),
            (500, "No cluster leader", Indeterminate, Unavailable),
            (
                500,
                "raft apply failed: invalid session \"x\"",
                Determinate,
                NoSession,
            ),
            (
                500,
                "Invalid Session TTL '1', must be",
                Determinate,
                Invalid,
            ),
            (
                500,
                "rpc error making call: Permission denied",
                Indeterminate,
                Forbidden,
            ),
            (
                500,
                "leadership lost while committing log",
                Indeterminate,
                Unavailable,
            ),
            (502, "", Indeterminate, Unavailable),
            (503, "rate limit exceeded", Indeterminate, Busy),
            (504, "", Indeterminate, Unavailable),
            (408, "", Indeterminate, Unavailable),
            (301, "", Indeterminate, Garbled),
            (204, "", Indeterminate, Garbled),
            (418, "", Indeterminate, Garbled),
        ] {
            let found = status(StatusCode::from_u16(code).unwrap(), body.as_bytes());
            assert_eq!(
                (found.determinacy, found.kind),
                (determinacy, kind),
                "{code} {body}"
            );
            assert!(found.message.contains(body), "{}", found.message);
        }
    }

    #[test]
    fn what_a_server_says_is_cut_and_fit_for_a_terminal() {
        let mut body = b"\x1b[31mred\nline \xff".to_vec();
        body.extend(std::iter::repeat_n(b'x', 100_000));
        let found = excerpt(&body);
        assert_eq!(found.chars().count(), EXCERPT_LEN_MAX);
        assert!(found.starts_with(" [31mred line \u{fffd}xxx"), "{found}");
    }
}
