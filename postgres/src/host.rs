//! The machine's files and programs as a value that [`Guard`](crate::Guard) is given.

#![allow(
    async_fn_in_trait,
    reason = "drivers are local: no future here is ever sent to another thread"
)]

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

/// A user of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

/// What there is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// To whom it belongs.
    pub owner: User,
    /// Its permissions, `0o7777`.
    pub mode: u32,
    /// Whether it is a folder, after links were followed.
    pub is_dir: bool,
}

/// A program to run to its end.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    /// Its path, or a name that is looked for on `PATH`.
    pub path: &'a Path,
    /// Its arguments: everybody on the machine can read them.
    pub arguments: &'a [&'a str],
    /// What it has in its environment besides `PATH` and `LC_ALL`.
    pub environment: &'a [(&'a str, &'a OsStr)],
    /// Who runs it.
    pub user: User,
    /// It is killed then.
    pub limit: Duration,
}

/// The machine's files and programs.
pub trait Host: 'static {
    /// Run a program to its end, and return what it said on both outputs, cut at 64 KiB. Whether
    /// it succeeded has to be told from that: a process that reaps all children takes the status.
    ///
    /// # Errors
    /// It cannot be started, or did not end in time.
    async fn run(&self, program: Program<'_>) -> io::Result<String>;

    /// A user by name, if there is one.
    ///
    /// # Errors
    /// The system's.
    fn user(&self, name: &str) -> io::Result<Option<User>>;

    /// Whether programs can be run and files be owned as this user.
    fn may_become(&self, user: User) -> bool;

    /// What there is at a path, if anything; links are followed.
    ///
    /// # Errors
    /// The system's.
    fn inspect(&self, path: &Path) -> io::Result<Option<Meta>>;

    /// Whether there is nothing in a folder, or no folder.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self, path: &Path) -> io::Result<bool>;

    /// The first `len_max` bytes of a file, if there is one.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>>;

    /// The first `len_max` bytes of a file in a folder that others write, if there is one: it has
    /// to be a regular file of one of the `owners`. What it is instead is in the error, and
    /// nothing of it is read; no link is followed, and a pipe holds nobody up.
    ///
    /// # Errors
    /// It is something else, or somebody else's; the system's.
    fn read_own(&self, path: &Path, owners: &[User], len_max: u64) -> io::Result<Option<Vec<u8>>>;

    /// Write a file as a whole or not at all.
    ///
    /// # Errors
    /// The system's.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32, owner: Option<User>) -> io::Result<()>;

    /// Make a folder, with those above it (mode 0755, our own). One that is there gets the owner
    /// and the mode; never follows a link.
    ///
    /// # Errors
    /// The system's.
    fn make_dir(&self, path: &Path, mode: u32, owner: User) -> io::Result<()>;

    /// What is free for the database's user on the disk that a path is, or would be, on, bytes.
    ///
    /// # Errors
    /// The system's.
    fn disk_free(&self, path: &Path) -> io::Result<u64>;
}
