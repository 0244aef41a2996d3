//! `search` and `shrink`: a failure, as small as it gets, in a file of its own.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use holdfast_chaos::{FailureClass, Shrunk, regression_file, replay_line};

use crate::cli::{SearchArgs, ShrinkArgs};
use crate::output::{Tone, at, count, number, print, toned};
use crate::{commit, find, load_named, progress, run, world_of};

/// Play new seeds until one fails; shrink it and keep it.
pub fn search(args: &SearchArgs) -> anyhow::Result<ExitCode> {
    let scenario = load_named(&args.scenario)?;
    let world = world_of(&scenario, args.world)?;
    let commit = run::commit_or_none();
    let from = args
        .from
        .unwrap_or_else(|| commit::first_fresh_seed(&commit));
    eprintln!(
        "{} in the {world} world, seeds from {from} on",
        scenario.name()
    );
    let limit = Duration::from_secs(args.minutes * 60);
    let bar = progress::seconds(limit, scenario.name());
    let begun = Instant::now();
    let played = RefCell::new(0_u64);
    let found = holdfast_chaos::search(
        &scenario,
        world,
        from,
        limit,
        run::threads(args.threads),
        &mut |_| {
            *played.borrow_mut() += 1;
            let seconds = begun.elapsed().as_secs_f64();
            let seeds = *played.borrow();
            bar.set_position(seconds as u64);
            let speed = number(seeds as f64 / seconds);
            bar.set_prefix(format!("{} seeds  {speed}/s", count(seeds)));
        },
        &mut |progress| bar.set_message(format!("{}: {progress}", scenario.name())),
    );
    bar.finish_and_clear();
    let speed = number(found.seeds as f64 / begun.elapsed().as_secs_f64());
    print(&format!(
        "{} seeds played, {speed} per second\n",
        count(found.seeds)
    ))?;
    if let (Some(seed), None) = (found.failed, &found.found) {
        let line = replay_line(&scenario, world, seed, &commit);
        print(&format!(
            "seed {seed} failed, and did not again\n  {line}\n"
        ))?;
        return Ok(ExitCode::from(FailureClass::Harness.exit_code()));
    }
    let Some(shrunk) = found.found else {
        print(&format!("{}: no seed failed\n", toned("held", Tone::Good)))?;
        return Ok(ExitCode::SUCCESS);
    };
    keep(&shrunk, &commit, None)?;
    Ok(ExitCode::from(shrunk.violation.class.exit_code()))
}

/// Shrink a seed that is known to fail, and keep it.
pub fn shrink(args: &ShrinkArgs) -> anyhow::Result<ExitCode> {
    let scenario = load_named(&args.scenario)?;
    let world = world_of(&scenario, args.world)?;
    let commit = run::commit_or_none();
    let limit = Duration::from_secs(args.minutes * 60);
    let bar = progress::seconds(limit, scenario.name());
    let begun = Instant::now();
    let shrunk = holdfast_chaos::shrink(&scenario, world, args.seed, limit, &mut |progress| {
        bar.set_position(begun.elapsed().as_secs());
        bar.set_prefix(progress.to_owned());
    });
    bar.finish_and_clear();
    let Some(shrunk) = shrunk else {
        let held = toned("held", Tone::Good);
        print(&format!(
            "{held}: seed {} does not fail in the {world} world\n",
            args.seed
        ))?;
        return Ok(ExitCode::SUCCESS);
    };
    keep(&shrunk, &commit, args.out.as_deref())?;
    Ok(ExitCode::from(shrunk.violation.class.exit_code()))
}

/// Write it, and tell what it is.
fn keep(shrunk: &Shrunk, commit: &str, out: Option<&Path>) -> anyhow::Result<()> {
    let violation = &shrunk.violation;
    let head = format!("{}: {}", violation.class, violation.oracle);
    print(&format!(
        "{} at {}: {}\n  {}\n",
        toned(&head, Tone::Bad),
        at(violation.at),
        violation.detail,
        replay_line(&shrunk.scenario, shrunk.world, shrunk.seed, commit),
    ))?;
    let (name, text) = regression_file(shrunk, commit);
    let file = match out {
        Some(file) => file.to_owned(),
        None => regression_path(&name)?,
    };
    write_new(&file, &text)?;
    print(&format!(
        "  from {} with {} faults to {} in {} runs: {}\n",
        shrunk.origin,
        shrunk.faults_before,
        shrunk.faults,
        count(shrunk.runs),
        file.display()
    ))?;
    Ok(())
}

fn regression_path(name: &str) -> anyhow::Result<PathBuf> {
    // Of the library's making, and yet a path: only its last part counts.
    let name = Path::new(name)
        .file_name()
        .context("a regression has a name")?;
    let folder = find::folder()?.join(find::REGRESSIONS);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.join(name))
}

/// What is there already is somebody's; only the same content may be written again.
fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    if std::fs::read_to_string(file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", file.display()))
}
