//! What is wrong with a scenario, and where.

use std::fmt;
use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

/// Most problems that are told: who sees a hundred fixes some and asks again.
const PROBLEMS_MAX: usize = 100;
/// The longest piece of a file that is repeated in a message, in characters.
const SHOWN_LEN_MAX: usize = 60;

/// One thing that is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's name.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key, with the position in a list from 0: `fault[2].at`. Empty when the text does
    /// not parse.
    pub key: String,
    /// What was found and what is expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line, column) = (&self.file, self.line, self.column);
        write!(f, "{file}:{line}:{column}: ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a scenario, in the order of the file; a line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

/// A problem whose place is known by its key or as a span.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub key: String,
    pub span: Option<Range<usize>>,
    pub message: String,
}

impl Finding {
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding {
            key: key.into(),
            span: None,
            message: message.into(),
        }
    }

    pub fn at(mut self, span: Range<usize>) -> Finding {
        self.span = Some(span);
        self
    }
}

/// Findings become problems with places.
pub(super) fn place(
    file: &str,
    text: &str,
    root: &DeTable<'_>,
    findings: Vec<Finding>,
) -> Problems {
    let with_offset = findings.into_iter().map(|finding| {
        let span = finding.span.clone();
        (
            span.unwrap_or_else(|| find(root, &finding.key)).start,
            finding,
        )
    });
    let mut sorted: Vec<(usize, Finding)> = with_offset.collect();
    sorted.sort_by(|(a, x), (b, y)| (a, &x.key).cmp(&(b, &y.key)));
    sorted.dedup_by(|(_, a), (_, b)| a.key == b.key && a.message == b.message);
    let problem = |(offset, finding): (usize, Finding)| {
        let (line, column) = line_and_column(text, offset);
        Problem {
            file: file.to_owned(),
            line,
            column,
            key: finding.key,
            message: finding.message,
        }
    };
    Problems(sorted.into_iter().take(PROBLEMS_MAX).map(problem).collect())
}

/// Where a key's value is; of one that is missing, where its table is.
fn find(root: &DeTable<'_>, key: &str) -> Range<usize> {
    let mut span = 0..0;
    let mut here: Option<&Spanned<DeValue<'_>>> = None;
    let parts = key.split(['.', '[']).map(|part| part.trim_end_matches(']'));
    for part in parts.filter(|part| !part.is_empty()) {
        let next = match (here.map(Spanned::get_ref), part.parse::<usize>()) {
            (None, _) => root.get(part),
            (Some(DeValue::Array(items)), Ok(at)) => items.get(at),
            (Some(DeValue::Table(table)), _) => table.get(part),
            _ => None,
        };
        let Some(next) = next else { break };
        span = next.span();
        here = Some(next);
    }
    span
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

/// A piece of a file, for a message.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_LEN_MAX).collect();
    match short.len() < text.len() {
        true => format!("{short:?}…"),
        false => format!("{short:?}"),
    }
}

/// ` (did you mean "…"?)`, when one of them is near.
pub(super) fn did_you_mean<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    if found.chars().count() > SHOWN_LEN_MAX {
        return String::new();
    }
    let folded = found.to_ascii_lowercase().replace('_', "-");
    let near = known
        .map(|name| {
            let other = name.to_ascii_lowercase().replace('_', "-");
            // A longer or shorter form of the word is nearer than its letters say.
            let is_part = folded.len() > 3 && (other.contains(&folded) || folded.contains(&other));
            let distance = strsim::damerau_levenshtein(&folded, &other);
            (if is_part { distance.min(1) } else { distance }, name)
        })
        .min();
    // A third of the letters: further away it is another word.
    match near {
        Some((distance, name)) if distance <= (folded.chars().count() / 3).max(1) => {
            format!(" (did you mean \"{name}\"?)")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_another_word_finds_none() {
        let words = ["converge_within", "links", "errors"];
        let find = |word| did_you_mean(word, words.into_iter());
        assert_eq!(
            find("converge-within"),
            " (did you mean \"converge_within\"?)"
        );
        assert_eq!(find("link"), " (did you mean \"links\"?)");
        assert_eq!(find("within"), " (did you mean \"converge_within\"?)");
        assert_eq!(find("password"), "");
    }

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        assert_eq!(line_and_column("ab\nc", 0), (1, 1));
        assert_eq!(line_and_column("ab\nc", 3), (2, 1));
        assert_eq!(line_and_column("äb\nöx", 6), (2, 2));
        assert_eq!(line_and_column("ab", 99), (1, 3));
    }
}
