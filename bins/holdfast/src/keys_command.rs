//! `holdfast keys`: what a deployment needs to trust itself.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use holdfast_core::config::{AllowRule, PEERS_MAX};
use holdfast_core::identity::{ClusterSecret, Identity};
use holdfast_core::types::PeerId;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::BadConfig;
use crate::cli::{DeploymentArgs, KeysCommand};
use crate::config::address::{BrokerUrl, HostPort, STUN_PORT, TurnUrl, UrlError};
use crate::config::files;
use crate::output;

/// The name of the shared secret in a deployment's folder.
const CLUSTER_SECRET: &str = "cluster.secret";
/// The name of a TURN secret made for a deployment.
const TURN_SECRET: &str = "turn.secret";

/// Run it.
pub fn run(command: KeysCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeysCommand::Secret { out } => secret(out.as_deref()),
        KeysCommand::Node { out } => node(&out),
        KeysCommand::Show { file, id } => show(&file, &id),
        KeysCommand::Deployment(args) => deployment(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// 32 bytes of the operating system's entropy.
pub fn random() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new()
        .fill(bytes.as_mut())
        .map_err(|_| anyhow!("the operating system gives no entropy"))?;
    Ok(bytes)
}

/// A new secret as text, with its line break.
pub fn new_secret() -> anyhow::Result<Zeroizing<String>> {
    let digits = Zeroizing::new(files::hex(random()?.as_ref()));
    Ok(Zeroizing::new(format!("{}\n", *digits)))
}

/// Write a new secret file; one that exists stays as it is and is an error.
pub fn write_secret(path: &Path, content: &str) -> anyhow::Result<()> {
    write(path, content, true)
}

fn write(path: &Path, content: &str, secret: bool) -> anyhow::Result<()> {
    files::write_new(path, content.as_bytes(), secret).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow!(
            "{} exists and is not overwritten: remove it first if nothing uses it any more",
            path.display()
        ),
        _ => anyhow!("cannot write {}: {error}", path.display()),
    })
}

fn secret(out: Option<&Path>) -> anyhow::Result<()> {
    let secret = new_secret()?;
    match out {
        Some(path) => write_secret(path, &secret),
        None => Ok(output::print(&secret).map(drop)?),
    }
}

fn node(out: &Path) -> anyhow::Result<()> {
    let (content, identity) = files::new_node_key(&*random()?);
    write_secret(out, &content)?;
    output::print(&format!("{}\n", identity.public()))?;
    Ok(())
}

fn show(file: &Path, ids: &[String]) -> anyhow::Result<()> {
    let content = files::read_secret(file).map_err(|error| anyhow!("{error}"))?;
    if let Some(seed) = files::node_key_of(&content) {
        if !ids.is_empty() {
            return Err(usage(format!(
                "{} is a node's own key: it is the same whatever --id says",
                file.display()
            )));
        }
        output::print(&format!("{}\n", Identity::from_seed(*seed).public()))?;
        return Ok(());
    }
    let secret = ClusterSecret::new(content.to_vec())
        .with_context(|| format!("{} is no node key and no cluster secret", file.display()))?;
    if ids.is_empty() {
        return Err(usage(format!(
            "{} is a cluster secret: name the nodes whose keys to print with --id",
            file.display()
        )));
    }
    let mut table = output::Table::default();
    for id in parse_ids(ids)? {
        let public = secret.identity(&id).public().to_string();
        table.row([id.to_string(), public]);
    }
    output::print(&table.render())?;
    Ok(())
}

fn parse_ids(ids: &[String]) -> anyhow::Result<Vec<PeerId>> {
    ids.iter()
        .map(|id| {
            let id = id.trim().parse::<PeerId>();
            id.map_err(|error| usage(error.to_string()))
        })
        .collect()
}

/// What was asked for makes no sense: another exit code than a failure.
fn usage(why: String) -> anyhow::Error {
    BadConfig(why).into()
}

/// What the files of a deployment's nodes have in common.
pub struct Shared<'a> {
    /// All nodes, in the order of their VIPs.
    pub nodes: &'a [PeerId],
    /// The file of the cluster secret, as the configuration names it.
    pub cluster_secret_file: &'a str,
    /// Brokers.
    pub brokers: &'a [BrokerUrl],
    /// STUN servers.
    pub stun: &'a [HostPort],
    /// TURN servers, all with one shared secret.
    pub turn: &'a [TurnUrl],
    /// The file of that secret.
    pub turn_secret_file: &'a str,
    /// Open ports.
    pub allow: &'a [AllowRule],
}

impl Shared<'_> {
    /// The configuration of one of the nodes; `more` are further lines at its top.
    pub fn toml(&self, node: &PeerId, more: &str) -> String {
        let mut out = format!("id = {:?}\n", node.as_str());
        let quoted = |items: Vec<String>| {
            let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            items.join(", ")
        };
        let brokers = self.brokers.iter().map(ToString::to_string).collect();
        let stun = self.stun.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "cluster_secret_file = {:?}", self.cluster_secret_file);
        let _ = writeln!(out, "brokers = [{}]", quoted(brokers));
        let _ = writeln!(out, "stun = [{}]", quoted(stun));
        out.push_str(more);
        for rule in self.allow {
            let _ = write!(
                out,
                "\n[[allow]]\nport = {}\nudp = {}\n",
                rule.port, rule.udp
            );
        }
        for url in self.turn {
            let secret = self.turn_secret_file;
            let url = url.to_string();
            let _ = write!(out, "\n[[turn]]\nurl = {url:?}\nsecret_file = {secret:?}\n");
        }
        for (index, peer) in self.nodes.iter().enumerate() {
            let (id, vip) = (peer.as_str(), index + 1);
            let _ = write!(out, "\n[[peers]]\nid = {id:?}\nvip = {vip}\n");
        }
        out
    }
}

fn deployment(args: &DeploymentArgs) -> anyhow::Result<()> {
    let nodes = parse_ids(&args.nodes)?;
    let distinct: BTreeSet<_> = nodes.iter().collect();
    if distinct.len() != nodes.len() {
        return Err(usage("--nodes names a node twice".to_owned()));
    }
    if nodes.len() > PEERS_MAX + 1 {
        return Err(usage(format!(
            "--nodes has {} names: expected at most {}",
            nodes.len(),
            PEERS_MAX + 1
        )));
    }
    let brokers = parse_all(&args.brokers, "--brokers", str::parse::<BrokerUrl>)?;
    let turn = parse_all(&args.turn, "--turn", str::parse::<TurnUrl>)?;
    let stun = parse_all(&args.stun, "--stun", |text| {
        HostPort::parse(text, Some(STUN_PORT)).ok_or(UrlError {
            expected: "host:port",
            help: None,
        })
    })?;
    let allow = args
        .allow
        .iter()
        .map(|text| parse_rule(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    refuse_existing(args, &nodes)?;
    write_secret(&args.out.join(CLUSTER_SECRET), &new_secret()?)?;
    if !turn.is_empty() {
        write_secret(&args.out.join(TURN_SECRET), &turn_secret(args)?)?;
    }
    let shared = Shared {
        nodes: &nodes,
        cluster_secret_file: CLUSTER_SECRET,
        brokers: &brokers,
        stun: &stun,
        turn: &turn,
        turn_secret_file: TURN_SECRET,
        allow: &allow,
    };
    for node in &nodes {
        let path = args.out.join(format!("{node}.toml"));
        write(&path, &shared.toml(node, ""), false)?;
    }
    output::print(&told(args, &nodes, !turn.is_empty()))?;
    Ok(())
}

/// Checked before anything is written, so that a refusal leaves no half of a deployment.
fn refuse_existing(args: &DeploymentArgs, nodes: &[PeerId]) -> anyhow::Result<()> {
    let names = nodes.iter().map(|node| format!("{node}.toml"));
    for name in names.chain([CLUSTER_SECRET.to_owned(), TURN_SECRET.to_owned()]) {
        let path = args.out.join(name);
        if path.exists() {
            bail!(
                "{} exists and is not overwritten: choose another folder",
                path.display()
            );
        }
    }
    Ok(())
}

fn turn_secret(args: &DeploymentArgs) -> anyhow::Result<Zeroizing<String>> {
    match &args.turn_secret_file {
        None => new_secret(),
        Some(file) => files::read_secret_text(file).map_err(|error| anyhow!("{error}")),
    }
}

fn told(args: &DeploymentArgs, nodes: &[PeerId], turn: bool) -> String {
    let out = args.out.display();
    let mut text = format!("wrote {} configurations to {out}\n", nodes.len());
    let secrets = match turn {
        true => format!("{CLUSTER_SECRET} and {TURN_SECRET}"),
        false => CLUSTER_SECRET.to_owned(),
    };
    let _ = writeln!(
        text,
        "each node needs its own NODE.toml and {secrets} beside it, then:"
    );
    for node in nodes.iter().take(3) {
        let _ = writeln!(text, "  holdfast mesh --config {node}.toml");
    }
    if nodes.len() > 3 {
        text.push_str("  …\n");
    }
    text
}

fn parse_all<T>(
    texts: &[String],
    flag: &str,
    parse: impl Fn(&str) -> Result<T, UrlError>,
) -> anyhow::Result<Vec<T>> {
    let one = |text: &String| {
        parse(text.trim())
            .map_err(|error| usage(format!("{flag} {text:?}: expected {}", error.expected)))
    };
    texts.iter().map(one).collect()
}

fn parse_rule(text: &str) -> anyhow::Result<AllowRule> {
    let (port, udp) = match text.trim().strip_suffix("/udp") {
        Some(port) => (port, true),
        None => (text.trim(), false),
    };
    match port.parse() {
        Ok(port) if port != 0 => Ok(AllowRule { port, udp }),
        _ => Err(usage(format!(
            "--allow {text:?}: expected a port such as 5432, or 8301/udp"
        ))),
    }
}
