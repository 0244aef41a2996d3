//! The configuration of a machine in the mesh.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use holdfast_plan::SERVERS;
use holdfast_plan::drill::{Drill, Synchronous};
use holdfast_postgres::generate::REST_USER;

use super::ground::{KV_PORT, Logins, REST_PORT, SCOPE, SQL_PORT};
use super::mesh::{data, wrapper};
use super::tools::{Tools, USER};
use crate::stage::{BROKER_PORT, Stage, StageError, TURN_PORT, TURN_SECRET_FILE};

/// The file in the lab's folder that machines derive their keys from.
const KEY_FILE: &str = "instance.key";
/// What is in it.
const KEY: [u8; 32] = [0x33; 32];
/// Passwords as they are derived: 32 letters and digits.
const SUPERUSER_PASSWORD: &str = "drillSuperuserDrillSuperuserXX11";
const REST_PASSWORD: &str = "drillRestDrillRestDrillRestXXX22";
/// Raft, and gossip in a data centre and between them; PostgreSQL and Patroni. Whether UDP too.
const PORTS: [(u16, bool); 5] = [
    (8300, false),
    (8301, true),
    (8302, true),
    (SQL_PORT, false),
    (REST_PORT, false),
];

/// A machine.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Its number; a coordinator's is its slot.
    pub number: u8,
    /// Its disk.
    pub home: &'a Path,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Where the coordinators' KV is reached from outside.
    pub gateways: &'a [SocketAddr],
    /// The program that is tested.
    pub holdfast: &'a Path,
    /// The lab's folder.
    pub folder: &'a Path,
}

/// The passwords that are known here; the others are derived.
pub fn logins() -> Logins {
    Logins {
        superuser: SUPERUSER_PASSWORD.to_owned(),
        rest: (REST_USER.to_owned(), REST_PASSWORD.to_owned()),
    }
}

/// The file that all machines derive from.
///
/// # Errors
/// When it cannot be written.
pub fn write_key(stage: &Stage) -> Result<(), StageError> {
    stage.write_cluster_secret(KEY_FILE, KEY)
}

/// The configuration, as TOML.
pub fn toml(drill: &Drill, tools: &Tools, machine: &Machine<'_>) -> String {
    let is_worker = machine.number > drill.coordinators;
    let (home, folder) = (machine.home, machine.folder);
    // Names and paths here are plain ASCII, whose Rust and TOML forms are one.
    let mut out = "cluster = \"lab\"\n".to_owned();
    let _ = match is_worker {
        true => writeln!(out, "role = \"worker\""),
        false => writeln!(out, "role = \"coordinator\"\nordinal = {}", machine.number),
    };
    for (key, name) in [
        ("state_dir", "state"),
        ("run_dir", "run"),
        ("secrets_dir", "secrets"),
        ("dump_dir", "dumps"),
    ] {
        let _ = writeln!(out, "{key} = {:?}", home.join(name));
    }
    let _ = writeln!(out, "hosts_file = \"/etc/hosts\"");
    let server = SERVERS[0];
    let _ = write!(
        out,
        "brokers = [\"http://{server}:{BROKER_PORT}\"]\nstun = [\"{server}:{TURN_PORT}\"]\n\
         log_format = \"json\"\n\n[tee]\nkind = \"plain\"\nkey_file = {:?}\n",
        folder.join(KEY_FILE)
    );
    if is_worker {
        let urls = machine.gateways.iter().map(|at| format!("http://{at}"));
        let _ = write!(out, "\n[kv]\naddresses = {:?}\n", urls.collect::<Vec<_>>());
    }
    let _ = write!(
        out,
        "\n[consul]\nprogram = {:?}\nraft_multiplier = 1\n",
        tools.consul
    );
    if !is_worker {
        // Its agent listens on loopback alone: what the router publishes is taken on to there.
        let _ = write!(
            out,
            "\n[[children]]\nname = \"gateway\"\ncommand = [{:?}, \"dev\", \"serve-gateway\", \
             \"--listen\", \"{}:{KV_PORT}\", \"--to\", \"127.0.0.1:{KV_PORT}\"]\n",
            machine.holdfast, machine.address
        );
    } else {
        out.push_str(&postgres(drill, tools, home));
    }
    for (port, udp) in PORTS {
        let _ = write!(out, "\n[[allow]]\nport = {port}\nudp = {udp}\n");
    }
    let _ = write!(
        out,
        "\n[[turn]]\nurl = \"turn:{server}:{TURN_PORT}?transport=udp\"\nsecret_file = {:?}\n",
        folder.join(TURN_SECRET_FILE)
    );
    for slot in 1..=drill.coordinators + drill.workers {
        let role = if slot > drill.coordinators {
            "worker"
        } else {
            "coordinator"
        };
        let _ = write!(out, "\n[[peers]]\nid = \"{role}-{slot}\"\nvip = {slot}\n");
    }
    out
}

fn postgres(drill: &Drill, tools: &Tools, home: &Path) -> String {
    let database = &drill.database;
    let synchronous = match database.synchronous {
        Synchronous::Quorum => "quorum",
        Synchronous::On => "on",
        Synchronous::Off => "off",
    };
    let mut out = format!(
        "\n[postgres]\nbin_dir = {:?}\npatroni = {:?}\nuser = {USER:?}\ndata_dir = {:?}\n\
         scope = {SCOPE:?}\nsynchronous = {synchronous:?}\ntls = false\n",
        tools.postgres,
        wrapper(home),
        data(home),
    );
    for (key, value) in [
        ("ttl", database.ttl),
        ("loop_wait", database.loop_wait),
        ("retry_timeout", database.retry_timeout),
    ] {
        let _ = writeln!(out, "{key} = \"{}s\"", value.as_secs());
    }
    if !database.parameters.is_empty() {
        let pairs = database
            .parameters
            .iter()
            .map(|(name, value)| format!("{name:?} = {value:?}"));
        let _ = writeln!(
            out,
            "parameters = {{ {} }}",
            pairs.collect::<Vec<_>>().join(", ")
        );
    }
    out.push_str(
        "\n[postgres.endpoints]\nprimary = \"127.10.0.1:5432\"\nreplicas = \"127.10.0.2:5432\"\n",
    );
    out
}
