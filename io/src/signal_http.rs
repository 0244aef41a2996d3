//! What a node and a broker say to each other over HTTP, for both ends.
//!
//! * `POST /v1/signal` with the envelope's bytes as body. 204 taken; 400 no signed envelope;
//!   413 too large; 429 asked too often; 503 the broker is full.
//! * `GET /v1/signal/<mailbox>?wait=<seconds>&after=<cursor>`, where the mailbox is its
//!   owner's key in 64 hexadecimal digits and the cursor is that of the previous answer,
//!   left out at first. 200 with [`PollAnswer`] in JSON, empty when the wait ran out.
//!
//! Everything here parses input from outside: whatever is not exactly as above is refused.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::identity::PublicKey;
use holdfast_core::rendezvous::{Cursor, ENVELOPE_LEN_MAX, POLL_WAIT_MAX, Refusal};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::error::Category;

/// The path of a post, and the parent of all mailboxes.
pub const SIGNAL_PATH: &str = "/v1/signal";
/// Most envelopes in one answer: a mailbox holds one per sender.
pub const ENVELOPES_MAX: usize = 1024;
/// Largest answer to a poll that a client reads, in bytes: the peers of a full cluster, each
/// with an envelope of the largest size in base64, and JSON around it.
pub const ANSWER_LEN_MAX: usize = 2 << 20;

/// A request to a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// An envelope is in the body.
    Post,
    /// What a mailbox holds that is newer than the cursor.
    Poll {
        /// Whose mailbox.
        mailbox: PublicKey,
        /// How long to wait when there is nothing new.
        wait: Duration,
        /// The cursor of the previous answer.
        after: Option<Cursor>,
    },
}

/// A request that no broker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such path.
    #[error("no such path: expected /v1/signal or /v1/signal/<mailbox>")]
    NotFound,
    /// The path exists, the method does not.
    #[error("method not allowed: POST /v1/signal, GET /v1/signal/<mailbox>")]
    Method,
    /// The mailbox is no public key.
    #[error("mailbox: expected an Ed25519 public key in 64 hexadecimal digits")]
    Mailbox,
    /// A query parameter is not what it must be.
    #[error("{key}: expected {expected}")]
    Query {
        /// Which one.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

impl RouteError {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            RouteError::NotFound => StatusCode::NOT_FOUND,
            RouteError::Method => StatusCode::METHOD_NOT_ALLOWED,
            RouteError::Mailbox | RouteError::Query { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

impl Route {
    /// Read a request line. Unknown query parameters are ignored; a wait beyond
    /// [`POLL_WAIT_MAX`] is shortened to it.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Route, RouteError> {
        let rest = path.strip_prefix(SIGNAL_PATH).ok_or(RouteError::NotFound)?;
        if rest.is_empty() {
            return match *method {
                Method::POST => Ok(Route::Post),
                _ => Err(RouteError::Method),
            };
        }
        let mailbox = rest.strip_prefix('/').ok_or(RouteError::NotFound)?;
        if method != Method::GET {
            return Err(RouteError::Method);
        }
        let mailbox = mailbox.parse().map_err(|_| RouteError::Mailbox)?;
        let (wait, after) = parse_query(query.unwrap_or(""))?;
        Ok(Route::Poll {
            mailbox,
            wait,
            after,
        })
    }

    /// The path and query that [`Route::parse`] reads back.
    pub fn path_and_query(&self) -> String {
        match self {
            Route::Post => SIGNAL_PATH.to_owned(),
            Route::Poll {
                mailbox,
                wait,
                after,
            } => {
                let mut text = format!("{SIGNAL_PATH}/{mailbox}?wait={}", wait.as_secs());
                if let Some(cursor) = after {
                    text.push_str("&after=");
                    text.push_str(&cursor_to_text(*cursor));
                }
                text
            }
        }
    }
}

fn parse_query(query: &str) -> Result<(Duration, Option<Cursor>), RouteError> {
    let mut wait = Duration::ZERO;
    let mut after = None;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "wait" => {
                let seconds = parse_decimal(value).ok_or(RouteError::Query {
                    key: "wait",
                    expected: "a number of seconds",
                })?;
                wait = Duration::from_secs(seconds).min(POLL_WAIT_MAX);
            }
            "after" => {
                after = Some(cursor_from_text(value).ok_or(RouteError::Query {
                    key: "after",
                    expected: "the cursor of an earlier answer",
                })?);
            }
            _ => {}
        }
    }
    Ok((wait, after))
}

/// `<run in 16 hexadecimal digits>-<sequence number>`.
pub fn cursor_to_text(cursor: Cursor) -> String {
    format!("{:016x}-{}", cursor.run, cursor.seq)
}

/// Read back what [`cursor_to_text`] wrote.
pub fn cursor_from_text(text: &str) -> Option<Cursor> {
    let (run, seq) = text.split_once('-')?;
    let hex = (1..=16).contains(&run.len()) && run.bytes().all(|b| b.is_ascii_hexdigit());
    Some(Cursor {
        run: u64::from_str_radix(run, 16).ok().filter(|_| hex)?,
        seq: parse_decimal(seq)?,
    })
}

/// Digits only: `u64::from_str` would take a sign too.
fn parse_decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The answer to a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollAnswer {
    /// To pass on with the next poll.
    pub cursor: Cursor,
    /// Envelopes, oldest first.
    pub envelopes: Vec<Vec<u8>>,
}

/// An answer that a broker would not give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is not the JSON that is expected.
    ///
    /// Where and of which kind the problem is, never what was found: that would carry a
    /// broker's words into logs.
    #[error("not a broker's answer: a {kind} error in line {line}, column {column}")]
    Json {
        /// As serde_json classifies it.
        kind: &'static str,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// The cursor cannot be read.
    #[error("the cursor is not <run>-<sequence number>")]
    Cursor,
    /// More than [`ENVELOPES_MAX`] envelopes.
    #[error("{found} envelopes: expected at most {ENVELOPES_MAX}")]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// An envelope is not base64, or is too large.
    #[error("an envelope is not base64 of at most {ENVELOPE_LEN_MAX} bytes")]
    Envelope,
}

#[derive(Serialize, Deserialize)]
struct PollAnswerJson {
    cursor: String,
    envelopes: Vec<String>,
}

/// The JSON of an answer.
pub fn encode_answer<E: AsRef<[u8]>>(cursor: Cursor, envelopes: &[E]) -> Vec<u8> {
    let json = PollAnswerJson {
        cursor: cursor_to_text(cursor),
        envelopes: envelopes.iter().map(|e| STANDARD.encode(e)).collect(),
    };
    serde_json::to_vec(&json).expect("strings always serialise")
}

/// Read what [`encode_answer`] wrote.
pub fn decode_answer(body: &[u8]) -> Result<PollAnswer, AnswerError> {
    let json: PollAnswerJson = serde_json::from_slice(body).map_err(|e| json_error(&e))?;
    let found = json.envelopes.len();
    if found > ENVELOPES_MAX {
        return Err(AnswerError::TooMany { found });
    }
    let envelopes = json.envelopes.iter().map(|text| {
        let bytes = STANDARD.decode(text).map_err(|_| AnswerError::Envelope)?;
        (bytes.len() <= ENVELOPE_LEN_MAX)
            .then_some(bytes)
            .ok_or(AnswerError::Envelope)
    });
    Ok(PollAnswer {
        cursor: cursor_from_text(&json.cursor).ok_or(AnswerError::Cursor)?,
        envelopes: envelopes.collect::<Result<_, _>>()?,
    })
}

fn json_error(error: &serde_json::Error) -> AnswerError {
    AnswerError::Json {
        kind: match error.classify() {
            Category::Io => "read",
            Category::Syntax => "syntax",
            Category::Data => "data",
            Category::Eof => "truncation",
        },
        line: error.line(),
        column: error.column(),
    }
}

/// The status that tells a refusal.
pub fn refusal_status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::Malformed => StatusCode::BAD_REQUEST,
        Refusal::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Full => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use holdfast_core::identity::Identity;

    const CURSOR: Cursor = Cursor { run: 0xab, seq: 7 };

    #[test]
    fn a_poll_survives_the_way_through_a_url() {
        for after in [None, Some(CURSOR)] {
            let poll = Route::Poll {
                mailbox: Identity::from_seed([1; 32]).public(),
                wait: Duration::from_secs(25),
                after,
            };
            let text = poll.path_and_query();
            let (path, query) = text.split_once('?').unwrap();
            assert_eq!(Route::parse(&Method::GET, path, Some(query)), Ok(poll));
        }
    }

    #[test]
    fn what_is_no_request_is_refused_by_its_own_reason() {
        let key = Identity::from_seed([1; 32]).public();
        let mailbox = format!("{SIGNAL_PATH}/{key}");
        let get = |path: &str, query| Route::parse(&Method::GET, path, query);
        assert_eq!(get("/", None), Err(RouteError::NotFound));
        assert_eq!(get("/v1/signals", None), Err(RouteError::NotFound));
        assert_eq!(get(SIGNAL_PATH, None), Err(RouteError::Method));
        assert_eq!(get("/v1/signal/zz", None), Err(RouteError::Mailbox));
        for (query, bad) in [
            ("wait=-1", "wait"),
            ("wait=+1", "wait"),
            ("after=", "after"),
            ("after=1", "after"),
            ("after=x-1", "after"),
            ("after=+1-1", "after"),
        ] {
            let found = get(&mailbox, Some(query));
            assert!(
                matches!(found, Err(RouteError::Query { key, .. }) if key == bad),
                "{query}: {found:?}"
            );
        }
    }

    #[test]
    fn a_wait_beyond_the_limit_is_shortened_to_it() {
        let key = Identity::from_seed([1; 32]).public();
        let path = format!("{SIGNAL_PATH}/{key}");
        let route = Route::parse(&Method::GET, &path, Some("wait=100000"));
        assert!(matches!(route, Ok(Route::Poll { wait, .. }) if wait == POLL_WAIT_MAX));
    }

    #[test]
    fn the_answer_is_frozen_json_and_reads_back() {
        let body = encode_answer(CURSOR, &[b"hi".to_vec(), vec![0xff]]);
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            r#"{"cursor":"00000000000000ab-7","envelopes":["aGk=","/w=="]}"#
        );
        let answer = decode_answer(&body).unwrap();
        assert_eq!(answer.cursor, CURSOR);
        assert_eq!(answer.envelopes, [b"hi".to_vec(), vec![0xff]]);
    }

    #[test]
    fn a_hostile_answer_is_an_error() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"cursor":"1","envelopes":[]}"#,
            r#"{"cursor":"1-1","envelopes":["%%"]}"#,
            r#"{"cursor":"1-99999999999999999999999","envelopes":[]}"#,
        ] {
            assert!(decode_answer(bad.as_bytes()).is_err(), "{bad}");
        }
        let large = encode_answer(CURSOR, &[vec![0; ENVELOPE_LEN_MAX + 1]]);
        assert_eq!(decode_answer(&large), Err(AnswerError::Envelope));
    }

    #[test]
    fn the_words_of_a_broker_are_in_no_error() {
        for bad in [
            r#"{"cursor":"1-1","envelopes":"EVIL"}"#,
            r#"{"cursor":"1-1","envelopes":["EVIL!"]}"#,
            r#"{"cursor":"EVIL","envelopes":[]}"#,
            "EVIL",
        ] {
            let text = decode_answer(bad.as_bytes()).unwrap_err().to_string();
            assert!(!text.contains("EVIL"), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_answer_reads_back_and_no_bytes_panic(
            run: u64,
            seq: u64,
            envelopes: Vec<Vec<u8>>,
            noise: Vec<u8>,
            path in "/v1/signal(/[0-9a-f]{64}|.{0,80})",
            query in ".{0,80}",
        ) {
            let cursor = Cursor { run, seq };
            let answer = decode_answer(&encode_answer(cursor, &envelopes));
            proptest::prop_assert_eq!(answer, Ok(PollAnswer { cursor, envelopes }));
            let _ = decode_answer(&noise);
            let _ = Route::parse(&Method::GET, &path, Some(&query));
            let _ = cursor_from_text(&query);
        }
    }
}
