//! Where settings come from: a TOML file and the environment, read into one tree whose every
//! value knows its origin.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// Largest configuration file or environment variable, in bytes: a full one, with every peer
/// and rule that is allowed, has less than 64 KiB.
pub const INPUT_LEN_MAX: usize = 1 << 20;

/// Longest piece of a value that is repeated in a message, in characters.
const SHOWN_LEN_MAX: usize = 60;

/// The place that a value was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of the configuration file, counted from 1.
    File {
        /// The file, as it was named.
        path: Rc<str>,
        /// The line.
        line: usize,
    },
    /// The configuration file as a whole: something is not in it.
    WholeFile {
        /// The file, as it was named.
        path: Rc<str>,
    },
    /// An environment variable.
    Env {
        /// Its name.
        name: Rc<str>,
    },
    /// What a member learnt of itself: its name, and where its secrets are.
    Bootstrap,
    /// Neither: there is no file, and no variable is set.
    Nowhere,
}

impl Origin {
    /// The order in which a reader goes through problems: the file from its top, then what it
    /// lacks, then the environment.
    pub fn order(&self) -> (u8, usize) {
        match self {
            Origin::File { line, .. } => (0, *line),
            Origin::WholeFile { .. } => (1, 0),
            Origin::Env { .. } => (2, 0),
            Origin::Bootstrap | Origin::Nowhere => (3, 0),
        }
    }

    /// Whether this is one of the variables whose format belongs to others, so that fields
    /// unknown to us are no mistake.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Origin::Env { name } if !name.starts_with(super::keys::ENV_PREFIX))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::WholeFile { path } => f.write_str(path),
            Origin::Env { name } => write!(f, "environment variable {name}"),
            Origin::Bootstrap => f.write_str("bootstrap"),
            Origin::Nowhere => f.write_str("configuration"),
        }
    }
}

/// A value and where it was found.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where.
    pub origin: Origin,
    /// What.
    pub value: Value,
}

/// A value, of whatever format.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer.
    Integer(i128),
    /// A truth value.
    Bool(bool),
    /// A list.
    List(Vec<Node>),
    /// Named values, in the order of the source where it has one.
    Table(Vec<(String, Node)>),
    /// Something that no key takes: a float, a date, null.
    Other {
        /// What it is.
        kind: &'static str,
        /// As it was written.
        shown: String,
    },
}

impl Value {
    /// The same as JSON, for readers of formats that others define.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Text(text) => Json::from(text.as_str()),
            Value::Integer(number) => i64::try_from(*number).map_or(Json::Null, Json::from),
            Value::Bool(truth) => Json::from(*truth),
            Value::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Value::Table(entries) => {
                let entries = entries.iter();
                entries
                    .map(|(key, node)| (key.clone(), node.value.to_json()))
                    .collect()
            }
            Value::Other { .. } => Json::Null,
        }
    }

    /// What kind of value it is, with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Bool(_) => "a truth value",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other { kind, .. } => kind,
        }
    }

    /// The value for a message: short, on one line.
    pub fn show(&self) -> String {
        match self {
            Value::Text(text) => format!("{:?}", clip(text)),
            Value::Integer(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Table(_) => "a table".to_owned(),
            Value::Other { kind, shown } => format!("{kind} {}", clip(shown)),
        }
    }
}

/// The beginning of a text, with an ellipsis when there is more.
pub fn clip(text: &str) -> String {
    match text.char_indices().nth(SHOWN_LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Read a TOML file's text. What cannot be understood becomes problems; the rest is returned.
///
/// A syntax error is told without the line it is on: the line may hold a secret.
pub fn parse_toml(path: &Rc<str>, text: &str, problems: &mut Vec<Problem>) -> Vec<(String, Node)> {
    let lines = Lines::of(path, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        problems.push(Problem::syntax(
            lines.origin(error.span().unwrap_or(0..0)),
            error.message(),
        ));
    }
    lines.table(table.get_ref())
}

/// Turns byte positions into lines.
struct Lines {
    path: Rc<str>,
    starts: Vec<usize>,
}

impl Lines {
    fn of(path: &Rc<str>, text: &str) -> Lines {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines {
            path: path.clone(),
            starts: breaks.map(|(at, _)| at + 1).collect(),
        }
    }

    fn origin(&self, span: Range<usize>) -> Origin {
        Origin::File {
            path: self.path.clone(),
            line: self.starts.partition_point(|start| *start <= span.start) + 1,
        }
    }

    fn table(&self, table: &DeTable<'_>) -> Vec<(String, Node)> {
        let mut entries: Vec<(usize, String, Node)> = table
            .iter()
            .map(|(key, value)| {
                let mut node = self.node(value.span(), value.get_ref());
                // The key's line, since a value may be a table that begins elsewhere.
                node.origin = self.origin(key.span());
                (key.span().start, key.get_ref().to_string(), node)
            })
            .collect();
        entries.sort_by_key(|(at, ..)| *at);
        entries
            .into_iter()
            .map(|(_, key, node)| (key, node))
            .collect()
    }

    fn node(&self, span: Range<usize>, value: &DeValue<'_>) -> Node {
        let other = |kind, shown: String| Value::Other { kind, shown };
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(
                    |_| other("an integer too large", number.to_string()),
                    Value::Integer,
                ),
            DeValue::Boolean(truth) => Value::Bool(*truth),
            DeValue::Float(number) => other("a float", number.to_string()),
            DeValue::Datetime(date) => other("a date", date.to_string()),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| self.node(item.span(), item.get_ref()))
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node {
            origin: self.origin(span),
            value,
        }
    }
}

/// Read an environment variable that holds JSON.
pub fn parse_json(name: &Rc<str>, text: &str) -> Result<Node, Box<Problem>> {
    let origin = Origin::Env { name: name.clone() };
    match serde_json::from_str(text) {
        Ok(json) => Ok(from_json(&origin, json)),
        Err(error) => Err(Problem::syntax(origin, &error.to_string()).into()),
    }
}

fn from_json(origin: &Origin, json: Json) -> Node {
    let value = match json {
        Json::String(text) => Value::Text(text),
        Json::Bool(truth) => Value::Bool(truth),
        Json::Null => Value::Other {
            kind: "null",
            shown: String::new(),
        },
        Json::Number(number) => number.as_i128().map_or_else(
            || Value::Other {
                kind: "a float",
                shown: number.to_string(),
            },
            Value::Integer,
        ),
        Json::Array(items) => {
            Value::List(items.into_iter().map(|i| from_json(origin, i)).collect())
        }
        Json::Object(entries) => Value::Table(
            entries
                .into_iter()
                .map(|(key, value)| (key, from_json(origin, value)))
                .collect(),
        ),
    };
    Node {
        origin: origin.clone(),
        value,
    }
}
