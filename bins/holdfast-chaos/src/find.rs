//! Where scenarios are.

use std::path::{Path, PathBuf};

use crate::BadInput;

/// The folder of scenarios, searched from the current one upwards.
const FOLDER: &str = "scenarios";
/// Failures that were found and shrunk, in the folder of scenarios.
pub const REGRESSIONS: &str = "regressions";
const EXTENSION: &str = "toml";
/// How alike two names are at least, for one to be meant by the other; 1 is the same.
const ALIKE_MIN: f64 = 0.7;
/// How many files a folder may have: more are no scenarios.
const FILES_MAX: usize = 10_000;

/// The folder of scenarios.
pub fn folder() -> Result<PathBuf, BadInput> {
    let here = std::env::current_dir();
    let here = here.map_err(|error| BadInput(format!("the current folder: {error}")))?;
    let mut folders = here.ancestors().map(|folder| folder.join(FOLDER));
    // A folder of that name may be a crate's module; one with scenarios has TOML in it.
    let found = folders.find(|folder| !files_in(folder).is_empty());
    found.ok_or_else(|| {
        let here = here.display();
        BadInput(format!(
            "no folder `{FOLDER}` with scenarios in {here} or above it: name a file instead"
        ))
    })
}

/// Every scenario, regressions last, each in order of name.
pub fn all() -> Result<Vec<PathBuf>, BadInput> {
    let folder = folder()?;
    let mut files = files_in(&folder);
    files.extend(files_in(&folder.join(REGRESSIONS)));
    Ok(files)
}

/// The file of a scenario, by its name or as a path.
pub fn one(name: &str) -> Result<PathBuf, BadInput> {
    let as_path = Path::new(name);
    if as_path.is_file() {
        return Ok(as_path.to_owned());
    }
    let is_path = name.contains('/') || as_path.extension().is_some_and(|e| e == EXTENSION);
    if is_path {
        return Err(BadInput(format!("there is no file {name}")));
    }
    let files = all()?;
    if let Some(found) = files.iter().find(|file| stem(file) == name) {
        return Ok(found.clone());
    }
    Err(BadInput(unknown(name, &files)))
}

/// The file of a scenario; if none has that name, those of all whose names go on from it.
pub fn family(name: &str) -> Result<Vec<PathBuf>, BadInput> {
    let alone = match one(name) {
        Ok(found) => return Ok(vec![found]),
        Err(unknown) => unknown,
    };
    let first = format!("{name}-");
    let mut files = all()?;
    files.retain(|file| stem(file).starts_with(&first));
    match files.is_empty() {
        true => Err(alone),
        false => Ok(files),
    }
}

fn unknown(name: &str, files: &[PathBuf]) -> String {
    let alike = |file: &&PathBuf| strsim::jaro_winkler(name, &stem(file));
    let best = files.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    match best.filter(|best| alike(best) >= ALIKE_MIN) {
        Some(best) => format!(
            "there is no scenario {name:?}: did you mean {:?}?",
            stem(best)
        ),
        None => format!("there is no scenario {name:?}: `holdfast-chaos list` shows all"),
    }
}

/// A scenario's name by its file.
pub fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let is_scenario = |path: &PathBuf| {
        let named = path.extension().is_some_and(|e| e == EXTENSION);
        named && path.file_name().is_some_and(|name| name != "Cargo.toml")
    };
    let paths = entries.take(FILES_MAX).filter_map(Result::ok);
    let mut files: Vec<PathBuf> = paths.map(|e| e.path()).filter(is_scenario).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_almost_right_is_suggested() {
        let files = ["path-flap", "roaming"].map(|name| PathBuf::from(format!("{name}.toml")));
        assert_eq!(
            unknown("path-flop", &files),
            "there is no scenario \"path-flop\": did you mean \"path-flap\"?"
        );
        assert!(unknown("zzz", &files).contains("`holdfast-chaos list`"));
    }
}
