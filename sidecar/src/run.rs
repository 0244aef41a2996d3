//! From nothing to a member, and back: the order of `docs/membership.md`.

mod ownership;
mod running;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use holdfast_core::entropy::Seed;
use holdfast_core::slots::Slot;
use holdfast_io::real::os_seed;
use tokio::sync::mpsc;

use self::ownership::Claim;
use self::running::Running;
use crate::admin::{self, Admin};
use crate::consul_agent;
use crate::error::Error;
use crate::options::{Bootstrap, Member, Options, peer_id, slots_of};
use crate::postgres::{Database, Fenced};
use crate::processes::RealProcesses;
use crate::services;
use crate::signals::{self, Ask};
use crate::status::Shared;

/// The name of the mesh among the children.
pub const MESH: &str = "mesh";
/// What was asked and not yet looked at.
const ASKS_MAX: usize = 64;

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
    options: Options<B>,
    mut asked: mpsc::Receiver<Ask>,
) -> Result<(), Error> {
    let slots = check(&options)?;
    let seed = os_seed()
        .map_err(|error| Error::Failure(format!("the system gives no entropy: {error}")))?;
    let processes = RealProcesses::new()
        .map_err(|error| Error::Failure(format!("children cannot be heard of: {error}")))?;
    let _lock = lock(&options.state_dir)?;
    let shared = Shared::default();
    let mut fenced = Fenced::after_last_life(&options.state_dir, &shared);
    let found = (slots, seed, processes, shared);
    let outcome = become_member(options, &mut asked, found, &mut fenced).await;
    // Only where it ended before it was a member.
    fenced.end(&mut asked).await;
    outcome
}

async fn become_member<B: Bootstrap>(
    mut options: Options<B>,
    asked: &mut mpsc::Receiver<Ask>,
    (slots, seed, processes, shared): (Vec<Slot>, Seed, RealProcesses, Shared),
    fenced: &mut Fenced,
) -> Result<(), Error> {
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
        () = stop(asked) => return Ok(()),
    };
    shared.update(|status| {
        status.phase = "claiming".to_owned();
        status.instance = Some(prepared.instance.clone());
        status.slot.pinned = options.slots.pinned.is_some();
    });
    let mut claim = Claim::start(
        &options,
        slots,
        &prepared.instance,
        &seed,
        (&admin, &shared),
    )?;
    let slot = tokio::select! {
        slot = claim.owned(&options, &shared) => slot?,
        () = stop(asked) => return Ok(()),
    };
    let member = member(&options, prepared.instance, slot)?;
    tracing::info!(id = %member.id, vip = %member.vip, instance = member.instance, "this machine is");
    options.bootstrap.finish(&member).await?;
    let postgres = options.bootstrap.postgres().await?;
    let database = postgres
        .map(|postgres| Database::new(postgres, &options, &member))
        .transpose()?;
    fenced
        .change(database.as_ref().and_then(Database::fence))
        .await;
    shared.update(|status| {
        status.phase = "running".to_owned();
        status.id = Some(member.id.to_string());
        status.slot.slot = Some(slot);
    });
    let running = Running::start(
        options,
        member,
        prepared.gossip_key,
        database,
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

/// One process that claims for one state folder: an instance runs once. Held as long as the file
/// is open.
///
/// # Errors
/// When another process has it, or the folder cannot be used.
pub fn lock(state_dir: &Path) -> Result<File, Error> {
    let failed = |error| Error::Failure(format!("{}: {error}", state_dir.display()));
    if !state_dir.is_dir() {
        let mut folder = DirBuilder::new();
        // Others pass through it: children with users of their own have their data below.
        folder.recursive(true).mode(0o755);
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
            Some(Ask::Reload) => tracing::warn!(
                "nothing was reloaded: there is no slot yet, and the claim goes on with the peers \
                 that it began with; restart the process to change them"
            ),
            Some(Ask::Forward(_) | Ask::Role { .. }) => {}
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
