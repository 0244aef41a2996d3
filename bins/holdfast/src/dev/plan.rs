//! What a cluster for trying things out is made of: its nodes, and their configuration.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_bootstrap::identity::{COORDINATOR, WORKER};
use holdfast_core::types::PeerId;
use holdfast_lab::SERVERS;

use crate::config::address::STUN_PORT;

/// Where everything that is public is.
pub const SERVER: Ipv4Addr = SERVERS[0];
/// The broker's port.
pub const BROKER_PORT: u16 = 7000;
/// The KV's port, embedded or Consul's.
pub const KV_PORT: u16 = 8500;
/// Short, so that a wiped node is back soon; renewed every third of it.
pub const LEASE: Duration = Duration::from_secs(30);
/// The file that everything is derived from, the same for all nodes.
pub const KEY_FILE: &str = "tee.key";
/// The cluster's name, and that of its cluster of databases.
pub const CLUSTER: &str = "dev";
/// The port of Patroni's REST API.
pub const REST_PORT: u16 = 8008;
/// The shortest times that Patroni takes, so that a failover is over soon: a leader that dies is
/// missed `ttl` after it last renewed its key.
const PATRONI_TIMES: [(&str, &str); 3] =
    [("ttl", "20s"), ("loop_wait", "5s"), ("retry_timeout", "5s")];
/// The secret of the TURN server.
pub const TURN_SECRET: &str = "turn.secret";
/// The ports that every node opens, chosen for trying things out, and whether UDP too.
const ALLOW: [(u16, bool); 3] = [(8080, false), (5432, false), (9000, true)];
/// What the members of a database talk through besides: Patroni.
const DATABASE_ALLOW: [(u16, bool); 1] = [(REST_PORT, false)];
/// What Consul's agents talk through.
const CONSUL_ALLOW: [(u16, bool); 3] = [(8300, false), (8301, true), (8302, true)];

/// The KV of a cluster.
#[derive(Clone, Debug)]
pub enum Kv {
    /// The embedded one, on the public network.
    Embedded,
    /// Consul's servers on the coordinators: this program.
    Consul(PathBuf),
}

/// What the workers' databases are run with. It is kept beside the cluster, for the commands that
/// come later.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Database {
    /// The folder of PostgreSQL's programs.
    pub bin_dir: PathBuf,
    /// Patroni's program.
    pub patroni: PathBuf,
    /// Whether the leader's key is in Consul, rather than in the embedded KV.
    pub consul: bool,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many coordinators: they come first.
    pub coordinators: u8,
    /// How many workers.
    pub workers: u8,
    /// Which KV.
    pub kv: Kv,
    /// The databases, if the workers have some.
    pub database: Option<Database>,
}

/// What is known of a node once the lab is described.
pub struct Place<'a> {
    /// The folder of what all nodes need.
    pub folder: &'a Path,
    /// The folder that every node has its disk in.
    pub disks: &'a Path,
    /// This program.
    pub program: &'a Path,
    /// The node's own address.
    pub address: Ipv4Addr,
    /// The addresses of the coordinators' gateways.
    pub gateways: &'a [Ipv4Addr],
}

impl Plan {
    /// The nodes; each is named like the peer that it becomes if the workers start in order. The
    /// ordinals of workers begin after the coordinators', and are their VIPs.
    pub fn nodes(&self) -> Vec<PeerId> {
        let all = 1..=u16::from(self.coordinators) + u16::from(self.workers);
        let name = |ordinal| {
            let role = self.role(ordinal);
            let name = format!("{role}-{ordinal}");
            name.parse().expect("a role and a number are a peer's name")
        };
        all.map(name).collect()
    }

    fn role(&self, ordinal: u16) -> &'static str {
        match ordinal <= u16::from(self.coordinators) {
            true => COORDINATOR,
            false => WORKER,
        }
    }

    /// Whether the node with this ordinal runs the KV.
    pub fn is_coordinator(&self, ordinal: u16) -> bool {
        self.role(ordinal) == COORDINATOR
    }

    /// The configuration of the node with this ordinal.
    pub fn toml(&self, ordinal: u16, place: &Place<'_>) -> String {
        let role = self.role(ordinal);
        let own = place.disks.join(format!("{role}-{ordinal}"));
        let mut out = format!("cluster = {CLUSTER:?}\nrole = \"{role}\"\n");
        if self.is_coordinator(ordinal) {
            let _ = writeln!(out, "ordinal = {ordinal}");
        }
        for (key, name) in [
            ("state_dir", "state"),
            ("run_dir", "run"),
            ("secrets_dir", "secrets"),
            ("hosts_file", "hosts"),
        ] {
            let _ = writeln!(out, "{key} = {:?}", own.join(name));
        }
        let _ = writeln!(out, "brokers = [\"http://{SERVER}:{BROKER_PORT}\"]");
        let _ = writeln!(out, "stun = [\"{SERVER}:{STUN_PORT}\"]");
        let _ = writeln!(out, "dump_dir = {:?}", place.folder.join("dumps"));
        out.push_str("log_format = \"human\"\n");
        let _ = write!(out, "\n[tee]\nkind = \"plain\"\nkey_file = {KEY_FILE:?}\n");
        let _ = write!(out, "\n[slots]\nlease = \"{}s\"\n", LEASE.as_secs());
        out.push_str(&self.kv_toml(ordinal, place));
        out.push_str(&self.database_toml(ordinal));
        out.push_str(&self.lists());
        out
    }

    fn kv_toml(&self, ordinal: u16, place: &Place<'_>) -> String {
        let list = |addresses: &[Ipv4Addr]| {
            let urls = addresses
                .iter()
                .map(|ip| format!("\"http://{ip}:{KV_PORT}\""));
            let urls = urls.collect::<Vec<_>>().join(", ");
            format!("\n[kv]\naddresses = [{urls}]\n")
        };
        let program = match &self.kv {
            Kv::Embedded => return list(&[SERVER]),
            Kv::Consul(program) => program,
        };
        let agent = format!("\n[consul]\nprogram = {program:?}\n");
        match self.is_coordinator(ordinal) {
            // Its own agent is the KV, and others reach it through the gateway.
            true => format!(
                "{agent}\n[[children]]\nname = \"gateway\"\ncommand = [{:?}, \"dev\", \
                 \"serve-gateway\", \"--listen\", \"{}:{KV_PORT}\", \"--to\", \
                 \"127.0.0.1:{KV_PORT}\"]\n",
                place.program, place.address
            ),
            false => list(place.gateways) + &agent,
        }
    }

    /// A worker runs a database; a coordinator only reaches it.
    fn database_toml(&self, ordinal: u16) -> String {
        let Some(database) = &self.database else {
            return String::new();
        };
        if self.is_coordinator(ordinal) {
            return "\n[postgres.endpoints]\n".to_owned();
        }
        let mut out = format!(
            "\n[postgres]\nbin_dir = {:?}\npatroni = {:?}\n",
            database.bin_dir, database.patroni,
        );
        for (key, value) in PATRONI_TIMES {
            let _ = writeln!(out, "{key} = {value:?}");
        }
        // Several of them share this machine.
        out.push_str("parameters = { shared_buffers = \"32MB\", max_wal_size = \"256MB\" }\n");
        out
    }

    /// What all nodes have in common.
    fn lists(&self) -> String {
        let mut out = String::new();
        let consul: &[(u16, bool)] = match self.kv {
            Kv::Embedded => &[],
            Kv::Consul(_) => &CONSUL_ALLOW,
        };
        let database: &[(u16, bool)] = match self.database {
            None => &[],
            Some(_) => &DATABASE_ALLOW,
        };
        for (port, udp) in ALLOW.iter().chain(consul).chain(database) {
            let _ = write!(out, "\n[[allow]]\nport = {port}\nudp = {udp}\n");
        }
        for transport in ["udp", "tcp"] {
            let _ = write!(
                out,
                "\n[[turn]]\nurl = \"turn:{SERVER}:{STUN_PORT}?transport={transport}\"\n\
                 secret_file = {TURN_SECRET:?}\n"
            );
        }
        for (vip, id) in (1..).zip(self.nodes()) {
            let vip: u16 = vip;
            let _ = write!(out, "\n[[peers]]\nid = \"{id}\"\nvip = {vip}\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(ordinal: u16, kv: Kv, database: bool) -> String {
        let plan = Plan {
            coordinators: 1,
            workers: 2,
            database: database.then(|| Database {
                bin_dir: "/usr/lib/postgresql/15/bin".into(),
                patroni: "/opt/holdfast/bin/patroni".into(),
                consul: matches!(kv, Kv::Consul(_)),
            }),
            kv,
        };
        let place = Place {
            folder: Path::new("/run/lab/dev"),
            disks: Path::new("/var/lib/dev"),
            program: Path::new("/usr/bin/holdfast"),
            address: Ipv4Addr::new(10, 1, 1, 2),
            gateways: &[Ipv4Addr::new(203, 0, 113, 101)],
        };
        plan.toml(ordinal, &place)
    }

    #[test]
    fn a_coordinator_is_pinned_and_publishes_its_consul() {
        insta::assert_snapshot!(toml(1, Kv::Consul("/usr/bin/consul".into()), false));
    }

    #[test]
    fn a_worker_claims_its_slot_in_the_embedded_kv() {
        insta::assert_snapshot!(toml(2, Kv::Embedded, false));
    }

    #[test]
    fn a_worker_runs_a_database_with_the_shortest_times() {
        insta::assert_snapshot!(toml(2, Kv::Embedded, true));
    }

    #[test]
    fn a_coordinator_only_reaches_the_database() {
        let text = toml(1, Kv::Embedded, true);
        assert!(text.contains("\n[postgres.endpoints]\n"), "{text}");
        assert!(!text.contains("[postgres]"), "{text}");
    }
}
