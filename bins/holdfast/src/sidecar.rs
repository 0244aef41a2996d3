//! `holdfast sidecar`: a member, from nothing.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use holdfast_core::types::PeerId;
use holdfast_io::dump::DumpTrigger;
use holdfast_io::mesh::MeshOptions;
use holdfast_io::real::block_on;
use holdfast_sidecar::postgres::{self, Postgres};
use holdfast_sidecar::{Bootstrap, Error, Member as Who, Options, Prepared, Reload};

use crate::cli::ConfigFile;
use crate::config::files::read_secret_text;
use crate::config::member::Strict;
use crate::config::member::postgres::absolute;
use crate::config::{self, Member, Outcome, Purpose, Settings, problem};
use crate::config_command::{chosen_file, load_member};
use crate::member::{
    bootstrap_options, explain, keep_secrets_off_disks, kv, prepare, slot_options,
};
use crate::node::{Servers, dump_on_signal, prepare_system};
use crate::{logging, node};

/// The role whose machines run the database, for those that only reach it.
const DATABASE_ROLE: &str = "worker";
/// The file of Consul's gossip key, in the folder of secrets.
const GOSSIP_KEY: &str = "gossip.key";

/// Run it until a signal.
pub fn run(args: ConfigFile) -> anyhow::Result<ExitCode> {
    let file = chosen_file(args.config);
    let (member, settings) = match load_member(file.as_deref(), Strict::Yes) {
        Ok(both) => both,
        Err(code) => return Ok(code),
    };
    let trigger = DumpTrigger::default();
    logging::start(&settings.log, settings.log_format, Some(trigger.clone()));
    tracing::info!(
        cluster = member.cluster,
        role = %member.role,
        peers = member.peers.len(),
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    keep_secrets_off_disks();
    prepare_system();
    block_on(async {
        dump_on_signal(trigger.clone())?;
        holdfast_sidecar::run(options(member, settings, file, trigger)?).await?;
        Ok(ExitCode::SUCCESS)
    })?
}

fn options(
    member: Member,
    settings: Settings,
    file: Option<PathBuf>,
    trigger: DumpTrigger,
) -> Result<Options<Start>, Error> {
    let servers = Rc::new(RefCell::new(None));
    let admin = settings.admin;
    let start = Start {
        options: bootstrap_options(&member)?,
        member: member.clone(),
        settings,
        servers: servers.clone(),
        prepared: None,
    };
    let (again, known) = (file.clone(), servers.clone());
    let database = member.postgres.clone();
    let mut good = None;
    Ok(Options {
        cluster: member.cluster.clone(),
        role: member.role.to_string(),
        slots: slot_options(&member),
        kv: kv(&member)?,
        peers: member.peers,
        state_dir: member.state_dir,
        run_dir: absolute(member.run_dir),
        hosts_file: member.hosts_file,
        consul: member.consul,
        services: member.services,
        children: member.children,
        admin: Some(admin),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        bootstrap: start,
        mesh: Box::new(move |who| {
            match load_node(file.as_deref(), &who.id) {
                Ok((_, settings)) => good = Some(settings),
                // A file that is being edited must not end what runs.
                Err(error) if good.is_some() => {
                    tracing::error!("going on with the configuration of before: {error}");
                }
                Err(error) => return Err(Error::Config(error)),
            }
            let settings = good.as_ref().expect("it was read, now or before");
            mesh_options(settings, &servers.borrow(), trigger.clone())
        }),
        reload: Box::new(move |who| {
            let (member, reload) = reload(again.as_deref(), who, &known.borrow())?;
            if member.postgres != database {
                tracing::warn!("what [postgres] says now holds from the next start on");
            }
            Ok(reload)
        }),
    })
}

/// The node's options, with the name and the secrets that it has by now.
fn mesh_options(
    settings: &Settings,
    servers: &Option<Servers>,
    trigger: DumpTrigger,
) -> Result<MeshOptions, Error> {
    tracing::info!(
        id = %settings.id,
        vip = %settings.vip,
        key = settings.key.describe(),
        digest = settings.digest(),
        "starting the mesh"
    );
    let failed = || Error::Failure("the servers were not looked up".to_owned());
    let servers = servers.as_ref().ok_or_else(failed)?;
    node::options(settings, servers, trigger).map_err(|error| Error::Failure(format!("{error:#}")))
}

/// Read the configuration again, for the member that this machine is.
fn load_node(file: Option<&Path>, id: &PeerId) -> Result<(Member, Settings), String> {
    let outcome = config::load(file, &config::environment(), Purpose::Node(id));
    let Outcome {
        settings,
        member,
        problems,
    } = outcome;
    match member.zip(settings) {
        Some(both) => Ok(both),
        None => Err(format!(
            "the configuration:\n{}",
            problem::render(&problems).trim_end()
        )),
    }
}

fn reload(
    file: Option<&Path>,
    who: &Who,
    servers: &Option<Servers>,
) -> Result<(Member, Reload), String> {
    let (member, settings) = load_node(file, &who.id)?;
    let servers = servers.as_ref().ok_or("the node has not started yet")?;
    let mesh = node::reload(&settings, servers).map_err(|error| format!("{error:#}"))?;
    let reload = Reload {
        peers: member.peers.clone(),
        services: member.services.clone(),
        children: member.children.clone(),
        mesh: Some(mesh),
    };
    Ok((member, reload))
}

/// Who this machine is, asked of the bootstrap library.
struct Start {
    member: Member,
    settings: Settings,
    options: holdfast_bootstrap::Options,
    /// Found meanwhile, for the mesh.
    servers: Rc<RefCell<Option<Servers>>>,
    prepared: Option<holdfast_bootstrap::Prepared>,
}

impl Bootstrap for Start {
    async fn prepare(&mut self) -> Result<Prepared, Error> {
        let (prepared, servers) = tokio::join!(
            prepare(&self.member, &self.options),
            Servers::find(&self.settings)
        );
        let prepared = prepared?;
        *self.servers.borrow_mut() = Some(servers);
        let gossip = self.member.secrets_dir.join(GOSSIP_KEY);
        let gossip = read_secret_text(&gossip).map_err(|error| Error::Config(error.to_string()))?;
        let instance = prepared.instance_id.clone();
        self.prepared = Some(prepared);
        Ok(Prepared {
            instance,
            gossip_key: Some(gossip),
        })
    }

    async fn finish(&mut self, who: &Who) -> Result<(), Error> {
        let unprepared = || Error::Failure("there is no slot without an instance".to_owned());
        let prepared = self.prepared.clone().ok_or_else(unprepared)?;
        let done =
            holdfast_bootstrap::finish(&self.options, prepared, who.slot).map_err(explain)?;
        tracing::info!(id = %done.peer_id, info = %done.info.display(), "this machine has a name");
        Ok(())
    }

    async fn postgres(&mut self) -> Result<Option<Postgres>, Error> {
        let member = &self.member;
        let Some(settings) = member.postgres.clone() else {
            return Ok(None);
        };
        let role = match member.runs_database {
            true => member.role.to_string(),
            false => DATABASE_ROLE.to_owned(),
        };
        Ok(Some(Postgres {
            settings,
            role,
            kv: member.patroni_kv.clone(),
            credentials: postgres::credentials(&member.secrets_dir)?,
        }))
    }
}
