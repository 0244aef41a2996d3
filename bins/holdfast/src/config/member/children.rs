//! Children: reading what a configuration says of them, and comparing it.

use std::path::Path;

use holdfast_core::supervise::{CHILDREN_MAX, Name, Signal};
use holdfast_sidecar::{Child, Ready};

use super::Strict;
use super::check::{check_account, check_program};
use super::read::Draft;
use super::system::{has_group, has_user};
use crate::config::keys::CHILD_FIELDS;
use crate::config::problem::Problem;
use crate::config::reader::{Entry, Reader, duration, integer, parsed, path_text, text, truth};
use crate::config::source::Value;
use crate::config::suggest::closest;

/// Most restarts that a child may have within its window: more is no limit.
const RESTARTS_MAX: i128 = 1_000;
/// Most arguments, or variables, of one child.
const ITEMS_MAX: usize = 256;
/// What may end a child, by name (signal(7)).
const SIGNALS: [(&str, i32); 9] = [
    ("TERM", libc::SIGTERM),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("HUP", libc::SIGHUP),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("WINCH", libc::SIGWINCH),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
];
const DURATION_EXPECTED: &str = "a duration up to a day, such as \"500ms\", \"5s\" or \"2m\"";

/// Names that children may wait for, beside each other.
const OWN_NAMES: [&str; 4] = ["mesh", "consul", "patroni", "endpoints"];

impl Reader<'_> {
    /// Every child, with its place.
    pub fn children(&mut self) -> Vec<(String, Child)> {
        let mut children = Vec::new();
        for entry in self.tables("children", CHILD_FIELDS) {
            let (name, command) = (self.child_name(&entry), self.child_command(&entry));
            // A stand-in, so that what else is wrong with the entry is told at once.
            let known = name.clone().zip(command.clone());
            let stand_in = || Some(("child".parse().ok()?, Vec::new()));
            let Some((name, command)) = known.clone().or_else(stand_in) else {
                continue;
            };
            let child = self.child(&entry, Child::new(name, command));
            if known.is_some() {
                children.push((entry.path, child));
            }
        }
        children
    }

    fn child_name(&mut self, entry: &Entry) -> Option<Name> {
        let expected = "1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit";
        self.required(entry, "name", expected, parsed)
    }

    fn child_command(&mut self, entry: &Entry) -> Option<Vec<String>> {
        let expected = "a list of 1 to 256 strings: the program and its arguments";
        self.required(entry, "command", expected, |value| {
            strings(value).filter(|words| words.first().is_some_and(|word| !word.is_empty()))
        })
    }

    fn child(&mut self, entry: &Entry, mut child: Child) -> Child {
        let user = "the name of a user";
        child.user = self.optional(entry, "user", user, text);
        child.group = self.optional(entry, "group", "the name of a group", text);
        let names = "a list of names";
        if let Some(after) = self.optional(entry, "after", names, names_of) {
            child.after = after;
        }
        let ready = "http://host:port/path, or tcp:host:port";
        if let Some(ready) = self.optional(entry, "ready", ready, parsed::<Ready>) {
            child.ready = ready;
        }
        let env = "a list of strings such as \"KEY=value\"";
        if let Some(env) = self.optional(entry, "env", env, variables) {
            child.env = env;
        }
        let dir = self.optional(entry, "dir", "a path", path_text);
        child.dir = dir.map(|dir| self.base.join(dir));
        if let Some(signal) = self.stop_signal(entry) {
            child.stop_signal = signal;
        }
        let span = |value: &Value| duration(&text(value)?);
        if let Some(limit) = self.optional(entry, "stop_deadline", DURATION_EXPECTED, span) {
            child.stop_deadline = limit;
        }
        if let Some(window) = self.optional(entry, "window", DURATION_EXPECTED, span) {
            child.window = window;
        }
        if let Some(most) = self.optional(entry, "max_restarts", "0 to 1000", |value| {
            u32::try_from(integer(value, 0, RESTARTS_MAX)?).ok()
        }) {
            child.max_restarts = most;
        }
        if let Some(truth) = self.optional(entry, "one_shot", "true or false", truth) {
            child.one_shot = truth;
        }
        child
    }

    fn stop_signal(&mut self, entry: &Entry) -> Option<Signal> {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", names.join(", "));
        self.optional(entry, "stop_signal", &expected, |value| {
            let text = text(value)?;
            let bare = text.strip_prefix("SIG").unwrap_or(&text);
            let found = SIGNALS.iter().find(|(name, _)| *name == bare);
            found.map(|(_, number)| Signal(*number))
        })
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::List(items) if items.len() <= ITEMS_MAX => {
            let words = items.iter().map(|item| text(&item.value));
            // The kernel takes no argument or variable with a zero byte.
            words
                .map(|word| word.filter(|word| !word.contains('\0')))
                .collect()
        }
        _ => None,
    }
}

fn names_of(value: &Value) -> Option<Vec<Name>> {
    strings(value)?
        .iter()
        .map(|name| name.parse().ok())
        .collect()
}

fn variables(value: &Value) -> Option<Vec<(String, String)>> {
    let split = |text: &String| {
        let (name, value) = text.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    strings(value)?.iter().map(split).collect()
}

/// Names, programs, users, and who waits for whom.
pub fn check_children(draft: &Draft, strict: Strict, problems: &mut Vec<Problem>) {
    if draft.children.len() > CHILDREN_MAX {
        let found = format!("{} children", draft.children.len());
        let expected = format!("at most {CHILDREN_MAX}");
        problems.push(Problem::new(
            draft.origin("children"),
            "children",
            found,
            expected,
        ));
        return;
    }
    for (index, (path, child)) in draft.children.iter().enumerate() {
        let name = child.name.as_str();
        let earlier = draft.children[..index].iter().map(|(_, child)| child);
        let key = format!("{path}.name");
        if OWN_NAMES.contains(&name) {
            let expected = "another name: this one is the sidecar's own";
            let origin = draft.origin(&key);
            problems.push(Problem::new(
                origin,
                key.as_str(),
                format!("{name:?}"),
                expected,
            ));
        }
        if earlier.into_iter().any(|other| other.name == child.name) {
            let found = format!("{name:?} again");
            let origin = draft.origin(&key);
            problems.push(Problem::new(origin, key.as_str(), found, "every name once"));
        }
        let command = format!("{path}.command");
        check_program(draft, &command, Path::new(&child.command[0]), problems);
        if let Some(user) = &child.user {
            let key = format!("{path}.user");
            check_account(draft, &key, "user", user, has_user, strict, problems);
        }
        if let Some(group) = &child.group {
            let key = format!("{path}.group");
            check_account(draft, &key, "group", group, has_group, strict, problems);
        }
        check_after(draft, path, child, problems);
    }
    check_circle(draft, problems);
}

fn check_after(draft: &Draft, path: &str, child: &Child, problems: &mut Vec<Problem>) {
    let key = format!("{path}.after");
    let children = draft.children.iter().map(|(_, child)| child.name.as_str());
    let known: Vec<&str> = children.chain(OWN_NAMES).collect();
    for after in &child.after {
        let problem = |expected: &str| {
            let found = format!("{:?}", after.as_str());
            Problem::new(draft.origin(&key), key.as_str(), found, expected)
        };
        if *after == child.name {
            problems.push(problem("another child: this one cannot wait for itself"));
        } else if after.as_str() == "consul" && draft.consul.is_none() {
            problems.push(problem("a section [consul]: without it no agent is run"));
        } else if after.as_str() == "patroni" && !draft.runs_database {
            problems.push(problem(
                "a section [postgres]: without it no database is run",
            ));
        } else if after.as_str() == "endpoints" && draft.postgres.is_none() {
            problems.push(problem(
                "a section [postgres.endpoints]: without it there are none",
            ));
        } else if !known.contains(&after.as_str()) {
            let mut problem =
                problem("the name of a child, \"mesh\", \"consul\", \"patroni\" or \"endpoints\"");
            if let Some(meant) = closest(after.as_str(), known.iter().copied()) {
                problem = problem.help(format!("did you mean {meant:?}?"));
            }
            problems.push(problem);
        }
    }
}

/// Children that wait for each other would wait for ever.
fn check_circle(draft: &Draft, problems: &mut Vec<Problem>) {
    let mut waiting: Vec<_> = draft.children.iter().collect();
    loop {
        let before = waiting.len();
        let names: Vec<_> = waiting
            .iter()
            .map(|(_, child)| child.name.clone())
            .collect();
        waiting.retain(|(_, child)| {
            let mut after = child.after.iter().filter(|after| **after != child.name);
            after.any(|after| names.contains(after))
        });
        if waiting.len() == before {
            break;
        }
    }
    if let Some((path, _)) = waiting.first() {
        let names: Vec<_> = waiting
            .iter()
            .map(|(_, child)| child.name.as_str())
            .collect();
        let key = format!("{path}.after");
        let found = format!("a circle among {}", names.join(", "));
        let expected = "children that do not wait for each other";
        problems.push(Problem::new(
            draft.origin(&key),
            key.as_str(),
            found,
            expected,
        ));
    }
}
