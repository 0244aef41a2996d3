//! The identity of a machine whose TEE gives none: a file that survives restarts.

use std::path::Path;

use holdfast_core::entropy::Seed;
use ring::digest;
use serde::{Deserialize, Serialize};

use super::files::FileError;
use super::folder::{FileSpec, Folder};
use crate::hex;

/// Its name in the state folder.
pub const INSTANCE_FILE: &str = "instance.json";
/// Mode of the state folder: others may look, and not write.
const STATE_MODE: u32 = 0o755;
/// Mode of the file.
const INSTANCE_MODE: u32 = 0o400;
/// Largest file that is looked at; ours has about 80 bytes.
const INSTANCE_LEN_MAX: usize = 4096;
/// Hexadecimal digits of an id.
const ID_LEN: usize = 32;

/// The identity of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Whether it was drawn just now.
    pub is_new: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    id: String,
    checksum: String,
}

impl Instance {
    /// The identity in the state folder; drawn from `seed` and kept there when there is none, or
    /// none that is whole: then this is a new machine for the cluster, which is said in the log.
    pub fn open(state_dir: &Path, seed: &Seed) -> Result<Instance, FileError> {
        let folder = Folder::open(state_dir, STATE_MODE)?;
        match folder.read(INSTANCE_FILE, INSTANCE_LEN_MAX)? {
            Some(content) => match parse(&content) {
                Some(id) => return Ok(Instance { id, is_new: false }),
                None => tracing::warn!(
                    path = %folder.join(INSTANCE_FILE).display(),
                    found_bytes = content.len(),
                    "the instance file is torn or corrupt: this machine gets a new identity and a \
                     free slot; its old slot is free when the lease is over"
                ),
            },
            None => tracing::info!(
                path = %folder.join(INSTANCE_FILE).display(),
                "no instance file: this machine is new"
            ),
        }
        let id = draw(seed);
        let content = format(&id);
        folder.write(&[FileSpec {
            name: INSTANCE_FILE,
            content: content.as_bytes(),
            mode: INSTANCE_MODE,
        }])?;
        Ok(Instance { id, is_new: true })
    }
}

fn draw(seed: &Seed) -> String {
    let bytes: [u8; ID_LEN / 2] = seed.fork("bootstrap/instance").rng().bytes();
    hex::encode(&bytes).as_str().to_owned()
}

fn format(id: &str) -> String {
    let stored = Stored {
        id: id.to_owned(),
        checksum: checksum(id),
    };
    let json = serde_json::to_string(&stored).expect("two texts are JSON");
    format!("{json}\n")
}

fn parse(content: &[u8]) -> Option<String> {
    let stored: Stored = serde_json::from_slice(content).ok()?;
    let valid = stored.id.len() == ID_LEN
        && stored.id.bytes().all(|b| b.is_ascii_hexdigit())
        && stored.checksum == checksum(&stored.id);
    valid.then_some(stored.id)
}

/// Against torn and rotten files, not against people: the first 64 bits of a SHA-256.
fn checksum(id: &str) -> String {
    let digest = digest::digest(
        &digest::SHA256,
        format!("holdfast/1 instance {id}").as_bytes(),
    );
    hex::encode(&digest.as_ref()[..8]).as_str().to_owned()
}
