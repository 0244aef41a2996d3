//! The configuration of a node: one TOML file, the environment, and every problem at once.

pub mod address;
mod cross;
mod example;
pub mod files;
mod keys;
pub mod member;
pub mod problem;
mod read;
mod reader;
pub mod settings;
mod source;
mod suggest;
mod tree;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_core::types::PeerId;

pub use address::HostPort;
pub use example::{example, example_of_member};
pub use member::Member;
pub use problem::Problem;
use problem::any_error;
pub use settings::{LogFormat, Settings};
pub use source::Origin;
pub use tree::Environment;

use member::Strict;
use source::{INPUT_LEN_MAX, Value};
use tree::Tree;

/// What a configuration is read for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// A plain node: what makes a member is not looked at.
    Mesh,
    /// To tell what is wrong with it, whatever it is for.
    Check,
    /// To make this machine a member, before it has a name and secrets.
    Member(Strict),
    /// To run the node of a member that has this name, and whose secrets are written.
    Node(&'a PeerId),
}

/// What came of reading a configuration.
pub struct Outcome {
    /// The settings of the node, if there is no error. Those of a member without a name are
    /// good for nothing but what they say of logs and the admin page.
    pub settings: Option<Settings>,
    /// What makes it a member, if there is no error and that was read.
    pub member: Option<Member>,
    /// Everything that is wrong or strange.
    pub problems: Vec<Problem>,
}

/// Read the file, if there is one, and the environment.
pub fn load(file: Option<&Path>, environment: &Environment, purpose: Purpose<'_>) -> Outcome {
    let mut outcome = Outcome {
        settings: None,
        member: None,
        problems: Vec::new(),
    };
    let text = file.and_then(|path| match read_file(path) {
        Ok(text) => Some((path.display().to_string(), text)),
        Err(problem) => {
            outcome.problems.push(*problem);
            None
        }
    });
    if file.is_some() && text.is_none() {
        // Everything else would be told as missing.
        return outcome;
    }
    let text = text
        .as_ref()
        .map(|(path, text)| (path.as_str(), text.as_str()));
    let tree = tree::merge(text, environment, &mut outcome.problems);
    let base = match file.and_then(Path::parent) {
        Some(folder) => folder.to_owned(),
        None => PathBuf::new(),
    };
    // Of a file that does not parse, what else would be found is guesswork.
    match outcome.problems.iter().any(Problem::is_syntax) {
        true => outcome.problems.retain(Problem::is_syntax),
        false => read_tree(tree, environment, &base, purpose, &mut outcome),
    }
    outcome
        .problems
        .sort_by_key(|problem| problem.origin.order());
    outcome
}

fn read_tree(
    mut tree: Tree,
    environment: &Environment,
    base: &Path,
    purpose: Purpose<'_>,
    outcome: &mut Outcome,
) {
    let problems = &mut outcome.problems;
    let of_member = match purpose {
        Purpose::Mesh => false,
        Purpose::Check => member::is_in(&tree),
        Purpose::Member(_) | Purpose::Node(_) => true,
    };
    if !of_member {
        outcome.settings = read::read(&tree, base, None, problems);
        return;
    }
    let strict = match purpose {
        Purpose::Member(strict) => strict,
        Purpose::Mesh | Purpose::Check => Strict::No,
        Purpose::Node(_) => Strict::Yes,
    };
    let member = member::read(&tree, environment, base, strict, problems);
    let name = match purpose {
        Purpose::Node(id) => Some(id),
        _ => None,
    };
    let secrets = base.join(member::as_node(&mut tree, name));
    let not_yet = name.is_none().then_some(secrets.as_path());
    outcome.settings = read::read(&tree, base, not_yet, problems);
    // Neither of any use without the other.
    outcome.member = member
        .zip(outcome.settings.as_ref())
        .map(|(member, node)| Member {
            peers: node.all_nodes(),
            ..member
        });
    let generated = outcome.member.as_ref().map(member::patroni::problems);
    problems.extend(generated.unwrap_or_default());
    if any_error(problems) {
        outcome.member = None;
    }
}

/// The environment of this process.
pub fn environment() -> Environment {
    std::env::vars_os().collect()
}

/// The admin address that a file gives, if it does, whatever else is wrong with the file: who asks
/// a node need not be able to read its secrets.
pub fn admin_in(file: &Path) -> Result<Option<String>, Vec<Problem>> {
    let text = read_file(file).map_err(|problem| vec![*problem])?;
    let mut problems = Vec::new();
    let path = file.display().to_string();
    let tree = tree::merge(Some((&path, &text)), &Environment::new(), &mut problems);
    problems.retain(Problem::is_syntax);
    if !problems.is_empty() {
        return Err(problems);
    }
    let node = tree.nodes.get("admin").map(|node| &node.value);
    Ok(node.and_then(|value| match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }))
}

fn read_file(path: &Path) -> Result<String, Box<Problem>> {
    let shown = path.display().to_string();
    let problem = |found: String, expected: &str| {
        let path = shown.as_str().into();
        Problem::new(&Origin::WholeFile { path }, "file", found, expected)
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(INPUT_LEN_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            problem(error.to_string(), "a readable configuration file")
                .help("`holdfast config example` prints one")
        })?;
    if bytes.len() > INPUT_LEN_MAX {
        return Err(problem("more than 1 MiB".to_owned(), "at most 1 MiB").into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        problem(
            format!("bytes that are no UTF-8, at offset {at}"),
            "UTF-8 text",
        )
        .into()
    })
}

/// The address of a server: of the family that the socket on `listen` can reach.
pub fn resolve(server: &HostPort, listen: SocketAddr) -> std::io::Result<SocketAddr> {
    let found = server.resolve()?;
    found
        .iter()
        .find(|address| address.is_ipv4() == listen.is_ipv4())
        .copied()
        .ok_or_else(|| {
            let family = if listen.is_ipv4() { "IPv4" } else { "IPv6" };
            std::io::Error::other(format!(
                "no {family} address, and the node listens on {listen}"
            ))
        })
}

/// Servers whose names have no address now, as warnings: a node starts without them, and looks
/// again. Blocks on the system's resolver.
pub fn unresolvable(settings: &Settings, member: Option<&Member>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut check = |list: &str, index: usize, field: &str, server: &HostPort| {
        let found = match list {
            // Asked over TCP, which has nothing to do with the UDP socket's family.
            "brokers" | "kv.addresses" => server.resolve().map(drop),
            _ => resolve(server, settings.listen).map(drop),
        };
        if let Err(error) = found {
            let expected = "a host name with an address";
            let found = format!("{server}: {error}");
            let key = format!("{list}[{index}]{field}");
            let origin = settings
                .origins
                .get(&key)
                .or_else(|| settings.origins.get(list))
                .unwrap_or(&Origin::Nowhere);
            problems.push(
                Problem::new(origin, key, found, expected)
                    .help("--offline checks without asking the resolver")
                    .warning(),
            );
        }
    };
    for (index, broker) in settings.brokers.iter().enumerate() {
        check("brokers", index, "", &broker.0);
    }
    let kv = member.and_then(|member| member.kv.as_ref());
    for (index, address) in kv.iter().flat_map(|kv| &kv.addresses).enumerate() {
        let text = address.to_string();
        let bare = text.split_once("://").map_or("", |(_, bare)| bare);
        if let Some(server) = HostPort::parse(bare, None) {
            check("kv.addresses", index, "", &server);
        }
    }
    for (index, server) in settings.stun.iter().enumerate() {
        check("stun", index, "", server);
    }
    for (index, turn) in settings.turn.iter().enumerate() {
        check("turn", index, ".url", &turn.url.server);
    }
    problems
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Read a text and an environment as `load` does, without a file.
    fn problems_of(text: &str, environment: &Environment, purpose: Purpose<'_>) -> Vec<Problem> {
        let mut outcome = Outcome {
            settings: None,
            member: None,
            problems: Vec::new(),
        };
        let tree = tree::merge(Some(("t.toml", text)), environment, &mut outcome.problems);
        let base = Path::new("/nonexistent");
        read_tree(tree, environment, base, purpose, &mut outcome);
        outcome.problems
    }

    /// A plain node, or a member.
    fn purpose() -> impl Strategy<Value = Purpose<'static>> {
        prop_oneof![
            Just(Purpose::Mesh),
            Just(Purpose::Check),
            Just(Purpose::Member(Strict::Yes))
        ]
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(
            text in "\\PC{0,200}",
            purpose in purpose(),
        ) {
            problems_of(&text, &Environment::new(), purpose);
        }

        #[test]
        fn an_example_with_a_damaged_line_is_told_with_lines_of_the_file(
            purpose in purpose(),
            line in 0_usize..400,
            damage in prop_oneof![
                Just(String::new()),
                "[a-z_]{1,12} = (-?[0-9]{1,30}|\"[ -~]{0,20}\"|true|\\[\\]|[0-9.]{1,6}|\\{\\})",
                "\\[{1,2}[a-z]{1,8}\\]{0,2}",
            ],
        ) {
            let text = match purpose {
                Purpose::Mesh => example(),
                _ => example_of_member(),
            };
            let mut lines: Vec<&str> = text.lines().collect();
            let at = line % lines.len();
            lines[at] = &damage;
            for problem in problems_of(&lines.join("\n"), &Environment::new(), purpose) {
                if let Origin::File { line, .. } = problem.origin {
                    prop_assert!(line <= lines.len());
                }
                prop_assert!(!problem.found.is_empty() && !problem.expected.is_empty());
            }
        }

        #[test]
        fn any_value_of_any_variable_is_read_without_a_panic(
            purpose in purpose(),
            index in 0_usize..100,
            value in prop_oneof!["\\PC{0,40}", "\\[\\{\"(id|port|vip|url|name|command)\":[0-9\"a-z]{0,4}\\}\\]"],
        ) {
            let variables: Vec<String> = keys::all().map(keys::Key::variable).collect();
            let name = &variables[index % variables.len()];
            let environment = Environment::from([(name.into(), value.into())]);
            problems_of("", &environment, purpose);
        }
    }
}
