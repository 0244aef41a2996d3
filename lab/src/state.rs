//! What a lab has made, on disk, written before it is made: so that it can be found again by
//! another process, and removed after a crash.

use std::{
    ffi::CString,
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    process::ProcessId,
    topology::{Topology, check_prefix},
};

/// Namespaces vanish with a reboot, and so does `/run`.
const ROOT: &str = "/run/holdfast-lab";

/// Begins the names of folders that are being written; no prefix begins like this. The id of the
/// process that writes follows.
const DRAFT: &str = ".new-";

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
        let prefix = &topology.prefix;
        let folder = folder(prefix);
        let context = || format!("create {}", folder.display());
        let draft = Path::new(ROOT).join(format!("{DRAFT}{}-{prefix}", process::id()));
        let state = Self {
            topology: topology.clone(),
            owner: ProcessId::of(process::id()),
            processes: Vec::new(),
        };
        fs::create_dir_all(ROOT).map_err(Error::io(context()))?;
        remove_folder(&draft)?;
        DirBuilder::new()
            .mode(0o700)
            .create(&draft)
            .map_err(Error::io(context()))?;
        state.save_in(&draft)?;
        // A folder is never seen without its state, so that one without it is debris.
        fs::rename(&draft, &folder).map_err(|error| {
            let _ = remove_folder(&draft);
            match error.kind() {
                ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => Error::AlreadyUp {
                    prefix: prefix.clone(),
                },
                _ => Error::io(context())(error),
            }
        })?;
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
        self.save_in(&folder(&self.topology.prefix))
    }

    fn save_in(&self, folder: &Path) -> Result<(), Error> {
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

/// The labs that have a folder, in no order; what ended processes left half written is removed.
pub(crate) fn prefixes() -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(ROOT) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("list {ROOT}"))(error)),
    };
    let mut prefixes = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        match name.strip_prefix(DRAFT) {
            None if check_prefix(&name).is_ok() => prefixes.push(name),
            None => {}
            Some(rest) => {
                let pid = rest.split('-').next().and_then(|pid| pid.parse().ok());
                if pid.is_some_and(|pid| !ProcessId::of(pid).is_alive()) {
                    remove_folder(&entry.path())?;
                }
            }
        }
    }
    Ok(prefixes)
}

/// Forgets a lab; what is mounted in its folder is unmounted.
pub(crate) fn remove(prefix: &str) -> Result<(), Error> {
    let folder = folder(prefix);
    unmount_below(&folder);
    remove_folder(&folder)
}

/// A file system that somebody still uses is out of sight at once, and gone with the last user.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is where; what is mounted last comes last.
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below: Vec<&str> = places
        .filter(|place| Path::new(place).starts_with(folder))
        .collect();
    for place in below.into_iter().rev() {
        let Ok(path) = CString::new(place) else {
            continue;
        };
        // SAFETY: the path is a NUL-terminated string that outlives the call.
        let _ = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

fn remove_folder(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}
