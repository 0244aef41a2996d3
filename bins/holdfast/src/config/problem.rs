//! What is wrong with a configuration, and how it is told.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::source::{Origin, clip};

/// Most problems that are printed: who sees a hundred fixes some and asks again.
const SHOWN_MAX: usize = 100;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The node does not start.
    Error,
    /// The node starts; something is probably not as intended.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Where the value came from.
    pub origin: Origin,
    /// The key, with the index in a list: `peers[2].vip`. Empty for a syntax error.
    pub key: String,
    /// The value found.
    pub found: String,
    /// The value expected.
    pub expected: String,
    /// What to do, where it is not obvious.
    pub help: Option<String>,
    /// Whether the text does not even parse.
    syntax: bool,
}

impl Problem {
    /// A value that is not what it should be.
    pub fn new(
        origin: &Origin,
        key: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Problem {
        Problem {
            severity: Severity::Error,
            origin: origin.clone(),
            key: key.into(),
            found: found.into(),
            expected: expected.into(),
            help: None,
            syntax: false,
        }
    }

    /// Text that does not parse.
    pub fn syntax(origin: Origin, message: &str) -> Problem {
        let expected = match &origin {
            Origin::Env { .. } => "valid JSON",
            _ => "valid TOML",
        };
        let problem = Problem::new(&origin, "", clip(message.trim()), expected);
        Problem {
            syntax: true,
            ..problem
        }
    }

    /// Whether the text does not even parse.
    pub fn is_syntax(&self) -> bool {
        self.syntax
    }

    /// The same, with advice.
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// The same, as a warning.
    pub fn warning(mut self) -> Problem {
        self.severity = Severity::Warning;
        self
    }

    fn json(&self) -> Json {
        let (file, line, variable) = match &self.origin {
            Origin::File { path, line } => (Some(path.as_ref()), Some(*line), None),
            Origin::WholeFile { path } => (Some(path.as_ref()), None, None),
            Origin::Env { name } => (None, None, Some(name.as_ref())),
            Origin::Bootstrap | Origin::Nowhere => (None, None, None),
        };
        json!({
            "severity": match self.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            "file": file,
            "line": line,
            "variable": variable,
            "key": self.key,
            "found": self.found,
            "expected": self.expected,
            "help": self.help,
        })
    }
}

/// Whether there is one that keeps the node from starting.
pub fn any_error(problems: &[Problem]) -> bool {
    problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
}

/// The problems for a person.
pub fn render(problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems.iter().take(SHOWN_MAX) {
        let label = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let key = match problem.key.as_str() {
            "" => "syntax",
            key => key,
        };
        let _ = writeln!(out, "{label}: {key} ({})", problem.origin);
        let _ = writeln!(out, "    found     {}", problem.found);
        let _ = writeln!(out, "    expected  {}", problem.expected);
        if let Some(help) = &problem.help {
            let _ = writeln!(out, "    help      {help}");
        }
    }
    if let Some(more) = problems.len().checked_sub(SHOWN_MAX).filter(|n| *n > 0) {
        let _ = writeln!(out, "… and {more} more");
    }
    let _ = writeln!(out, "{}", count(problems));
    out
}

/// How many there are of each kind.
pub fn count(problems: &[Problem]) -> String {
    let errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .count();
    let warnings = problems.len() - errors;
    let number = |n: usize, what: &str| match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    match warnings {
        0 => number(errors, "error"),
        _ => format!(
            "{}, {}",
            number(errors, "error"),
            number(warnings, "warning")
        ),
    }
}

/// The problems for a program.
pub fn to_json(problems: &[Problem]) -> Json {
    problems.iter().map(Problem::json).collect()
}
