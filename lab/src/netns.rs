//! Entering, listing and emptying named network namespaces.
//!
//! Threads and children enter with `setns`, not through `ip netns exec`, which remounts
//! `/sys` and thereby hides the cgroups.

use std::{
    fs::{self, File},
    io, mem,
    net::{Ipv4Addr, UdpSocket},
    os::{
        fd::AsRawFd,
        unix::{fs::MetadataExt, process::CommandExt},
    },
    panic,
    path::{Path, PathBuf},
    process::{self, Command},
    thread,
};

use crate::Error;

/// Where iproute2 keeps the names of network namespaces.
const NAMES: &str = "/run/netns";

/// The file that holds a named namespace.
pub(crate) fn path(namespace: &str) -> PathBuf {
    Path::new(NAMES).join(namespace)
}

/// A handle to a named namespace.
pub(crate) fn open(namespace: &str) -> Result<File, Error> {
    File::open(path(namespace)).map_err(Error::io(format!("open network namespace {namespace}")))
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as the borrow; setns changes only the
    // calling thread.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A way into a namespace, for threads that are to live there.
#[derive(Debug)]
pub struct Door(pub(crate) File);

impl Door {
    /// Moves the calling thread, and what it starts from now on, into the namespace for good.
    /// A namespace whose lab is taken down lives on until its last thread has ended.
    ///
    /// # Errors
    /// Without the privilege.
    pub fn enter(&self) -> io::Result<()> {
        enter(&self.0)
    }
}

/// Makes `command` start inside `namespace`.
pub(crate) fn enter_in_child(command: &mut Command, namespace: File) {
    // SAFETY: between fork and exec the closure calls setns only, which is
    // async-signal-safe, and allocates nothing (an OS error is a plain number).
    unsafe {
        command.pre_exec(move || enter(&namespace));
    }
}

/// Runs `work` on a thread of its own inside `namespace`.
///
/// What it creates there (sockets) stays in that namespace wherever it is used later.
pub(crate) fn run_in<T: Send>(
    namespace: &str,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    let handle = open(namespace)?;
    let joined = thread::scope(|scope| scope.spawn(move || enter(&handle).map(|()| work())).join());
    match joined {
        Ok(result) => result.map_err(Error::io(format!("enter network namespace {namespace}"))),
        Err(panicked) => panic::resume_unwind(panicked),
    }
}

/// Whether an interface of the calling thread's namespace passes packets.
///
/// After both ends are up the kernel still activates the queues, and lets a bridge use the port,
/// from a work queue; until then it drops what is sent, and a first packet that is lost costs
/// its sender a time-out.
pub(crate) fn is_running(interface: &str) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: an ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name = interface.as_bytes();
    // One byte remains zero and ends the name.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of the ifreq that it is given.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just written this member of the union.
    let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok(flags & libc::IFF_RUNNING != 0)
}

/// The names of all network namespaces of this machine that have one.
pub(crate) fn names() -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(NAMES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("list {NAMES}"))(error)),
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.collect())
}

/// The processes whose main thread is in one of the named namespaces, this process excepted.
pub(crate) fn pids(namespaces: &[String]) -> Result<Vec<u32>, Error> {
    let inhabited: Vec<(u64, u64)> = namespaces
        .iter()
        .filter_map(|name| fs::metadata(path(name)).ok())
        .map(|meta| (meta.dev(), meta.ino()))
        .collect();
    if inhabited.is_empty() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir("/proc").map_err(Error::io("list processes"))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != process::id())
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|meta| inhabited.contains(&(meta.dev(), meta.ino())))
        })
        .collect())
}
