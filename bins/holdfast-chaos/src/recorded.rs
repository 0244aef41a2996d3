//! `replay --recorded`: the page of a trace that somebody recorded.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use crate::BadInput;
use crate::cli::ReplayArgs;

/// Beside the trace, unless told otherwise.
const PAGE_EXTENSION: &str = "html";
/// The longest trace that is read, bytes: a node's dump is a thousandth of it.
const TRACE_LEN_MAX: u64 = 1 << 30;

/// Read the trace and write the page.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let trace = args.recorded.as_deref().expect("asked for by the caller");
    let lines = read(trace)?;
    let page = holdfast_timeline::from_recorded(lines)
        .map_err(|error| BadInput(format!("{}: {error}", trace.display())))?;
    let html = match &args.html {
        Some(html) => html.clone(),
        None => trace.with_extension(PAGE_EXTENSION),
    };
    std::fs::write(&html, page).with_context(|| format!("cannot write {}", html.display()))?;
    crate::output::print(&format!("{}\n", html.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn read(trace: &Path) -> anyhow::Result<Vec<String>> {
    let bad = |what: String| BadInput(format!("{}: {what}", trace.display()));
    let file = File::open(trace).map_err(|error| bad(error.to_string()))?;
    let len = file.metadata().map_or(0, |about| about.len());
    if len > TRACE_LEN_MAX {
        return Err(bad(format!("{len} bytes; at most {TRACE_LEN_MAX} are read")).into());
    }
    // A pipe has no length to look at first.
    let file = file.take(TRACE_LEN_MAX);
    let lines: Result<Vec<String>, _> = BufReader::new(file).lines().collect();
    let lines = lines.map_err(|error| bad(error.to_string()))?;
    match lines.is_empty() {
        true => Err(bad("empty; expected a trace's lines".to_owned()).into()),
        false => Ok(lines),
    }
}
