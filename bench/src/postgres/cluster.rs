//! PostgreSQL's own programs and servers in the nodes of a world, run as the user `postgres`.

use std::{
    cell::Cell,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use holdfast_lab::{Lab, process::Process};

use crate::world::{NODE_2, POSTGRES_PORT, World};

/// Where Debian puts the versions of PostgreSQL.
const VERSIONS: &str = "/usr/lib/postgresql";
/// What is called here.
const NEEDED: [&str; 5] = ["initdb", "postgres", "pg_basebackup", "pgbench", "psql"];
/// PostgreSQL refuses to run as root.
const USER: &str = "postgres";
/// A server's start, or a standby's way to streaming, on a busy machine and a lossy line.
const START_BOUND: Duration = Duration::from_secs(60);
/// A fast shutdown of an idle server.
const STOP_BOUND: Duration = Duration::from_secs(60);
/// Making the cluster and its tables.
const MAKE_BOUND: Duration = Duration::from_secs(300);
/// How many folders' names are tried: more are never left behind by runs that were killed.
const FOLDERS_MAX: u32 = 100;

/// The programs of one version.
#[derive(Debug)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Those in `folder`, or the newest.
    ///
    /// # Errors
    /// If one is missing.
    pub fn find(folder: Option<&Path>) -> anyhow::Result<Self> {
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => newest().with_context(|| {
                format!("no PostgreSQL below {VERSIONS}: install it (Debian: postgresql), or name its programs' folder with --postgres-bin")
            })?,
        };
        match NEEDED.iter().find(|name| !folder.join(name).is_file()) {
            Some(name) => bail!("{} has no {name}", folder.display()),
            None => Ok(Self(folder)),
        }
    }
}

/// The highest number below [`VERSIONS`] that has a server.
fn newest() -> Option<PathBuf> {
    let entries = fs::read_dir(VERSIONS).ok()?.flatten();
    let versions = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let folders =
        versions.map(|version| (version, Path::new(VERSIONS).join(format!("{version}/bin"))));
    let usable = folders.filter(|(_, folder)| folder.join("postgres").is_file());
    Some(usable.max()?.1)
}

/// How a client reaches the primary, and where the client is.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// For names of files and figures.
    pub name: &'static str,
    /// Where the client, or the standby, runs.
    pub node: &'static str,
    /// What it connects to; the port is [`POSTGRES_PORT`].
    pub host: IpAddr,
}

/// A primary at the second node, and what belongs to it. Everything is gone when it is dropped.
pub struct Cluster<'a> {
    // Before the folder: dropped first.
    primary: Option<Process>,
    binaries: &'a Binaries,
    lab: &'a Lab,
    folder: PathBuf,
    logs: Cell<u32>,
}

impl<'a> Cluster<'a> {
    /// Makes a cluster and starts its primary. `ballast` is put beside the tables, into the folder
    /// that a base backup copies: bytes that compress to nothing less.
    ///
    /// # Errors
    /// If the user `postgres` is missing, or a program fails.
    pub fn start(world: &'a World, binaries: &'a Binaries, ballast: u64) -> anyhow::Result<Self> {
        let mut cluster = Self {
            primary: None,
            binaries,
            lab: &world.lab,
            folder: make_folder()?,
            logs: Cell::new(0),
        };
        let data = cluster.path("primary");
        cluster.run_local("initdb", |command| {
            // Nobody else is on this network; the data are the same on both sides of a figure.
            command.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
            command.arg("--data-checksums").arg("-D").arg(&data);
        })?;
        write_random(&data.join("ballast"), ballast)?;
        let address = world.lab.address(NODE_2)?;
        let own = crate::world::vip(NODE_2, POSTGRES_PORT).ip();
        cluster.configure(&format!("127.0.0.1,{own},{address}"))?;
        let mut primary = cluster.spawn("primary", NODE_2, &data, &[])?;
        primary.wait_ready(START_BOUND, |_| {
            cluster.ask("select 1").is_ok_and(|one| one == "1")
        })?;
        cluster.primary = Some(primary);
        Ok(cluster)
    }

    fn configure(&self, listen: &str) -> anyhow::Result<()> {
        let text = format!(
            "listen_addresses = '{listen}'\nport = {POSTGRES_PORT}\n\
             unix_socket_directories = '{}'\n\
             synchronous_standby_names = '*'\nsynchronous_commit = on\n\
             shared_buffers = 256MB\nmax_wal_size = 4GB\ncheckpoint_timeout = 1h\n\
             # Would strike one run and spare the next.\nautovacuum = off\n",
            self.folder.display()
        );
        let write = |name: &str, text: &str| {
            let path = self.path("primary").join(name);
            let old = fs::read_to_string(&path).unwrap_or_default();
            fs::write(&path, old + text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("postgresql.conf", &text)?;
        write(
            "pg_hba.conf",
            "host all all all trust\nhost replication all all trust\n",
        )
    }

    /// Copies the primary into a folder that [`standby`](Self::standby) starts.
    ///
    /// # Errors
    /// If the copy fails.
    pub fn prepare_standby(&self) -> anyhow::Result<()> {
        self.run_local("pg_basebackup", |command| {
            command
                .arg("-h")
                .arg(&self.folder)
                .arg("-D")
                .arg(self.path("standby"));
            command.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf"]);
        })
    }

    /// A standby that follows the primary by that route, once it is the synchronous one and has
    /// everything.
    ///
    /// # Errors
    /// If it does not start or does not come to stream.
    pub fn standby(&self, route: Route) -> anyhow::Result<Standby> {
        const READY: &str = "select count(*) from pg_stat_replication where state = 'streaming' \
                             and sync_state = 'sync' and replay_lsn = pg_current_wal_lsn()";
        let settings = [
            format!(
                "primary_conninfo=host={} port={POSTGRES_PORT} user={USER}",
                route.host
            ),
            // Reached by nobody but through its socket.
            "listen_addresses=".to_owned(),
            format!("port={}", POSTGRES_PORT + 1),
        ];
        let process = self.spawn("standby", route.node, &self.path("standby"), &settings)?;
        let mut standby = Standby(Some(process));
        if let Some(process) = &mut standby.0 {
            process
                .wait_ready(START_BOUND, |_| {
                    self.ask(READY).is_ok_and(|count| count == "1")
                })
                .with_context(|| format!("a standby by {}", route.name))?;
        }
        Ok(standby)
    }

    /// Runs a program at the route's client and returns what it printed; what it says of a failure
    /// is in the error.
    ///
    /// # Errors
    /// If it fails, or takes longer than `bound`.
    pub fn run(
        &self,
        route: Route,
        name: &str,
        bound: Duration,
        prepare: impl FnOnce(&mut Command),
    ) -> anyhow::Result<String> {
        let mut command = self.command(Some(route.node), name)?;
        command.env("PGHOST", route.host.to_string());
        prepare(&mut command);
        self.finish(name, command, bound)
    }

    /// The answer of the primary to one query.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask(&self, query: &str) -> anyhow::Result<String> {
        let mut command = self.command(None, "psql")?;
        command.arg("-h").arg(&self.folder).args(["-XAtc", query]);
        let output = command
            .stdin(Stdio::null())
            .output()
            .context("cannot run psql")?;
        if !output.status.success() {
            bail!("psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A path in the folder that goes with the cluster; the user `postgres` may write there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs a program on this machine, beside the primary's socket.
    ///
    /// # Errors
    /// If it fails.
    pub fn run_local(&self, name: &str, prepare: impl FnOnce(&mut Command)) -> anyhow::Result<()> {
        let mut command = self.command(None, name)?;
        prepare(&mut command);
        self.finish(name, command, MAKE_BOUND).map(drop)
    }

    fn finish(&self, name: &str, command: Command, bound: Duration) -> anyhow::Result<String> {
        self.logs.set(self.logs.get() + 1);
        let log = self
            .lab
            .folder()
            .join(format!("{name}-{}.log", self.logs.get()));
        let mut process = Process::spawn(name, command, &log)?;
        let status = process.wait_end(bound)?;
        let said = process.log();
        // A lab's folder is in memory on some machines, and a run writes hundreds.
        let _ = fs::remove_file(&log);
        if !status.success() {
            bail!("{name}: {status}: {}", said.trim());
        }
        Ok(said)
    }

    fn spawn(
        &self,
        name: &str,
        node: &str,
        data: &Path,
        settings: &[String],
    ) -> anyhow::Result<Process> {
        let mut command = self.command(Some(node), "postgres")?;
        command.arg("-D").arg(data);
        for setting in settings {
            command.args(["-c", setting]);
        }
        let log = self.lab.folder().join(format!("{name}.log"));
        Ok(Process::spawn(name, command, &log)?)
    }

    /// A program of PostgreSQL's as its user, in a node or on this machine itself.
    fn command(&self, node: Option<&str>, name: &str) -> anyhow::Result<Command> {
        let mut command = match node {
            Some(node) => self.lab.command(node, "setpriv")?,
            None => Command::new("setpriv"),
        };
        as_user(&mut command);
        command
            .arg(self.binaries.0.join(name))
            .current_dir(&self.folder);
        Ok(command)
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if let Some(primary) = self.primary.take() {
            stop(primary);
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            // There is no caller to tell; silence would leave a folder unexplained.
            eprintln!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

/// A standby that is shut down when this is dropped.
pub struct Standby(Option<Process>);

impl Drop for Standby {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            stop(process);
        }
    }
}

/// A fast shutdown; what does not heed it is killed with the handle.
fn stop(mut process: Process) {
    if process.signal(libc::SIGINT).is_ok() {
        let _ = process.wait_end(STOP_BOUND);
    }
}

/// The rest of the command line is run as the user, with nothing of this process's environment.
fn as_user(command: &mut Command) {
    command.env_clear();
    command.env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
    command.env("PGUSER", USER).env("PGDATABASE", "postgres");
    command.env("PGPORT", POSTGRES_PORT.to_string());
    command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--"]);
}

/// A folder that only the user may enter: root's temporary folders are often closed to others.
fn make_folder() -> anyhow::Result<PathBuf> {
    for number in 0..FOLDERS_MAX {
        let name = format!("holdfast-bench-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        if folder.exists() {
            continue;
        }
        let mut command = Command::new("setpriv");
        as_user(&mut command);
        let output = command.args(["mkdir", "-m", "700"]).arg(&folder).output();
        let output = output.context("cannot run setpriv (Debian: util-linux)")?;
        if !output.status.success() {
            bail!(
                "the user {USER} cannot make {}: {}",
                folder.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        return Ok(folder);
    }
    bail!(
        "{} is full of folders of runs that were killed",
        std::env::temp_dir().display()
    )
}

/// A file of random bytes that belongs to whom its folder belongs to.
fn write_random(path: &Path, bytes: u64) -> anyhow::Result<()> {
    use std::{io::Read, os::unix::fs::MetadataExt};
    let failed = || format!("cannot write {}", path.display());
    let mut file = fs::File::create(path).with_context(failed)?;
    let random = fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    std::io::copy(&mut random.take(bytes), &mut file).with_context(failed)?;
    let folder = path.parent().context("the file has no folder")?;
    let owner = fs::metadata(folder).with_context(failed)?;
    std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).with_context(failed)
}
