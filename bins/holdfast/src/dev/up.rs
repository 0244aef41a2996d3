//! `holdfast dev up`.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_core::status::LinkState;
use holdfast_lab::{Filtering, Lab, Mapping, Nat, PUB, Place};

use super::install::found_or_installed;
use super::plan::{self, BROKER_PORT, KV_PORT, Kv, Plan, SERVER};
use super::process::start_detached;
use super::progress::Step;
use super::state::{self, KV, Mesh, RENDEZVOUS, own_program};
use super::{database, interrupt, log_tail, view};
use crate::BadConfig;
use crate::cli::UpArgs;
use crate::config::address::STUN_PORT;
use crate::config::member::find_program;
use crate::keys_command::{new_secret, write_secret};
use crate::output;
use crate::status::{Page, fetch};

/// How long the servers may take to listen.
const SERVERS_BOUND: Duration = Duration::from_secs(10);
/// How long a node may take to get its slot. With Consul the coordinators have to find each other
/// and elect a leader first.
const SLOT_BOUND: Duration = Duration::from_secs(60);
/// How long the links may take: a slow machine with 16 nodes needs a few seconds.
const LINKS_BOUND: Duration = Duration::from_secs(30);
/// How long Consul's agents may take to find each other through the links.
const CONSUL_BOUND: Duration = Duration::from_secs(60);
/// How long the databases may take: `initdb`, and a base backup for each of the others, of which
/// Patroni looks for a leader every few seconds.
const DATABASES_BOUND: Duration = Duration::from_secs(180);
/// How often a condition is looked at.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Bring a cluster up.
pub fn up(prefix: &str, args: &UpArgs) -> anyhow::Result<ExitCode> {
    let nats = args.nat.iter().map(|text| parse_nat(text));
    let nats = nats.collect::<Result<Vec<_>, BadConfig>>()?;
    let plan = plan(args)?;
    refuse_second(prefix)?;
    state::refuse_disks(prefix, args.wipe)?;
    interrupt::watch();
    // Whatever fails from here on takes the namespaces and the processes with it.
    let lab = lab(prefix, &plan, &nats)?.up_guarded()?;
    let mesh = Mesh::of(Lab::attach(prefix)?);
    mesh.begin()?;
    mesh.make_disks()?;
    if let Some(database) = &plan.database {
        mesh.keep_database(database)?;
    }
    write_files(&mesh, &plan)?;
    let mut up = Up {
        mesh,
        plan,
        children: Vec::new(),
    };
    up.start_servers()?;
    let complete = up.start_nodes()?
        && up.wait_for_links()?
        && up.wait_for_consul()?
        && up.wait_for_databases()?;
    up.mesh.finish()?;
    // From here on `down` removes it.
    drop(lab.keep());
    output::print(&view::tables(&view::collect(&up.mesh)))?;
    if !complete {
        bail!(
            "not everything came up in time: `holdfast dev status` shows how far it is, \
             `holdfast dev logs NODE` tells more, `holdfast dev down` removes the cluster"
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &UpArgs) -> anyhow::Result<Plan> {
    let kv = match args.consul {
        false => Kv::Embedded,
        true => Kv::Consul(find_consul()?),
    };
    let default = if args.consul { 3 } else { 1 };
    Ok(Plan {
        coordinators: args.coordinators.unwrap_or(default),
        workers: args.workers,
        database: (!args.no_postgres)
            .then(|| found_or_installed(|| database::find(args.consul)))
            .transpose()?,
        kv,
    })
}

/// Where it is named, else in `PATH`, else where `make setup` builds it.
fn find_consul() -> anyhow::Result<PathBuf> {
    let folder = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    let built = || {
        let home = || folder("HOME").map(|home| home.join(".cache/holdfast"));
        let cache = folder("HOLDFAST_CACHE").or_else(home)?;
        find_program(&cache.join("tools/bin/consul"))
    };
    let found = match folder("CONSUL_BIN") {
        Some(named) => find_program(&named),
        None => find_program(Path::new("consul")).or_else(built),
    };
    found.context(
        "there is no Consul: CONSUL_BIN does not name one, PATH has none, and `make setup`, which \
         builds one, did not run as this user",
    )
}

fn parse_nat(text: &str) -> Result<Nat, BadConfig> {
    let text = text.trim();
    match text {
        "full-cone" => return Ok(Nat::full_cone()),
        "udp-blocked" => return Ok(Nat::udp_blocked(&[BROKER_PORT, STUN_PORT, KV_PORT])),
        _ => {}
    }
    let mapping: Mapping = text.parse().map_err(|_| {
        BadConfig(format!(
            "--nat {text:?}: expected linux, eim, eimrand, adm, symmetric, full-cone or udp-blocked"
        ))
    })?;
    Ok(Nat::new(mapping, Filtering::default()))
}

/// One cluster of a prefix at a time. What an interrupted `up` left behind is removed.
fn refuse_second(prefix: &str) -> anyhow::Result<()> {
    let Ok(lab) = Lab::attach(prefix) else {
        return Ok(());
    };
    let mesh = Mesh::of(lab);
    if mesh.is_finished() {
        bail!("a cluster is up already: `holdfast dev down` removes it");
    }
    // Its maker is known before it has noted itself in the mesh's own folder.
    if mesh.is_being_made() || Lab::maker_is_alive(prefix)? {
        bail!("another `holdfast dev up` is at work");
    }
    state::clean(prefix)?;
    Ok(())
}

/// Each node behind a router of its own. The coordinators' Consul is published, as by the TCP
/// gateway of a provider.
fn lab(prefix: &str, plan: &Plan, nats: &[Nat]) -> anyhow::Result<Lab> {
    let mut builder = Lab::builder(prefix).persistent(true);
    for (ordinal, node) in (1_u16..).zip(plan.nodes()) {
        let router = format!("nat-{ordinal}");
        let nat = nats[(usize::from(ordinal) - 1) % nats.len()].clone();
        builder = builder
            .router(&router, nat)
            .node(node.as_str(), Place::Behind(&router));
        if matches!(plan.kv, Kv::Consul(_)) && plan.is_coordinator(ordinal) {
            builder = builder.publish(node.as_str(), KV_PORT, KV_PORT);
        }
    }
    Ok(builder.build()?)
}

fn write_files(mesh: &Mesh, plan: &Plan) -> anyhow::Result<()> {
    let folder = mesh.folder();
    write_secret(&folder.join(plan::KEY_FILE), &new_secret()?)?;
    write_secret(&folder.join(plan::TURN_SECRET), &new_secret()?)?;
    let program = own_program()?;
    let nodes = mesh.nodes();
    let coordinators = nodes.iter().take(usize::from(plan.coordinators));
    let gateways = coordinators.map(|node| mesh.lab.public_address(node));
    let gateways = gateways.collect::<Result<Vec<_>, _>>()?;
    for (ordinal, node) in (1_u16..).zip(&nodes) {
        let place = plan::Place {
            folder,
            disks: mesh.disks(),
            program: &program,
            address: mesh.lab.address(node)?,
            gateways: &gateways,
        };
        let (path, own) = (mesh.config(node), mesh.own_folder(node));
        std::fs::write(&path, plan.toml(ordinal, &place))
            .and_then(|()| std::fs::create_dir(&own))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A cluster that comes up.
struct Up {
    mesh: Mesh,
    plan: Plan,
    children: Vec<(String, Child)>,
}

impl Up {
    /// Broker, STUN and TURN, and the embedded KV.
    fn start_servers(&mut self) -> anyhow::Result<()> {
        let mut step = Step::begin("servers");
        let mut ports = vec![BROKER_PORT, STUN_PORT];
        let secret = self.mesh.folder().join(plan::TURN_SECRET);
        self.start_server(RENDEZVOUS, |command| {
            command
                .arg("rendezvous")
                .args(["--listen", &format!("{SERVER}:{BROKER_PORT}")])
                .args(["--turn", "--turn-listen", &format!("{SERVER}:{STUN_PORT}")])
                .arg("--turn-secret-file")
                .arg(secret);
        })?;
        if let Kv::Embedded = self.plan.kv {
            ports.push(KV_PORT);
            let data = self.mesh.folder().join(KV);
            self.start_server(KV, |command| {
                command
                    .arg("kv")
                    .args(["--listen", &format!("{SERVER}:{KV_PORT}")])
                    .arg("--data")
                    .arg(data);
            })?;
        }
        let started = Instant::now();
        let total = ports.len();
        loop {
            ports.retain(|port| !self.listens(*port));
            step.show(format!("{} of {total} listen", total - ports.len()));
            if ports.is_empty() {
                step.end();
                return Ok(());
            }
            self.check_running()?;
            if started.elapsed() > SERVERS_BOUND {
                step.end();
                bail!("nobody listens on {SERVER}, port {}", ports[0]);
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    fn start_server(
        &mut self,
        name: &str,
        describe: impl FnOnce(&mut std::process::Command),
    ) -> anyhow::Result<()> {
        let mut command = self.mesh.lab.command(PUB, own_program()?)?;
        describe(&mut command);
        let log = self.mesh.log(name);
        let child =
            start_detached(command, &log).with_context(|| format!("cannot start {name}"))?;
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    fn listens(&self, port: u16) -> bool {
        let address = SocketAddr::from((SERVER, port));
        let connect = || TcpStream::connect_timeout(&address, POLL_EVERY).is_ok();
        self.mesh.lab.run_in(PUB, connect).unwrap_or(false)
    }

    /// All coordinators at once, since their KV may need them all. Workers one by one, each when
    /// the one before has its slot, so that each becomes the peer that it is named after.
    fn start_nodes(&mut self) -> anyhow::Result<bool> {
        let mut step = Step::begin("slots");
        let nodes = self.mesh.nodes();
        let total = nodes.len();
        let coordinators = usize::from(self.plan.coordinators);
        for node in &nodes[..coordinators] {
            self.start_node(node)?;
        }
        for (index, node) in nodes.iter().enumerate() {
            if index >= coordinators {
                self.start_node(node)?;
            }
            step.show(format!("{index} of {total} owned"));
            let has_slot = |up: &Up| {
                let sidecar = up.ask(node)?.sidecar?;
                sidecar.id
            };
            if !self.wait(SLOT_BOUND, |up| has_slot(up).is_some())? {
                step.end();
                return Ok(false);
            }
        }
        step.show(format!("{total} of {total} owned"));
        step.end();
        Ok(true)
    }

    fn start_node(&mut self, node: &str) -> anyhow::Result<()> {
        let child = self.mesh.start_node(node)?;
        self.children.push((node.to_owned(), child));
        Ok(())
    }

    fn wait_for_links(&mut self) -> anyhow::Result<bool> {
        let mut step = Step::begin("links");
        let nodes = self.mesh.nodes();
        let expected = nodes.len() * (nodes.len() - 1);
        let all = self.wait(LINKS_BOUND, |up| {
            let found: usize = nodes.iter().map(|node| up.links_up(node)).sum();
            step.show(format!("{found} of {expected} up"));
            found == expected
        });
        step.end();
        all
    }

    fn links_up(&self, node: &str) -> usize {
        let page = self.ask(node).and_then(|page| page.node);
        let links = page.map(|node| node.mesh.links).unwrap_or_default();
        links
            .iter()
            .filter(|link| link.state == LinkState::Up)
            .count()
    }

    fn wait_for_consul(&mut self) -> anyhow::Result<bool> {
        if let Kv::Embedded = self.plan.kv {
            return Ok(true);
        }
        let mut step = Step::begin("consul");
        let nodes = self.mesh.nodes();
        let all = self.wait(CONSUL_BOUND, |up| {
            let pages = nodes.iter().filter_map(|node| up.ask(node)?.sidecar);
            let ready = pages.filter(view::consul_is_ready).count();
            step.show(format!("{ready} of {} agents ready", nodes.len()));
            ready == nodes.len()
        });
        step.end();
        all
    }

    fn wait_for_databases(&mut self) -> anyhow::Result<bool> {
        if self.plan.database.is_none() {
            return Ok(true);
        }
        let mut step = Step::begin("postgres");
        let workers = usize::from(self.plan.workers);
        let all = self.wait(DATABASES_BOUND, |up| {
            let (how_far, whole) = database::progress(&view::collect(&up.mesh), workers);
            step.show(how_far);
            whole
        });
        step.end();
        all
    }

    fn ask(&self, node: &str) -> Option<Page> {
        let admin = self.mesh.admin();
        self.mesh.lab.run_in(node, || fetch(admin)).ok()?.ok()
    }

    /// Wait until something holds. False when the time ran out.
    fn wait(
        &mut self,
        bound: Duration,
        mut holds: impl FnMut(&Up) -> bool,
    ) -> anyhow::Result<bool> {
        let started = Instant::now();
        while !holds(self) {
            self.check_running()?;
            if started.elapsed() > bound {
                return Ok(false);
            }
            std::thread::sleep(POLL_EVERY);
        }
        Ok(true)
    }

    /// A process that ended will not come up, and neither will anything after Ctrl-C.
    fn check_running(&mut self) -> anyhow::Result<()> {
        if interrupt::came() {
            bail!("interrupted: everything is removed again");
        }
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{name} ended ({status}): {}",
                    log_tail(&self.mesh.log(name))
                );
            }
        }
        Ok(())
    }
}
