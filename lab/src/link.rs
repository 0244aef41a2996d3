//! Emulated links: the external program `holdfast-wire`, started and talked to.
//!
//! Its standard input is a FIFO and its output a file, both in the lab's state folder, so that
//! another process than the one that started it can change a link too.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    process::{tail, wait_for_value},
};

/// How long a link specification may be, bytes: far beyond any sensible one.
pub const SPEC_LENGTH_MAX: usize = 256;

/// The emulator makes two TAP devices; a busy machine needs a fraction of this.
const READY_BOUND: Duration = Duration::from_secs(10);

/// One line in, one line out.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// How a link impairs one direction, in the words of `holdfast-wire`, such as
/// `delay=10ms,loss=1/100,rate=100mbit,queue=256kb` or `blackhole` or `none`.
///
/// Only its form is checked here; the emulator judges its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkSpec(String);

impl LinkSpec {
    /// No impairment.
    #[must_use]
    pub fn none() -> Self {
        Self("none".to_owned())
    }

    /// Everything is lost.
    #[must_use]
    pub fn blackhole() -> Self {
        Self("blackhole".to_owned())
    }

    /// A specification of comma-separated words.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is empty, too long or has a character that no specification has.
    pub fn new(spec: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"=/,.-_:%".contains(&byte);
        if (1..=SPEC_LENGTH_MAX).contains(&spec.len()) && spec.bytes().all(allowed) {
            return Ok(Self(spec.to_owned()));
        }
        Err(Error::Invalid {
            what: "link specification",
            found: spec.to_owned(),
            expected: format!("1 to {SPEC_LENGTH_MAX} of letters, digits and =/,.-_:%"),
        })
    }

    /// The specification as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self::none()
    }
}

impl TryFrom<String> for LinkSpec {
    type Error = Error;

    fn try_from(spec: String) -> Result<Self, Error> {
        Self::new(&spec)
    }
}

impl From<LinkSpec> for String {
    fn from(spec: LinkSpec) -> Self {
        spec.0
    }
}

/// A direction of the link above a node or router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Away from the node, or from the router towards the public network.
    Up,
    /// Towards the node, or from the public network towards the router.
    Down,
}

/// Where an emulator is to be put, `a` being the node's or router's end.
pub(crate) struct Ends<'a> {
    pub(crate) name: &'a str,
    pub(crate) a: (&'a str, &'a str),
    pub(crate) b: (&'a str, &'a str),
}

/// A running emulator; it ends when this is dropped, unless it is persistent.
#[derive(Debug)]
pub(crate) struct Wire {
    child: Child,
    // Holds the writing end of its input open: the emulator ends when the last writer is gone.
    _input: File,
}

impl Wire {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reaps the ended emulator.
    pub(crate) fn reap(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn file(folder: &Path, name: &str, kind: &str) -> PathBuf {
    folder.join(format!("wire-{name}.{kind}"))
}

/// Starts an emulator and waits until its devices exist.
pub(crate) fn start(
    folder: &Path,
    program: &Path,
    ends: &Ends<'_>,
    specs: (&str, &str),
    seed: Option<u64>,
    persistent: bool,
) -> Result<Wire, Error> {
    let fifo = file(folder, ends.name, "in");
    make_fifo(&fifo).map_err(Error::io(format!("make {}", fifo.display())))?;
    // A FIFO that is opened for both never blocks and, as an input, never ends.
    let open = |write: bool| {
        File::options()
            .read(true)
            .write(write)
            .open(&fifo)
            .map_err(Error::io(format!("open {}", fifo.display())))
    };
    let keep = open(true)?;
    let (out, err) = (
        file(folder, ends.name, "out"),
        file(folder, ends.name, "err"),
    );
    let create =
        |path: &Path| File::create(path).map_err(Error::io(format!("create {}", path.display())));
    let mut command = Command::new(program);
    command
        .args([ends.a.0, ends.a.1, ends.b.0, ends.b.1])
        .args(["--ab", specs.0, "--ba", specs.1])
        .stdin(open(persistent)?)
        .stdout(create(&out)?)
        .stderr(create(&err)?)
        .process_group(0);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    let child = command.spawn().map_err(Error::io(format!(
        "start the link emulator {}",
        program.display()
    )))?;
    let mut wire = Wire {
        child,
        _input: keep,
    };
    match wait_ready(&mut wire, ends.name, &out, &err) {
        Ok(()) => Ok(wire),
        Err(error) => {
            wire.reap();
            Err(error)
        }
    }
}

fn wait_ready(wire: &mut Wire, name: &str, out: &Path, err: &Path) -> Result<(), Error> {
    let said = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let what = format!("link emulator of {name} ready");
    wait_for_value(&what, READY_BOUND, || {
        if said(out).lines().any(|line| line.trim() == "ready") {
            return Some(Ok(()));
        }
        let status = wire.child.try_wait().ok().flatten()?;
        Some(Err(Error::Ended {
            what: format!("link emulator of {name}"),
            status,
            log: tail(&said(err)),
        }))
    })?
}

/// Sends one line to a running emulator and returns its answer.
pub(crate) fn ask(folder: &Path, name: &str, line: &str) -> Result<String, Error> {
    let broken = |reason: String| Error::Link {
        name: name.to_owned(),
        reason,
    };
    let mut input = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file(folder, name, "in"))
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => broken("it is not emulated".to_owned()),
            Some(libc::ENXIO) => broken("its emulator has ended".to_owned()),
            _ => broken(format!("cannot reach its emulator: {error}")),
        })?;
    // One question at a time, or two askers would take each other's answers.
    input
        .lock()
        .map_err(|error| broken(format!("cannot lock its emulator: {error}")))?;
    let out = file(folder, name, "out");
    let read = || fs::read_to_string(&out).unwrap_or_default();
    let before = read().len();
    input
        .write_all(format!("{line}\n").as_bytes())
        .map_err(|error| broken(format!("cannot write to its emulator: {error}")))?;
    let answer = wait_for_value("answer of the link emulator", ANSWER_BOUND, || {
        let said = read();
        let (answer, _) = said.get(before..)?.split_once('\n')?;
        Some(answer.trim().to_owned())
    })?;
    if answer.starts_with("err") {
        return Err(broken(answer));
    }
    Ok(answer)
}

fn make_fifo(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
