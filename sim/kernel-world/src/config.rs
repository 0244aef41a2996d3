//! The configuration file of a node, as this world and the kernel tests write it.

use std::fmt::{self, Display};

/// What a node is told. Written as TOML by [`Display`]; file names are relative to the file.
#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    /// Its name.
    pub id: String,
    /// Its virtual address, where the peers do not list it.
    pub vip: Option<u16>,
    /// The file with the cluster's secret.
    pub cluster_secret_file: String,
    /// A key of its own instead of the derived one.
    pub key_file: Option<String>,
    /// The brokers' URLs.
    pub brokers: Vec<String>,
    /// STUN servers, `host:port`.
    pub stun: Vec<String>,
    /// TURN servers' URLs.
    pub turn: Vec<String>,
    /// The file with the secret that the TURN servers share.
    pub turn_secret_file: String,
    /// Where the flight recorder is dumped.
    pub dump_dir: String,
    /// How many records it keeps; `None` is the program's default.
    pub recorder_len: Option<usize>,
    /// `human` or `json`.
    pub log_format: &'static str,
    /// Ports that peers may reach, TCP and UDP.
    pub allow: Vec<u16>,
    /// Ports of peers that it forwards, TCP and UDP.
    pub forward: Vec<u16>,
    /// Every node of the cluster: its name and the last octet of its virtual address.
    pub peers: Vec<(String, u16)>,
}

impl Display for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names and paths here are plain ASCII, whose Rust and TOML forms are one.
        writeln!(f, "id = {:?}", self.id)?;
        if let Some(vip) = self.vip {
            writeln!(f, "vip = {vip}")?;
        }
        writeln!(f, "cluster_secret_file = {:?}", self.cluster_secret_file)?;
        if let Some(key) = &self.key_file {
            writeln!(f, "key_file = {key:?}")?;
        }
        writeln!(f, "brokers = {:?}", self.brokers)?;
        writeln!(f, "stun = {:?}", self.stun)?;
        writeln!(f, "dump_dir = {:?}", self.dump_dir)?;
        writeln!(f, "log_format = {:?}", self.log_format)?;
        if let Some(len) = self.recorder_len {
            writeln!(f, "[limits]\nrecorder_len = {len}")?;
        }
        for url in &self.turn {
            let secret = &self.turn_secret_file;
            writeln!(f, "[[turn]]\nurl = {url:?}\nsecret_file = {secret:?}")?;
        }
        for (table, ports) in [("allow", &self.allow), ("forward", &self.forward)] {
            for port in ports {
                writeln!(f, "[[{table}]]\nport = {port}\nudp = true")?;
            }
        }
        for (id, vip) in &self.peers {
            writeln!(f, "[[peers]]\nid = {id:?}\nvip = {vip}")?;
        }
        Ok(())
    }
}
