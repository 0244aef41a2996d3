//! The configuration of a node: one TOML file, the environment, and every problem at once.

pub mod address;
mod cross;
mod example;
pub mod files;
mod keys;
pub mod problem;
mod read;
pub mod settings;
mod source;
mod suggest;
mod tree;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use address::HostPort;
pub use example::example;
pub use problem::Problem;
pub use settings::{LogFormat, Settings};
pub use source::Origin;
pub use tree::Environment;

use source::{INPUT_LEN_MAX, Value};

/// What came of reading a configuration.
pub struct Outcome {
    /// The settings, if there is no error.
    pub settings: Option<Settings>,
    /// Everything that is wrong or strange.
    pub problems: Vec<Problem>,
}

/// Read the file, if there is one, and the environment.
pub fn load(file: Option<&Path>, environment: &Environment) -> Outcome {
    let mut problems = Vec::new();
    let text = file.and_then(|path| match read_file(path) {
        Ok(text) => Some((path.display().to_string(), text)),
        Err(problem) => {
            problems.push(*problem);
            None
        }
    });
    if file.is_some() && text.is_none() {
        // Everything else would be told as missing.
        return Outcome {
            settings: None,
            problems,
        };
    }
    let text = text
        .as_ref()
        .map(|(path, text)| (path.as_str(), text.as_str()));
    let tree = tree::merge(text, environment, &mut problems);
    if problems.iter().any(Problem::is_syntax) {
        problems.retain(Problem::is_syntax);
    }
    let base = match file.and_then(Path::parent) {
        Some(folder) => folder.to_owned(),
        None => PathBuf::new(),
    };
    // Of a file that does not parse, what else would be found is guesswork.
    let settings = match problems.iter().any(Problem::is_syntax) {
        true => None,
        false => read::read(tree, &base, &mut problems),
    };
    problems.sort_by_key(|problem| problem.origin.order());
    Outcome { settings, problems }
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
pub fn unresolvable(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut check = |list: &str, index: usize, field: &str, server: &HostPort| {
        let found = match list {
            // Asked over TCP, which has nothing to do with the UDP socket's family.
            "brokers" => server.resolve().map(drop),
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
    fn problems_of(text: &str, environment: &Environment) -> Vec<Problem> {
        let mut problems = Vec::new();
        let tree = tree::merge(Some(("t.toml", text)), environment, &mut problems);
        read::read(tree, Path::new("/nonexistent"), &mut problems);
        problems
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
            problems_of(&text, &Environment::new());
        }

        #[test]
        fn an_example_with_a_damaged_line_is_told_with_lines_of_the_file(
            line in 0_usize..200,
            damage in prop_oneof![
                Just(String::new()),
                "[a-z_]{1,12} = (-?[0-9]{1,30}|\"[ -~]{0,20}\"|true|\\[\\]|[0-9.]{1,6}|\\{\\})",
                "\\[{1,2}[a-z]{1,8}\\]{0,2}",
            ],
        ) {
            let text = example();
            let mut lines: Vec<&str> = text.lines().collect();
            let at = line % lines.len();
            lines[at] = &damage;
            for problem in problems_of(&lines.join("\n"), &Environment::new()) {
                if let Origin::File { line, .. } = problem.origin {
                    prop_assert!(line <= lines.len());
                }
                prop_assert!(!problem.found.is_empty() && !problem.expected.is_empty());
            }
        }

        #[test]
        fn any_value_of_any_variable_is_read_without_a_panic(
            index in 0_usize..100,
            value in prop_oneof!["\\PC{0,40}", "\\[\\{\"(id|port|vip|url)\":[0-9\"a-z]{0,4}\\}\\]"],
        ) {
            let variables: Vec<String> = keys::KEYS.iter().map(keys::Key::variable).collect();
            let name = &variables[index % variables.len()];
            let environment = Environment::from([(name.into(), value.into())]);
            problems_of("", &environment);
        }
    }
}
