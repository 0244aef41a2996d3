//! The mesh that is up: its lab, its folder, its processes.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, bail};
use holdfast_bootstrap::INFO_FILE;
use holdfast_lab::process::ProcessId;
use holdfast_lab::{Error as LabError, Lab};
use zeroize::Zeroizing;

use super::plan::Database;
use super::process::{self, start_detached};

/// The name of the broker's and TURN server's log.
pub const RENDEZVOUS: &str = "rendezvous";
/// The name of the embedded KV's log.
pub const KV: &str = "kv";
/// What the databases are run with.
const DATABASE: &str = "database.json";
/// Names the process of the `up` that makes the mesh; gone when all is made.
const MAKER: &str = "maker";

/// One that forks while it is killed may leave a child: so often is looked for more.
const KILL_ROUNDS_MAX: u32 = 50;

/// Where nodes have their disks: databases need more than `/run` has, which is memory.
const DISKS: &str = "/var/lib/holdfast-dev";
/// A file beside them: the cluster was up, and somebody may miss what is in its databases.
const USED: &str = "used";

/// A mesh on this machine.
pub struct Mesh {
    /// Its namespaces.
    pub lab: Lab,
    folder: PathBuf,
    disks: PathBuf,
}

/// Remove a cluster, its disks included. False if there was none.
pub fn clean(prefix: &str) -> anyhow::Result<bool> {
    let existed = Lab::clean(prefix)? || disks(prefix).exists();
    remove_disks(prefix)?;
    Ok(existed)
}

/// A cluster that was up may have left its disks: the machine was restarted. They are removed if that
/// is asked for; those of one that never came up are in nobody's way.
pub fn refuse_disks(prefix: &str, wipe: bool) -> anyhow::Result<()> {
    let disks = disks(prefix);
    if !wipe && disks.join(USED).exists() {
        bail!(
            "{} has the databases of a cluster that was up before: `holdfast dev up --wipe` starts \
             without them, `holdfast dev down` removes them",
            disks.display()
        );
    }
    remove_disks(prefix)
}

/// Only of a cluster whose namespaces, and so processes, are gone.
pub fn remove_disks(prefix: &str) -> anyhow::Result<()> {
    let disks = disks(prefix);
    match fs::remove_dir_all(&disks) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", disks.display()))
        }
        _ => Ok(()),
    }
}

fn disks(prefix: &str) -> PathBuf {
    Path::new(DISKS).join(prefix)
}

impl Mesh {
    /// The mesh of a lab that is up.
    pub fn of(lab: Lab) -> Mesh {
        let folder = lab.folder().join("dev");
        let disks = disks(lab.prefix());
        Mesh { lab, folder, disks }
    }

    /// The mesh that is up.
    pub fn attach(prefix: &str) -> anyhow::Result<Mesh> {
        match Lab::attach(prefix) {
            Ok(lab) => Ok(Mesh::of(lab)),
            Err(LabError::NotUp { .. }) => {
                bail!("there is no cluster: `holdfast dev up` makes one")
            }
            Err(error) => Err(error).context("`holdfast dev down` removes what is left of it"),
        }
    }

    /// The folder of configurations, keys and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The log of a node or of [`RENDEZVOUS`].
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// The configuration of a node.
    pub fn config(&self, node: &str) -> PathBuf {
        self.folder.join(format!("{node}.toml"))
    }

    /// Where every node serves its status, inside its namespace.
    pub fn admin(&self) -> SocketAddr {
        ([127, 0, 0, 1], 7070).into()
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> Vec<String> {
        self.lab.nodes().map(str::to_owned).collect()
    }

    /// Refuse a name that no node has.
    pub fn check_node(&self, node: &str) -> anyhow::Result<()> {
        if self.lab.nodes().any(|known| known == node) {
            return Ok(());
        }
        bail!(
            "there is no node {node:?}: the nodes are {}",
            self.nodes().join(", ")
        )
    }

    /// The process of a node, as it was last started.
    pub fn process(&self, node: &str) -> Option<ProcessId> {
        let text = fs::read(self.pid_file(node)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The peer that a node has become, as it says itself.
    pub fn member(&self, node: &str) -> Option<String> {
        let info = self.own_folder(node).join("run").join(INFO_FILE);
        let info: serde_json::Value = serde_json::from_slice(&fs::read(info).ok()?).ok()?;
        Some(format!("{}-{}", info["role"].as_str()?, info["ordinal"]))
    }

    /// Where a node keeps everything: its disk.
    pub fn own_folder(&self, node: &str) -> PathBuf {
        self.disks.join(node)
    }

    /// The folder that every node has its disk in.
    pub fn disks(&self) -> &Path {
        &self.disks
    }

    /// The certificate of the database's authority, as a node has it.
    pub fn ca(&self, node: &str) -> PathBuf {
        self.own_folder(node).join("run").join("ca.pem")
    }

    /// The password of the database's superuser, as a node has derived it.
    pub fn superuser_password(&self, node: &str) -> anyhow::Result<Zeroizing<String>> {
        let secrets = self.own_folder(node).join("secrets");
        let credentials = holdfast_sidecar::postgres::credentials(&secrets)?;
        Ok(credentials.superuser)
    }

    /// What the workers' databases are run with, if they have some.
    pub fn database(&self) -> Option<Database> {
        let text = fs::read(self.folder.join(DATABASE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Keep it for the commands that come later.
    pub fn keep_database(&self, database: &Database) -> anyhow::Result<()> {
        let text = serde_json::to_vec(database)?;
        fs::write(self.folder.join(DATABASE), text).context("cannot write the state")
    }

    /// Make the folder of disks. The database's user has to pass through it; what is in it cannot be
    /// listed by others.
    pub fn make_disks(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.disks)
            .and_then(|()| fs::set_permissions(&self.disks, Permissions::from_mode(0o711)))
            .with_context(|| format!("cannot make {}", self.disks.display()))
    }

    /// Give a node an empty disk.
    pub fn wipe(&self, node: &str) -> anyhow::Result<()> {
        let folder = self.own_folder(node);
        fs::remove_dir_all(&folder)
            .and_then(|()| fs::create_dir(&folder))
            .with_context(|| format!("cannot empty {}", folder.display()))
    }

    /// SIGKILL to everything in a node's namespace. False if there was nothing.
    pub fn kill(&self, node: &str) -> anyhow::Result<bool> {
        let was_running = self.process(node).is_some_and(|id| id.is_alive());
        let mut found = was_running;
        for _ in 0..KILL_ROUNDS_MAX {
            let status = self.lab.status()?;
            let own = status.namespaces.into_iter().find(|own| own.name == node);
            let pids = own.map(|own| own.pids).unwrap_or_default();
            if pids.is_empty() {
                return Ok(found);
            }
            found = true;
            for pid in pids {
                process::kill(ProcessId::of(pid))?;
            }
        }
        bail!("{node} starts processes faster than they can be killed")
    }

    fn pid_file(&self, node: &str) -> PathBuf {
        self.folder.join(format!("{node}.pid"))
    }

    /// Start a node's process.
    pub fn start_node(&self, node: &str) -> anyhow::Result<Child> {
        let config = self.config(node);
        let mut command = self.lab.command(node, own_program()?)?;
        command.arg("sidecar").arg("--config").arg(config);
        let child = start_detached(command, &self.log(node))
            .with_context(|| format!("cannot start {node}"))?;
        let id = serde_json::to_vec(&ProcessId::of(child.id()))?;
        fs::write(self.pid_file(node), id)
            .with_context(|| format!("cannot write the process id of {node}"))?;
        Ok(child)
    }

    /// Note that this process makes the mesh.
    pub fn begin(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)
            .and_then(|()| {
                let id = serde_json::to_vec(&ProcessId::of(std::process::id()))?;
                fs::write(self.folder.join(MAKER), id)
            })
            .with_context(|| format!("cannot write to {}", self.folder.display()))
    }

    /// Note that everything was made.
    pub fn finish(&self) -> anyhow::Result<()> {
        fs::write(self.disks.join(USED), "")
            .and_then(|()| fs::remove_file(self.folder.join(MAKER)))
            .context("cannot write the state")
    }

    /// Whether everything was made.
    pub fn is_finished(&self) -> bool {
        self.folder.is_dir() && !self.folder.join(MAKER).exists()
    }

    /// Whether the process that made it ended before everything was made.
    pub fn is_half_made(&self) -> bool {
        self.folder.join(MAKER).exists() && !self.is_being_made()
    }

    /// Whether the process that makes the mesh is still at it.
    pub fn is_being_made(&self) -> bool {
        let maker = fs::read(self.folder.join(MAKER)).ok();
        let id = maker.and_then(|text| serde_json::from_slice::<ProcessId>(&text).ok());
        id.is_some_and(|id| id.is_alive())
    }
}

/// This very program.
pub fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}
