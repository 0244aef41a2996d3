//! What dstack's guest agent answers, read: bytes in, values out.
//!
//! Nothing that is said about an answer quotes more of it than an id: it may hold a key.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Info, Quote};
use crate::hex;

/// Longest id, in hexadecimal digits; dstack's have 40 and 64.
const ID_LEN_MAX: usize = 128;
/// How much of an id or of an error's text is shown, characters.
const SHOWN_LEN_MAX: usize = 200;

/// An answer that is not what it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What it is.
    pub found: String,
    /// What it has to be.
    pub expected: &'static str,
}

/// The answer to `/Info`.
pub fn info(body: &[u8]) -> Result<Info, Wrong> {
    const OBJECT: &str = "an object with the texts app_id and instance_id";
    const DIGITS: &str = "hexadecimal digits, at most 128";

    #[derive(Deserialize)]
    struct Answer {
        app_id: String,
        instance_id: String,
        #[serde(default)]
        compose_hash: String,
    }

    let answer: Answer = parse(body, OBJECT)?;
    let wrong = |found| Wrong {
        found,
        expected: DIGITS,
    };
    let id = |name: &str, text: String| match is_hex_id(&text) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(wrong(format!("{name} = {:?}", shortened(&text)))),
    };
    if answer.app_id.is_empty() {
        return Err(wrong("an empty app_id".to_owned()));
    }
    let non_empty = |text: String| (!text.is_empty()).then_some(text);
    Ok(Info {
        app_id: id("app_id", answer.app_id)?,
        instance_id: non_empty(id("instance_id", answer.instance_id)?),
        compose_hash: non_empty(id("compose_hash", answer.compose_hash)?),
    })
}

/// The answer to `/GetKey`.
pub fn key(body: &[u8]) -> Result<Zeroizing<[u8; 32]>, Wrong> {
    const EXPECTED: &str = "an object with `key`, 64 hexadecimal digits";

    /// Borrowed, so that no copy of the key is left behind.
    #[derive(Deserialize)]
    struct Answer<'a> {
        key: &'a str,
    }

    let answer: Answer<'_> = parse(body, EXPECTED)?;
    let wrong = |found| Wrong {
        found,
        expected: EXPECTED,
    };
    let mut key = Zeroizing::new([0; 32]);
    hex::decode(answer.key, key.as_mut()).ok_or_else(|| {
        wrong(format!(
            "`key` of {} characters",
            answer.key.chars().count()
        ))
    })?;
    match key.iter().all(|byte| *byte == 0) {
        true => Err(wrong("a key of zeroes".to_owned())),
        false => Ok(key),
    }
}

/// The answer to `/GetQuote`, which was asked for `report_data`.
pub fn quote(body: &[u8], report_data: &[u8; 64]) -> Result<Quote, Wrong> {
    const EXPECTED: &str = "an object with `quote`, hexadecimal digits, for our report_data";

    #[derive(Deserialize)]
    struct Answer {
        quote: String,
        #[serde(default)]
        event_log: String,
        #[serde(default)]
        vm_config: String,
        #[serde(default)]
        report_data: String,
    }

    let answer: Answer = parse(body, EXPECTED)?;
    let wrong = |found| Wrong {
        found,
        expected: EXPECTED,
    };
    let asked = hex::encode(report_data);
    if !answer.report_data.is_empty() && !answer.report_data.eq_ignore_ascii_case(&asked) {
        return Err(wrong("a quote for another report_data".to_owned()));
    }
    let mut quote = vec![0; answer.quote.len() / 2];
    match hex::decode(&answer.quote, &mut quote) {
        Some(()) if !quote.is_empty() => Ok(Quote {
            quote,
            event_log: answer.event_log,
            vm_config: answer.vm_config,
        }),
        _ => Err(wrong(format!("`quote` of {} bytes", answer.quote.len()))),
    }
}

/// What the agent says about its refusal, `{"error": "..."}`, to follow a status. Quoted, so
/// that it cannot forge lines of a log; empty when it says nothing.
#[must_use]
pub fn detail(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => format!(" and {:?}", shortened(&refusal.error)),
        Err(_) => String::new(),
    }
}

/// The fields of an answer. What serde says of it may quote it, so that is not shown.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], expected: &'static str) -> Result<T, Wrong> {
    serde_json::from_slice(body).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "JSON with other fields",
            _ => "something that is no JSON",
        };
        let (line, column, len) = (error.line(), error.column(), body.len());
        let found = format!("{what} ({len} bytes, line {line}, column {column})");
        Wrong { found, expected }
    })
}

fn is_hex_id(text: &str) -> bool {
    text.len() <= ID_LEN_MAX && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Anything at all, and what is almost right.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let fields = [
            "key",
            "app_id",
            "instance_id",
            "compose_hash",
            "quote",
            "report_data",
        ];
        let value = prop_oneof![
            "[0-9a-fA-F]{0,130}".prop_map(|text| json!(text)),
            ".{0,80}".prop_map(|text| json!(text)),
            any::<i64>().prop_map(|number| json!(number)),
            Just(json!(null)),
            Just(json!([{"key": "00"}])),
        ];
        let pair = (0..fields.len(), value);
        let object = proptest::collection::vec(pair, 0..8).prop_map(move |pairs| {
            let pairs = pairs
                .into_iter()
                .map(|(i, value)| (fields[i].to_owned(), value));
            let object: serde_json::Map<_, _> = pairs.collect();
            serde_json::to_vec(&object).unwrap()
        });
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), object]
    }

    proptest! {
        #[test]
        fn no_answer_makes_a_panic_or_a_long_message(body in hostile()) {
            if let Ok(info) = info(&body) {
                prop_assert!((1..=ID_LEN_MAX).contains(&info.app_id.len()));
            }
            let wrong = [info(&body).err(), key(&body).err(), quote(&body, &[0; 64]).err()];
            for wrong in wrong.into_iter().flatten() {
                prop_assert!(wrong.found.len() < 20 + 10 * SHOWN_LEN_MAX);
            }
            prop_assert!(detail(&body).len() < 20 + 10 * SHOWN_LEN_MAX);
        }

        #[test]
        fn every_key_and_quote_is_read_as_it_was_written(
            bytes: [u8; 32],
            report: [u8; 32],
            upper: bool
        ) {
            let mut digits = hex::encode(&bytes).as_str().to_owned();
            if upper {
                digits = digits.to_uppercase();
            }
            let mut data = [0; 64];
            data[..32].copy_from_slice(&report);
            let data_digits = hex::encode(&data);
            let body = json!({"key": digits, "quote": digits, "report_data": *data_digits});
            let body = serde_json::to_vec(&body).unwrap();
            prop_assert_eq!(quote(&body, &data).unwrap().quote, bytes);
            if bytes != [0; 32] {
                prop_assert_eq!(*key(&body).unwrap(), bytes);
            }
        }
    }
}
