//! Why Patroni is not started: each a sentence for people, with what, found and expected.

use std::io;
use std::path::{Path, PathBuf};

use crate::dynamic::ReconcileError;
use crate::generate::Error;

/// Why Patroni is not started.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The settings, or the user's own file.
    #[error(transparent)]
    Config(#[from] Error),
    /// There is no such user.
    #[error("the user {name} (postgres.user) is not there: expected a user of this system")]
    User {
        /// Its name.
        name: String,
    },
    /// Not root, and another user.
    #[error("Holdfast does not run as root: expected root or {name}, who owns the database")]
    NotRoot {
        /// Who should run it.
        name: String,
    },
    /// A program is missing or does not run.
    #[error("{path} does not run: {problem}; expected {expected}")]
    Program {
        /// The program.
        path: PathBuf,
        /// Why.
        problem: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A program is too old, or is another one.
    #[error("{path} says {found:?}: expected {expected}")]
    Version {
        /// The program.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Somebody else's.
    #[error("{path} belongs to the user {found}: expected {expected} ({name})")]
    Owner {
        /// What.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// Who it should be.
        expected: u32,
        /// By name.
        name: String,
    },
    /// Others can read or write it.
    #[error("{path} has the mode {found:04o}: expected 0700 or 0750")]
    Mode {
        /// What.
        path: PathBuf,
        /// Its mode.
        found: u32,
    },
    /// No folder.
    #[error("{path} is a file: expected a folder")]
    NoFolder {
        /// What.
        path: PathBuf,
    },
    /// A folder on the way to it is closed.
    #[error("{name} cannot reach {path}: {folder} has the mode {found:04o}, expected x for others")]
    Reach {
        /// Who.
        name: String,
        /// What.
        path: PathBuf,
        /// Where the way ends.
        folder: PathBuf,
        /// Its mode.
        found: u32,
    },
    /// The files are of another database system.
    #[error(
        "{path} is of the database system {found}: expected {expected}, as {key} in the KV says; nothing is removed, move it away or set postgres.scope"
    )]
    System {
        /// The data directory.
        path: PathBuf,
        /// Its identifier.
        found: u64,
        /// The cluster's.
        expected: String,
        /// Where that is.
        key: String,
    },
    /// The path has a cluster, and nothing says that it is ours.
    #[error(
        "{key} in the KV is {found}: a cluster that Holdfast did not make has this path, and {path} has none of its files; expected a path without a cluster; nothing of it is touched, set postgres.scope, or, if it is yours, start or restart first the machine that has its data directory"
    )]
    Stranger {
        /// Where its system identifier is.
        key: String,
        /// That identifier.
        found: String,
        /// The data directory.
        path: PathBuf,
    },
    /// The files may be what an interrupted first start left.
    #[error(
        "{path} has the database system {found}, but {key} in the KV does not say that its cluster was ever made: a first start may have been interrupted; if it is half made remove {path} by hand, and {key} if it is there and empty; if it is whole put {found} into {key}"
    )]
    HalfMade {
        /// The data directory.
        path: PathBuf,
        /// Its identifier.
        found: u64,
        /// Where the cluster's would be.
        key: String,
    },
    /// The secrets are not those that the cluster was made with.
    #[error(
        "{key} in the KV has another mark, and {path} is of the cluster {cluster:?} all the same: it was made with other secrets, and its passwords are still theirs; set the former secret again, or change the passwords in it and remove {key} (docs/postgres.md)"
    )]
    Secrets {
        /// Where the mark is.
        key: String,
        /// The cluster's name.
        cluster: String,
        /// The data directory.
        path: PathBuf,
    },
    /// The cluster is of another major version, and a copy of it would never start.
    #[error(
        "{path} (postgres.bin_dir) is of PostgreSQL {found}: expected {expected}, the cluster's, as {key} in the KV says"
    )]
    ClusterVersion {
        /// Where the programs are.
        path: PathBuf,
        /// Their version.
        found: u32,
        /// The cluster's.
        expected: u32,
        /// Where that is.
        key: String,
    },
    /// The files are of another major version.
    #[error(
        "{path} was made by PostgreSQL {found}: expected {expected}, the version in postgres.bin_dir"
    )]
    DataVersion {
        /// The data directory.
        path: PathBuf,
        /// Its version.
        found: String,
        /// That of the programs.
        expected: u32,
    },
    /// A full disk.
    #[error("{path} has {found} bytes free: expected at least {expected} (postgres.disk_free_min)")]
    Disk {
        /// The data directory.
        path: PathBuf,
        /// What is free.
        found: u64,
        /// What should be.
        expected: u64,
    },
    /// The KV, or what is in it.
    #[error(transparent)]
    Kv(#[from] ReconcileError),
    /// The KV takes too long.
    #[error("the KV at {address} did not answer all within {limit_s} seconds")]
    Slow {
        /// Its address.
        address: String,
        /// The limit.
        limit_s: u64,
    },
    /// A file or a folder.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Refusal {
    pub(crate) fn file(what: &'static str, path: &Path, source: io::Error) -> Refusal {
        Refusal::File {
            what,
            path: path.to_owned(),
            source,
        }
    }
}
