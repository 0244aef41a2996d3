//! The operating system: sockets in the file system, files, the process.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the place that the rules keep everything else away from"
)]

mod files;
mod folder;
mod instance;
mod process;
mod unix;

use std::path::PathBuf;
use std::time::Duration;

use holdfast_core::entropy::Seed;
use holdfast_io::real::{RealClock, RealNet};

pub use files::{FileError, KEY_FILE_EXPECTED, read_key_file};
pub use folder::{FileSpec, Folder, Written};
pub use instance::{INSTANCE_FILE, Instance};
pub use process::forbid_core_dumps;
pub(crate) use unix::what_is;
pub use unix::{UnixListener, UnixNet, UnixStream};

use crate::BootstrapError;
use crate::tee::{AgentEndpoint, Dstack, Patient, Plain, Tee};

/// Where this machine's TEE is: the configuration's `[tee]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeeConfig {
    /// dstack's guest agent.
    Dstack {
        /// Where it listens.
        endpoint: AgentEndpoint,
        /// How long to go on trying.
        patience: Duration,
    },
    /// A machine without a TEE.
    Plain {
        /// The file of the key that everything is derived from: 64 hexadecimal digits.
        key_file: PathBuf,
        /// What stands for the id of what runs here.
        app_id: String,
    },
}

/// The TEE that the configuration names, on this operating system.
pub fn open_tee(config: &TeeConfig, seed: &Seed) -> Result<Box<dyn Tee>, BootstrapError> {
    Ok(match config {
        TeeConfig::Dstack { endpoint, patience } => match endpoint {
            AgentEndpoint::Unix(path) => {
                let agent = Dstack::unix(UnixNet::new(path), RealClock, path);
                Box::new(Patient::new(agent, RealClock, *patience, seed))
            }
            AgentEndpoint::Http(server) => {
                let agent = Dstack::http(RealNet, RealClock, server.clone());
                Box::new(Patient::new(agent, RealClock, *patience, seed))
            }
        },
        TeeConfig::Plain { key_file, app_id } => {
            Box::new(Plain::new(read_key_file(key_file)?, app_id.clone()))
        }
    })
}
