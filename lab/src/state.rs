//! What a lab has made, on disk, written before it is made: so that it can be found again by
//! another process, and removed after a crash.

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

use serde::{Deserialize, Serialize};

use crate::{Error, process::ProcessId, topology::Topology};

/// Namespaces vanish with a reboot, and so does `/run`.
const ROOT: &str = "/run/holdfast-lab";

/// The state file of one lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) topology: Topology,
    /// Who made it.
    pub(crate) owner: ProcessId,
    /// Processes that live outside the lab's namespaces.
    pub(crate) processes: Vec<ProcessId>,
}

/// The folder of a lab.
pub(crate) fn folder(prefix: &str) -> PathBuf {
    Path::new(ROOT).join(prefix)
}

impl State {
    /// Takes the prefix for this process: fails if a lab of it exists.
    pub(crate) fn create(topology: &Topology) -> Result<Self, Error> {
        let folder = folder(&topology.prefix);
        let context = || format!("create {}", folder.display());
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        fs::create_dir_all(ROOT).map_err(Error::io(context()))?;
        builder
            .create(&folder)
            .map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => Error::AlreadyUp {
                    prefix: topology.prefix.clone(),
                },
                _ => Error::io(context())(error),
            })?;
        let state = Self {
            topology: topology.clone(),
            owner: ProcessId::of(process::id()),
            processes: Vec::new(),
        };
        state.save()?;
        Ok(state)
    }

    /// The state of a lab, `None` if there is no such lab.
    pub(crate) fn load(prefix: &str) -> Result<Option<Self>, Error> {
        let path = folder(prefix).join("state.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("read {}", path.display()))(error)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::State {
                path: path.display().to_string(),
                source,
            })
    }

    /// Writes it, whole or not at all.
    pub(crate) fn save(&self) -> Result<(), Error> {
        let folder = folder(&self.topology.prefix);
        let (new, path) = (folder.join("state.new"), folder.join("state.json"));
        let text = serde_json::to_vec_pretty(self).map_err(|source| Error::State {
            path: path.display().to_string(),
            source,
        })?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(Error::io(format!("write {}", path.display())))
    }

    /// Whether its maker is gone and it was not meant to outlive it.
    pub(crate) fn is_abandoned(&self) -> bool {
        !self.topology.persistent && !self.owner.is_alive()
    }
}

/// Forgets a lab.
pub(crate) fn remove(prefix: &str) -> Result<(), Error> {
    let folder = folder(prefix);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}
