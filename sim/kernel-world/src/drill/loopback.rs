//! The baseline: all members in one namespace, and no mesh between them.
//!
//! Every member has the address that it would have in the mesh, and a Consul agent of its own, as a
//! worker has. Clients know all members and take the one that takes writes, as libpq's
//! `target_session_attrs=read-write` does: no endpoint is between them and the database, so that
//! what the mesh *and* its endpoints cost shows in the comparison.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_lab::Place;
use holdfast_lab::process::{Process, wait_for};
use holdfast_plan::drill::{Drill, Processes};
use serde_json::json;

use super::disk::Disk;
use super::ground::{Ended, Ground, KV_PORT, Logins, Member, REST_PORT, SQL_PORT, STOP_BOUND};
use super::patroni;
use super::procs::{is_there, postmaster, send, with_descendants};
use super::tools::{Tools, own_folder};
use super::whole::Interrupts;
use crate::stage::{Stage, StageError};

/// The namespace.
const SPACE: &str = "all";
/// How long Consul's servers may take to find each other and a leader.
const KV_BOUND: Duration = Duration::from_secs(30);
/// The file in the lab's folder with the names of all addresses.
const HOSTS: &str = "hosts";
/// How long Consul may take to say who leads.
const LEADER_LIMIT: Duration = Duration::from_millis(500);

/// A member's address, as in the mesh.
fn vip(octet: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 50, 0, octet)
}

/// Where the Consul agent of the machine with that address has its API. In the mesh it is
/// 127.0.0.1, which every machine has for itself.
fn kv_of(octet: u8) -> SocketAddr {
    SocketAddr::from(([127, 60, 0, octet], KV_PORT))
}

/// A cluster in one namespace.
pub struct Loopback {
    // In the order in which they end.
    patronis: Vec<Option<Process>>,
    consuls: Vec<Option<Process>>,
    disks: Vec<Disk>,
    members: Vec<Member>,
    logins: Logins,
    cut: Vec<bool>,
    coordinators: u8,
    tools: Tools,
    stage: Stage,
}

impl Loopback {
    /// Builds it, and starts everything.
    ///
    /// # Errors
    /// What cannot be built.
    pub fn new(drill: &Drill, tools: &Tools) -> Result<Loopback, StageError> {
        let stage = Stage::bare(|lab| lab.node(SPACE, Place::Public))?;
        let folder = stage.lab.folder();
        super::let_through(&folder)?;
        let octets = 1..=drill.coordinators + drill.workers;
        for octet in octets.clone() {
            let text = consul(drill.coordinators, octet, &folder).to_string();
            super::write(&folder.join(format!("consul-{octet}.json")), &text)?;
        }
        let mut disks = Vec::new();
        let mut members = Vec::new();
        let all: Vec<SocketAddr> = octets
            .clone()
            .skip(usize::from(drill.coordinators))
            .map(|octet| SocketAddr::from((vip(octet), SQL_PORT)))
            .collect();
        for (index, octet) in octets.skip(usize::from(drill.coordinators)).enumerate() {
            let name = format!("worker-{octet}");
            let home = folder.join(&name);
            disks.push(Disk::new(&home, super::needs_own_disk(drill))?);
            own_folder(&home, tools.owner).map_err(super::file(&home))?;
            // First the own one: whoever looks for the primary need not ask others first.
            let mut clients = all.clone();
            clients.rotate_left(index);
            members.push(Member {
                sql: SocketAddr::from((vip(octet), SQL_PORT)),
                rest: SocketAddr::from((vip(octet), REST_PORT)),
                data: home.join("data"),
                space: SPACE.to_owned(),
                clients,
                name,
            });
        }
        let hosts = members
            .iter()
            .map(|own| format!("{} {}\n", own.sql.ip(), own.name));
        let hosts = format!("127.0.0.1 localhost\n{}", hosts.collect::<String>());
        super::write(&folder.join(HOSTS), &hosts)?;
        let logins = patroni::logins();
        for (member, octet) in members.iter().zip(drill.coordinators + 1..) {
            let home = folder.join(&member.name);
            let text = patroni::config(drill, member, kv_of(octet), &home, tools)?;
            own_folder(&home.join("postgres"), tools.owner).map_err(super::file(&home))?;
            let path = config_path(member);
            super::write(&path, &text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
                .and_then(|()| chown(&path, Some(tools.owner.0), Some(tools.owner.1)))
                .map_err(super::file(&path))?;
        }
        let machines = usize::from(drill.coordinators + drill.workers);
        let mut this = Loopback {
            patronis: members.iter().map(|_| None).collect(),
            consuls: (0..machines).map(|_| None).collect(),
            disks,
            cut: vec![false; members.len()],
            members,
            logins,
            coordinators: drill.coordinators,
            tools: tools.clone(),
            stage,
        };
        for machine in 0..machines {
            this.start_consul(machine)?;
        }
        // Patroni would try again, but only after some seconds.
        let agents: Vec<SocketAddr> = (1..=drill.coordinators + drill.workers)
            .map(kv_of)
            .collect();
        let asked = |at: &SocketAddr| super::kv_leader(&[*at], LEADER_LIMIT).is_some();
        let all_know = || Interrupts::came() || agents.iter().all(asked);
        this.stage.lab.run_in(SPACE, || {
            wait_for("Consul has a leader", KV_BOUND, all_know)
        })??;
        for member in 0..this.members.len() {
            this.start(member)?;
        }
        Ok(this)
    }

    /// The machine of a member, counted from the first coordinator.
    fn machine(&self, member: usize) -> usize {
        usize::from(self.coordinators) + member
    }

    fn start_consul(&mut self, machine: usize) -> Result<(), StageError> {
        let folder = self.stage.lab.folder();
        let octet = machine + 1;
        let mut command = self.stage.lab.command(SPACE, &self.tools.consul)?;
        command
            .args(["agent", "-config-file"])
            .arg(folder.join(format!("consul-{octet}.json")));
        let log = folder.join(format!("consul-{octet}.log"));
        let process = Process::spawn("consul", command, &log)?;
        self.consuls[machine] = Some(process);
        Ok(())
    }

    fn start_patroni(&mut self, member: usize) -> Result<(), StageError> {
        let own = &self.members[member];
        let (uid, gid) = self.tools.owner;
        let hosts = self.stage.lab.folder().join(HOSTS);
        let setpriv = Path::new("setpriv");
        let mut command = super::with_hosts(&self.stage.lab, SPACE, &hosts, setpriv)?;
        command
            .args([format!("--reuid={uid}"), format!("--regid={gid}")])
            .args(["--clear-groups", "--"])
            .arg(&self.tools.patroni)
            .arg(config_path(own))
            .current_dir("/");
        patroni::environment(&mut command);
        let log = log_path(&self.stage.lab.folder(), own);
        let process = Process::spawn(&own.name, command, &log)?;
        self.patronis[member] = Some(process);
        Ok(())
    }

    /// The ends of lines that carry nothing, told the kernel.
    fn apply_cuts(&self) -> Result<(), StageError> {
        let mut script = "add table ip drill; delete table ip drill; add table ip drill; \
                          add chain ip drill entry { type filter hook input priority 0; };"
            .to_owned();
        for (member, _) in self.cut.iter().enumerate().filter(|(_, cut)| **cut) {
            let ip = self.members[member].sql.ip();
            script.push_str(&format!(
                "add rule ip drill entry ip saddr {ip} ip daddr {ip} accept; \
                 add rule ip drill entry ip saddr {ip} drop; add rule ip drill entry ip daddr {ip} drop;"
            ));
        }
        let mut command = self.stage.lab.command(SPACE, "nft")?;
        command.arg(script);
        super::run(command, "nft")
    }
}

impl Ground for Loopback {
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
        (
            SPACE.to_owned(),
            (1..=self.coordinators).map(kv_of).collect(),
        )
    }

    fn pids(&self, member: usize, what: Processes) -> Result<Vec<u32>, StageError> {
        let among = self.stage.lab.pids(SPACE)?;
        let own = &self.members[member];
        let master = postmaster(&own.data, &among);
        let patroni = self.patronis[member].as_ref().map(Process::pid);
        let agent = self.consuls[self.machine(member)]
            .as_ref()
            .map(Process::pid);
        let roots: Vec<u32> = match what {
            Processes::Postmaster => return Ok(master.into_iter().collect()),
            Processes::Database => patroni.into_iter().chain(master).collect(),
            Processes::Agent => agent.into_iter().collect(),
            Processes::Machine => patroni.into_iter().chain(master).chain(agent).collect(),
        };
        Ok(with_descendants(&roots, &among))
    }

    fn kv_leader(&self) -> Result<Option<u32>, StageError> {
        let (space, servers) = self.kv();
        let leader = self
            .stage
            .lab
            .run_in(&space, || super::kv_leader(&servers, LEADER_LIMIT))?;
        let machine = leader.and_then(|octet| usize::from(octet).checked_sub(1));
        let process = machine.and_then(|machine| self.consuls.get(machine)?.as_ref());
        Ok(process.map(Process::pid))
    }

    fn hold(&mut self, _member: usize) -> Result<(), StageError> {
        // Nobody would start it.
        Ok(())
    }

    fn start(&mut self, member: usize) -> Result<(), StageError> {
        let servers = 0..usize::from(self.coordinators);
        for machine in servers.chain([self.machine(member)]) {
            let runs = self.consuls[machine]
                .as_mut()
                .is_some_and(|p| p.ended().is_none());
            if !runs {
                self.start_consul(machine)?;
            }
        }
        let runs = self.patronis[member]
            .as_mut()
            .is_some_and(|p| p.ended().is_none());
        if !runs {
            self.start_patroni(member)?;
        }
        Ok(())
    }

    fn stop(&mut self, member: usize) -> Result<(), StageError> {
        for process in [self.patronis[member].take()].into_iter().flatten() {
            process.stop(STOP_BOUND)?;
        }
        let machine = self.machine(member);
        if let Some(agent) = self.consuls[machine].take() {
            agent.stop(STOP_BOUND)?;
        }
        Ok(())
    }

    fn lose(&mut self, _member: usize) {
        // Nobody would.
    }

    fn cut(&mut self, member: usize, on: bool) -> Result<(), StageError> {
        self.cut[member] = on;
        self.apply_cuts()
    }

    fn shape(&mut self, _member: usize, _link: Option<&str>) -> Result<(), StageError> {
        // Refused before the drill began.
        Ok(())
    }

    fn logs(&self, member: usize) -> Vec<PathBuf> {
        vec![log_path(&self.stage.lab.folder(), &self.members[member])]
    }

    fn all_logs(&self) -> Vec<PathBuf> {
        (0..self.members.len()).flat_map(|m| self.logs(m)).collect()
    }

    fn agent_answers(&self, member: usize) -> Result<bool, StageError> {
        let octet = u8::try_from(self.machine(member) + 1).expect("there are few machines");
        let ask = || super::kv_leader(&[kv_of(octet)], LEADER_LIMIT).is_some();
        Ok(self.stage.lab.run_in(SPACE, ask)?)
    }

    fn ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for (index, process) in self.patronis.iter_mut().enumerate() {
            if process.as_mut().is_some_and(|p| p.ended().is_some()) {
                let what = format!("Patroni of {}", self.members[index].name);
                let member = Some(index);
                ended.push(Ended { member, what });
            }
        }
        for (machine, process) in self.consuls.iter_mut().enumerate() {
            if process.as_mut().is_some_and(|p| p.ended().is_some()) {
                let member = machine.checked_sub(usize::from(self.coordinators));
                let what = format!("Consul {}", machine + 1);
                ended.push(Ended { member, what });
            }
        }
        ended
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        // PostgreSQL is no child of Patroni's and outlives it: at once, as nothing is kept.
        // Whoever waits for a disk that stands still does not die.
        self.disks.iter().for_each(Disk::thaw);
        let among = self.stage.lab.pids(SPACE).unwrap_or_default();
        send(&among, libc::SIGKILL);
        let gone = || !among.iter().any(|pid| is_there(*pid));
        self.patronis.clear();
        self.consuls.clear();
        let _ = wait_for("all ended", STOP_BOUND, gone);
        self.disks.clear();
    }
}

fn config_path(member: &Member) -> PathBuf {
    member.data.with_file_name("patroni.yml")
}

fn log_path(folder: &Path, member: &Member) -> PathBuf {
    folder.join(format!("{}.log", member.name))
}

/// The configuration of an agent, as the sidecar writes it.
fn consul(coordinators: u8, octet: u8, folder: &Path) -> serde_json::Value {
    let server = octet <= coordinators;
    let others = (1..=coordinators).filter(|other| *other != octet);
    let join: Vec<String> = others.map(|other| vip(other).to_string()).collect();
    let name = match server {
        true => format!("coordinator-{octet}"),
        false => format!("worker-{octet}"),
    };
    let mut config = json!({
        "node_name": name,
        "node_id": format!("00000000-0000-0000-0000-0000000000{octet:02x}"),
        "datacenter": "dc1",
        "server": server,
        "bind_addr": vip(octet).to_string(),
        "advertise_addr": vip(octet).to_string(),
        "client_addr": kv_of(octet).ip().to_string(),
        "ports": {
            "http": KV_PORT, "https": -1, "dns": -1, "grpc": -1, "grpc_tls": -1,
            "server": 8300, "serf_lan": 8301, "serf_wan": if server { 8302 } else { -1 },
        },
        "retry_join": join,
        "retry_interval": "1s",
        "rejoin_after_leave": true,
        "leave_on_terminate": false,
        "skip_leave_on_interrupt": true,
        "performance": { "raft_multiplier": 1 },
        "data_dir": folder.join(format!("consul-{octet}")),
        "disable_update_check": true,
        "disable_host_node_id": true,
        "disable_remote_exec": true,
        "log_level": "INFO",
    });
    if server {
        config["bootstrap_expect"] = coordinators.into();
        config["autopilot"] = json!({ "cleanup_dead_servers": false });
    }
    config
}
