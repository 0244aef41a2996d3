//! Who this machine is: its TEE, identity, derived secrets and files.
//!
//! A start has two steps, with the claim of a slot between them, which needs the KV and is the
//! caller's ([`holdfast_core::slots`]):
//!
//! ```text
//! check()    configuration: role, pin, peers            nothing is touched
//! prepare()  TEE -> identity -> secrets_dir             Prepared: what to claim a slot with
//! finish()   slot -> peer id in the list -> info.json   Bootstrapped
//! ```
//!
//! Every step may be repeated, and changes nothing then. What may go wrong has an exit code,
//! [`BootstrapError::exit_code`]; the page is `docs/membership.md`.

mod hex;
pub mod identity;
pub mod real;
pub mod secrets;
pub mod tee;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_core::entropy::Seed;
use holdfast_core::slots::{self, Slot};
use holdfast_core::types::PeerId;
use serde::Serialize;

use crate::identity::{Candidates, IdentityError, Role, check_cluster};
use crate::real::{FileError, FileSpec, Folder, Instance};
use crate::secrets::{KEY_PATH, KEY_PURPOSE, Overrides, SecretError, Secrets};
use crate::tee::{Info, Tee, TeeError};

/// Mode of the folder with the secrets, and of each.
const SECRETS_MODE: u32 = 0o700;
const SECRET_MODE: u32 = 0o400;
/// Mode of the folder with `info.json`, and of that.
const RUN_MODE: u32 = 0o755;
const INFO_MODE: u32 = 0o444;
/// What is written last: whoever finds it finds everything else too.
pub const INFO_FILE: &str = "info.json";
/// By how many parts in a thousand the rates of two machines' clocks may differ: NTP slews by
/// 0.5 at most, crystals are off by 0.1.
pub const DRIFT_PER_MILLE: u32 = 5;

/// What a machine is told before it starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name.
    pub cluster: String,
    /// What the machine is there for.
    pub role: Role,
    /// The ordinal that it has to be ([`identity::pin`]).
    pub pinned: Option<Slot>,
    /// All peers of the mesh.
    pub peers: Vec<PeerId>,
    /// What survives a restart; only used where the TEE gives no instance id.
    pub state_dir: PathBuf,
    /// Where `info.json` is written.
    pub run_dir: PathBuf,
    /// Where the secrets are written.
    pub secrets_dir: PathBuf,
    /// Secrets that the environment gives.
    pub overrides: Overrides,
}

/// A start that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Who the machine should be makes no sense.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A secret from the environment makes no sense.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A file or folder cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The TEE does not do what it should.
    #[error("the TEE: {0}")]
    Tee(#[from] TeeError),
    /// The system gives no entropy, or lets no limit be set.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl BootstrapError {
    /// What the process ends with: 1 failure, 2 bad configuration, 5 the TEE.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            BootstrapError::Identity(_) | BootstrapError::Secret(_) => 2,
            BootstrapError::File(error) if error.is_configuration() => 2,
            BootstrapError::File(_) | BootstrapError::System { .. } => 1,
            BootstrapError::Tee(_) => 5,
        }
    }
}

/// A machine that knows who it is, and not yet which slot it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The machine: the same at every start.
    pub instance_id: String,
    /// What it runs.
    pub app_id: String,
    /// The digest of what it runs, where the TEE measures it.
    pub compose_hash: Option<String>,
    /// The ordinals that it may claim.
    pub candidates: Candidates,
    /// The files of the secrets, in the order of [`secrets::KINDS`].
    pub secrets: Vec<PathBuf>,
    /// Names of those that are new or have changed.
    pub changed: Vec<String>,
}

impl Prepared {
    /// What to claim a slot with.
    #[must_use]
    pub fn slots_config(&self, cluster: &str, lease: Duration) -> slots::Config {
        slots::Config {
            cluster: cluster.to_owned(),
            instance: self.instance_id.clone(),
            slots: self.candidates.slots.clone(),
            pinned: self.candidates.pinned,
            lease,
            drift_per_mille: DRIFT_PER_MILLE,
        }
    }
}

/// A machine that knows everything about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrapped {
    /// The first step.
    pub prepared: Prepared,
    /// Its slot.
    pub slot: Slot,
    /// Its name in the mesh.
    pub peer_id: PeerId,
    /// Where that is written.
    pub info: PathBuf,
}

/// The configuration's part of a start: what may be claimed. Nothing is touched.
pub fn check(options: &Options) -> Result<Candidates, BootstrapError> {
    check_cluster(&options.cluster)?;
    let role = options.role.clone();
    Ok(Candidates::new(role, options.pinned, &options.peers)?)
}

/// The first step: ask the TEE, and write the secrets.
///
/// An identity that no TEE gives is drawn from `seed`.
pub async fn prepare(
    options: &Options,
    tee: &dyn Tee,
    seed: &Seed,
) -> Result<Prepared, BootstrapError> {
    let candidates = check(options)?;
    // Before the TEE is asked, which may take long: a folder that others read is an error at once.
    let folder = Folder::open(&options.secrets_dir, SECRETS_MODE)?;
    let info = tee.info().await?;
    let key = tee.key(KEY_PATH, KEY_PURPOSE).await?;
    let instance_id = instance_id(&info, &options.state_dir, seed)?;
    let secrets = Secrets::derive(&key, &options.cluster, &options.overrides);
    drop(key);
    let files = secrets.iter().map(|(kind, text)| FileSpec {
        name: kind.file,
        content: text.as_bytes(),
        mode: SECRET_MODE,
    });
    let written = folder.write(&files.collect::<Vec<_>>())?;
    let paths = secrets.iter().map(|(kind, _)| folder.join(kind.file));
    Ok(Prepared {
        instance_id,
        app_id: info.app_id,
        compose_hash: info.compose_hash,
        candidates,
        secrets: paths.collect(),
        changed: written.changed,
    })
}

fn instance_id(info: &Info, state_dir: &Path, seed: &Seed) -> Result<String, BootstrapError> {
    match &info.instance_id {
        Some(id) => Ok(id.clone()),
        None => Ok(Instance::open(state_dir, seed)?.id),
    }
}

/// `info.json`, in the order and with the names of the reference.
#[derive(Serialize)]
struct InfoFile<'a> {
    instance_id: &'a str,
    app_id: &'a str,
    /// Empty where nothing measures it: consumers expect a text.
    compose_hash: &'a str,
    cluster_name: &'a str,
    role: &'a str,
    ordinal: Slot,
}

/// The second step, with the slot that was claimed: write `info.json`.
pub fn finish(
    options: &Options,
    prepared: Prepared,
    slot: Slot,
) -> Result<Bootstrapped, BootstrapError> {
    let peer_id = prepared.candidates.peer_id(slot, &options.peers)?;
    let info = InfoFile {
        instance_id: &prepared.instance_id,
        app_id: &prepared.app_id,
        compose_hash: prepared.compose_hash.as_deref().unwrap_or_default(),
        cluster_name: &options.cluster,
        role: prepared.candidates.role.as_str(),
        ordinal: slot,
    };
    let mut json = serde_json::to_vec(&info).expect("texts and a number are JSON");
    json.push(b'\n');
    let folder = Folder::open(&options.run_dir, RUN_MODE)?;
    folder.write(&[FileSpec {
        name: INFO_FILE,
        content: &json,
        mode: INFO_MODE,
    }])?;
    let info = folder.join(INFO_FILE);
    Ok(Bootstrapped {
        prepared,
        slot,
        peer_id,
        info,
    })
}
