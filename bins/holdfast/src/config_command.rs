//! `holdfast config`: check a configuration, print an example.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::EXIT_BAD_CONFIG;
use crate::cli::ConfigCommand;
use crate::config::{self, Outcome, Settings, problem};
use crate::output::{self, Table};

/// Run it.
pub fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Example => {
            output::print(&config::example())?;
            Ok(ExitCode::SUCCESS)
        }
        ConfigCommand::Check {
            file,
            json,
            offline,
        } => check(file, json, offline),
    }
}

/// The file that a command was given, or the environment names.
pub fn chosen_file(given: Option<PathBuf>) -> Option<PathBuf> {
    let named = || std::env::var_os("HOLDFAST_CONFIG").filter(|name| !name.is_empty());
    given.or_else(|| named().map(PathBuf::from))
}

/// Read the configuration of a role, or say what is wrong with it.
pub fn load(file: Option<&Path>) -> Result<Settings, ExitCode> {
    let outcome = config::load(file, &config::environment());
    if !outcome.problems.is_empty() {
        eprint!("{}", problem::render(&outcome.problems));
    }
    outcome
        .settings
        .ok_or_else(|| ExitCode::from(EXIT_BAD_CONFIG))
}

fn check(file: Option<PathBuf>, json: bool, offline: bool) -> anyhow::Result<ExitCode> {
    let file = chosen_file(file);
    let mut outcome = config::load(file.as_deref(), &config::environment());
    if let (Some(settings), false) = (&outcome.settings, offline) {
        outcome.problems.extend(config::unresolvable(settings));
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
    let Some(settings) = &outcome.settings else {
        return out;
    };
    let name = file.map_or_else(
        || "the environment".to_owned(),
        |file| file.display().to_string(),
    );
    out.push_str(&format!("{name} is ready to use\n"));
    let mut table = Table::default();
    for (label, value) in settings.summary() {
        table.row([format!("  {label}"), value]);
    }
    out.push_str(&table.render());
    out
}

fn in_json(outcome: &Outcome) -> serde_json::Value {
    let ok = !problem::any_error(&outcome.problems);
    let summary = outcome.settings.as_ref().filter(|_| ok).map(|settings| {
        let fields = settings.summary().into_iter();
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
