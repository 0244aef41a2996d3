//! `holdfast dev up`.

use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_core::config::{AllowRule, TurnTransport};
use holdfast_core::status::LinkState;
use holdfast_core::types::PeerId;
use holdfast_lab::{Filtering, Lab, Mapping, Nat, PUB, Place, SERVERS};

use super::process::start_detached;
use super::state::{Mesh, RENDEZVOUS, own_program};
use super::{interrupt, log_tail, view};
use crate::BadConfig;
use crate::config::HostPort;
use crate::config::address::{BrokerUrl, STUN_PORT, TurnUrl};
use crate::keys_command::{Shared, new_secret, write_secret};
use crate::output;
use crate::status::fetch;

/// Where everything that is public is.
const SERVER: Ipv4Addr = SERVERS[0];
/// The broker's port.
const BROKER_PORT: u16 = 7000;
/// How long the servers may take to listen.
const SERVERS_BOUND: Duration = Duration::from_secs(10);
/// How long the links may take: a slow machine with 16 nodes needs a few seconds.
const LINKS_BOUND: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// The ports that every node opens, chosen for trying things out.
const ALLOW: [AllowRule; 3] = [
    AllowRule {
        port: 8080,
        udp: false,
    },
    AllowRule {
        port: 5432,
        udp: false,
    },
    AllowRule {
        port: 9000,
        udp: true,
    },
];

/// Bring a mesh up.
pub fn up(prefix: &str, count: u8, nats: &[String]) -> anyhow::Result<ExitCode> {
    let nats = nats
        .iter()
        .map(|text| parse_nat(text))
        .collect::<Result<Vec<_>, BadConfig>>()?;
    refuse_second(prefix)?;
    interrupt::watch();
    let nodes = (1..=count)
        .map(|n| Ok(format!("node-{n}").parse()?))
        .collect::<anyhow::Result<Vec<PeerId>>>()?;
    // Whatever fails from here on takes the namespaces and the processes with it.
    let lab = lab(prefix, &nodes, &nats)?.up_guarded()?;
    let mesh = Mesh::of(Lab::attach(prefix)?);
    mesh.begin()?;
    write_files(&mesh, &nodes)?;
    let mut children = vec![start_rendezvous(&mesh)?];
    for node in mesh.nodes() {
        children.push((node.clone(), mesh.start_node(&node)?));
    }
    let all_up = wait_for_links(&mesh, &mut children)?;
    mesh.finish()?;
    // From here on `down` removes it.
    drop(lab.keep());
    output::print(&view::table(&view::collect(&mesh)))?;
    if !all_up {
        bail!(
            "not all links came up within {} s: `holdfast dev logs NODE` tells more, \
             `holdfast dev down` removes the mesh",
            LINKS_BOUND.as_secs()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_nat(text: &str) -> Result<Nat, BadConfig> {
    let text = text.trim();
    match text {
        "full-cone" => return Ok(Nat::full_cone()),
        "udp-blocked" => return Ok(Nat::udp_blocked(&[BROKER_PORT, STUN_PORT])),
        _ => {}
    }
    let mapping: Mapping = text.parse().map_err(|_| {
        BadConfig(format!(
            "--nat {text:?}: expected linux, eim, eimrand, adm, symmetric, full-cone or udp-blocked"
        ))
    })?;
    Ok(Nat::new(mapping, Filtering::default()))
}

/// One mesh of a prefix at a time. What an interrupted `up` left behind is removed.
fn refuse_second(prefix: &str) -> anyhow::Result<()> {
    let Ok(lab) = Lab::attach(prefix) else {
        return Ok(());
    };
    let mesh = Mesh::of(lab);
    if mesh.is_finished() {
        bail!("a mesh is up already: `holdfast dev down` removes it");
    }
    // Its maker is known before it has noted itself in the mesh's own folder.
    if mesh.is_being_made() || Lab::maker_is_alive(prefix)? {
        bail!("another `holdfast dev up` is at work");
    }
    Lab::clean(prefix)?;
    Ok(())
}

fn lab(prefix: &str, nodes: &[PeerId], nats: &[Nat]) -> anyhow::Result<Lab> {
    let mut builder = Lab::builder(prefix).persistent(true);
    for (index, node) in nodes.iter().enumerate() {
        let router = format!("nat-{}", index + 1);
        let nat = nats[index % nats.len()].clone();
        builder = builder
            .router(&router, nat)
            .node(node.as_str(), Place::Behind(&router));
    }
    Ok(builder.build()?)
}

fn write_files(mesh: &Mesh, nodes: &[PeerId]) -> anyhow::Result<()> {
    let folder = mesh.folder();
    write_secret(&folder.join("cluster.secret"), &new_secret()?)?;
    write_secret(&folder.join("turn.secret"), &new_secret()?)?;
    let at = |port| HostPort {
        host: SERVER.to_string(),
        port,
    };
    let turn = [TurnTransport::Udp, TurnTransport::Tcp].map(|transport| TurnUrl {
        server: at(STUN_PORT),
        transport,
    });
    let shared = Shared {
        nodes,
        cluster_secret_file: "cluster.secret",
        brokers: &[BrokerUrl(at(BROKER_PORT))],
        stun: &[at(STUN_PORT)],
        turn: &turn,
        turn_secret_file: "turn.secret",
        allow: &ALLOW,
    };
    for node in nodes {
        let more = format!(
            "dump_dir = {:?}\nlog_format = \"human\"\n",
            folder.join("dumps")
        );
        let path = folder.join(format!("{node}.toml"));
        std::fs::write(&path, shared.toml(node, &more))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn start_rendezvous(mesh: &Mesh) -> anyhow::Result<(String, Child)> {
    let mut command = mesh.lab.command(PUB, own_program()?)?;
    command
        .arg("rendezvous")
        .args(["--listen", &format!("{SERVER}:{BROKER_PORT}")])
        .args(["--turn", "--turn-listen", &format!("{SERVER}:{STUN_PORT}")])
        .arg("--turn-secret-file")
        .arg(mesh.folder().join("turn.secret"));
    let log = mesh.log(RENDEZVOUS);
    let mut child = start_detached(command, &log).context("cannot start the rendezvous")?;
    let started = Instant::now();
    let listens = |port| {
        let address = SocketAddr::from((SERVER, port));
        mesh.lab.run_in(PUB, || {
            TcpStream::connect_timeout(&address, POLL_EVERY).is_ok()
        })
    };
    while !(listens(BROKER_PORT)? && listens(STUN_PORT)?) {
        check_running(RENDEZVOUS, &mut child, &log)?;
        if started.elapsed() > SERVERS_BOUND {
            bail!("the rendezvous does not listen: {}", log_tail(&log));
        }
        std::thread::sleep(POLL_EVERY);
    }
    Ok((RENDEZVOUS.to_owned(), child))
}

fn check_running(name: &str, child: &mut Child, log: &Path) -> anyhow::Result<()> {
    if interrupt::came() {
        bail!("interrupted: everything is removed again");
    }
    match child.try_wait()? {
        Some(status) => bail!("{name} ended ({status}): {}", log_tail(log)),
        None => Ok(()),
    }
}

/// Wait until every node says that all its links are up. False when the time ran out.
fn wait_for_links(mesh: &Mesh, children: &mut [(String, Child)]) -> anyhow::Result<bool> {
    let nodes = mesh.nodes();
    let expected = nodes.len() * (nodes.len() - 1);
    let started = Instant::now();
    let mut progress = Progress::default();
    loop {
        let up: usize = nodes.iter().map(|node| links_up(mesh, node)).sum();
        progress.show(up, expected, started.elapsed());
        if up == expected {
            progress.end();
            return Ok(true);
        }
        for (name, child) in children.iter_mut() {
            let log = mesh.log(name);
            check_running(name, child, &log).inspect_err(|_| progress.end())?;
        }
        if started.elapsed() > LINKS_BOUND {
            progress.end();
            return Ok(false);
        }
        std::thread::sleep(POLL_EVERY);
    }
}

fn links_up(mesh: &Mesh, node: &str) -> usize {
    let admin = mesh.admin();
    let Ok(Ok(page)) = mesh.lab.run_in(node, || fetch(admin)) else {
        return 0;
    };
    let links = page.status.mesh.links.iter();
    links.filter(|link| link.state == LinkState::Up).count()
}

/// One line on a terminal that says how far it is.
#[derive(Default)]
struct Progress {
    shown: bool,
}

impl Progress {
    fn show(&mut self, up: usize, expected: usize, elapsed: Duration) {
        let mut err = std::io::stderr();
        if err.is_terminal() {
            self.shown = true;
            let seconds = elapsed.as_secs_f32();
            // A terminal that cannot be written to shows no progress.
            let _ = write!(err, "\rlinks up: {up}/{expected}  {seconds:.1} s ");
            let _ = err.flush();
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprintln!();
        }
    }
}
