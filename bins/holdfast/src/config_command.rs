//! `holdfast config`: check a configuration, print an example.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::BadConfig;
use crate::EXIT_BAD_CONFIG;
use crate::cli::{ConfigCommand, ShowCommand};
use crate::config::member::{Strict, patroni};
use crate::config::{self, Member, Outcome, Purpose, Settings, problem};
use crate::output::{self, Table};

/// Run it.
pub fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Example { sidecar } => {
            output::print(&match sidecar {
                true => config::example_of_member(),
                false => config::example(),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        ConfigCommand::Check {
            file,
            json,
            offline,
        } => check(file, json, offline),
        ConfigCommand::Show {
            what: ShowCommand::Patroni(args),
        } => show_patroni(args.config),
    }
}

/// The file that a command was given, or the environment names.
pub fn chosen_file(given: Option<PathBuf>) -> Option<PathBuf> {
    let named = || std::env::var_os("HOLDFAST_CONFIG").filter(|name| !name.is_empty());
    given.or_else(|| named().map(PathBuf::from))
}

/// Read the configuration of a plain node, or say what is wrong with it.
pub fn load(file: Option<&Path>) -> Result<Settings, ExitCode> {
    let outcome = tell(config::load(file, &config::environment(), Purpose::Mesh));
    outcome
        .settings
        .ok_or_else(|| ExitCode::from(EXIT_BAD_CONFIG))
}

/// Read the configuration of a member, or say what is wrong with it.
pub fn load_member(file: Option<&Path>, strict: Strict) -> Result<(Member, Settings), ExitCode> {
    let purpose = Purpose::Member(strict);
    let outcome = tell(config::load(file, &config::environment(), purpose));
    let both = outcome.member.zip(outcome.settings);
    both.ok_or_else(|| ExitCode::from(EXIT_BAD_CONFIG))
}

fn tell(outcome: Outcome) -> Outcome {
    if !outcome.problems.is_empty() {
        eprint!("{}", problem::render(&outcome.problems));
    }
    outcome
}

fn check(file: Option<PathBuf>, json: bool, offline: bool) -> anyhow::Result<ExitCode> {
    let file = chosen_file(file);
    let mut outcome = config::load(file.as_deref(), &config::environment(), Purpose::Check);
    if let (Some(settings), false) = (&outcome.settings, offline) {
        let found = config::unresolvable(settings, outcome.member.as_ref());
        outcome.problems.extend(found);
    }
    let text = match json {
        true => format!("{:#}\n", in_json(&outcome)),
        false => in_words(file.as_deref(), &outcome),
    };
    output::print(&text)?;
    match problem::any_error(&outcome.problems) {
        true => Ok(ExitCode::from(EXIT_BAD_CONFIG)),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn in_words(file: Option<&Path>, outcome: &Outcome) -> String {
    let mut out = String::new();
    if !outcome.problems.is_empty() {
        out.push_str(&problem::render(&outcome.problems));
    }
    if problem::any_error(&outcome.problems) {
        return out;
    }
    let name = file.map_or_else(
        || "the environment".to_owned(),
        |file| file.display().to_string(),
    );
    out.push_str(&format!("{name} is ready to use\n"));
    let mut table = Table::default();
    for (label, value) in summary(outcome) {
        table.row([format!("  {label}"), value]);
    }
    out.push_str(&table.render());
    out
}

/// What Patroni would be told by this machine, with what it does not know yet named.
fn show_patroni(file: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let file = chosen_file(file);
    let (member, _) = match load_member(file.as_deref(), Strict::No) {
        Ok(both) => both,
        Err(code) => return Ok(code),
    };
    let shown = patroni::show(&member).ok_or_else(|| {
        let why = match member.role.is_coordinator() {
            true => "coordinators run no database",
            false => "no section [postgres] says that a database is run",
        };
        BadConfig(format!("there is no configuration of Patroni: {why}"))
    })?;
    output::print(&shown?)?;
    Ok(ExitCode::SUCCESS)
}

/// What there is to know of a configuration that is right.
fn summary(outcome: &Outcome) -> Vec<(&'static str, String)> {
    match (&outcome.member, &outcome.settings) {
        (Some(member), Some(node)) => {
            let mut fields = member.summary();
            fields.extend(node.summary_of_member());
            fields
        }
        (None, Some(node)) => node.summary(),
        (_, None) => Vec::new(),
    }
}

fn in_json(outcome: &Outcome) -> serde_json::Value {
    let ok = !problem::any_error(&outcome.problems);
    let summary = ok.then(|| {
        let fields = summary(outcome).into_iter();
        fields
            .map(|(label, value)| (label.replace(' ', "_"), json!(value)))
            .collect::<serde_json::Map<_, _>>()
    });
    json!({
        "ok": ok,
        "problems": problem::to_json(&outcome.problems),
        "summary": summary,
    })
}
