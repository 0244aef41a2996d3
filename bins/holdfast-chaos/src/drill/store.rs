//! Numbers of kernel rounds, below the folder of scenarios.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use holdfast_chaos::DrillScenario;
use holdfast_chaos::drill::measured::Measurement;
use holdfast_plan::drill::Transport;

use crate::find;

/// The folder, in the one of scenarios.
const FOLDER: &str = "measured";
/// The longest file, bytes: ten thousand rounds have half of it.
const LEN_MAX: u64 = 16 << 20;

fn file(scenario: &str, transport: Transport) -> anyhow::Result<PathBuf> {
    let ending = match transport {
        Transport::Mesh => "json",
        Transport::Loopback => "loopback.json",
    };
    Ok(find::folder()?
        .join(FOLDER)
        .join(format!("{scenario}.{ending}")))
}

/// What was measured of a drill; `None` if nothing was.
pub fn read(scenario: &str, transport: Transport) -> anyhow::Result<Option<Measurement>> {
    let file = file(scenario, transport)?;
    let name = || file.display().to_string();
    let length = match std::fs::metadata(&file) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(name),
    };
    if length > LEN_MAX {
        return Err(anyhow!("{}: {length} bytes, at most {LEN_MAX}", name()));
    }
    let text = std::fs::read_to_string(&file).with_context(name)?;
    let read = Measurement::from_json(&text);
    Ok(Some(read.map_err(|error| anyhow!("{}: {error}", name()))?))
}

/// What was measured of the drill as it is now, to add to; what was measured of another is gone.
pub fn read_or_new(drill: &DrillScenario, transport: Transport) -> anyhow::Result<Measurement> {
    let found = read(drill.name(), transport)?;
    let same = found.filter(|found| found.digest == drill.played());
    Ok(same.unwrap_or_else(|| Measurement::new(drill, transport)))
}

/// Keeps it.
pub fn write(measured: &Measurement) -> anyhow::Result<()> {
    let file = file(&measured.scenario, measured.transport)?;
    let name = || file.display().to_string();
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(name)?;
    }
    // Another one beside it first: a half file would be worse than an old one.
    let beside = file.with_extension("new");
    std::fs::write(&beside, measured.to_json()).with_context(name)?;
    std::fs::rename(&beside, &file).with_context(name)
}
