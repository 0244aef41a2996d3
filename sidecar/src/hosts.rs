//! The names of peers and services in a hosts file: a block between two marks. Everything else in
//! the file stays as it is, byte for byte.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

const BEGIN: &str = "# holdfast begin: written by holdfast, edits are lost";
const END: &str = "# holdfast end";
/// The marks are recognised by how they begin.
const BEGIN_MARK: &[u8] = b"# holdfast begin";
const END_MARK: &[u8] = b"# holdfast end";
/// Largest hosts file that is touched, bytes.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What became of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was as it should be.
    Unchanged,
    /// As a whole: a new file took its place.
    Replaced,
    /// In its place: nothing can be renamed over it, as over a container's `/etc/hosts`, which is
    /// mounted. A reader may for a moment see half of it.
    InPlace,
}

/// Why the file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct HostsError {
    path: PathBuf,
    source: io::Error,
}

/// Make the block say exactly that, with a line for each name; no names, no block. A file that is
/// not there is made.
///
/// # Errors
/// [`HostsError`]: the file is as before, unless it had to be written in its place.
pub fn write(path: &Path, names: &[(IpAddr, String)]) -> Result<Written, HostsError> {
    let failed = |source| HostsError {
        path: path.to_owned(),
        source,
    };
    let old = match fs::metadata(path) {
        Ok(meta) if meta.len() > FILE_LEN_MAX => {
            return Err(failed(io::Error::other("larger than 1 MiB")));
        }
        Ok(_) => fs::read(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    let new = with_block(&old, names);
    if new == old {
        return Ok(Written::Unchanged);
    }
    match replace(path, &new) {
        Ok(()) => Ok(Written::Replaced),
        Err(error) => {
            let path_shown = path.display();
            tracing::info!(path = %path_shown, %error, "cannot be replaced: written in its place");
            in_place(path, &new).map_err(failed)?;
            Ok(Written::InPlace)
        }
    }
}

/// The file with the block in it: where the old one was, else at the end.
fn with_block(old: &[u8], names: &[(IpAddr, String)]) -> Vec<u8> {
    let newline = match old.windows(2).any(|pair| pair == b"\r\n") {
        true => "\r\n",
        false => "\n",
    };
    let mut block = String::new();
    if !names.is_empty() {
        block.push_str(&format!("{BEGIN}{newline}"));
        for (addr, name) in names {
            block.push_str(&format!("{addr} {name}{newline}"));
        }
        block.push_str(&format!("{END}{newline}"));
    }
    match find_block(old) {
        Some((from, to)) => [&old[..from], block.as_bytes(), &old[to..]].concat(),
        None if block.is_empty() => old.to_vec(),
        None => {
            // The last line stays a line of its own.
            let gap: &[u8] = match old.last() {
                None | Some(b'\n') => b"",
                Some(_) => newline.as_bytes(),
            };
            [old, gap, block.as_bytes()].concat()
        }
    }
}

/// Where the block is, with its line ends. One without an end is not believed to be ours to the
/// end of the file: only its first line is.
fn find_block(file: &[u8]) -> Option<(usize, usize)> {
    let (mut at, mut begin) = (0, None);
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let to = at + line.len();
        match begin {
            None if line.starts_with(BEGIN_MARK) => begin = Some((at, to)),
            Some((from, _)) if line.starts_with(END_MARK) => return Some((from, to)),
            _ => {}
        }
        at = to;
    }
    begin
}

/// Write a new file beside the old one and rename it over.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Behind a link the file itself is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut beside = path.clone().into_os_string();
    beside.push(".holdfast-new");
    let beside = PathBuf::from(beside);
    let written = write_beside(&beside, &path, bytes).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        // Best effort: it may not exist.
        let _ = fs::remove_file(&beside);
        return written;
    }
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn write_beside(beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(beside)?;
    file.write_all(bytes)?;
    match fs::metadata(path) {
        Ok(old) => {
            file.set_permissions(old.permissions())?;
            if (old.uid(), old.gid()) != (file.metadata()?.uid(), file.metadata()?.gid()) {
                chown(beside, Some(old.uid()), Some(old.gid()))?;
            }
        }
        Err(_) => file.set_permissions(fs::Permissions::from_mode(0o644))?,
    }
    file.sync_all()
}

fn in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Not truncated before: a reader sees too much rather than nothing.
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn names(names: &[(&str, &str)]) -> Vec<(IpAddr, String)> {
        let name = |(addr, name): &(&str, &str)| (addr.parse().unwrap(), (*name).to_owned());
        names.iter().map(name).collect()
    }

    fn after(old: &str, list: &[(&str, &str)]) -> String {
        String::from_utf8(with_block(old.as_bytes(), &names(list))).unwrap()
    }

    const ONE: &[(&str, &str)] = &[("127.50.0.1", "worker-1")];

    #[test]
    fn what_is_outside_the_block_stays_byte_for_byte() {
        for outside in [
            "",
            "127.0.0.1 localhost\n",
            "127.0.0.1 localhost\r\n\r\n# x\r\n",
            "\t \n\n\u{fffd}\n",
        ] {
            let with = after(outside, ONE);
            assert!(with.starts_with(outside), "{with:?}");
            assert!(with.contains("127.50.0.1 worker-1"));
            assert_eq!(after(&with, ONE), with, "the second time changes nothing");
            assert_eq!(after(&with, &[]), outside, "and it can be taken out again");
        }
    }

    #[test]
    fn the_block_stays_where_it_is_and_removed_names_vanish() {
        let with = after(
            "a\n",
            &[("127.50.0.1", "worker-1"), ("127.50.0.2", "worker-2")],
        );
        let edited = format!("{with}b without an end");
        let less = after(&edited, ONE);
        assert!(!less.contains("worker-2"));
        assert!(
            less.starts_with("a\n") && less.ends_with("\nb without an end"),
            "{less:?}"
        );
    }

    #[test]
    fn a_last_line_without_its_end_stays_a_line_and_line_ends_are_kept() {
        assert!(after("127.0.0.1 x", ONE).starts_with("127.0.0.1 x\n# holdfast begin"));
        let dos = after("127.0.0.1 x\r\ny", ONE);
        assert!(
            dos.starts_with("127.0.0.1 x\r\ny\r\n# holdfast begin"),
            "{dos:?}"
        );
        assert_eq!(dos.matches('\n').count(), dos.matches("\r\n").count());
    }

    #[test]
    fn a_block_whose_end_is_gone_costs_nothing_but_its_first_line() {
        let torn = "a\n# holdfast begin\n127.50.0.9 old\nb\n";
        let mended = after(torn, ONE);
        assert!(mended.contains("127.50.0.9 old\nb\n"), "{mended:?}");
        assert_eq!(after(&mended, ONE), mended);
    }

    #[test]
    fn a_file_keeps_its_mode_and_nothing_is_left_beside_it() {
        let folder = std::env::temp_dir().join(format!("holdfast-hosts-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("hosts");
        fs::write(&path, "x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(write(&path, &names(ONE)).unwrap(), Written::Replaced);
        assert_eq!(write(&path, &names(ONE)).unwrap(), Written::Unchanged);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let left: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert_eq!(left.len(), 1);
        in_place(&path, b"y\n").unwrap();
        assert_eq!(
            fs::read(&path).unwrap(),
            b"y\n",
            "nothing of a longer file is left"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
