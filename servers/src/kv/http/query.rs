//! Paths, queries and durations as Consul reads them.

use std::time::Duration;

use holdfast_core::kv::{Consistency, WAIT_MAX, Wait};
use percent_encoding::percent_decode_str;

/// Most parameters of a query.
const PARAMETERS_MAX: usize = 32;
/// How long a read waits that names an index and no time, as in Consul.
const WAIT_DEFAULT: Duration = Duration::from_secs(300);

/// A request that makes no sense: the words are the body of a 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadRequest(pub String);

/// The parameters of a query, decoded.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Result<Query, BadRequest> {
        let mut pairs = Vec::new();
        for part in query.unwrap_or_default().split('&') {
            if part.is_empty() {
                continue;
            }
            if pairs.len() == PARAMETERS_MAX {
                return Err(BadRequest("too many parameters".into()));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name, true)?, decode(value, true)?));
        }
        Ok(Query(pairs))
    }

    /// The first value of a parameter, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(other, _)| other == name);
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A parameter that is a number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, BadRequest> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value.parse();
        number
            .map(Some)
            .map_err(|_| BadRequest(format!("Invalid {name}: {value:?} is no number")))
    }

    /// At most one of these may be there.
    pub fn conflict(&self, names: &[&str]) -> Result<(), BadRequest> {
        match names.iter().filter(|name| self.has(name)).count() {
            0 | 1 => Ok(()),
            _ => Err(BadRequest(format!(
                "Conflicting flags: {}",
                names.join(", ")
            ))),
        }
    }

    pub fn consistency(&self) -> Result<Consistency, BadRequest> {
        match (self.has("stale"), self.has("consistent")) {
            (true, true) => Err(BadRequest(
                "Cannot specify ?stale with ?consistent, conflicting semantics.".into(),
            )),
            (true, false) => Ok(Consistency::Stale),
            (false, true) => Ok(Consistency::Consistent),
            (false, false) => Ok(Consistency::Default),
        }
    }

    /// Whether and how long to wait.
    pub fn wait(&self) -> Result<Option<Wait>, BadRequest> {
        let at_most = match self.get("wait") {
            None => WAIT_DEFAULT,
            Some(text) => duration(text).ok_or_else(|| BadRequest("Invalid wait time".into()))?,
        };
        let after = self.number("index")?;
        Ok(after.map(|after| Wait {
            after,
            at_most: match at_most.is_zero() {
                // Consul takes 0 for "not given".
                true => WAIT_DEFAULT,
                false => at_most.min(WAIT_MAX),
            },
        }))
    }
}

/// Undo percent encoding; in a query, a plus is a space.
pub(super) fn decode(text: &str, plus: bool) -> Result<String, BadRequest> {
    let spaced = match plus {
        true => text.replace('+', " "),
        false => text.to_owned(),
    };
    let decoded = percent_decode_str(&spaced).decode_utf8();
    match decoded {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(BadRequest("the address is not UTF-8".into())),
    }
}

/// A duration as Go writes it: `10s`, `1m30s`, `0.5s`, `1500ms`, `0`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let unit_ns: u128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(nanos(number, unit_ns)?)?;
        rest = next;
    }
    let total = u64::try_from(total).ok().filter(|_| !text.is_empty())?;
    Some(Duration::from_nanos(total))
}

fn nanos(number: &str, unit_ns: u128) -> Option<u128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let digits = |text: &str| match text.is_empty() {
        true => Some(0_u128),
        false => text.parse::<u64>().ok().map(u128::from),
    };
    // More digits than nanoseconds have mean nothing.
    let part = part.get(..part.len().min(15))?;
    let scale = 10_u128.pow(part.len() as u32);
    digits(whole)?
        .checked_mul(unit_ns)?
        .checked_add(digits(part)?.checked_mul(unit_ns)? / scale)
}

/// A duration as Go writes it, in whole milliseconds or nanoseconds.
pub(super) fn go(duration: Duration) -> String {
    match duration.subsec_nanos() {
        0 => format!("{}s", duration.as_secs()),
        nanos if nanos % 1_000_000 == 0 => format!("{}ms", duration.as_millis()),
        _ => format!("{}ns", duration.as_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10s", Some(10_000)),
            ("15.0s", Some(15_000)),
            ("0.001s", Some(1)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("1500ms", Some(1_500)),
            (".5s", Some(500)),
            ("9.987654321s", None),
        ] {
            let Some(ms) = expected else {
                assert!(duration(text).is_some(), "{text}");
                continue;
            };
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        let bad = [
            "",
            "s",
            "10",
            "1x",
            "-1s",
            "1s2",
            ".s",
            "1.2.3s",
            "99999999999999999999s",
            "9999999h",
        ];
        for text in bad {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_query_is_decoded_and_a_wait_has_its_bounds() {
        let query = Query::parse(Some("a=1%202&b=x+y&recurse&index=7&wait=1h")).expect("it is one");
        assert_eq!((query.get("a"), query.get("b")), (Some("1 2"), Some("x y")));
        assert!(query.has("recurse") && !query.has("c"));
        let wait = query.wait().expect("it is one").expect("it is there");
        assert_eq!((wait.after, wait.at_most), (7, WAIT_MAX));
        assert!(Query::parse(Some("a=%ff")).is_err());
        assert!(Query::parse(Some(&"a&".repeat(33))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,60}") {
            let _ = duration(&text);
            let _ = Query::parse(Some(&text)).map(|query| (query.wait(), query.consistency()));
        }

        #[test]
        fn what_is_written_is_read_again(ns in 0..u64::MAX) {
            let written = Duration::from_nanos(ns);
            prop_assert_eq!(duration(&go(written)), Some(written));
        }
    }
}
