//! What all tests with real processes need.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

pub mod database;
pub mod sidecar;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use holdfast_io::clock::{Clock, timeout};
use holdfast_io::real::RealClock;
use holdfast_sidecar::consul_agent;

/// Longest time that anything here may take: a bound, never a measure.
pub const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

static ONE: Mutex<()> = Mutex::new(());

/// A test at a time: there is one reaper in a process.
pub fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wait for a condition.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            RealClock.sleep(LOOK_AGAIN).await;
        }
    };
    let result = timeout(&RealClock, PATIENCE, waiting).await;
    assert!(result.is_ok(), "waited in vain: {what}");
}

/// A folder of a test's own, removed with it.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("holdfast-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the temporary folder can be written to");
        Folder(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// A number that a process has written there as a line.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.text(name).strip_suffix('\n')?.trim().parse().ok()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether there is a process of this number, a zombie included.
pub fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether a process of this number runs: one that has ended may wait for its reaper.
pub fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// A command of the shell.
pub fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// Whether this test may need root: on CI it has it, elsewhere it is left out.
pub fn root() -> bool {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    // SAFETY: takes nothing, cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !(ci && is_root) {
        eprintln!("left out: needs CI=true and root");
    }
    ci && is_root
}

/// `CONSUL_BIN`, or what `make setup` has built.
pub fn consul_program() -> Option<PathBuf> {
    let given = std::env::var_os("CONSUL_BIN").filter(|given| !given.is_empty());
    let built = || {
        let cache = std::env::var_os("HOLDFAST_CACHE").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/holdfast"));
        Some(cache.or_else(home)?.join("tools/bin/consul"))
    };
    let program = given.map(PathBuf::from).or_else(built)?;
    if program.is_file() {
        return Some(program);
    }
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(
        !ci,
        "Consul is not installed: run `make setup`, or set CONSUL_BIN"
    );
    eprintln!("left out: Consul is not installed: run `make setup`, or set CONSUL_BIN");
    None
}

/// Consul, where it is and nobody else has the one address that an agent has on a machine.
pub fn consul_alone() -> Option<PathBuf> {
    let program = consul_program()?;
    if std::net::TcpListener::bind(consul_agent::HTTP).is_ok() {
        return Some(program);
    }
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "another process has {}", consul_agent::HTTP);
    eprintln!("left out: another process has {}", consul_agent::HTTP);
    None
}

/// Everything that is logged in this process, as text.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Begin anew.
    pub fn listen() -> Log {
        static LOG: OnceLock<Log> = OnceLock::new();
        let log = LOG.get_or_init(|| {
            let log = Log::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .init();
            log
        });
        log.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        log.clone()
    }

    pub fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
