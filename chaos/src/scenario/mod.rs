//! A disaster as data: the file, checked, and what can be asked of it.
//!
//! * `format`: the keys of a file; `values`: what is written as text.
//! * `shape`: holds a file against the schema; `check`: what no schema can say.
//! * `resolve`: the topology that a file describes.

mod check;
pub mod format;
mod problem;
mod resolve;
mod shape;
pub mod values;

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use holdfast_plan::{Topology, WorldKind};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::de::DeTable;

use crate::drill::DrillFile;

pub use format::File;
pub use problem::{Problem, Problems};
pub(crate) use resolve::{base_links, clock, device_named, membership, nat_named};

pub(crate) use problem::Finding;

/// The longest file, bytes: a regression with a thousand faults has a tenth of it.
pub const FILE_LEN_MAX: usize = 1 << 20;
/// Most mistakes of syntax that are told: each makes others out of what comes after it.
const SYNTAX_MAX: usize = 3;
/// Convergence without `converge_within`.
pub const CONVERGE_WITHIN_DEFAULT: Duration = Duration::from_secs(30);
/// Budgets without `seeds`, by world: what fits a test run.
const SEEDS_DEFAULT: [(WorldKind, u64); 3] = [
    (WorldKind::Core, 200),
    (WorldKind::Turmoil, 5),
    (WorldKind::Kernel, 1),
];

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

/// A scenario without a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    file: File,
    topology: Topology,
    digest: String,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file_name: &str, text: &str) -> Result<Scenario, Problems> {
        let file = parse_as(file_name, text, check::counts)?;
        let scenario = Scenario::of(resolve::counted(file));
        let findings = check::check(&scenario, file_name);
        if findings.is_empty() {
            return Ok(scenario);
        }
        let (table, _) = DeTable::parse_recoverable(text);
        Err(problem::place(file_name, text, table.get_ref(), findings))
    }

    /// Reads a scenario's file.
    ///
    /// # Errors
    /// When it cannot be read, or everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Scenario, LoadError> {
        let file = path.display().to_string();
        match read(path) {
            Ok(text) => Ok(Scenario::parse(&file, &text)?),
            Err(source) => Err(LoadError::File { file, source }),
        }
    }

    /// A scenario of a file that was made, or read and not checked yet.
    pub(crate) fn of(file: File) -> Scenario {
        let mut scenario = Scenario {
            topology: resolve::topology(&file),
            digest: String::new(),
            file,
        };
        scenario.digest = digest(&scenario.to_toml());
        scenario
    }

    /// What the file says.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Who is where at the start.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Short hexadecimal digest of what the file says; comments and layout do not count.
    #[must_use]
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// A file that reads as this scenario.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.file).expect("a format of tables, texts and whole numbers")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// What it is about, in a sentence.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.file.description
    }

    /// Where it is played.
    #[must_use]
    pub fn worlds(&self) -> &[WorldKind] {
        &self.file.worlds
    }

    /// How long it is at most.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.file.duration.0
    }

    /// The seeds of its budget in a world; empty when it is not played there.
    #[must_use]
    pub fn seeds(&self, world: WorldKind) -> Range<u64> {
        if !self.file.worlds.contains(&world) {
            return 0..0;
        }
        if let Some(seed) = self.file.seed {
            return seed..seed + 1;
        }
        let given = match world {
            WorldKind::Core => self.file.seeds.core,
            WorldKind::Turmoil => self.file.seeds.turmoil,
            WorldKind::Kernel => self.file.seeds.kernel,
        };
        let default = SEEDS_DEFAULT.iter().find(|(kind, _)| *kind == world);
        0..given.or(default.map(|(_, seeds)| *seeds)).unwrap_or(1)
    }

    /// How soon after the last fault everything has to be well.
    #[must_use]
    pub fn converge_within(&self) -> Duration {
        let given = self.file.expect.converge_within;
        given.map_or(CONVERGE_WITHIN_DEFAULT, |time| time.0)
    }
}

/// A file of some shape, checked by what no schema can say.
pub(crate) fn parse_as<T: JsonSchema + DeserializeOwned>(
    file_name: &str,
    text: &str,
    check: impl FnOnce(&T) -> Vec<Finding>,
) -> Result<T, Problems> {
    let nothing = DeTable::new();
    if text.len() > FILE_LEN_MAX {
        let message = format!("longer than a scenario may be, {FILE_LEN_MAX} bytes");
        let findings = vec![Finding::new("", message)];
        return Err(problem::place(file_name, text, &nothing, findings));
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let finding = |error: &toml::de::Error| {
            let span = error.span().unwrap_or(0..0);
            Finding::new("", error.message().trim()).at(span)
        };
        let findings = errors.iter().take(SYNTAX_MAX).map(finding).collect();
        return Err(problem::place(file_name, text, &nothing, findings));
    }
    let root = table.get_ref();
    let fail = |findings| Err(problem::place(file_name, text, root, findings));
    let findings = shape::check(&shape::schema::<T>(), root);
    if !findings.is_empty() {
        return fail(findings);
    }
    let file: T = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            return fail(vec![Finding::new("", error.message().trim()).at(span)]);
        }
    };
    let findings = check(&file);
    match findings.is_empty() {
        true => Ok(file),
        false => fail(findings),
    }
}

/// A file's text, or one byte more of it than a scenario may have.
#[expect(clippy::disallowed_types, reason = "the one place that reads a file")]
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > FILE_LEN_MAX {
        // Cut anywhere, it may be no text, and is refused for its length all the same.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    let text = String::from_utf8(bytes).map_err(|error| error.utf8_error());
    text.map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// FNV-1a: for telling files apart, not against malice.
pub(crate) fn digest(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The JSON schema of scenario files, pretty-printed: of drills, where there is `[drill]`, else of
/// meshes and slots.
#[must_use]
pub fn json_schema() -> String {
    let schema = serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Scenario",
        "if": { "anyOf": [{ "required": ["drill"] }, { "required": ["database"] }] },
        "then": shape::schema::<DrillFile>(),
        "else": shape::schema::<File>(),
    });
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    text.push('\n');
    text
}
