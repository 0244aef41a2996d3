//! A complete configuration file with every key, written from the table of keys.

use std::fmt::Write;

use super::keys::{Form, KEYS, Key};

/// The file that `holdfast config example` prints.
pub fn example() -> String {
    let mut out = String::from(
        "# Holdfast: configuration of one node.\n\
         #\n\
         # Every key is also an environment variable, named with it below; the environment\n\
         # wins over this file. What is commented out shows an example, or has the value\n\
         # shown as its default. `holdfast config check FILE` explains every problem.\n",
    );
    let mut section = None;
    for key in KEYS {
        let (in_section, name) = key.split();
        if in_section != section && in_section.is_some() {
            section = in_section;
            let _ = write!(out, "\n[{}]\n", section.unwrap_or_default());
        }
        let _ = write!(out, "\n{}", describe(key));
        out.push_str(&assignment(key, name));
    }
    out
}

fn describe(key: &Key) -> String {
    let mut out = String::new();
    for line in key.help.lines() {
        let _ = writeln!(out, "# {line}");
    }
    let form = match key.form {
        Form::Text | Form::Integer => "",
        Form::Texts => ", with commas between the items",
        Form::Tables(_) => ", a JSON list",
    };
    let _ = writeln!(out, "# Environment: {}{form}", key.variable());
    if let (Some(default), false) = (key.default, key.example.is_empty()) {
        let _ = writeln!(out, "# Default: {default}");
    }
    out
}

fn assignment(key: &Key, name: &str) -> String {
    let text = match (key.form, key.default, key.example) {
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
