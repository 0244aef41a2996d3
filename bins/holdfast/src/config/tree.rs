//! File and environment merged: for each key, the value that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::rc::Rc;

use holdfast_bootstrap::identity::PIN_VARIABLES;
use holdfast_bootstrap::secrets::ENV_PREFIX as SECRET_PREFIX;

use super::keys::{
    ENV_PREFIX, Form, Key, MESH_CONN_ALLOWLIST, PEERS_JSON, SERVICES_JSON, all, find as find_key,
    is_section, sections,
};
use super::problem::Problem;
use super::source::{INPUT_LEN_MAX, Node, Origin, Value, clip, parse_json, parse_toml};
use super::suggest::closest;

/// The environment, as a value: tests bring their own.
pub type Environment = BTreeMap<OsString, OsString>;

/// Variables with the prefix that are no keys.
const OTHER_VARIABLES: [&str; 1] = ["HOLDFAST_CONFIG"];

/// The key of a pinned slot, which has a variable for each role as well.
const ORDINAL: &str = "ordinal";

/// The value of every key that was given.
pub struct Tree {
    /// By the key's name.
    pub nodes: BTreeMap<&'static str, Node>,
    /// The sections that the file has, also empty ones.
    pub sections: BTreeSet<String>,
    /// Where a missing key is missing.
    pub whole: Origin,
}

/// Merge the text of a file, if there is one, with the environment, which wins.
pub fn merge(
    file: Option<(&str, &str)>,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Tree {
    let mut tree = Tree {
        nodes: BTreeMap::new(),
        sections: BTreeSet::new(),
        whole: Origin::Nowhere,
    };
    if let Some((path, text)) = file {
        let path: Rc<str> = path.into();
        tree.whole = Origin::WholeFile { path: path.clone() };
        for (name, node) in parse_toml(&path, text, problems) {
            tree.take_from_file(name, node, problems);
        }
    }
    for (variable, key) in [
        (PEERS_JSON, "peers"),
        (MESH_CONN_ALLOWLIST, "allow"),
        (SERVICES_JSON, "services"),
    ] {
        let key = find_key(key).expect("the table of keys has them");
        tree.take_from_environment(variable, key, environment, problems);
    }
    for key in all().filter(|key| key.name != ORDINAL) {
        tree.take_from_environment(&key.variable(), key, environment, problems);
    }
    tree.take_ordinal(environment, problems);
    problems.extend(misspelt_variables(environment));
    tree
}

impl Tree {
    /// Whether anything in this section was given, be it an empty section, or one within it.
    pub fn has_section(&self, section: &str) -> bool {
        let mut keys = self.nodes.keys().filter_map(|name| find_key(name));
        let within = |name: &String| {
            let rest = name.strip_prefix(section);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.sections.iter().any(within) || keys.any(|key| key.is_in(section))
    }

    /// Put a value in the place of whatever was given.
    pub fn replace(&mut self, name: &str, value: Value) {
        let key = find_key(name).expect("only keys that exist are replaced");
        let origin = Origin::Bootstrap;
        self.nodes.insert(key.name, Node { origin, value });
    }

    /// The variable of the role, `WORKER_ORDINAL`, and before it our own.
    fn take_ordinal(&mut self, environment: &Environment, problems: &mut Vec<Problem>) {
        let key = find_key(ORDINAL).expect("the table of keys has it");
        if let Some(Value::Text(role)) = self.nodes.get("role").map(|node| &node.value) {
            let role = role.clone();
            for (variable, of) in PIN_VARIABLES {
                match role == of {
                    true => self.take_from_environment(variable, key, environment, problems),
                    false => problems.extend(foreign_pin(variable, &role, environment)),
                }
            }
        }
        self.take_from_environment(&key.variable(), key, environment, problems);
    }

    fn take_from_file(&mut self, name: String, node: Node, problems: &mut Vec<Problem>) {
        match (is_section(&name), node.value) {
            (true, Value::Table(entries)) => {
                // The header `[a.b]` says nothing of `[a]`: both names are on its line.
                let implied = !entries.is_empty()
                    && entries.iter().all(|(inner, entry)| {
                        is_section(&format!("{name}.{inner}")) && entry.origin == node.origin
                    });
                for (inner, node) in entries {
                    self.take_from_file(format!("{name}.{inner}"), node, problems);
                }
                if !implied {
                    self.sections.insert(name);
                }
            }
            (true, value) => problems.push(Problem::new(
                &node.origin,
                &name,
                value.show(),
                format!("a section: [{name}]"),
            )),
            (false, value) => {
                let origin = node.origin;
                self.take_key(name, Node { origin, value }, problems);
            }
        }
    }

    fn take_key(&mut self, name: String, node: Node, problems: &mut Vec<Problem>) {
        match find_key(&name) {
            Some(key) => drop(self.nodes.insert(key.name, node)),
            // A table that is none of ours is meant to be a section.
            None if matches!(node.value, Value::Table(_)) => {
                let sections: Vec<&str> = sections().collect();
                problems.push(unknown_key(&node, &name, sections.into_iter()));
            }
            None => problems.push(unknown_key(&node, &name, all().map(|key| key.name))),
        }
    }

    fn take_from_environment(
        &mut self,
        variable: &str,
        key: &'static Key,
        environment: &Environment,
        problems: &mut Vec<Problem>,
    ) {
        // An empty variable is how a compose file or a unit says "not set".
        let Some(raw) = environment
            .get(std::ffi::OsStr::new(variable))
            .filter(|raw| !raw.is_empty())
        else {
            return;
        };
        match read_variable(&variable.into(), key, raw) {
            Ok(node) => drop(self.nodes.insert(key.name, node)),
            Err(problem) => {
                // A value that was meant to win must not be replaced by another in silence.
                self.nodes.remove(key.name);
                problems.push(*problem);
            }
        }
    }
}

/// A machine that is told to be another role's slot is probably told the wrong role.
fn foreign_pin(variable: &str, role: &str, environment: &Environment) -> Option<Problem> {
    let value = environment.get(std::ffi::OsStr::new(variable))?;
    let name = variable.into();
    let found = format!(
        "{} set, and this machine's role is {role:?}",
        clip(&value.to_string_lossy())
    );
    let expected = "the variable of this machine's role";
    let problem = Problem::new(&Origin::Env { name }, ORDINAL, found, expected);
    (!value.is_empty()).then(|| problem.warning())
}

/// A key that nobody reads. Its value is not repeated: it may be a secret.
pub fn unknown_key<'a>(
    node: &Node,
    path: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Problem {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let full = closest(path, known.clone());
    let problem = match full.or_else(|| closest(name, known.clone())) {
        Some(meant) => Problem::new(
            &node.origin,
            path,
            format!("an unknown key with {}", node.value.kind()),
            "a key that exists",
        )
        .help(format!("did you mean `{meant}`?")),
        None => {
            let names: Vec<&str> = known
                .filter(|name| parent.is_empty() || !name.contains('.') || name.starts_with(parent))
                .collect();
            Problem::new(
                &node.origin,
                path,
                format!("an unknown key with {}", node.value.kind()),
                format!("one of {}", names.join(", ")),
            )
        }
    };
    match node.origin.is_foreign() {
        true => problem.warning(),
        false => problem,
    }
}

fn read_variable(name: &Rc<str>, key: &Key, raw: &OsString) -> Result<Node, Box<Problem>> {
    let origin = Origin::Env { name: name.clone() };
    let Some(text) = raw.to_str() else {
        return Err(Problem::new(&origin, key.name, "bytes that are no UTF-8", "text").into());
    };
    if text.len() > INPUT_LEN_MAX {
        let found = format!("{} bytes", text.len());
        let expected = format!("at most {INPUT_LEN_MAX} bytes");
        return Err(Problem::new(&origin, key.name, found, expected).into());
    }
    let value = match key.form {
        Form::Text => Value::Text(text.to_owned()),
        Form::Truth => match text.trim() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => Value::Text(text.to_owned()),
        },
        // What is no number stays text, so that the reader tells what it expected.
        Form::Integer => match text.trim().parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Text(text.to_owned()),
        },
        Form::Texts if !text.trim_start().starts_with('[') => Value::List(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Node {
                    origin: origin.clone(),
                    value: Value::Text(item.to_owned()),
                })
                .collect(),
        ),
        Form::Texts | Form::Tables(_) | Form::Map => {
            return parse_json(name, text).map_err(|mut problem| {
                problem.key = key.name.to_owned();
                problem
            });
        }
    };
    Ok(Node { origin, value })
}

/// Variables with our prefix that look like a key and are none. Others are left alone: an
/// orchestrator sets variables with the names of its services.
fn misspelt_variables(environment: &Environment) -> Vec<Problem> {
    let known: Vec<String> = all().map(Key::variable).collect();
    let mut problems = Vec::new();
    for name in environment.keys().filter_map(|name| name.to_str()) {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            continue;
        };
        let is_secret = name.starts_with(SECRET_PREFIX);
        if is_secret || known.iter().any(|k| k == name) || OTHER_VARIABLES.contains(&name) {
            continue;
        }
        let candidates = known.iter().filter_map(|k| k.strip_prefix(ENV_PREFIX));
        if let Some(meant) = closest(rest, candidates) {
            let origin = Origin::Env { name: name.into() };
            problems.push(
                Problem::new(
                    &origin,
                    name,
                    "a variable that no key has",
                    "a key's variable",
                )
                .help(format!("did you mean {ENV_PREFIX}{meant}?"))
                .warning(),
            );
        }
    }
    problems
}
