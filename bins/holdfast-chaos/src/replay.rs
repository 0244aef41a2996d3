//! `replay`: one seed, told in full.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use holdfast_chaos::{Run, Scenario, run_seed, verify_replay};
use holdfast_plan::{TraceMode, WorldKind};

use crate::cli::ReplayArgs;
use crate::output::{Tone, length, print, toned};
use crate::{BadInput, find, load, page, rows, run, story, world_of};

/// Play it, tell it, write what was asked for.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let name = args.scenario.as_deref().expect("one of two is required");
    let seed = args.seed.expect("required with a scenario");
    refuse_one_file_for_both(args)?;
    let file = find::one(name)?;
    let scenario = load(&file)?;
    let world = world_of(&scenario, args.world)?;
    if args.trace_digest {
        let (digest, lines) = verify_replay(&scenario, world, seed)?;
        print(&format!("{digest:016x} {lines}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let commit = run::commit_or_none();
    warn_of_changes(args, &scenario, &commit);
    if args.canary {
        canary(&file, &scenario, world, seed)?;
    }
    let mode = match args.trace.is_some() || args.html.is_some() {
        true => TraceMode::Full,
        false => TraceMode::Off,
    };
    let run = run_seed(&scenario, world, seed, mode, args.mutant);
    print(&story::of(&run))?;
    print(&verdict(&scenario, &run, &commit))?;
    let written = write(args, &scenario, &run, &commit);
    match (rows::gravest(&run), written) {
        // That the run failed says more than that a file cannot be written.
        (Some(class), written) => {
            if let Err(error) = written {
                eprintln!("error: {error:#}");
            }
            Ok(ExitCode::from(class.exit_code()))
        }
        (None, written) => written.map(|()| ExitCode::SUCCESS),
    }
}

/// The second would overwrite the first, under whatever name.
fn refuse_one_file_for_both(args: &ReplayArgs) -> Result<(), BadInput> {
    let (Some(trace), Some(html)) = (&args.trace, &args.html) else {
        return Ok(());
    };
    let place = |file: &Path| {
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(folder.join(file.file_name()?))
    };
    // A file that is there already may be a link to the other.
    let is_same = |place: &dyn Fn(&Path) -> Option<PathBuf>| {
        place(trace).is_some_and(|place_of_trace| Some(place_of_trace) == place(html))
    };
    if trace == html || is_same(&place) || is_same(&|file| file.canonicalize().ok()) {
        let name = html.display();
        return Err(BadInput(format!(
            "--trace and --html are one file, {name}: expected two"
        )));
    }
    Ok(())
}

fn warn_of_changes(args: &ReplayArgs, scenario: &Scenario, commit: &str) {
    let digest = scenario.digest();
    if let Some(was) = args.scenario_digest.as_ref().filter(|was| **was != digest) {
        eprintln!("warning: the scenario is {digest} now and was {was} then: its seeds are others");
    }
    let same = |was: &&String| was.trim_end_matches('+') == commit.trim_end_matches('+');
    if let Some(was) = args.commit.as_ref().filter(|was| !same(was)) {
        eprintln!("warning: this is commit {commit}; the seed failed on {was}");
    }
}

/// Twice in this process and in another one: the same trace, to the byte.
fn canary(file: &Path, scenario: &Scenario, world: WorldKind, seed: u64) -> anyhow::Result<()> {
    if world == WorldKind::Kernel {
        bail!("the kernel world is real: no two runs of it are the same");
    }
    let (digest, lines) = verify_replay(scenario, world, seed)
        .with_context(|| format!("two runs of seed {seed} in one process part"))?;
    let here = format!("{digest:016x} {lines}");
    let program = std::env::current_exe().context("cannot find this program")?;
    let output = Command::new(program)
        .arg("replay")
        .arg(file)
        .args(["--world", world.as_str(), "--seed", &seed.to_string()])
        .arg("--trace-digest")
        .output()
        .context("cannot start another process")?;
    let there = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || there != here {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "another process played seed {seed} differently: {here} here, {there:?} there {said}"
        );
    }
    print(&format!(
        "played three times, in two processes: {lines} lines, digest {digest:016x}\n\n"
    ))?;
    Ok(())
}

fn write(args: &ReplayArgs, scenario: &Scenario, run: &Run, commit: &str) -> anyhow::Result<()> {
    let page = page::of(scenario, run, commit);
    // The same lines in both, so that the page's numbers are those of the trace.
    let header = page.header_line();
    let lines = || std::iter::once(&header).chain(run.journal.trace.lines());
    if let Some(file) = &args.trace {
        let text: String = lines().flat_map(|line| [line, "\n"]).collect();
        write_file(file, &text)?;
    }
    if let Some(file) = &args.html {
        write_file(file, &page.render(lines())?)?;
    }
    Ok(())
}

fn write_file(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn verdict(scenario: &Scenario, run: &Run, commit: &str) -> String {
    let took = format!(
        "{} simulated in {}",
        length(run.simulated),
        length(run.wall)
    );
    match rows::failure(scenario, run, commit) {
        Some(failure) => format!("\n{}({took})\n", failure.text()),
        None => {
            let recovery = run
                .verdict
                .recovery
                .map(|t| format!(", recovered in {}", length(t)));
            let recovery = recovery.unwrap_or_default();
            format!("\n{}{recovery} ({took})\n", toned("held", Tone::Good))
        }
    }
}
