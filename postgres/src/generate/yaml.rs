//! YAML as Patroni reads it (PyYAML, YAML 1.1): what a user wrote in, what is generated out.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};
use zeroize::Zeroizing;

/// Deeper is no configuration of Patroni's, and a stack has an end.
const DEPTH_MAX: usize = 16;
/// More is no configuration of Patroni's.
const NODES_MAX: usize = 10_000;
/// Room for what is generated, so that a text with secrets is never moved in memory.
const TEXT_CAPACITY: usize = 256 << 10;

/// A text that cannot be read, for people: what and in which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct YamlError {
    line: usize,
    problem: String,
}

/// Read one document. Plain words mean what YAML 1.1 says (`on` is true), since PyYAML reads the
/// file's neighbours like that; what YAML 1.1 reads in surprising ways (`0700`, `1:30`, dates) has
/// to be quoted. Anchors, aliases and tags are refused.
///
/// # Errors
/// What is wrong and in which line.
pub fn read(text: &str) -> Result<Value, YamlError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        nodes: 0,
    };
    reader.document()
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    nodes: usize,
}

fn wrong(line: usize, problem: impl Into<String>) -> YamlError {
    YamlError {
        line,
        problem: problem.into(),
    }
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), YamlError> {
        self.nodes += 1;
        match self.parser.next_event() {
            Some(Ok((_, span))) if self.nodes > NODES_MAX => {
                let problem = format!("more than {NODES_MAX} values");
                Err(wrong(span.start.line(), problem))
            }
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => Err(wrong(error.marker().line(), error.info())),
            None => Err(wrong(0, "the text ends early")),
        }
    }

    fn document(&mut self) -> Result<Value, YamlError> {
        loop {
            let (event, line) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd => return Ok(Value::Null),
                event => {
                    let value = self.value(event, line, 0)?;
                    return self.end().map(|()| value);
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), YamlError> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentEnd | Event::Nothing, _) => {}
                (_, line) => return Err(wrong(line, "a second document; expected one")),
            }
        }
    }

    fn value(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Value, YamlError> {
        if depth > DEPTH_MAX {
            return Err(wrong(line, format!("nested deeper than {DEPTH_MAX}")));
        }
        match event {
            Event::Scalar(_, _, anchor, ref tag) if anchor != 0 || tag.is_some() => {
                Err(wrong(line, "an anchor or a tag; write the value out"))
            }
            Event::SequenceStart(anchor, ref tag) | Event::MappingStart(anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                Err(wrong(line, "an anchor or a tag; write the value out"))
            }
            Event::Alias(_) => Err(wrong(line, "an alias; write the value out")),
            Event::Scalar(text, ScalarStyle::Plain, ..) => resolve(&text, line),
            Event::Scalar(text, ..) => text_value(&text, line),
            Event::SequenceStart(..) => self.sequence(depth),
            Event::MappingStart(..) => self.mapping(depth),
            _ => Err(wrong(line, "expected a value")),
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, line) => items.push(self.value(event, line, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut map = Map::new();
        loop {
            let (event, line) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Object(map)),
                Event::Scalar(text, _, 0, None) if !text.contains('\0') => text.into_owned(),
                _ => return Err(wrong(line, "expected a plain key")),
            };
            let (event, at) = self.next()?;
            let value = self.value(event, at, depth + 1)?;
            if map.insert(key.clone(), value).is_some() {
                return Err(wrong(line, format!("the key {key:?} is there twice")));
            }
        }
    }
}

fn text_value(text: &str, line: usize) -> Result<Value, YamlError> {
    // No parameter of PostgreSQL's can hold it, and the writer gives it a meaning.
    match text.contains('\0') {
        true => Err(wrong(line, "a NUL character")),
        false => Ok(Value::String(text.to_owned())),
    }
}

/// What a plain word means in YAML 1.1, as PyYAML resolves it.
fn resolve(text: &str, line: usize) -> Result<Value, YamlError> {
    if let Some(value) = word(text) {
        return Ok(value);
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return text_value(text, line);
    }
    let all = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = text.strip_prefix('+').unwrap_or(text);
    if all(digits) && (digits == "0" || !digits.starts_with('0')) {
        let parsed = number.parse::<i64>().map(Value::from);
        return parsed.map_err(|_| wrong(line, format!("the number {text:?} is too large")));
    }
    if digits
        .split_once('.')
        .is_some_and(|(a, b)| all(a) && all(b))
    {
        let parsed = number.parse().ok().and_then(Number::from_f64);
        return parsed
            .map(Value::Number)
            .ok_or_else(|| wrong(line, format!("the number {text:?} is too large")));
    }
    match surprising(digits) {
        true => Err(wrong(
            line,
            format!("{text:?} would be read as a number or a date; quote it"),
        )),
        false => text_value(text, line),
    }
}

fn word(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Some(Value::Bool(true))
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Some(Value::Bool(false))
        }
        _ => None,
    }
}

/// Whether YAML 1.1 reads it as an octal, hexadecimal, binary or sexagesimal number, as one with
/// underscores or an exponent, or as a date.
fn surprising(digits: &str) -> bool {
    let only = |extra: &str| {
        let of = |c: char| c.is_ascii_digit() || extra.contains(c);
        digits.chars().all(of)
    };
    let prefixed = ["0x", "0b"].iter().any(|prefix| digits.starts_with(prefix));
    // Two dots are an address or a version; one with digits around it was a number already.
    let dots = digits.matches('.').count();
    prefixed
        || (dots <= 1 && only("_.:"))
        || (dots <= 1 && digits.contains('.') && only("_.eE+-"))
        || only("-")
        || (only("-:.TtZz +") && digits.contains('-'))
}

/// Write a document. A string that begins with NUL names a secret, which `secret` tells.
pub fn write(document: &Value, secret: &dyn Fn(&str) -> String) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(TEXT_CAPACITY));
    block(document, 0, &mut out, secret);
    out
}

/// Write the lines of a collection, the first one where `out` stands.
fn block(value: &Value, indent: usize, out: &mut String, secret: &dyn Fn(&str) -> String) {
    let pad = |out: &mut String| out.extend(std::iter::repeat_n(' ', indent));
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    pad(out);
                }
                string(key, out);
                out.push(':');
                match is_block(value) {
                    true => {
                        out.push('\n');
                        out.extend(std::iter::repeat_n(' ', indent + 2));
                        block(value, indent + 2, out, secret);
                    }
                    false => {
                        out.push(' ');
                        block(value, indent, out, secret);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                if index > 0 {
                    pad(out);
                }
                out.push_str("- ");
                block(value, indent + 2, out, secret);
            }
        }
        value => {
            scalar(value, out, secret);
            out.push('\n');
        }
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn scalar(value: &Value, out: &mut String, secret: &dyn Fn(&str) -> String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        // Without an exponent, which YAML 1.1 reads as a word.
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default().to_string();
            out.push_str(&float);
            if !float.contains('.') {
                out.push_str(".0");
            }
        }
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => match text.strip_prefix('\0') {
            Some(name) => quoted(&Zeroizing::new(secret(name)), out),
            None => string(text, out),
        },
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn string(text: &str, out: &mut String) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-');
    let starts = |c: char| c.is_ascii_alphabetic() || c == '/';
    // `y` and `n` are words of YAML 1.1 that PyYAML does not know; other readers do.
    let reserved = word(text).is_some() || matches!(text, "y" | "Y" | "n" | "N");
    match text.starts_with(starts) && text.bytes().all(plain) && !reserved {
        true => out.push_str(text),
        false => quoted(text, out),
    }
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn again(value: &Value) -> Value {
        read(&write(value, &|name| name.to_owned())).unwrap()
    }

    #[test]
    fn plain_words_mean_what_patroni_reads() {
        let text = "a: on\nb: 'on'\nc: 10\nd: 64MB\ne: 127.0.0.1\nf: ~\ng: [1.5, no]\nh: -3";
        let expected = json!({"a": true, "b": "on", "c": 10, "d": "64MB", "e": "127.0.0.1",
            "f": null, "g": [1.5, false], "h": -3});
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn what_would_be_read_in_a_surprising_way_is_refused() {
        let surprising = [
            "0700",
            "0x10",
            "1:30",
            "2026-01-02",
            "1_000",
            "1.",
            "1e+5.",
            ".5",
        ];
        for text in surprising {
            let error = read(&format!("a: {text}")).unwrap_err().to_string();
            assert!(error.contains("quote it"), "{text}: {error}");
        }
        for text in [
            "a: &x 1",
            "a: !!str 1",
            "a: *x",
            "a: 1\na: 2",
            "a: \"\\0\"",
            "- 1\n--- 2",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(read(&deep).unwrap_err().to_string().contains("deeper"));
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[^\0]{0,12}".prop_map(Value::from),
            prop_oneof!["on", "no", "y", "0700", "-", "\\.inf", "=", "<<", "1e5"]
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[^\0]{0,8}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(document in documents()) {
            prop_assert_eq!(again(&document), document);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[ -~\n\u{80}-\u{ff}]{0,200}") {
            let _ = read(&text);
        }
    }
}
