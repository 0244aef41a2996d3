//! From nothing to a member, and back: the order of `docs/membership.md`.

use std::cell::RefCell;
use std::fs::{DirBuilder, File};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::entropy::Seed;
use holdfast_core::slots::{self, Event, Loss, Obstacle, Slot, Slots};
use holdfast_core::supervise::{self, Name, Signal};
use holdfast_io::clock::Clock;
use holdfast_io::kv::Kv;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, os_seed};
use holdfast_io::spawn::{Spawn, Task};
use tokio::sync::mpsc;

use crate::admin::{self, Admin};
use crate::children::{Children, Command, Supervised};
use crate::claim::run_slots;
use crate::consul_agent::{self, Place};
use crate::error::Error;
use crate::hosts::{self, Written};
use crate::inside::Node;
use crate::options::{Bootstrap, Child, Consul, Member, Options, Peer, Reload, peer_id, slots_of};
use crate::processes::RealProcesses;
use crate::registration::{self, Wanted};
use crate::services::{self, Service, TAGS_MAX};
use crate::signals::{self, Ask};
use crate::status::{ConsulStatus, Shared};

/// The name of the mesh among the children.
pub const MESH: &str = "mesh";
/// What was asked and not yet looked at.
const ASKS_MAX: usize = 64;
/// How long children may take to end when the slot is lost: another instance may have it, and
/// two machines with one name must not last.
const LOST_GRACE: Duration = Duration::from_secs(10);

/// Run the sidecar until it is asked to end. Call it inside a `LocalSet` on the main thread, once
/// in the life of a process: it reaps every child of it.
///
/// # Errors
/// [`Error`], whose exit code the process should end with.
pub async fn run<B: Bootstrap>(options: Options<B>) -> Result<(), Error> {
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let _listening = signals::listen(asks)
        .map_err(|error| Error::Failure(format!("signals cannot be listened for: {error}")))?;
    run_asked(options, asked).await
}

/// As [`run`], asked by values instead of signals.
///
/// # Errors
/// As [`run`].
pub async fn run_asked<B: Bootstrap>(
    mut options: Options<B>,
    mut asked: mpsc::Receiver<Ask>,
) -> Result<(), Error> {
    let slots = check(&options)?;
    let seed = os_seed()
        .map_err(|error| Error::Failure(format!("the system gives no entropy: {error}")))?;
    let processes = RealProcesses::new()
        .map_err(|error| Error::Failure(format!("children cannot be heard of: {error}")))?;
    let _lock = lock(&options.state_dir)?;
    let shared = Shared::default();
    shared.update(|status| {
        status.phase = "preparing".to_owned();
        status.cluster.clone_from(&options.cluster);
        status.role.clone_from(&options.role);
    });
    let (admin, page) = Admin::new(shared.clone(), options.version.clone());
    let _admin = match options.admin {
        Some(addr) => Some(admin::serve_on(addr, admin.clone()).await?),
        None => None,
    };
    let prepared = tokio::select! {
        prepared = options.bootstrap.prepare() => prepared?,
        () = stop(&mut asked) => return Ok(()),
    };
    shared.update(|status| {
        status.phase = "claiming".to_owned();
        status.instance = Some(prepared.instance.clone());
        status.slot.pinned = options.slots.pinned.is_some();
    });
    let mut claim = Claim::start(&options, slots, &prepared.instance, &seed, &admin)?;
    let slot = tokio::select! {
        slot = claim.owned(&options, &shared) => slot?,
        () = stop(&mut asked) => return Ok(()),
    };
    let member = member(&options, prepared.instance, slot)?;
    tracing::info!(id = %member.id, vip = %member.vip, instance = member.instance, "this machine is");
    options.bootstrap.finish(&member).await?;
    shared.update(|status| {
        status.phase = "running".to_owned();
        status.id = Some(member.id.to_string());
        status.slot.slot = Some(slot);
    });
    let running = Running::start(
        options,
        member,
        prepared.gossip_key,
        processes,
        shared,
        page,
    )?;
    running.go_on(claim, asked).await
}

/// What can be found wrong before anything is touched: the slots of the role.
fn check<B>(options: &Options<B>) -> Result<Vec<Slot>, Error> {
    services::check(&options.services).map_err(|error| Error::Config(error.to_string()))?;
    let slots = slots_of(&options.role, &options.peers)?;
    if let Some(pinned) = options.slots.pinned
        && !slots.contains(&pinned)
    {
        return Err(Error::UnknownPeer(peer_id(&options.role, pinned)?));
    }
    if options.slots.pinned.is_none() && options.kv.is_none() {
        return Err(Error::Config(
            "a machine without an ordinal needs a KV to claim one in: set kv.addresses or ordinal"
                .to_owned(),
        ));
    }
    for name in options.children.iter().map(|child| child.name.as_str()) {
        if [MESH, consul_agent::NAME].contains(&name) {
            return Err(Error::Config(format!(
                "no child can be called {name:?}: the sidecar has one of its own"
            )));
        }
    }
    Ok(slots)
}

/// One sidecar for one state folder. Ends with the process.
fn lock(state_dir: &Path) -> Result<File, Error> {
    let failed = |error| Error::Failure(format!("{}: {error}", state_dir.display()));
    if !state_dir.is_dir() {
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(state_dir).map_err(failed)?;
    }
    let path = state_dir.join("sidecar.lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::Failure(format!(
            "another sidecar uses {}: end it, or set another state_dir",
            state_dir.display()
        ))),
    }
}

/// Wait until somebody asks for the end; there is nothing else to be asked yet.
async fn stop(asked: &mut mpsc::Receiver<Ask>) {
    loop {
        match asked.recv().await {
            Some(Ask::Stop) | None => return,
            Some(Ask::Reload | Ask::Forward(_) | Ask::Role { .. }) => {}
        }
    }
}

fn member<B>(options: &Options<B>, instance: String, slot: Slot) -> Result<Member, Error> {
    let id = peer_id(&options.role, slot)?;
    let peer = options.peers.iter().find(|peer| peer.id == id);
    match peer {
        Some(peer) => Ok(Member {
            instance,
            slot,
            vip: peer.vip,
            id,
        }),
        None => Err(Error::UnknownPeer(id)),
    }
}

/// The claim of a slot, while it lasts.
struct Claim {
    events: mpsc::UnboundedReceiver<Event>,
    pinned: Option<Slot>,
    /// Keeps the channel open where no KV is asked.
    _sender: mpsc::UnboundedSender<Event>,
    _task: Option<Task>,
}

impl Claim {
    fn start<B>(
        options: &Options<B>,
        slots: Vec<Slot>,
        instance: &str,
        seed: &Seed,
        admin: &Admin,
    ) -> Result<Claim, Error> {
        // A machine says little: bounded by what happens to a slot.
        let (sender, events) = mpsc::unbounded_channel();
        let task = match &options.kv {
            None => None,
            Some(kv) => {
                let config = slots::Config {
                    cluster: options.cluster.clone(),
                    instance: instance.to_owned(),
                    slots,
                    pinned: options.slots.pinned,
                    lease: options.slots.lease,
                    drift_per_mille: options.slots.drift_per_mille,
                };
                let machine = Slots::new(config, seed.fork("slots"), RealClock.now())
                    .map_err(|error| Error::Config(error.to_string()))?;
                Some(Claim::spawn(machine, kv.clone(), sender.clone(), admin))
            }
        };
        Ok(Claim {
            events,
            pinned: options.slots.pinned,
            _sender: sender,
            _task: task,
        })
    }

    fn spawn(
        machine: Slots,
        kv: Rc<dyn Kv>,
        sender: mpsc::UnboundedSender<Event>,
        admin: &Admin,
    ) -> Task {
        let machine = Rc::new(RefCell::new(machine));
        admin.show_slots(machine.clone());
        let (_never, commands) = mpsc::channel(1);
        let events = move |event| {
            log(&event);
            // Without a receiver the sidecar ends.
            let _ = sender.send(event);
        };
        RealSpawn.spawn("slots", async move {
            run_slots(machine, kv, RealClock, events, commands).await;
        })
    }

    /// Wait for a slot.
    async fn owned<B>(&mut self, options: &Options<B>, shared: &Shared) -> Result<Slot, Error> {
        if let (Some(pinned), None) = (self.pinned, &self._task) {
            return Ok(pinned);
        }
        let patience = options.slots.patience;
        let started = RealClock.now().mono;
        let mut why = "the KV has not answered".to_owned();
        loop {
            let left = async {
                match patience.is_zero() {
                    true => std::future::pending().await,
                    false => RealClock.sleep_until(started + patience).await,
                }
            };
            let event = tokio::select! {
                event = self.events.recv() => event.expect("the other sender is here"),
                () = left => {
                    let patience_s = patience.as_secs();
                    return Err(Error::NoSlot { patience_s, why });
                }
            };
            match event {
                Event::Owned { slot, .. } => {
                    shared.update(|status| status.slot.waiting_for = None);
                    return Ok(slot);
                }
                Event::Waiting(Obstacle::Forbidden(what)) => return Err(Error::KvRefused(what)),
                Event::Waiting(obstacle) => {
                    why = obstacle.to_string();
                    shared.update(|status| status.slot.waiting_for = Some(why.clone()));
                }
                Event::Lost { slot, why } => return Err(Error::SlotLost { slot, why }),
                Event::Retired { slot } => {
                    let why = Loss::Overwritten;
                    return Err(Error::SlotLost { slot, why });
                }
            }
        }
    }

    /// Wait until it is lost.
    async fn lost(&mut self, shared: &Shared) -> Error {
        loop {
            match self.events.recv().await.expect("the other sender is here") {
                Event::Lost { slot, why } => return Error::SlotLost { slot, why },
                Event::Retired { slot } => {
                    let why = Loss::Overwritten;
                    return Error::SlotLost { slot, why };
                }
                Event::Owned { .. } => shared.update(|status| status.slot.waiting_for = None),
                Event::Waiting(obstacle) => {
                    shared.update(|status| status.slot.waiting_for = Some(obstacle.to_string()));
                }
            }
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::Owned { slot, rejoined } => tracing::info!(slot, rejoined, "slot owned"),
        Event::Lost { slot, why } => tracing::error!(slot, %why, "slot lost"),
        Event::Retired { slot } => tracing::info!(slot, "slot given back"),
        Event::Waiting(obstacle) => tracing::warn!(%obstacle, "no slot yet, or none renewed"),
    }
}

/// A member, until it ends.
struct Running<B> {
    options: Options<B>,
    member: Member,
    gossip_key: Option<zeroize::Zeroizing<String>>,
    shared: Shared,
    node: Node,
    commands: mpsc::Sender<Command>,
    wanted: tokio::sync::watch::Sender<Wanted>,
    children: Task,
    ended: tokio::sync::watch::Receiver<bool>,
    _registration: Option<Task>,
}

enum Happened {
    Ended,
    Asked(Ask),
    Lost(Error),
    GraceOver,
    Failed(Error),
}

impl<B> Running<B> {
    fn start(
        mut options: Options<B>,
        member: Member,
        gossip_key: Option<zeroize::Zeroizing<String>>,
        processes: RealProcesses,
        shared: Shared,
        page: admin::PageSender,
    ) -> Result<Running<B>, Error> {
        write_hosts(
            options.hosts_file.as_deref(),
            &options.peers,
            &options.services,
            &shared,
        );
        let refuse = Box::new(|_: &Member| Err(Error::Failure("taken".to_owned())));
        let make = std::mem::replace(&mut options.mesh, refuse);
        let node = Node::new(make, member.clone(), page);
        let list = all_children(
            &options,
            &member,
            gossip_key.as_ref().map(|key| key.as_str()),
            &node,
            &options.children,
        )?;
        let world = (RealNet, RealClock, RealSpawn);
        let children = Children::new(list, Rc::new(processes), world, shared.clone())
            .map_err(|error| Error::Config(error.to_string()))?;
        let (commands, told) = mpsc::channel(ASKS_MAX);
        let (switch, ended) = tokio::sync::watch::channel(false);
        let children = RealSpawn.spawn("children", async move {
            children.run(told).await;
            // Without a receiver nobody waits.
            let _ = switch.send(true);
        });
        let wanted = tokio::sync::watch::Sender::new(Wanted::new(options.services.clone()));
        let registration = options
            .consul
            .as_ref()
            .map(|consul| spawn_registration(consul, &options.role, &member, &wanted, &shared));
        Ok(Running {
            options,
            member,
            gossip_key,
            shared,
            node,
            commands,
            wanted,
            children,
            ended,
            _registration: registration,
        })
    }

    /// Until everything has ended.
    async fn go_on(
        mut self,
        mut claim: Claim,
        mut asked: mpsc::Receiver<Ask>,
    ) -> Result<(), Error> {
        let mut outcome = Ok(());
        let mut stopping = false;
        let mut lost = false;
        let mut hurry_at = None;
        loop {
            let happened = {
                let grace_over = async {
                    match hurry_at {
                        Some(at) => RealClock.sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    _ = self.ended.wait_for(|ended| *ended) => Happened::Ended,
                    Some(ask) = asked.recv() => Happened::Asked(ask),
                    error = claim.lost(&self.shared), if !lost => Happened::Lost(error),
                    () = grace_over => Happened::GraceOver,
                    error = self.node.failed(), if !stopping => Happened::Failed(error),
                }
            };
            match happened {
                Happened::Ended => break,
                Happened::Asked(Ask::Stop) if stopping => {
                    tracing::warn!("asked again: children are killed");
                    self.tell(Command::Hurry).await;
                }
                Happened::Asked(Ask::Stop) => {
                    stopping = true;
                    tracing::info!("ending: children first, then Consul, then the mesh");
                    self.shut_down().await;
                }
                Happened::Asked(Ask::Reload) if stopping => {}
                Happened::Asked(Ask::Reload) => self.reload().await,
                Happened::Asked(Ask::Forward(signal)) => self.forward(signal).await,
                Happened::Asked(Ask::Role { service, tags }) => self.role(service, tags),
                Happened::Lost(error) => {
                    tracing::error!(%error, "ending, as another may have the slot");
                    hurry_at = Some(RealClock.now().mono + LOST_GRACE);
                    (outcome, stopping, lost) = (Err(error), true, true);
                    self.shut_down().await;
                }
                Happened::GraceOver => {
                    hurry_at = None;
                    self.tell(Command::Hurry).await;
                }
                Happened::Failed(error) => {
                    tracing::error!(%error, "ending, as the mesh cannot run");
                    (outcome, stopping) = (Err(error), true);
                    self.shut_down().await;
                }
            }
        }
        drop(self.children);
        tracing::info!("everything has ended");
        outcome
    }

    async fn shut_down(&self) {
        self.shared
            .update(|status| status.phase = "stopping".to_owned());
        self.tell(Command::Shutdown).await;
    }

    async fn tell(&self, command: Command) {
        // Without a receiver everything has ended.
        let _ = self.commands.send(command).await;
    }

    async fn forward(&self, signal: Signal) {
        let consul: Name = consul_agent::NAME.parse().expect("letters are a name");
        let except = vec![consul];
        self.tell(Command::Forward { signal, except }).await;
    }

    /// What the instance of a service is from now on.
    fn role(&self, service: String, mut tags: Vec<String>) {
        tags.truncate(TAGS_MAX);
        self.wanted.send_if_modified(|wanted| {
            let before = wanted.roles.insert(service, tags.clone());
            before != Some(tags)
        });
    }

    async fn reload(&mut self) {
        let reload = match (self.options.reload)(&self.member) {
            Ok(reload) => reload,
            Err(error) => {
                tracing::error!("nothing was reloaded: {error}");
                return;
            }
        };
        if let Err(error) = self.take(reload).await {
            tracing::error!("nothing was reloaded: {error}");
        }
    }

    /// Check everything before anything is changed.
    async fn take(&mut self, reload: Reload) -> Result<(), Error> {
        let Reload {
            peers,
            services,
            children,
            mesh,
        } = reload;
        services::check(&services).map_err(|error| Error::Config(error.to_string()))?;
        slots_of(&self.options.role, &peers)?;
        let own = peers.iter().find(|peer| peer.id == self.member.id);
        if own.map(|peer| peer.vip) != Some(self.member.vip) {
            return Err(Error::Config(format!(
                "{} with {} is this machine, and is not in the new peer list",
                self.member.id, self.member.vip
            )));
        }
        let before = std::mem::replace(&mut self.options.peers, peers);
        let key = self.gossip_key.as_ref().map(|key| key.as_str());
        let list = all_children(&self.options, &self.member, key, &self.node, &children);
        let list = match list {
            Ok(list) => list,
            Err(error) => {
                self.options.peers = before;
                return Err(error);
            }
        };
        let machine: Vec<_> = list.iter().map(|one| one.child.clone()).collect();
        if let Err(error) = supervise::check(&machine, &[]) {
            self.options.peers = before;
            return Err(Error::Config(error.to_string()));
        }
        self.options.services = services;
        self.options.children = children;
        self.wanted
            .send_modify(|wanted| wanted.services.clone_from(&self.options.services));
        write_hosts(
            self.options.hosts_file.as_deref(),
            &self.options.peers,
            &self.options.services,
            &self.shared,
        );
        if let Some(mesh) = mesh {
            self.node.reload(mesh);
        }
        self.tell(Command::Reload(list)).await;
        tracing::info!("reloaded");
        Ok(())
    }
}

/// The mesh, the Consul agent, and the children, which come after the mesh whether they say so or
/// not.
fn all_children<B>(
    options: &Options<B>,
    member: &Member,
    gossip_key: Option<&str>,
    node: &Node,
    children: &[Child],
) -> Result<Vec<Supervised>, Error> {
    let mesh: Name = MESH.parse().expect("letters are a name");
    let mut all = vec![node.supervised()];
    if let Some(consul) = &options.consul {
        let place = Place {
            cluster: &options.cluster,
            state_dir: &options.state_dir,
            run_dir: &options.run_dir,
        };
        let (peers, role) = (&options.peers, &options.role);
        let child = consul_agent::child(consul, member, peers, role, gossip_key, &place)?;
        all.push(Supervised::from(&child));
    }
    for child in children {
        let mut supervised = Supervised::from(child);
        if !supervised.child.after.contains(&mesh) {
            supervised.child.after.push(mesh.clone());
        }
        all.push(supervised);
    }
    Ok(all)
}

fn write_hosts(path: Option<&Path>, peers: &[Peer], services: &[Service], shared: &Shared) {
    let Some(path) = path else {
        shared.update(|status| status.hosts = "off".to_owned());
        return;
    };
    let mut names: Vec<(IpAddr, String)> = Vec::new();
    names.extend(
        peers
            .iter()
            .map(|peer| (peer.vip.addr(), peer.id.to_string())),
    );
    let with_vip = |service: &Service| Some((IpAddr::V4(service.vip?), service.name.clone()));
    names.extend(services.iter().filter_map(with_vip));
    let said = match hosts::write(path, &names) {
        Ok(Written::Unchanged | Written::Replaced) => "written".to_owned(),
        Ok(Written::InPlace) => "written in place".to_owned(),
        // Names are a convenience: everything works by address.
        Err(error) => {
            tracing::warn!(%error, "the hosts file cannot be written");
            error.to_string()
        }
    };
    shared.update(|status| status.hosts = said);
}

fn spawn_registration(
    consul: &Consul,
    role: &str,
    member: &Member,
    wanted: &tokio::sync::watch::Sender<Wanted>,
    shared: &Shared,
) -> Task {
    let server = consul_agent::is_server(consul, role);
    shared.update(|status| {
        status.consul = Some(ConsulStatus {
            server,
            ..ConsulStatus::default()
        });
    });
    let (member, wanted, shared) = (member.clone(), wanted.subscribe(), shared.clone());
    let token = consul.token.clone();
    RealSpawn.spawn("registration", async move {
        let world = (RealNet, RealClock, RealSpawn);
        registration::keep(world, token, member, wanted, shared).await;
    })
}
