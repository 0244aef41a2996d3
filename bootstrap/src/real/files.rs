//! What may be wrong with a file, and the file of a key.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::hex;

/// What a key file has to be.
pub const KEY_FILE_EXPECTED: &str =
    "a file of this user with mode 0400 or 0600 that holds 64 hexadecimal digits";
/// Largest key file: the digits and a line break, of either kind.
const KEY_FILE_LEN_MAX: u64 = 66;

/// A file or folder that cannot be used. No variant holds anything of a secret.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not what it has to be: somebody has to change it.
    #[error("{}: {found}; expected {expected}", path.display())]
    Found {
        /// Which.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it has to be, or what to do.
        expected: String,
    },
    /// The system refuses.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Another process is writing there.
    #[error("{}: another process is writing there; expected one at a time", path.display())]
    Busy {
        /// Which folder.
        path: PathBuf,
    },
}

impl FileError {
    pub(super) fn found(
        path: &Path,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> FileError {
        FileError::Found {
            path: path.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError::Io {
            path,
            action,
            source,
        }
    }

    /// Whether somebody has to change something, as opposed to a failure of the system.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            FileError::Found { .. } => true,
            FileError::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ReadOnlyFilesystem
            ),
            FileError::Busy { .. } => false,
        }
    }
}

/// The user that this process acts as.
pub(super) fn user() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// The key in a file that only its owner can read, which is this user or root.
pub fn read_key_file(path: &Path) -> Result<Zeroizing<[u8; 32]>, FileError> {
    let wrong = |found: String| FileError::found(path, found, KEY_FILE_EXPECTED);
    let file = File::options()
        .read(true)
        // A pipe under this name must not make us wait for its writer.
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong("there is no such file".to_owned()),
        io::ErrorKind::PermissionDenied => wrong("permission denied".to_owned()),
        _ => FileError::io(path, "open it")(error),
    })?;
    let meta = file.metadata().map_err(FileError::io(path, "look at it"))?;
    if !meta.is_file() {
        return Err(wrong("it is no regular file".to_owned()));
    }
    let mode = meta.mode() & 0o7777;
    if !matches!(mode, 0o400 | 0o600) {
        return Err(wrong(format!("it has mode {mode:04o}")));
    }
    if meta.uid() != user() && meta.uid() != 0 {
        let (owner, user) = (meta.uid(), user());
        return Err(wrong(format!("it belongs to user {owner}, this is {user}")));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(KEY_FILE_LEN_MAX as usize + 1));
    file.take(KEY_FILE_LEN_MAX + 1)
        .read_to_end(&mut text)
        .map_err(FileError::io(path, "read it"))?;
    parse_key(&text).ok_or_else(|| wrong("it holds something else".to_owned()))
}

fn parse_key(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let mut key = Zeroizing::new([0; 32]);
    hex::decode(text, key.as_mut())?;
    Some(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};
    use tempfile::TempDir;

    fn key_file(folder: &TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.path().join("instance.key");
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_key_file_is_64_digits_with_or_without_a_line_break() {
        let folder = TempDir::new().unwrap();
        let digits = "0aF1".repeat(16);
        for (end, mode) in [("", 0o400), ("\n", 0o600), ("\r\n", 0o400)] {
            let path = key_file(&folder, format!("{digits}{end}").as_bytes(), mode);
            assert_eq!(read_key_file(&path).unwrap()[..2], [0x0a, 0xf1]);
        }
    }

    #[test]
    fn a_key_file_that_others_may_read_or_own_or_that_is_none_is_refused_unseen() {
        let folder = TempDir::new().unwrap();
        let digits = "c0ffee00".repeat(8);
        let refused = |path: &Path| {
            let error = read_key_file(path).unwrap_err();
            assert!(error.is_configuration());
            let text = format!("{error} {error:?}");
            assert!(!text.contains("c0ffee"), "{text}");
            assert!(text.contains(KEY_FILE_EXPECTED), "{text}");
            text
        };
        for mode in [0o644, 0o440, 0o700, 0o4600] {
            let text = refused(&key_file(&folder, digits.as_bytes(), mode));
            assert!(text.contains(&format!("it has mode {mode:04o}")), "{text}");
        }
        for content in [
            "",
            "c0ffee",
            &format!("{digits}00"),
            &format!("{digits}\n\n"),
            &"g".repeat(64),
        ] {
            let text = refused(&key_file(&folder, content.as_bytes(), 0o400));
            assert!(text.contains("it holds something else"), "{text}");
        }
        refused(&key_file(&folder, &[0xff; 64], 0o400));
        assert!(refused(&folder.path().join("none")).contains("no such file"));
        assert!(refused(folder.path()).contains("no regular file"));
        // Only root can give a file away.
        if user() == 0 {
            let path = key_file(&folder, digits.as_bytes(), 0o400);
            chown(&path, Some(4711), None).unwrap();
            assert!(refused(&path).contains("belongs to user 4711"));
        }
    }
}
