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
/// How often what was born meanwhile is taken in: a machine that starts processes faster than they
/// are listed never stands still.
const TAKES_MAX: usize = 20;
/// How long a group may take to let go of what was in it.
const RELEASE_BOUND: Duration = Duration::from_secs(5);

/// A group in which processes can be made to stand still. Dropping it thaws them and gives them
/// back to the group above.
#[derive(Debug)]
pub struct Freezer {
    folder: PathBuf,
}

impl Freezer {
    /// One that is there already is opened.
    pub(crate) fn open(prefix: &str, name: &str) -> Result<Freezer, Error> {
        let folder = place(prefix, name)?;
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io(format!("create {}", folder.display()))(error))
            }
            _ => Ok(Freezer { folder }),
        }
    }

    /// One that must not be there yet.
    pub(crate) fn create(prefix: &str, name: &str) -> Result<Freezer, Error> {
        let folder = place(prefix, name)?;
        let failed = |error| Error::io(format!("create {}", folder.display()))(error);
        fs::create_dir(&folder).map_err(failed)?;
        Ok(Freezer { folder })
    }

    /// Takes processes in, whichever can be; [`freeze_all`](Freezer::freeze_all) tells which
    /// cannot. What they start later is in it too.
    pub fn take(&self, pids: &[u32]) {
        for pid in pids {
            let _ = self.take_one(*pid);
        }
    }

    /// A process that has ended is no error.
    fn take_one(&self, pid: u32) -> Result<(), Error> {
        let procs = self.folder.join("cgroup.procs");
        match fs::write(&procs, pid.to_string()) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                let what = format!("take the process {pid} into {}", self.folder.display());
                Err(Error::io(what)(error))
            }
            _ => Ok(()),
        }
    }

    /// Those of a listing that live and are not in it.
    fn outside(&self, listed: &[u32]) -> Result<Vec<u32>, Error> {
        let procs = self.folder.join("cgroup.procs");
        let failed = |error| Error::io(format!("read {}", procs.display()))(error);
        let text = fs::read_to_string(&procs).map_err(failed)?;
        let inside: Vec<u32> = text.lines().filter_map(|pid| pid.parse().ok()).collect();
        let out = |pid: &&u32| !inside.contains(pid) && lives(**pid);
        Ok(listed.iter().filter(out).copied().collect())
    }

    /// Takes in what is listed until a fresh listing adds nothing, and has all of it stand still:
    /// when this returns, every process that lives and is listed is in the group, and at least one
    /// is. If that cannot be, everything goes on.
    ///
    /// # Errors
    /// What `list` says, [`Error::Io`] when a process cannot be taken in or there is none, and
    /// [`Error::Timeout`] when there are ever new ones or something cannot be stopped.
    pub fn freeze_all<E: From<Error>>(
        &self,
        mut list: impl FnMut() -> Result<Vec<u32>, E>,
    ) -> Result<(), E> {
        self.take_all(&mut list)?;
        self.freeze()?;
        // What was born between the listing and the freeze is frozen as it is taken in.
        let still = self.take_all(&mut list).and_then(|()| Ok(self.freeze()?));
        if still.is_err() {
            // What failed is told.
            let _ = self.thaw();
        }
        still
    }

    fn take_all<E: From<Error>>(
        &self,
        list: &mut impl FnMut() -> Result<Vec<u32>, E>,
    ) -> Result<(), E> {
        let mut missed = Vec::new();
        for _ in 0..TAKES_MAX {
            let listed = list()?;
            if listed.is_empty() {
                let none = io::Error::new(io::ErrorKind::NotFound, "no process is listed");
                return Err(Error::io(format!("freeze {}", self.folder.display()))(none).into());
            }
            missed = self.outside(&listed)?;
            if missed.is_empty() {
                return Ok(());
            }
            for pid in &missed {
                self.take_one(*pid)?;
            }
        }
        Err(Error::Timeout {
            what: format!("everything in {}", self.folder.display()),
            bound: FREEZE_BOUND,
            detail: format!("after {TAKES_MAX} listings these were not: {missed:?}"),
        }
        .into())
    }

    /// Thaws, gives everything back to the group above, and removes the group.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it is not empty and gone within seconds.
    pub fn release(self) -> Result<(), Error> {
        remove(&self.folder)
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
        // Whoever wants to know calls `release`.
        let _ = remove(&self.folder);
    }
}

fn place(prefix: &str, name: &str) -> Result<PathBuf, Error> {
    let root = root().ok_or_else(|| {
        let missing = io::Error::new(io::ErrorKind::NotFound, "no freezer is mounted");
        Error::io("make a freezer")(missing)
    })?;
    Ok(root.join(format!("{}{name}", own(prefix))))
}

/// Whether a process is there and more than a name that waits for its parent.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|rest| !rest.starts_with('Z') && !rest.starts_with('X'))
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
            // The lab ends its processes whatever group they are in.
            let _ = remove(&entry.path());
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

fn remove(folder: &Path) -> Result<(), Error> {
    let above = folder.parent().unwrap_or(folder).join("cgroup.procs");
    let begun = Instant::now();
    loop {
        // One that is gone is as thawed as can be.
        let _ = set(folder, false);
        let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            let _ = fs::write(&above, pid);
        }
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if begun.elapsed() > RELEASE_BOUND => {
                return Err(Error::Timeout {
                    what: format!("{} removed", folder.display()),
                    bound: RELEASE_BOUND,
                    detail: error.to_string(),
                });
            }
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}
