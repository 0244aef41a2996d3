//! Whole sidecars, each behind a NAT of its own: Consul's servers on the coordinators, a database
//! on every worker, and nothing between them but the mesh.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_lab::process::wait_for_value;
use holdfast_lab::{Direction, LinkSpec, Nat, PUB, Place};
use holdfast_plan::drill::{Blow, Drill, Processes};
use serde::Deserialize;

use super::disk::Disk;
use super::ground::{Ended, Ground, KV_PORT, Logins, Member, REST_PORT, SQL_PORT};
use super::keeper::Keeper;
use super::mesh_config::{self, Machine};
use super::procs::{postmaster, with_argument, with_descendants};
use super::tools::{Tools, own_folder};
use super::whole::Interrupts;
use crate::http;
use crate::members;
use crate::stage::{Program, Stage, StageError};

/// Where a sidecar's status page is, in its own namespace.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
/// How long a page may take.
const PAGE_LIMIT: Duration = Duration::from_millis(500);
/// How long workers may take until each has a slot: the servers have to find each other, through
/// a mesh that is not there yet.
const SLOTS_BOUND: Duration = Duration::from_secs(90);
/// How long Consul may take to say who leads.
const LEADER_LIMIT: Duration = Duration::from_millis(500);
/// Where a worker's endpoint for the primary is, in its own namespace.
const PRIMARY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 10, 0, 1)), SQL_PORT);

#[derive(Deserialize)]
struct Page {
    sidecar: Sidecar,
}

#[derive(Deserialize)]
struct Sidecar {
    slot: Slot,
}

#[derive(Deserialize)]
struct Slot {
    slot: Option<u8>,
}

/// A cluster of sidecars.
pub struct Mesh {
    // In the order in which they end.
    keeper: Keeper,
    disks: Vec<Disk>,
    members: Vec<Member>,
    logins: Logins,
    coordinators: u8,
    gateways: Vec<SocketAddr>,
    link: Option<String>,
    stage: Stage,
}

impl Mesh {
    /// Builds it, starts everything, and waits until it is known who is who.
    ///
    /// # Errors
    /// What cannot be built, or workers without a slot.
    pub fn new(drill: &Drill, tools: &Tools) -> Result<Mesh, StageError> {
        let machines: Vec<u8> = (1..=drill.coordinators + drill.workers).collect();
        let is_worker = |machine: u8| machine > drill.coordinators;
        let wire = Program::Wire.path()?;
        let link = drill.link.as_deref().map(LinkSpec::new).transpose()?;
        let is_emulated = link.is_some() || matches!(drill.blow, Blow::Copy { .. });
        let link = link.unwrap_or_else(LinkSpec::none);
        let mut stage = Stage::new(|mut lab| {
            lab = lab.wire_binary(&wire);
            for machine in &machines {
                let (node, nat) = (space(*machine), format!("nat-{machine}"));
                lab = lab
                    .router(&nat, Nat::default())
                    .node(&node, Place::Behind(&nat));
                if !is_worker(*machine) {
                    lab = lab.publish(&node, KV_PORT, KV_PORT);
                } else if is_emulated {
                    lab = lab.link(&node, link.clone(), link.clone());
                }
            }
            lab
        })?;
        let folder = stage.lab.folder();
        super::let_through(&folder)?;
        stage.start_broker(0)?;
        stage.start_turn()?;
        mesh_config::write_key(&stage)?;
        let gateways = machines.iter().filter(|machine| !is_worker(**machine));
        let gateways = gateways.map(|machine| {
            let ip = stage.lab.public_address(&space(*machine))?;
            Ok(SocketAddr::from((ip, KV_PORT)))
        });
        let gateways = gateways.collect::<Result<Vec<_>, StageError>>()?;
        let mut disks = Vec::new();
        for machine in &machines {
            let home = home(&folder, *machine);
            let own = is_worker(*machine) && super::needs_own_disk(drill);
            disks.push(Disk::new(&home, own)?);
            fs::set_permissions(&home, fs::Permissions::from_mode(0o711))
                .map_err(super::file(&home))?;
            if is_worker(*machine) {
                own_folder(&home.join("postgres"), tools.owner).map_err(super::file(&home))?;
                wrap(&home, &tools.patroni)?;
            }
            let described = Machine {
                number: *machine,
                home: &home,
                address: stage.lab.address(&space(*machine))?,
                gateways: &gateways,
                holdfast: stage.holdfast(),
                folder: &folder,
            };
            let hosts = folder.join(format!("{}.hosts", space(*machine)));
            super::write(&hosts, "127.0.0.1 localhost\n")?;
            let text = mesh_config::toml(drill, tools, &described);
            super::write(&folder.join(format!("{}.toml", space(*machine))), &text)?;
        }
        let mut keeper = Keeper::new(stage.lab.prefix(), stage.holdfast().to_owned())?;
        for machine in &machines {
            keeper.start(&space(*machine))?;
        }
        let mut mesh = Mesh {
            keeper,
            disks,
            members: Vec::new(),
            logins: mesh_config::logins(),
            coordinators: drill.coordinators,
            gateways,
            link: drill.link.clone(),
            stage,
        };
        for machine in machines.iter().filter(|machine| is_worker(**machine)) {
            let member = mesh.known(*machine)?;
            mesh.members.push(member);
        }
        Ok(mesh)
    }

    /// A worker, once it has a slot.
    fn known(&self, machine: u8) -> Result<Member, StageError> {
        let space = space(machine);
        let slot = wait_for_value(&format!("a slot of {space}"), SLOTS_BOUND, || {
            let page = self
                .stage
                .lab
                .run_in(&space, || http::get(ADMIN, "/status", PAGE_LIMIT));
            let page: Page = serde_json::from_str(&page.ok()?.ok()?.body).ok()?;
            match page.sidecar.slot.slot {
                None if Interrupts::came() => Some(None),
                None => None,
                found => Some(found),
            }
        })?;
        let slot = slot.ok_or_else(|| StageError::Drill("interrupted".to_owned()))?;
        let vip = Ipv4Addr::new(127, 50, 0, slot);
        Ok(Member {
            name: format!("worker-{slot}"),
            sql: SocketAddr::from((vip, SQL_PORT)),
            rest: SocketAddr::from((vip, REST_PORT)),
            data: data(&home(&self.stage.lab.folder(), machine)),
            clients: vec![PRIMARY],
            space,
        })
    }

    fn machine(&self, member: usize) -> u8 {
        self.coordinators + 1 + u8::try_from(member).expect("there are few members")
    }

    fn held(&self, member: usize) -> PathBuf {
        home(&self.stage.lab.folder(), self.machine(member)).join("held")
    }
}

/// The namespace of a machine.
fn space(machine: u8) -> String {
    format!("node-{machine}")
}

/// A machine's disk.
fn home(folder: &Path, machine: u8) -> PathBuf {
    folder.join(format!("disk-{machine}"))
}

/// Where its database is.
pub fn data(home: &Path) -> PathBuf {
    home.join("postgres/data")
}

/// Patroni's program, as a machine's sidecar knows it.
pub fn wrapper(home: &Path) -> PathBuf {
    home.join("patroni")
}

/// Patroni that is not started as long as a file is there: what a sidecar starts again at once
/// would not be dead.
fn wrap(home: &Path, patroni: &Path) -> Result<(), StageError> {
    let path = wrapper(home);
    let (held, program) = (home.join("held"), patroni.display());
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec '{program}' \"$@\"\n\
         while [ -e '{}' ]; do sleep 0.1; done\nexec '{program}' \"$@\"\n",
        held.display()
    );
    super::write(&path, &text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(super::file(&path))?;
    chown(&path, Some(0), Some(0)).map_err(super::file(&path))
}

impl Ground for Mesh {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn members(&self) -> &[Member] {
        &self.members
    }

    fn logins(&self) -> &Logins {
        &self.logins
    }

    fn kv(&self) -> (String, Vec<SocketAddr>) {
        (PUB.to_owned(), self.gateways.clone())
    }

    fn pids(&self, member: usize, what: Processes) -> Result<Vec<u32>, StageError> {
        let own = &self.members[member];
        let among = self.stage.lab.pids(&own.space)?;
        let master = postmaster(&own.data, &among);
        let roots = match what {
            Processes::Machine => return Ok(among),
            Processes::Postmaster => return Ok(master.into_iter().collect()),
            Processes::Agent => with_argument(b"/consul.json", &among),
            Processes::Database => {
                let patroni = with_argument(b"/patroni.yml", &among);
                patroni.into_iter().chain(master).collect()
            }
        };
        Ok(with_descendants(&roots, &among))
    }

    fn kv_leader(&self) -> Result<Option<u32>, StageError> {
        let ask = || super::kv_leader(&self.gateways, LEADER_LIMIT);
        let Some(machine) = self.stage.lab.run_in(PUB, ask)? else {
            return Ok(None);
        };
        // Coordinators have the slots of their numbers.
        let among = self.stage.lab.pids(&space(machine))?;
        Ok(with_argument(b"/consul.json", &among).first().copied())
    }

    fn hold(&mut self, member: usize) -> Result<(), StageError> {
        super::write(&self.held(member), "")
    }

    fn start(&mut self, member: usize) -> Result<(), StageError> {
        let held = self.held(member);
        match fs::remove_file(&held) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(super::file(&held)(error));
            }
            _ => {}
        }
        self.keeper.start(&self.members[member].space)
    }

    fn stop(&mut self, member: usize) -> Result<(), StageError> {
        self.keeper.stop(&self.members[member].space)
    }

    fn lose(&mut self, member: usize) {
        self.keeper.lose(&self.members[member].space);
    }

    fn cut(&mut self, member: usize, on: bool) -> Result<(), StageError> {
        // Everything that arrives at the machine's router, from either side; nobody is told.
        let mut script = "add table ip drill; delete table ip drill;".to_owned();
        if on {
            script.push_str(
                "add table ip drill; add chain ip drill entry \
                 { type filter hook prerouting priority -400; policy drop; };",
            );
        }
        let router = format!("nat-{}", self.machine(member));
        let mut command = self.stage.lab.command(&router, "nft")?;
        command.arg(script);
        super::run(command, "nft")
    }

    fn shape(&mut self, member: usize, link: Option<&str>) -> Result<(), StageError> {
        let usual = self.link.as_deref();
        let spec = link
            .or(usual)
            .map_or_else(|| Ok(LinkSpec::none()), LinkSpec::new)?;
        for direction in [Direction::Up, Direction::Down] {
            self.stage
                .lab
                .set_link(&self.members[member].space, direction, &spec)?;
        }
        Ok(())
    }

    fn logs(&self, member: usize) -> Vec<PathBuf> {
        let space = &self.members[member].space;
        vec![self.stage.lab.folder().join(format!("{space}.log"))]
    }

    fn all_logs(&self) -> Vec<PathBuf> {
        let machines = 1..=self.machine(self.members.len()) - 1;
        let folder = self.stage.lab.folder();
        machines
            .map(|machine| folder.join(format!("{}.log", space(machine))))
            .collect()
    }

    fn agent_answers(&self, member: usize) -> Result<bool, StageError> {
        let agent = SocketAddr::from((Ipv4Addr::LOCALHOST, KV_PORT));
        let ask = || super::kv_leader(&[agent], LEADER_LIMIT).is_some();
        let space = &self.members[member].space;
        Ok(self.stage.lab.run_in(space, ask)?)
    }

    fn ended(&mut self) -> Vec<Ended> {
        let ended = self.keeper.ended().into_iter();
        let told = ended.map(|(space, times)| Ended {
            member: self.members.iter().position(|m| m.space == space),
            what: format!("the sidecar of {space}, {times} times,"),
        });
        told.collect()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Whoever waits for a disk that stands still does not die.
        self.disks.iter().for_each(Disk::thaw);
        self.keeper.end();
        // Databases outlive their sidecars for a moment; nothing of them is kept.
        for member in &self.members {
            let pids = self.stage.lab.pids(&member.space).unwrap_or_default();
            super::procs::send(&pids, libc::SIGKILL);
        }
        self.disks.clear();
    }
}

/// What the sidecars' program is told of its environment.
pub fn environment(command: &mut std::process::Command) {
    members::only_these_secrets(command);
    let logins = mesh_config::logins();
    command
        .env(
            "HOLDFAST_SECRET_POSTGRES_SUPERUSER_PASSWORD",
            logins.superuser,
        )
        .env("HOLDFAST_SECRET_PATRONI_REST_PASSWORD", logins.rest.1)
        .env("TZ", "UTC");
}
