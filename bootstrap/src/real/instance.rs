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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    fn open(folder: &TempDir, seed: u8) -> Instance {
        Instance::open(folder.path(), &Seed::new([seed; 32])).unwrap()
    }

    #[test]
    fn an_identity_survives_restarts() {
        let folder = TempDir::new().unwrap();
        let first = open(&folder, 1);
        assert!(first.is_new && first.id.len() == ID_LEN);
        let again = open(&folder, 2);
        assert_eq!(
            again,
            Instance {
                id: first.id,
                is_new: false
            }
        );
    }

    #[test]
    fn two_machines_have_two_identities() {
        let ids = [1, 2].map(|seed| open(&TempDir::new().unwrap(), seed).id);
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn the_file_never_changes_its_format() {
        let id = "0123456789abcdef0123456789abcdef";
        let text = format!(r#"{{"id":"{id}","checksum":"675786c334eea04b"}}"#) + "\n";
        assert_eq!(format(id), text);
        assert_eq!(parse(text.as_bytes()).as_deref(), Some(id));
    }

    #[test]
    fn a_file_that_is_torn_anywhere_means_a_new_identity_which_then_stays() {
        let whole = format("0123456789abcdef0123456789abcdef");
        // Without the line break it is whole.
        for len in 0..whole.len() - 1 {
            let folder = TempDir::new().unwrap();
            fs::write(folder.path().join(INSTANCE_FILE), &whole[..len]).unwrap();
            let new = open(&folder, 1);
            assert!(new.is_new, "{len} bytes");
            assert_eq!(open(&folder, 2).id, new.id);
        }
    }

    #[test]
    fn a_bit_that_flips_is_noticed() {
        let whole = format("0123456789abcdef0123456789abcdef");
        for bit in 0..(whole.len() - 1) * 8 {
            let mut bytes = whole.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // An escape or another case may spell the same text.
            let id = parse(&bytes);
            let same = id.as_deref() == Some("0123456789abcdef0123456789abcdef");
            assert!(id.is_none() || same, "bit {bit} gave {id:?}");
        }
    }

    #[test]
    fn zeroes_and_megabytes_are_no_identity() {
        for content in [vec![0; 80], vec![b' '; 5 << 20]] {
            let folder = TempDir::new().unwrap();
            fs::write(folder.path().join(INSTANCE_FILE), content).unwrap();
            assert!(open(&folder, 1).is_new);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_but_what_we_wrote_is_an_identity(bytes: Vec<u8>, id in "[0-9a-f]{32}") {
            proptest::prop_assert_eq!(parse(&bytes), None);
            let text = format(&id);
            proptest::prop_assert_eq!(parse(text.as_bytes()), Some(id));
        }
    }
}
