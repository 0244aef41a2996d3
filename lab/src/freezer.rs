//! Groups of processes that can be made to stand still all at once (cgroups).
//!
//! Unlike SIGSTOP nobody sees it: no parent is told, and what is frozen looks as it looked.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// Where the first version of cgroups has its freezers.
const FIRST: &str = "/sys/fs/cgroup/freezer";
/// Where the second version may be, alone or beside the first.
const SECOND: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Freezing takes milliseconds; a process that waits for a disk may take longer.
const FREEZE_BOUND: Duration = Duration::from_secs(5);
/// How often it is looked whether all stand still.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A group in which processes can be made to stand still. Dropping it thaws them and gives them
/// back to the group above.
#[derive(Debug)]
pub struct Freezer {
    folder: PathBuf,
}

impl Freezer {
    pub(crate) fn new(prefix: &str, name: &str) -> Result<Freezer, Error> {
        let root = root().ok_or_else(|| {
            let missing = io::Error::new(io::ErrorKind::NotFound, "no freezer is mounted");
            Error::io("make a freezer")(missing)
        })?;
        let folder = root.join(format!("{}{name}", own(prefix)));
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io(format!("create {}", folder.display()))(error))
            }
            _ => Ok(Freezer { folder }),
        }
    }

    /// Takes processes in; those that have ended are left out. What they start later is in it too.
    pub fn take(&self, pids: &[u32]) {
        for pid in pids {
            let _ = fs::write(self.folder.join("cgroup.procs"), pid.to_string());
        }
    }

    /// Everything in it stands still when this returns.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Timeout`] when something cannot be stopped.
    pub fn freeze(&self) -> Result<(), Error> {
        let failed = |error| Error::io(format!("freeze {}", self.folder.display()))(error);
        set(&self.folder, true).map_err(failed)?;
        let begun = Instant::now();
        while !is_frozen(&self.folder) {
            if begun.elapsed() > FREEZE_BOUND {
                let _ = set(&self.folder, false);
                return Err(Error::Timeout {
                    what: format!("{} frozen", self.folder.display()),
                    bound: FREEZE_BOUND,
                    detail: String::new(),
                });
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Everything in it goes on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn thaw(&self) -> Result<(), Error> {
        let failed = |error| Error::io(format!("thaw {}", self.folder.display()))(error);
        set(&self.folder, false).map_err(failed)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// Whether processes can be frozen here.
pub(crate) fn root() -> Option<PathBuf> {
    let first = Path::new(FIRST);
    if first.join("tasks").exists() {
        return Some(first.to_owned());
    }
    let second = SECOND.iter().map(Path::new);
    second
        .filter(|root| root.join("cgroup.controllers").exists())
        .map(Path::to_owned)
        .next()
}

/// Removes every group of a lab; its processes go on.
pub(crate) fn remove_all(prefix: &str) {
    let entries = root().and_then(|root| fs::read_dir(root).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let is_own = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(&own(prefix)));
        if is_own {
            remove(&entry.path());
        }
    }
}

/// A prefix has no dot, so that no lab's groups look like another's.
fn own(prefix: &str) -> String {
    format!("holdfast-lab.{prefix}.")
}

fn set(folder: &Path, frozen: bool) -> io::Result<()> {
    let first = folder.join("freezer.state");
    if first.exists() {
        return fs::write(first, if frozen { "FROZEN" } else { "THAWED" });
    }
    fs::write(folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })
}

fn is_frozen(folder: &Path) -> bool {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    read("freezer.state").trim() == "FROZEN"
        || read("cgroup.events").lines().any(|line| line == "frozen 1")
}

fn remove(folder: &Path) {
    let _ = set(folder, false);
    let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let above = folder.parent().unwrap_or(folder).join("cgroup.procs");
    for pid in procs.lines() {
        let _ = fs::write(&above, pid);
    }
    let _ = fs::remove_dir(folder);
}
