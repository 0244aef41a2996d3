//! A complete configuration file with every key, written from the table of keys.

use std::fmt::Write;

use super::keys::{Form, Key, MESH, of_member};

/// Keys of a plain node that a member learns, and that its file does not have.
const LEARNT: [&str; 4] = ["id", "vip", "cluster_secret_file", "key_file"];

/// What a member's file says where a plain node's says something else.
const OF_MEMBER: [(&str, &str); 4] = [
    (
        "allow",
        "[[allow]]\nport = 5432\n\n[[allow]]\nport = 8008\n\n[[allow]]\nport = 8300\n\n[[allow]]\nport = 8301\nudp = true",
    ),
    (
        "forward",
        "[[forward]]\nport = 5432\n\n[[forward]]\nport = 8008\n\n[[forward]]\nport = 8301\nudp = true",
    ),
    (
        "turn",
        "[[turn]]\nurl = \"turn:203.0.113.10:3478?transport=udp\"\n\n\
         [[turn]]\nurl = \"turn:203.0.113.10:3478?transport=tcp\"",
    ),
    (
        "peers",
        "[[peers]]\nid = \"coordinator-1\"\nvip = 1\n\n[[peers]]\nid = \"worker-4\"\nvip = 4\n\n\
         [[peers]]\nid = \"worker-5\"\nvip = 5",
    ),
];

const ENVIRONMENT: &str = "#\n\
     # Every key is also an environment variable, named with it below; the environment\n\
     # wins over this file. What is commented out shows an example, or has the value\n\
     # shown as its default. `holdfast config check FILE` explains every problem.\n";

/// The file that `holdfast config example` prints.
pub fn example() -> String {
    let title = format!("# Holdfast: configuration of one node.\n{ENVIRONMENT}");
    write(title, MESH.iter(), |_| None)
}

/// The file that `holdfast config example --sidecar` prints.
pub fn example_of_member() -> String {
    let title = format!(
        "# Holdfast: configuration of a member of a cluster (`holdfast sidecar`).\n\
         #\n\
         # Its name among the peers is ROLE-ORDINAL. Its key and the TURN secret are derived,\n\
         # and written to `secrets_dir`, unless HOLDFAST_SECRET_CLUSTER_SECRET and\n\
         # HOLDFAST_SECRET_TURN_SECRET give them.\n{ENVIRONMENT}"
    );
    let mut keys: Vec<&Key> = of_member().chain(MESH).collect();
    keys.retain(|key| !LEARNT.contains(&key.name));
    // As TOML needs it: what is in no section first, and tables last.
    keys.sort_by_key(|key| match (key.form, key.split().0) {
        (Form::Tables(_), _) => 2,
        (_, Some(_)) => 1,
        (_, None) => 0,
    });
    let instead = |key: &Key| {
        let found = OF_MEMBER.iter().find(|(name, _)| *name == key.name);
        found.map(|(_, example)| *example)
    };
    write(title, keys.into_iter(), instead)
}

fn write<'a>(
    title: String,
    keys: impl Iterator<Item = &'a Key>,
    instead: impl Fn(&Key) -> Option<&'static str>,
) -> String {
    let mut out = title;
    let mut section = None;
    for key in keys {
        let (in_section, name) = key.split();
        if in_section != section && in_section.is_some() {
            section = in_section;
            let _ = write!(out, "\n[{}]\n", section.unwrap_or_default());
        }
        let _ = write!(out, "\n{}", describe(key));
        out.push_str(&assignment(key, name, instead(key).unwrap_or(key.example)));
    }
    out
}

fn describe(key: &Key) -> String {
    let mut out = String::new();
    for line in key.help.lines() {
        let _ = writeln!(out, "# {line}");
    }
    let form = match key.form {
        Form::Text | Form::Integer | Form::Truth => "",
        Form::Texts => ", with commas between the items",
        Form::Tables(_) => ", a JSON list",
        Form::Map => ", a JSON object",
    };
    let _ = writeln!(out, "# Environment: {}{form}", key.variable());
    if let (Some(default), false) = (key.default, key.example.is_empty()) {
        let _ = writeln!(out, "# Default: {default}");
    }
    out
}

fn assignment(key: &Key, name: &str, example: &str) -> String {
    let text = match (key.form, key.default, example) {
        (Form::Tables(_), _, example) => format!("{example}\n"),
        (_, Some(default), "") => format!("{name} = {default}\n"),
        (_, _, example) => format!("{name} = {example}\n"),
    };
    match key.optional {
        true => text
            .lines()
            .map(|line| match line {
                "" => "\n".to_owned(),
                line => format!("#{line}\n"),
            })
            .collect(),
        false => text,
    }
}
