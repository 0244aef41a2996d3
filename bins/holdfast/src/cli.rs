//! The command line.

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
    /// Print a complete configuration file with every key
    Example,
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
    #[arg(long, required = true, value_name = "NODE,NODE,…", value_delimiter = ',')]
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
