//! The command line.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// TCP and UDP between machines that cannot reach each other.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: forward TCP and UDP between this machine and its peers
    Mesh(ConfigFile),
    /// Make this machine a member of its cluster, and keep it one: bootstrap, mesh, Consul, children
    Sidecar(ConfigFile),
    /// Find out who this machine is: write its secrets, claim its slot, write info.json, and end
    Bootstrap(ConfigFile),
    /// Serve nodes that look for each other: the signaling broker, and STUN and TURN
    Rendezvous(RendezvousArgs),
    /// Serve the embedded key-value store: one node, a part of Consul's HTTP API
    Kv(KvArgs),
    /// Show a running node: its slot, children, links, paths, brokers and relays
    Status(StatusArgs),
    /// Show who owns which slot of the cluster
    Slots(SlotsArgs),
    /// A whole cluster on this machine: a network namespace behind a NAT for every node
    Dev(DevArgs),
    /// Check a configuration, or print an example
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make and show keys
    #[command(subcommand)]
    Keys(KeysCommand),
}

/// Which configuration.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file [default: $HOLDFAST_CONFIG, else only the environment]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `holdfast status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Show every candidate pair of the link with this peer
    pub peer: Option<String>,
    /// The node's admin address [default: that of its configuration, else http://127.0.0.1:7070]
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// The node's configuration file [default: $HOLDFAST_CONFIG, else only the environment]
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    pub config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Show it again every second
    #[arg(long)]
    pub watch: bool,
    /// Print nothing, and succeed only if the node is ready: for health checks
    #[arg(long, conflicts_with_all = ["peer", "json", "watch"])]
    pub healthy: bool,
}

/// `holdfast slots`.
#[derive(Debug, Args)]
pub struct SlotsArgs {
    /// The configuration file of a member [default: $HOLDFAST_CONFIG, else only the environment]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// What to do with them [default: show them]
    #[command(subcommand)]
    pub command: Option<SlotsCommand>,
}

/// The subcommands of `holdfast slots`.
#[derive(Debug, Subcommand)]
pub enum SlotsCommand {
    /// Give the slot of a machine that is gone to others, once its owner has been silent for a lease
    Release {
        /// Its ordinal
        slot: u16,
        /// At once, also if its owner lives: that one ends at its next renewal
        #[arg(long)]
        force: bool,
    },
}

/// `holdfast kv`.
#[derive(Debug, Args)]
pub struct KvArgs {
    /// Where it listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8500")]
    pub listen: SocketAddr,
    /// The folder that it keeps everything in
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The ACL token that clients have to show, mode 0400 [default: none is asked for]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// `holdfast config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Explain every problem of a configuration; exit code 2 if there is one
    Check {
        /// The configuration file [default: $HOLDFAST_CONFIG, else only the environment]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Do not ask the resolver for the names of servers
        #[arg(long)]
        offline: bool,
    },
    /// Print what is generated from a configuration
    Show {
        /// For whom
        #[command(subcommand)]
        what: ShowCommand,
    },
    /// Print a complete configuration file with every key
    Example {
        /// Of a member of a cluster (`holdfast sidecar`), rather than of a plain node
        #[arg(long)]
        sidecar: bool,
    },
}

/// The subcommands of `holdfast config show`.
#[derive(Debug, Subcommand)]
pub enum ShowCommand {
    /// Patroni's configuration, with the file of your own laid over it and every secret masked
    Patroni(ConfigFile),
}

/// `holdfast keys`.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a cluster secret: 32 random bytes, as hexadecimal digits
    Secret {
        /// The new file, mode 0400; never overwritten [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a node's own key and print its public key
    Node {
        /// The new file, mode 0400; never overwritten
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the public key of a node's key file, or of a node under a cluster secret
    Show {
        /// A file made by `keys node`, or a cluster secret
        file: PathBuf,
        /// With a cluster secret: the nodes whose keys to print
        #[arg(long, value_name = "NODE", value_delimiter = ',')]
        id: Vec<String>,
    },
    /// Write a configuration file for each node of a deployment, and the secret they share
    Deployment(DeploymentArgs),
}

/// `holdfast keys deployment`.
#[derive(Debug, Args)]
pub struct DeploymentArgs {
    /// The names of the nodes; they get the VIPs 1, 2, …
    #[arg(
        long,
        required = true,
        value_name = "NODE,NODE,…",
        value_delimiter = ','
    )]
    pub nodes: Vec<String>,
    /// The folder to write to; files in it are never overwritten
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Signaling brokers, http://host:port
    #[arg(long, required = true, value_name = "URL,…", value_delimiter = ',')]
    pub brokers: Vec<String>,
    /// STUN servers, host:port
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub stun: Vec<String>,
    /// TURN servers, turn:host:port?transport=udp|tcp
    #[arg(long, value_name = "URI,…", value_delimiter = ',')]
    pub turn: Vec<String>,
    /// The secret that the TURN servers share [default: a new one in turn.secret]
    #[arg(long, value_name = "FILE", requires = "turn")]
    pub turn_secret_file: Option<PathBuf>,
    /// Ports that the nodes open to each other: 5432, or 8301/udp for TCP and UDP
    #[arg(long, value_name = "PORT[/udp],…", value_delimiter = ',')]
    pub allow: Vec<String>,
}

/// `holdfast rendezvous`.
#[derive(Debug, Args)]
pub struct RendezvousArgs {
    /// Where the broker listens
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "0.0.0.0:7000",
        env = "HOLDFAST_RENDEZVOUS_LISTEN"
    )]
    pub listen: SocketAddr,
    /// Serve STUN and TURN too, over UDP and TCP
    #[arg(long, requires = "turn_secret_file")]
    pub turn: bool,
    /// Where STUN and TURN listen
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "0.0.0.0:3478",
        env = "HOLDFAST_TURN_LISTEN"
    )]
    pub turn_listen: SocketAddr,
    /// The secret that nodes derive their TURN credentials from, mode 0400
    #[arg(long, value_name = "FILE", env = "HOLDFAST_TURN_SECRET_FILE")]
    pub turn_secret_file: Option<PathBuf>,
    /// The address of this host as nodes see it [default: the one it listens on]
    #[arg(long, value_name = "IP", env = "HOLDFAST_TURN_PUBLIC_IP")]
    pub turn_public_ip: Option<IpAddr>,
    /// The ports that traffic is relayed through, FIRST-LAST [default: 61000-65535]
    #[arg(long, value_name = "PORTS", env = "HOLDFAST_TURN_RELAY_PORTS")]
    pub turn_relay_ports: Option<String>,
}

/// `holdfast dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// What begins the names of the namespaces: another one is another cluster
    #[arg(long, global = true, value_name = "WORD", default_value = "hfdev")]
    pub prefix: String,
    /// What to do with the cluster.
    #[command(subcommand)]
    pub command: DevCommand,
}

/// The subcommands of `holdfast dev`.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Bring a cluster up, and wait until every node has its slot and reaches every other
    Up(UpArgs),
    /// Show all nodes, and their links
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command on a node; its exit code is passed on
    Exec {
        /// The node
        node: String,
        /// The command and its arguments
        #[arg(
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "CMD"
        )]
        command: Vec<OsString>,
    },
    /// Print the log of a node, of `rendezvous`, or of `kv`
    Logs {
        /// The node
        node: String,
        /// Go on as the log grows
        #[arg(long, short)]
        follow: bool,
    },
    /// Run psql on a node, at the primary's endpoint; TLS, with the server's certificate verified
    Psql {
        /// The node [default: the first worker that runs]
        node: Option<String>,
        /// psql's own arguments
        #[arg(last = true, value_name = "ARG")]
        arguments: Vec<OsString>,
    },
    /// Write rows through the primary's endpoint, and check that every acknowledged one is there
    Bench(BenchArgs),
    /// Kill everything that runs on a node, as a crash of the machine would. If its database led,
    /// the failover is shown as it happens; exit code 1 if an acknowledged row is lost
    Kill(KillArgs),
    /// Undo what `kill` did, and wait until every database is a member again
    Heal {
        /// The node [default: all]
        node: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start a node that was killed
    Start {
        /// The node
        node: String,
    },
    /// Remove all that a node has on its disk, and start it: another machine in its place
    Wipe {
        /// The node
        node: String,
    },
    /// Remove everything that `up` made; also after a crash
    Down,
    /// Remove what killed processes left of any prefix
    #[command(hide = true)]
    Sweep,
    /// Forward TCP connections, as the provider's gateway does
    #[command(hide = true)]
    ServeGateway {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// Where they go
        #[arg(long)]
        to: SocketAddr,
    },
    /// Answer HTTP requests with the name of the node
    #[command(hide = true)]
    ServeHello {
        /// The port, on the node's own VIP
        #[arg(long)]
        port: u16,
        /// Return once it listens, and go on in the background
        #[arg(long)]
        background: bool,
    },
}

/// `holdfast dev bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The node [default: the first worker that runs]
    pub node: Option<String>,
    /// How long to write, and how long each run of pgbench takes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// How many write at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub writers: u16,
    /// Run pgbench too: TPC-B-like, and select-only at both endpoints
    #[arg(long)]
    pub pgbench: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `holdfast dev kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// The node, or `leader`: the one whose database leads
    #[arg(value_name = "leader|NODE")]
    pub node: String,
    /// Freeze it and cut its line, rather than kill it: it does not know what it misses
    #[arg(long, group = "how")]
    pub freeze: bool,
    /// Remove all that it has on its disk, too
    #[arg(long, group = "how")]
    pub wipe: bool,
    /// Only cut its line
    #[arg(long, group = "how")]
    pub partition: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `holdfast dev up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// How many coordinators: coordinator-1, … with the VIPs 127.50.0.1, … [default: 1, or 3 with
    /// Consul]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub coordinators: Option<u8>,
    /// How many workers; their ordinals and VIPs begin after the coordinators'
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=13))]
    pub workers: u8,
    /// Run Consul, servers on the coordinators and clients on the workers, instead of the embedded
    /// KV on the public network ($CONSUL_BIN, or `consul` in PATH, or the one that `make setup`
    /// builds)
    #[arg(long)]
    pub consul: bool,
    /// Run no databases on the workers
    #[arg(long)]
    pub no_postgres: bool,
    /// Remove the disks of a cluster that was up before, with its databases: without this they are
    /// an obstacle
    #[arg(long)]
    pub wipe: bool,
    /// How the nodes' NATs behave, in turn: linux, eim, eimrand, adm, symmetric, full-cone, or
    /// udp-blocked
    #[arg(
        long,
        value_name = "NAT,…",
        default_value = "linux",
        value_delimiter = ','
    )]
    pub nat: Vec<String>,
}
