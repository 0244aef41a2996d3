//! Values out of the tree, each of its kind or a problem.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::address::UrlError;
use super::files::SecretError;
use super::keys::find as find_key;
use super::problem::Problem;
use super::source::{Node, Origin, Value, parse_toml};
use super::suggest::closest;
use super::tree::{Tree, unknown_key};

/// Longest accepted duration: a day.
const DURATION_MAX: Duration = Duration::from_secs(86_400);
/// Largest accepted size: a TB, more than any of these sizes is used for.
const SIZE_MAX: u64 = 1 << 40;
/// Longest accepted path.
const PATH_LEN_MAX: usize = 4096;
/// Stands in for a secret that is not written yet: as long as a real one.
const STAND_IN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Takes values out of a tree, and collects what is wrong with them.
pub struct Reader<'a> {
    /// What was given.
    pub tree: &'a Tree,
    /// Where relative paths start.
    pub base: &'a Path,
    /// The folder of secrets that are written later: what is in it is not opened.
    pub not_yet: Option<&'a Path>,
    /// Where each value that was taken came from.
    pub origins: BTreeMap<String, Origin>,
    /// What is wrong.
    pub problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    /// The node of a key: what was given, else its default.
    pub fn node(&mut self, name: &'static str) -> Option<Node> {
        if let Some(node) = self.tree.nodes.get(name) {
            self.origins.insert(name.to_owned(), node.origin.clone());
            return Some(node.clone());
        }
        let default = find_key(name)?.default?;
        let (_, node) = parse_toml(&"default".into(), &format!("x = {default}"), self.problems)
            .into_iter()
            .next()?;
        Some(node)
    }

    /// One value of its kind, or a problem.
    pub fn value<T>(
        &mut self,
        path: &str,
        node: &Node,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = parse(&node.value);
        if value.is_none() {
            let found = node.value.show();
            self.problems
                .push(Problem::new(&node.origin, path, found, expected));
        }
        value
    }

    /// The value of a key, of its kind, or a problem.
    pub fn key<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let node = self.node(name)?;
        self.value(name, &node, expected, parse)
    }

    /// A key with a few named values. A wrong one is reported and the first is taken.
    pub fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> T {
        let (_, fallback) = choices[0];
        let Some(node) = self.node(name) else {
            return fallback;
        };
        let text = match &node.value {
            Value::Text(text) => text.as_str(),
            _ => "",
        };
        if let Some((_, value)) = choices.iter().find(|(choice, _)| *choice == text) {
            return *value;
        }
        let names: Vec<String> = choices.iter().map(|(c, _)| format!("{c:?}")).collect();
        let found = node.value.show();
        let mut problem = Problem::new(&node.origin, name, found, names.join(" or "));
        if let Some(meant) = closest(text, choices.iter().map(|(choice, _)| *choice)) {
            problem = problem.help(format!("did you mean {meant:?}?"));
        }
        self.problems.push(problem);
        fallback
    }

    /// The items of a list with their paths.
    pub fn items(&mut self, name: &'static str, expected: &str) -> Vec<(String, Node)> {
        let list = self.key(name, expected, |value| match value {
            Value::List(items) => Some(items.clone()),
            _ => None,
        });
        let named = |(index, item)| (format!("{name}[{index}]"), item);
        list.unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(named)
            .collect()
    }

    /// A list of texts, each of which means something.
    pub fn texts<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, UrlError>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for (path, node) in self.items(name, "a list of strings") {
            let Some(text) = self.value(&path, &node, "a string", text) else {
                continue;
            };
            match parse(&text) {
                Ok(value) => values.push(value),
                Err(error) => self.push_url(&path, &node, error),
            }
        }
        values
    }

    /// A text that is not the address it should be.
    pub fn push_url(&mut self, path: &str, node: &Node, error: UrlError) {
        let found = node.value.show();
        let mut problem = Problem::new(&node.origin, path, found, error.expected);
        problem.help = error.help.map(str::to_owned);
        self.problems.push(problem);
    }

    /// The entries of a list of tables; each field that is known, with its path.
    pub fn tables(&mut self, name: &'static str, fields: &'static [&'static str]) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (path, node) in self.items(name, "a list of tables") {
            let table = self.value(&path, &node, "a table", |value| match value {
                Value::Table(entries) => Some(entries.clone()),
                _ => None,
            });
            let mut known = BTreeMap::new();
            for (field, node) in table.unwrap_or_default() {
                let full = format!("{path}.{field}");
                match fields.iter().find(|name| **name == field) {
                    Some(field) => {
                        self.origins.insert(full, node.origin.clone());
                        known.insert(*field, node);
                    }
                    None => {
                        let fields = fields.iter().copied();
                        self.problems.push(unknown_key(&node, &full, fields));
                    }
                }
            }
            entries.push(Entry {
                path,
                origin: node.origin,
                fields: known,
            });
        }
        entries
    }

    /// A field that may be left out.
    pub fn optional<T>(
        &mut self,
        entry: &Entry,
        field: &'static str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let node = entry.fields.get(field)?;
        self.value(&entry.path_of(field), node, expected, parse)
    }

    /// A field that may not be left out.
    pub fn required<T>(
        &mut self,
        entry: &Entry,
        field: &'static str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        if !entry.fields.contains_key(field) {
            let path = entry.path_of(field);
            let problem = Problem::new(&entry.origin, path, "nothing", expected);
            self.problems.push(problem);
        }
        self.optional(entry, field, expected, parse)
    }

    /// What came of reading a secret.
    pub fn secret<T>(
        &mut self,
        path: &str,
        origin: &Origin,
        read: Result<T, SecretError>,
    ) -> Option<T> {
        read.map_err(|error| {
            let mut problem = Problem::new(origin, path, error.found, error.expected);
            problem.help = error.help;
            self.problems.push(problem);
        })
        .ok()
    }

    /// Read a secret file, or take something for it while it is not written yet.
    pub fn read<T>(
        &self,
        file: &Path,
        read: impl FnOnce(&Path) -> Result<T, SecretError>,
        stand_in: impl FnOnce(&str) -> T,
    ) -> Result<T, SecretError> {
        match self.not_yet {
            Some(folder) if file.starts_with(folder) => Ok(stand_in(STAND_IN)),
            _ => read(file),
        }
    }

    /// A path, absolute or from the folder of the configuration file.
    pub fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        let path = self.key(name, "a path", path_text)?;
        Some(self.base.join(path))
    }

    /// A positive integer that fits its type.
    pub fn number<T: TryFrom<i128>>(&mut self, name: &'static str) -> Option<T> {
        self.key(name, "a positive integer", |value| match value {
            Value::Integer(number) if *number > 0 => T::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A duration up to a day.
    pub fn duration(&mut self, name: &'static str) -> Option<Duration> {
        let expected = "a duration up to a day, such as \"500ms\", \"5s\" or \"2m\"";
        self.key(name, expected, |value| duration(&text(value)?))
    }

    /// A number of bytes with its unit.
    pub fn size(&mut self, name: &'static str) -> Option<u64> {
        let expected = "a size up to 1 TB, such as \"64MB\": a number and B, kB, MB or GB";
        self.key(name, expected, |value| size(&text(value)?))
    }

    /// True or false.
    pub fn truth(&mut self, name: &'static str) -> Option<bool> {
        self.key(name, "true or false", truth)
    }

    /// An address and a port, which may be 0 or not.
    pub fn address(
        &mut self,
        name: &'static str,
        expected: &str,
        zero: bool,
    ) -> Option<SocketAddr> {
        self.key(name, expected, |value| {
            let address: SocketAddr = text(value)?.parse().ok()?;
            (zero || address.port() != 0).then_some(address)
        })
    }
}

/// One table of a list.
pub struct Entry {
    /// Its place in the list.
    pub path: String,
    /// Where it begins.
    pub origin: Origin,
    /// Its known fields.
    pub fields: BTreeMap<&'static str, Node>,
}

impl Entry {
    /// The place of a field.
    pub fn path_of(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }
}

/// A string.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

/// A string that can be a path.
pub fn path_text(value: &Value) -> Option<String> {
    text(value).filter(|path| (1..=PATH_LEN_MAX).contains(&path.len()) && !path.contains('\0'))
}

/// A string that means something.
pub fn parsed<T: FromStr>(value: &Value) -> Option<T> {
    text(value)?.parse().ok()
}

/// An integer from `min` to `max`.
pub fn integer(value: &Value, min: i128, max: i128) -> Option<i128> {
    match value {
        Value::Integer(number) => Some(*number).filter(|n| (min..=max).contains(n)),
        _ => None,
    }
}

/// True or false.
pub fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        _ => None,
    }
}

/// A number and its unit as PostgreSQL has them, powers of 1024: `64MB`.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit: u64 = match &text[digits.len()..] {
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit).filter(|size| *size <= SIZE_MAX)
}

/// A number and its unit: `500ms`, `5s`, `2m`.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let duration = match &text[digits.len()..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        _ => return None,
    };
    (duration <= DURATION_MAX).then_some(duration)
}
