//! What `holdfast bootstrap` and `holdfast sidecar` share: a configuration as the libraries that
//! do the work are told it.

use std::rc::Rc;

use holdfast_bootstrap::real::{forbid_core_dumps, open_tee};
use holdfast_bootstrap::secrets::Overrides;
use holdfast_bootstrap::{BootstrapError, DRIFT_PER_MILLE, Prepared};
use holdfast_io::kv::{Kv, consul};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, os_seed};
use holdfast_sidecar::{Error, SlotOptions};

use crate::config::Member;

/// Let no secret of this process reach a disk. A machine goes on without, and says so.
pub fn keep_secrets_off_disks() {
    if let Err(error) = forbid_core_dumps() {
        tracing::warn!(%error, "a core dump of this process may hold secrets");
    }
}

/// What bootstrap is told.
pub fn bootstrap_options(member: &Member) -> Result<holdfast_bootstrap::Options, Error> {
    let overrides = Overrides::from_env(std::env::vars_os());
    Ok(holdfast_bootstrap::Options {
        cluster: member.cluster.clone(),
        role: member.role.clone(),
        pinned: member.pinned,
        peers: member.peers.iter().map(|peer| peer.id.clone()).collect(),
        state_dir: member.state_dir.clone(),
        run_dir: member.run_dir.clone(),
        secrets_dir: member.secrets_dir.clone(),
        overrides: overrides.map_err(|error| Error::Config(error.to_string()))?,
    })
}

/// The first step of bootstrap: the TEE, and the secrets.
pub async fn prepare(
    member: &Member,
    options: &holdfast_bootstrap::Options,
) -> Result<Prepared, Error> {
    let seed = os_seed()
        .map_err(|error| Error::Failure(format!("the system gives no entropy: {error}")))?;
    // What contradicts itself is told before a TEE is asked that may not answer.
    holdfast_bootstrap::check(options).map_err(explain)?;
    let tee = open_tee(&member.tee, &seed).map_err(explain)?;
    let prepared = holdfast_bootstrap::prepare(options, tee.as_ref(), &seed).await;
    let prepared = prepared.map_err(explain)?;
    tracing::info!(
        instance = prepared.instance_id,
        app = prepared.app_id,
        secrets = prepared.secrets.len(),
        changed = prepared.changed.len(),
        "bootstrapped"
    );
    Ok(prepared)
}

/// The same error with the same exit code, as the sidecar has it.
pub fn explain(error: BootstrapError) -> Error {
    let text = error.to_string();
    match error.exit_code() {
        2 => Error::Config(text),
        5 => Error::Tee(text),
        _ => Error::Failure(text),
    }
}

/// How the slot is claimed.
pub fn slot_options(member: &Member) -> SlotOptions {
    SlotOptions {
        pinned: member.pinned,
        lease: member.lease,
        patience: member.patience,
        drift_per_mille: DRIFT_PER_MILLE,
    }
}

/// The KV of the configuration, if it has one.
pub fn kv(member: &Member) -> Result<Option<Rc<dyn Kv>>, Error> {
    let Some(config) = member.kv.clone() else {
        return Ok(None);
    };
    let client = consul::Consul::new(RealNet, RealClock, RealSpawn, config);
    let client = client.map_err(|error| Error::Config(error.to_string()))?;
    Ok(Some(Rc::new(client)))
}
