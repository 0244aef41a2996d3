//! How a process is started.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use holdfast_core::supervise::Name;

use crate::options::Child;

/// Variables that begin like this are for the sidecar alone.
const SECRET_PREFIX: &str = "HOLDFAST_SECRET_";

/// How a process is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The child's name, in the log.
    pub name: Name,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Who runs it, by name.
    pub user: Option<String>,
    /// The group, by name.
    pub group: Option<String>,
    /// Variables beside the sidecar's own, whose secrets are left out.
    pub env: Vec<(String, String)>,
    /// How those of the sidecar's own begin that it does not get.
    pub without: Vec<String>,
    /// Where it runs.
    pub dir: Option<PathBuf>,
    /// Only the first process of its group is asked to end, and asks the others itself; SIGKILL is
    /// for all of them.
    pub asks_its_own: bool,
}

impl From<&Child> for Spec {
    fn from(child: &Child) -> Spec {
        Spec {
            name: child.name.clone(),
            command: child.command.clone(),
            user: child.user.clone(),
            group: child.group.clone(),
            env: child.env.clone(),
            without: Vec::new(),
            dir: child.dir.clone(),
            asks_its_own: false,
        }
    }
}

/// The sidecar's own variables that a child may have.
pub(super) fn inherited(spec: &Spec) -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        // A service manager's descriptors are the sidecar's, not its children's.
        let unwanted = |begin: &String| name.starts_with(begin.as_str());
        !spec.without.iter().any(unwanted)
            && !name.starts_with(SECRET_PREFIX)
            && name != "NOTIFY_SOCKET"
            && !name.starts_with("LISTEN_")
    })
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is nothing to run.
    #[error("the command is empty")]
    Empty,
    /// The user is in no file.
    #[error("there is no user {0:?} in /etc/passwd")]
    NoUser(String),
    /// The group is in no file.
    #[error("there is no group {0:?} in /etc/group")]
    NoGroup(String),
    /// Those files cannot be read.
    #[error("{path} cannot be read: {source}")]
    Accounts {
        /// Which.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Only root becomes somebody else.
    #[error("only root can start a process as user {user:?}; leave `user` out, or run as root")]
    NotRoot {
        /// Whom it should run as.
        user: String,
    },
    /// The folder cannot be entered.
    #[error("the folder {} cannot be entered: {source}", path.display())]
    Dir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refuses.
    #[error("{program} cannot be started: {source}")]
    System {
        /// What.
        program: String,
        /// Why.
        source: io::Error,
    },
}
