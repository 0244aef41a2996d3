//! Who an instance is: a file that survives crashes, or the TEE's word.

use std::time::Duration;

use holdfast_core::entropy::Entropy;

use crate::disk::Disk;

/// The file, and what it is written as first.
const FILE: &str = "instance";
const FILE_NEW: &str = "instance.new";
/// How long a disk takes for one thing, in microseconds.
const DISK_US: (u64, u64) = (100, 20_000);

/// What is left to do until a new id is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storing {
    Sync,
    Rename,
    SyncFolder,
    Done,
}

impl Storing {
    /// Writes the id, which is not durable yet.
    pub fn begin(disk: &mut Disk, id: &str) -> Storing {
        disk.write(FILE_NEW, encode(id).as_bytes());
        Storing::Sync
    }

    /// The next of it.
    pub fn go_on(self, disk: &mut Disk) -> Storing {
        match self {
            Storing::Sync => {
                disk.sync(FILE_NEW);
                Storing::Rename
            }
            Storing::Rename => {
                disk.rename(FILE_NEW, FILE);
                Storing::SyncFolder
            }
            Storing::SyncFolder | Storing::Done => {
                disk.sync_folder();
                Storing::Done
            }
        }
    }
}

/// How long the disk takes now.
pub(crate) fn disk_time(entropy: &mut Entropy) -> Duration {
    Duration::from_micros(DISK_US.0 + entropy.below(DISK_US.1 - DISK_US.0))
}

/// The id that the disk has; `None` when there is none, or half of one.
pub(crate) fn stored(disk: &Disk) -> Option<String> {
    decode(std::str::from_utf8(disk.read(FILE)?).ok()?)
}

/// FNV-1a: against half a file, not against malice.
fn checksum(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn encode(id: &str) -> String {
    format!("{id} {:016x}", checksum(id))
}

fn decode(text: &str) -> Option<String> {
    let (id, sum) = text.split_once(' ')?;
    let is_whole = sum == format!("{:016x}", checksum(id)) && !id.is_empty();
    is_whole.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::entropy::Seed;

    #[test]
    fn an_id_is_read_back_and_no_beginning_of_it_is() {
        let text = encode("0123456789abcdef");
        assert_eq!(decode(&text).as_deref(), Some("0123456789abcdef"));
        for len in 0..text.len() {
            assert_eq!(decode(&text[..len]), None);
        }
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_whole_id_or_none_and_the_whole_one_once_it_is_done() {
        for steps in 0..4 {
            for seed in 0..100 {
                let mut disk = Disk::default();
                let mut storing = Storing::begin(&mut disk, "abc");
                for _ in 0..steps {
                    storing = storing.go_on(&mut disk);
                }
                disk.crash(&mut Seed::new([seed; 32]).rng());
                let found = stored(&disk);
                let is_done = storing == Storing::Done;
                assert!(found.as_deref() == Some("abc") || (found.is_none() && !is_done));
            }
        }
    }
}
