//! A member while it is one: everything runs, is reloaded, and ends in order.

use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use holdfast_core::supervise::{self, Name, Signal};
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::real::{RealClock, RealNet, RealSpawn};
use holdfast_io::spawn::{Spawn, Task};
use tokio::sync::{mpsc, watch};

use super::ownership::Claim;
use super::{ASKS_MAX, MESH};
use crate::admin::PageSender;
use crate::children::{Children, Command, Supervised};
use crate::consul_agent::{self, Place};
use crate::error::Error;
use crate::hosts::{self, Written};
use crate::inside::Node;
use crate::options::{Child, Consul, Member, Options, Peer, Reload, slots_of};
use crate::postgres::{self, Database};
use crate::processes::{RealProcesses, end_strays};
use crate::registration::{self, Wanted};
use crate::services::{self, Service};
use crate::signals::Ask;
use crate::status::{ConsulStatus, Shared};

/// How long children may take to end when the slot is lost: another instance may have it, and
/// two machines with one name must not last. That part of the lease is kept free for it
/// (`holdfast_core::slots::STOP_PART`).
const LOST_GRACE: Duration = Duration::from_secs(2);

/// A member, until it ends.
pub(super) struct Running<B> {
    options: Options<B>,
    member: Member,
    gossip_key: Option<zeroize::Zeroizing<String>>,
    shared: Shared,
    node: Node,
    database: Option<Database>,
    commands: mpsc::Sender<Command>,
    wanted: watch::Sender<Wanted>,
    children: Task,
    ended: watch::Receiver<bool>,
    leftovers: Option<Leftovers>,
    /// The reaper: strays end after the children have.
    _processes: Rc<RealProcesses>,
    _registration: Option<Task>,
    _watcher: Option<Task>,
}

/// What Patroni has left behind, once everything is to end.
struct Leftovers {
    hurry: watch::Sender<bool>,
    stop: Stop,
    /// Until then it may end cleanly.
    by: Instant,
    /// Ends it beside the children, where Patroni does not run and ends nothing.
    _beside: Option<Task>,
}

enum Happened {
    Ended,
    Asked(Ask),
    Lost(Error),
    GraceOver,
    Failed(Error),
}

impl<B> Running<B> {
    pub(super) fn start(
        mut options: Options<B>,
        member: Member,
        gossip_key: Option<zeroize::Zeroizing<String>>,
        database: Option<Database>,
        processes: RealProcesses,
        shared: Shared,
        page: PageSender,
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
        let mut list = own_children(
            &options,
            &member,
            gossip_key.as_ref().map(|key| key.as_str()),
            &node,
        )?;
        let database_children = database.as_ref().map(|database| database.children(&shared));
        list.extend(database_children.into_iter().flatten());
        list.extend(after_mesh(&options.children));
        let world = (RealNet, RealClock, RealSpawn);
        let processes = Rc::new(processes);
        let children = Children::new(list, processes.clone(), world, shared.clone())
            .map_err(|error| Error::Config(error.to_string()))?;
        let (commands, told) = mpsc::channel(ASKS_MAX);
        let (switch, ended) = watch::channel(false);
        let children = RealSpawn.spawn("children", async move {
            children.run(told).await;
            // Without a receiver nobody waits.
            let _ = switch.send(true);
        });
        let services = with_database(&options.services, database.as_ref());
        let wanted = watch::Sender::new(Wanted::new(services));
        let watcher = database
            .as_ref()
            .and_then(|database| database.follow(&shared, &wanted));
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
            database,
            commands,
            wanted,
            children,
            ended,
            leftovers: None,
            _processes: processes,
            _registration: registration,
            _watcher: watcher,
        })
    }

    /// Until everything has ended.
    pub(super) async fn go_on(
        mut self,
        mut claim: Claim,
        asked: &mut mpsc::Receiver<Ask>,
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
                    self.hurry().await;
                }
                Happened::Asked(Ask::Stop) => {
                    stopping = true;
                    tracing::info!("ending: children first, then Consul, then the mesh");
                    self.shut_down(postgres::STOP_DEADLINE).await;
                }
                Happened::Asked(Ask::Reload) if stopping => {}
                Happened::Asked(Ask::Reload) => self.reload().await,
                Happened::Asked(Ask::Forward(signal)) => self.forward(signal).await,
                Happened::Asked(Ask::Role { service, tags }) => {
                    registration::set_role(&self.wanted, &service, tags);
                }
                Happened::Lost(error) => {
                    tracing::error!(%error, "ending, as another may have the slot");
                    hurry_at = Some(RealClock.now().mono + LOST_GRACE);
                    (outcome, stopping, lost) = (Err(error), true, true);
                    self.shut_down(LOST_GRACE).await;
                }
                Happened::GraceOver => {
                    hurry_at = None;
                    self.hurry().await;
                }
                Happened::Failed(error) => {
                    tracing::error!(%error, "ending, as the mesh cannot run");
                    (outcome, stopping) = (Err(error), true);
                    self.shut_down(postgres::STOP_DEADLINE).await;
                }
            }
        }
        self.end_leftovers(asked).await;
        end_strays(LOST_GRACE).await;
        drop(self.children);
        tracing::info!("everything has ended");
        outcome
    }

    /// End everything; what Patroni has left, cleanly if that is done within `grace`.
    async fn shut_down(&mut self, grace: Duration) {
        self.shared
            .update(|status| status.phase = "stopping".to_owned());
        self.begin_leftovers(grace);
        self.tell(Command::Shutdown).await;
    }

    /// There is no time left for asking.
    async fn hurry(&self) {
        if let Some(leftovers) = &self.leftovers {
            leftovers.hurry.send_replace(true);
        }
        self.tell(Command::Hurry).await;
    }

    fn begin_leftovers(&mut self, grace: Duration) {
        let by = RealClock.now().mono + grace;
        if let Some(leftovers) = &mut self.leftovers {
            leftovers.by = leftovers.by.min(by);
            return;
        }
        let (hurry, stop) = Stop::new();
        let patroni_runs = self.shared.view(|status| {
            let mut children = status.children.iter();
            children.any(|child| child.name == postgres::NAME && child.pid.is_some())
        });
        let database = self.database.as_ref().filter(|_| !patroni_runs);
        let beside = database.map(|database| database.end_leftovers(stop.clone(), by));
        self.leftovers = Some(Leftovers {
            hurry,
            stop,
            by,
            _beside: beside.map(|ending| RealSpawn.spawn("leftovers", ending)),
        });
    }

    /// What is left when every child has ended.
    async fn end_leftovers(&self, asked: &mut mpsc::Receiver<Ask>) {
        if let (Some(database), Some(leftovers)) = (&self.database, &self.leftovers) {
            let ending = database.end_leftovers(leftovers.stop.clone(), leftovers.by);
            let hurry = || {
                leftovers.hurry.send_replace(true);
            };
            postgres::hurried(ending, asked, hurry).await;
        }
    }

    async fn tell(&self, command: Command) {
        // Without a receiver everything has ended.
        let _ = self.commands.send(command).await;
    }

    async fn forward(&self, signal: Signal) {
        let name = |name: &str| -> Name { name.parse().expect("letters are a name") };
        // Patroni does not handle SIGUSR2, and dies of it.
        let except = vec![name(consul_agent::NAME), name(postgres::NAME)];
        self.tell(Command::Forward { signal, except }).await;
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
        let list = own_children(&self.options, &self.member, key, &self.node);
        let mut list = match list {
            Ok(list) => list,
            Err(error) => {
                self.options.peers = before;
                return Err(error);
            }
        };
        let database = self.database.as_ref();
        let database_children = database.map(|database| database.children(&self.shared));
        list.extend(database_children.into_iter().flatten());
        list.extend(after_mesh(&children));
        let machine: Vec<_> = list.iter().map(|one| one.child.clone()).collect();
        if let Err(error) = supervise::check(&machine, &[]) {
            self.options.peers = before;
            return Err(Error::Config(error.to_string()));
        }
        // The one that may still refuse.
        if let Some(mesh) = mesh
            && let Err(error) = self.node.reload(mesh).await
        {
            self.options.peers = before;
            return Err(Error::Config(error));
        }
        self.options.services = services;
        self.options.children = children;
        let services = with_database(&self.options.services, database);
        self.wanted.send_modify(|wanted| wanted.services = services);
        if let Some(database) = database {
            database.set_peers(&self.options.peers);
        }
        write_hosts(
            self.options.hosts_file.as_deref(),
            &self.options.peers,
            &self.options.services,
            &self.shared,
        );
        self.tell(Command::Reload(list)).await;
        tracing::info!("reloaded");
        Ok(())
    }
}

/// The mesh and the Consul agent.
fn own_children<B>(
    options: &Options<B>,
    member: &Member,
    gossip_key: Option<&str>,
    node: &Node,
) -> Result<Vec<Supervised>, Error> {
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
    Ok(all)
}

/// The user's children, which come after the mesh whether they say so or not.
fn after_mesh(children: &[Child]) -> impl Iterator<Item = Supervised> {
    let mesh: Name = MESH.parse().expect("letters are a name");
    children.iter().map(move |child| {
        let mut supervised = Supervised::from(child);
        if !supervised.child.after.contains(&mesh) {
            supervised.child.after.push(mesh.clone());
        }
        supervised
    })
}

/// The services, with that of the database.
fn with_database(services: &[Service], database: Option<&Database>) -> Vec<Service> {
    match database {
        Some(database) => database.with_service(services),
        None => services.to_vec(),
    }
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
    wanted: &watch::Sender<Wanted>,
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
