//! A lab with coturn, brokers and nodes in it: what this world and the kernel tests share.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_lab::coturn::{Config as CoturnConfig, Coturn};
use holdfast_lab::process::Process;
use holdfast_lab::{Builder, Guard, Lab, PUB, SERVERS, preconditions};

use crate::config::NodeConfig;

/// Where coturn is, RFC 8489 section 18.6.
pub const TURN_PORT: u16 = holdfast_plan::TURN_PORT;
/// Where brokers are.
pub const BROKER_PORT: u16 = holdfast_plan::BROKER_PORT;
/// The file in the lab's folder with the secret of coturn and the nodes.
pub const TURN_SECRET_FILE: &str = "turn.secret";
/// The file in the lab's folder with the secret of the cluster.
pub const CLUSTER_SECRET_FILE: &str = "cluster.secret";
/// The cluster's secret.
pub const CLUSTER_SECRET: [u8; 32] = [0x5a; 32];

const TURN_SECRET: &str = "coturn-and-nodes-share-this";
/// For anything that should take milliseconds, on a very busy machine.
const BOUND: Duration = Duration::from_secs(10);

/// Two processors are too few to measure two meshes at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Why a stage could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The lab, a program in it or its privilege.
    #[error(transparent)]
    Lab(#[from] holdfast_lab::Error),
    /// A program is not built.
    #[error(
        "there is no {path:?}: `cargo build -p {package}` makes it, or {variable} names another"
    )]
    NoProgram {
        /// Where it was looked for.
        path: PathBuf,
        /// The package that makes it.
        package: &'static str,
        /// The environment variable that may name it.
        variable: &'static str,
    },
    /// The thread in a node's namespace failed.
    #[error("the applications of {name}: {source}")]
    Agent {
        /// The node's.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// The lab gave a node another address than the plan says.
    #[error("{name} has the address {found}, not {said}")]
    Address {
        /// The node's namespace.
        name: String,
        /// The plan's.
        said: Ipv4Addr,
        /// The lab's.
        found: Ipv4Addr,
    },
    /// A drill's cluster cannot be built, or does not do what it is told.
    #[error("the drill: {0}")]
    Drill(String),
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A program of this project that the stage runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `holdfast`.
    Holdfast,
    /// `holdfast-wire`, the link emulator.
    Wire,
}

impl Program {
    /// Where it is: named by `HOLDFAST_BIN` or `HOLDFAST_WIRE`, else next to this program or,
    /// for a test, in the folder above.
    ///
    /// # Errors
    /// [`StageError::NoProgram`].
    pub fn path(self) -> Result<PathBuf, StageError> {
        let (package, variable) = match self {
            Program::Holdfast => ("holdfast", "HOLDFAST_BIN"),
            Program::Wire => ("holdfast-wire", "HOLDFAST_WIRE"),
        };
        let candidates = match env::var_os(variable) {
            Some(path) => vec![PathBuf::from(path)],
            None => {
                let own = env::current_exe().unwrap_or_default();
                // A program is target/PROFILE/NAME, a test target/PROFILE/deps/NAME.
                let folders = own.ancestors().skip(1).take(2);
                folders.map(|folder| folder.join(package)).collect()
            }
        };
        if let Some(found) = candidates.iter().find(|path| path.is_file()) {
            return Ok(found.clone());
        }
        let path = candidates.into_iter().next_back().unwrap_or_default();
        Err(StageError::NoProgram {
            path,
            package,
            variable,
        })
    }
}

/// A lab in which a mesh can live. Dropping it ends everything. There is one at a time in a
/// process.
pub struct Stage {
    // In the order in which they end.
    nodes: BTreeMap<String, Process>,
    brokers: BTreeMap<usize, Process>,
    coturn: Option<Coturn>,
    /// The namespaces.
    pub lab: Guard,
    holdfast: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    /// A lab, with the secrets of the cluster and of coturn in its folder. Nothing runs in it.
    ///
    /// # Errors
    /// Without privilege or tools, or what the lab says.
    pub fn new(describe: impl FnOnce(Builder) -> Builder) -> Result<Stage, StageError> {
        preconditions()?;
        Stage::build(Program::Holdfast.path()?, describe)
    }

    /// A lab in which nothing of this project runs.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn bare(describe: impl FnOnce(Builder) -> Builder) -> Result<Stage, StageError> {
        preconditions()?;
        Stage::build(PathBuf::new(), describe)
    }

    fn build(
        holdfast: PathBuf,
        describe: impl FnOnce(Builder) -> Builder,
    ) -> Result<Stage, StageError> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = describe(Lab::builder(&prefix())).build()?.up_guarded()?;
        let stage = Stage {
            nodes: BTreeMap::new(),
            brokers: BTreeMap::new(),
            coturn: None,
            lab,
            holdfast,
            _turn: turn,
        };
        stage.write_cluster_secret(CLUSTER_SECRET_FILE, CLUSTER_SECRET)?;
        stage.write_secret(TURN_SECRET_FILE, TURN_SECRET)?;
        Ok(stage)
    }

    /// A file in the lab's folder with a cluster's secret.
    ///
    /// # Errors
    /// [`StageError::File`].
    pub fn write_cluster_secret(&self, name: &str, secret: [u8; 32]) -> Result<(), StageError> {
        let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        self.write_secret(name, &digits)
    }

    fn write_secret(&self, name: &str, text: &str) -> Result<(), StageError> {
        let path = self.lab.folder().join(name);
        // What is there may have mode 0400.
        let _ = fs::remove_file(&path);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o400);
        let written = options
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| StageError::File { path, source })
    }

    /// Start coturn on the first address of [`SERVERS`], or do nothing if it runs.
    ///
    /// # Errors
    /// What the lab says.
    pub fn start_turn(&mut self) -> Result<(), StageError> {
        if self.coturn.is_none() {
            let config = CoturnConfig::new(TURN_SECRET);
            self.coturn = Some(Coturn::start(&self.lab, &config)?);
        }
        Ok(())
    }

    /// Kill coturn.
    pub fn end_turn(&mut self) {
        // Dropping a process kills it and waits for its end.
        self.coturn = None;
    }

    /// Start a broker on one of the addresses of [`SERVERS`], or do nothing if it runs.
    ///
    /// # Errors
    /// What the lab says.
    pub fn start_broker(&mut self, server: usize) -> Result<(), StageError> {
        if self.brokers.contains_key(&server) {
            return Ok(());
        }
        let address = SocketAddr::from((SERVERS[server], BROKER_PORT));
        let mut command = self.lab.command(PUB, &self.holdfast)?;
        command.args(["rendezvous", "--listen", &address.to_string()]);
        let log = self.lab.folder().join(format!("broker-{server}.log"));
        let mut broker = Process::spawn("broker", command, &log)?;
        let lab = &self.lab;
        let answers = || lab.run_in(PUB, || TcpStream::connect(address).is_ok());
        broker.wait_ready(BOUND, |_| answers().unwrap_or(false))?;
        self.brokers.insert(server, broker);
        Ok(())
    }

    /// Kill a broker; what it kept is lost.
    pub fn end_broker(&mut self, server: usize) {
        self.brokers.remove(&server);
    }

    /// Kill all brokers.
    pub fn end_brokers(&mut self) {
        self.brokers.clear();
    }

    /// Write the configuration of the node in that namespace.
    ///
    /// # Errors
    /// [`StageError::File`].
    pub fn configure(&self, name: &str, config: &NodeConfig) -> Result<(), StageError> {
        let path = self.lab.folder().join(format!("{name}.toml"));
        let written = fs::write(&path, config.to_string());
        written.map_err(|source| StageError::File { path, source })
    }

    /// Start the node in that namespace with the configuration that it has.
    ///
    /// # Errors
    /// What the lab says.
    pub fn start(&mut self, name: &str) -> Result<(), StageError> {
        let folder = self.lab.folder();
        let mut command = self.lab.command(name, &self.holdfast)?;
        command
            .args(["mesh", "--config"])
            .arg(folder.join(format!("{name}.toml")));
        let process = Process::spawn(name, command, &self.log_path(name))?;
        self.nodes.insert(name.to_owned(), process);
        Ok(())
    }

    /// The file that a node logs to, in all its runs.
    #[must_use]
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.lab.folder().join(format!("{name}.log"))
    }

    /// The process of a node, if it was started and not [removed](Self::remove).
    pub fn process(&mut self, name: &str) -> Option<&mut Process> {
        self.nodes.get_mut(name)
    }

    /// Take a node's process out of the stage; dropping it kills it.
    pub fn remove(&mut self, name: &str) -> Option<Process> {
        self.nodes.remove(name)
    }

    /// The program that is tested.
    #[must_use]
    pub fn holdfast(&self) -> &Path {
        &self.holdfast
    }
}

/// A prefix that no other lab has, of this run or another.
#[must_use]
pub fn prefix() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let letter = char::from_digit(next % 36, 36).expect("it is less than 36");
    // A process id has at most 22 bits.
    format!("k{letter}{:x}", process::id())
}

/// Whether the kernel tests can run here. Says so where they cannot, which is a failure where
/// `CI=true`.
///
/// # Panics
/// Without privilege or tools where `CI=true`.
#[must_use]
pub fn can_run() -> bool {
    let Err(why) = preconditions() else {
        return true;
    };
    let must_run = env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!must_run, "CI must run this test: {why}");
    // Not by `eprintln!`, which the test harness swallows where a test passes.
    let _ = writeln!(io::stderr(), "SKIPPED, not tested: {why}");
    false
}
