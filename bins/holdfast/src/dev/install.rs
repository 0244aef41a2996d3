//! What is missing on the machine is installed by the script that comes with the sources.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::state::own_program;
use crate::output;

/// In the folder of the sources, below which the program was built.
const SCRIPT: &str = "deploy/setup.sh";

/// What `find` finds, if need be after the script has run. Where there are no sources the error is
/// `find`'s own.
pub fn found_or_installed<T>(find: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let missing = match find() {
        Ok(found) => return Ok(found),
        Err(missing) => missing,
    };
    let Some(script) = script_of(&own_program()?) else {
        return Err(missing);
    };
    let script_name = script.display();
    output::print(&format!("{missing:#}\n{script_name} installs it\n"))?;
    let ran = Command::new(&script).arg("demo").status();
    let ran = ran.with_context(|| format!("cannot run {script_name}"))?;
    match ran.success() {
        true => find(),
        false => Err(missing.context(format!("{script_name} failed"))),
    }
}

fn script_of(program: &Path) -> Option<PathBuf> {
    let mut scripts = program.ancestors().skip(1).map(|above| above.join(SCRIPT));
    scripts.find(|script| script.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_that_of_the_sources_that_the_program_was_built_in() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let built = sources.join("target/release/holdfast");
        assert_eq!(script_of(&built), Some(sources.join(SCRIPT)));
        assert_eq!(script_of(Path::new("/usr/bin/holdfast")), None);
    }
}
