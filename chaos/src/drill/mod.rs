//! Drills: disasters with a database in them.
//!
//! ```text
//! scenarios/*.toml ──load, check──> DrillScenario ──> Drill ──world, seeds──> Rounds ──judge──> verdicts
//!                                                                                 └──────> statistics
//! ```
//!
//! * `format`: the keys of a file; `check`: what no schema can say.
//! * [`play`]: rounds in a world. [`mod@judge`]: what must hold of each.
//! * [`stats`]: how long what took, over many rounds; [`measured`]: such numbers, kept and compared;
//!   [`mod@reference`]: those of others.

mod check;
mod format;
pub mod judge;
pub mod measured;
pub mod play;
pub mod reference;
pub mod stats;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use holdfast_plan::WorldKind;
use holdfast_plan::drill::{Blow, Database, Drill, Heal, Transport, Work};

use crate::scenario::{LoadError, Problems, Scenario, digest, parse_as, read};

use format::{BlowKind, ExpectDrill, Rounds};
pub use format::{DrillFile, Outside};
pub use judge::{DrillVerdict, DrillViolation, judge};

/// PostgreSQL's own, where we set another: what drills measure is what people run without us.
const STOCK_PARAMETERS: [(&str, &str); 1] = [("wal_retrieve_retry_interval", "5s")];
/// Rounds in the core world without `seeds`.
const ROUNDS_CORE: u64 = 200;
/// Rounds in the kernel world without `seeds`: what a figure needs at least.
const ROUNDS_KERNEL: u64 = 10;

/// A drill without a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct DrillScenario {
    file: DrillFile,
    digest: String,
    played: String,
}

/// What a file of scenarios holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Disaster {
    /// A mesh, or slots.
    Scenario(Box<Scenario>),
    /// A database.
    Drill(Box<DrillScenario>),
}

impl Disaster {
    /// Reads a file, whichever it is: what has `[drill]` or `[database]` is a drill.
    ///
    /// # Errors
    /// When it cannot be read, or everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Disaster, LoadError> {
        let file = path.display().to_string();
        let text = read(path).map_err(|source| LoadError::File {
            file: file.clone(),
            source,
        })?;
        Ok(Disaster::parse(&file, &text)?)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &str, text: &str) -> Result<Disaster, Problems> {
        match is_drill(text) {
            true => DrillScenario::parse(file, text)
                .map(Box::new)
                .map(Disaster::Drill),
            false => Scenario::parse(file, text)
                .map(Box::new)
                .map(Disaster::Scenario),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Disaster::Scenario(scenario) => scenario.name(),
            Disaster::Drill(drill) => drill.name(),
        }
    }
}

/// Whether a text is meant to be a drill, right or wrong.
fn is_drill(text: &str) -> bool {
    let (table, _) = toml::de::DeTable::parse_recoverable(text);
    let root = table.get_ref();
    root.get("drill").is_some() || root.get("database").is_some()
}

fn played(file: &DrillFile) -> String {
    let played = DrillFile {
        description: String::new(),
        seeds: Rounds::default(),
        expect: ExpectDrill::default(),
        ..file.clone()
    };
    digest(&toml::to_string(&played).expect("a format of tables, texts and whole numbers"))
}

impl DrillScenario {
    /// Reads a drill.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file_name: &str, text: &str) -> Result<DrillScenario, Problems> {
        let file: DrillFile = parse_as(file_name, text, |file| check::check(file, file_name))?;
        let written = toml::to_string(&file).expect("a format of tables, texts and whole numbers");
        let played = played(&file);
        let digest = digest(&written);
        Ok(DrillScenario {
            file,
            digest,
            played,
        })
    }

    /// Reads a drill's file.
    ///
    /// # Errors
    /// When it cannot be read, or everything that is wrong with it.
    pub fn load(path: &Path) -> Result<DrillScenario, LoadError> {
        let file = path.display().to_string();
        match read(path) {
            Ok(text) => Ok(DrillScenario::parse(&file, &text)?),
            Err(source) => Err(LoadError::File { file, source }),
        }
    }

    /// What the file says.
    #[must_use]
    pub fn file(&self) -> &DrillFile {
        &self.file
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

    /// Short hexadecimal digest of what the file says; comments and layout do not count.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The same of what is played: what is said or expected of it changes no measurement.
    #[must_use]
    pub fn played(&self) -> &str {
        &self.played
    }

    /// The seeds of its rounds in a world; empty when it is not played there.
    #[must_use]
    pub fn seeds(&self, world: WorldKind) -> Range<u64> {
        let given = match world {
            WorldKind::Core => self.file.seeds.core.unwrap_or(ROUNDS_CORE),
            WorldKind::Kernel => self.file.seeds.kernel.unwrap_or(ROUNDS_KERNEL),
            WorldKind::Turmoil => 0,
        };
        match self.file.worlds.contains(&world) {
            true => 0..given,
            false => 0..0,
        }
    }

    /// How long a round may take after its blow, at most.
    #[must_use]
    pub fn round_max(&self) -> Duration {
        let drill = self.drill();
        let heal = match drill.heal_after {
            Heal::After(after) | Heal::AfterWrite(after) => after,
        };
        drill.write_bound + heal + drill.whole_bound
    }

    /// What is played.
    #[must_use]
    pub fn drill(&self) -> Drill {
        let (database, drill) = (&self.file.database, &self.file.drill);
        let own = database.parameters.iter();
        let own = own.map(|(name, value)| (name.clone(), value.clone()));
        let stock = STOCK_PARAMETERS
            .iter()
            .filter(|(name, _)| !database.parameters.contains_key(*name));
        let stock = stock.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Drill {
            name: self.file.name.clone(),
            database: Database {
                ttl: database.ttl.0,
                loop_wait: database.loop_wait.0,
                retry_timeout: database.retry_timeout.0,
                synchronous: database.synchronous,
                fill: database.fill.0,
                parameters: stock.chain(own).collect(),
            },
            transport: drill.transport,
            link: drill.link.map(|link| link.to_string()),
            workers: drill.workers,
            coordinators: drill.coordinators,
            work: Work {
                writers: drill.writers,
                every: drill.every.0,
                deadline: drill.deadline.0,
            },
            blow: self.blow(),
            heal_after: match (drill.heal_after, drill.heal_after_write) {
                (_, Some(after)) => Heal::AfterWrite(after.0),
                (after, None) => Heal::After(after.unwrap_or_default().0),
            },
            write_bound: drill.write_bound.0,
            whole_bound: drill.whole_bound.0,
        }
    }

    /// The same over another transport.
    #[must_use]
    pub fn drill_over(&self, transport: Transport) -> Drill {
        Drill {
            transport,
            ..self.drill()
        }
    }

    /// The span that says most of it.
    #[must_use]
    pub fn headline(&self) -> &'static str {
        let expect = &self.file.expect;
        match (expect.failovers, self.file.drill.blow.kind) {
            (_, BlowKind::Switchover | BlowKind::RollingRestart) => stats::WRITE_GAP,
            (Some(0), BlowKind::Wipe) => stats::HEALED_TO_BACK,
            (Some(0), _) => stats::WRITE_GAP,
            _ => stats::RTO,
        }
    }

    /// Whether the model is known to be apart from what was recorded over the mesh on that span.
    #[must_use]
    pub fn is_apart(&self, span: &str) -> bool {
        self.file.expect.apart.iter().any(|apart| apart == span)
    }

    fn blow(&self) -> Blow {
        check::blow(&self.file.drill.blow).expect("a checked file has what its blow needs")
    }
}
