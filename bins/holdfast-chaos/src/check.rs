//! `check`: every problem of scenario files.

use std::path::PathBuf;
use std::process::ExitCode;

use holdfast_chaos::{Disaster, LoadError, json_schema};
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::output::{print, print_json};
use crate::{EXIT_BAD_INPUT, find};

/// One problem, as JSON. Without a line it is of the file.
#[derive(Serialize)]
struct Found {
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    key: String,
    message: String,
}

/// Check the files, or print the schema.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    if args.schema {
        let schema = json_schema();
        print(&format!("{}\n", schema.trim_end()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let files: Vec<PathBuf> = if args.scenarios.is_empty() {
        find::all()?
    } else {
        let named = args.scenarios.iter().map(|name| find::one(name));
        named.collect::<Result<_, _>>()?
    };
    let (mut lines, mut found) = (String::new(), Vec::new());
    for file in &files {
        match Disaster::load(file) {
            Ok(_) => {}
            Err(LoadError::Problems(problems)) => {
                for problem in problems.iter() {
                    lines.push_str(&format!("{problem}\n"));
                    found.push(Found {
                        file: problem.file.clone(),
                        line: Some(problem.line),
                        column: Some(problem.column),
                        key: problem.key.clone(),
                        message: problem.message.clone(),
                    });
                }
            }
            Err(error @ LoadError::File { .. }) => {
                lines.push_str(&format!("{error}\n"));
                found.push(Found {
                    file: file.display().to_string(),
                    line: None,
                    column: None,
                    key: String::new(),
                    message: error.to_string(),
                });
            }
        }
    }
    if args.json {
        print_json(&found)?;
    } else if found.is_empty() {
        print(&format!(
            "{} without a problem\n",
            counted(files.len(), "scenario")
        ))?;
    } else {
        print(&lines)?;
    }
    Ok(match found.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_BAD_INPUT),
    })
}

/// `1 seed`, `2 seeds`.
pub fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
