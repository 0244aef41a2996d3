//! A disaster as data: the file, checked, and what can be asked of it.

use std::ops::Range;
use std::path::Path;

use holdfast_plan::{Plan, WorldKind};

/// Why a scenario could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("{file}: {source}")]
    File {
        /// Its name.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// What it says is wrong.
    #[error(transparent)]
    Problems(#[from] Problems),
}

/// One thing that is wrong with a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's name.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key, with the position in a list: `fault[2].at`. Empty when the text does not parse.
    pub key: String,
    /// What was found and what is expected.
    pub message: String,
}

/// Everything that is wrong with a scenario, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(Vec<Problem>);

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (file, line, column) = (&self.file, self.line, self.column);
        write!(f, "{file}:{line}:{column}: ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl Problems {
    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

/// A scenario without a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file_name: &str, text: &str) -> Result<Scenario, Problems> {
        let _ = (file_name, text);
        unimplemented!()
    }

    /// Reads a scenario's file.
    ///
    /// # Errors
    /// When it cannot be read, or everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Scenario, LoadError> {
        let _ = path;
        unimplemented!()
    }

    /// Everything drawn from a seed, for a world.
    #[must_use]
    pub fn plan(&self, seed: u64, world: WorldKind) -> Plan {
        let _ = (seed, world);
        unimplemented!()
    }

    /// Short hexadecimal digest of the file's text.
    #[must_use]
    pub fn digest(&self) -> String {
        unimplemented!()
    }

    /// A file that reads as this scenario.
    #[must_use]
    pub fn to_toml(&self) -> String {
        unimplemented!()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        unimplemented!()
    }

    /// What it is about, in a sentence.
    #[must_use]
    pub fn description(&self) -> &str {
        unimplemented!()
    }

    /// Where it is played, fastest first.
    #[must_use]
    pub fn worlds(&self) -> &[WorldKind] {
        unimplemented!()
    }

    /// The seeds of its budget in a world; empty when it is not played there.
    #[must_use]
    pub fn seeds(&self, world: WorldKind) -> Range<u64> {
        let _ = world;
        unimplemented!()
    }
}

/// The JSON schema of scenario files, pretty-printed.
#[must_use]
pub fn json_schema() -> String {
    unimplemented!()
}
