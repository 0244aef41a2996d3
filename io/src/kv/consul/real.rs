//! The files: the token, and the authorities to trust.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::token::{Token, TokenError};
use crate::http::{Tls, TlsError};

/// Largest file that is read, bytes: some hundred certificates.
const FILE_LEN_MAX: u64 = 1 << 20;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, a device or the like.
    #[error("{path} is no regular file", path = path.display())]
    Irregular {
        /// Which.
        path: PathBuf,
    },
    /// Others may read or write the token.
    #[error("{path} has mode {mode:03o}: a token is for its owner alone, run `chmod 400 {path}`", path = path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// The permissions.
        mode: u32,
    },
    /// It is larger than 1 MiB.
    #[error("{path} is larger than {FILE_LEN_MAX} bytes", path = path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// There is no token in it.
    #[error("{path}: {source}", path = path.display())]
    Token {
        /// Which.
        path: PathBuf,
        /// What it must be.
        source: TokenError,
    },
    /// There are no authorities in it.
    #[error("{path}: {source}", path = path.display())]
    Authorities {
        /// Which.
        path: PathBuf,
        /// What it must be.
        source: TlsError,
    },
}

/// The token in a file, which only its owner may touch.
///
/// # Errors
/// When it cannot be read, or others could, or it holds no token.
pub fn token_from_file(path: &Path) -> Result<Token, FileError> {
    let bytes = read(path, true)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| TokenError);
    text.and_then(|text| Token::new(&Zeroizing::new(text.to_owned())))
        .map_err(|source| FileError::Token {
            path: path.to_owned(),
            source,
        })
}

/// The authorities in a file of certificates in PEM.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub fn tls_from_file(path: &Path) -> Result<Tls, FileError> {
    Tls::trusting(&read(path, false)?).map_err(|source| FileError::Authorities {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path, private: bool) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let path = || path.to_owned();
    let failed = |source| FileError::Read {
        path: path(),
        source,
    };
    let file = File::open(path()).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(FileError::Irregular { path: path() });
    }
    let mode = about.mode() & 0o777;
    if private && mode & 0o077 != 0 {
        return Err(FileError::Mode { path: path(), mode });
    }
    if about.len() > FILE_LEN_MAX {
        return Err(FileError::TooLarge { path: path() });
    }
    // At once as large as needed: a buffer that grows leaves copies behind.
    let room = usize::try_from(about.len()).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(FILE_LEN_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(name: &str, mode: u32, content: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("holdfast-{name}-{}", std::process::id()));
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_token_that_others_may_read_is_refused_and_not_shown() {
        for (mode, fits) in [(0o400, true), (0o600, true), (0o640, false), (0o604, false)] {
            let path = file(&format!("token-{mode:o}"), mode, b"6f1c-secret\n");
            let found = token_from_file(&path);
            fs::remove_file(&path).unwrap();
            assert_eq!(found.is_ok(), fits, "mode {mode:o}");
            if let Err(error) = found {
                let text = error.to_string();
                assert!(text.contains("chmod") && !text.contains("6f1c"), "{text}");
            }
        }
    }

    #[test]
    fn a_file_without_a_token_or_certificates_is_named_in_the_error() {
        let path = file("empty", 0o600, b"not what is needed");
        let name = path.display().to_string();
        let token = token_from_file(&path).unwrap_err().to_string();
        let tls = tls_from_file(&path).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert!(
            token.contains(&name) && !token.contains("not what"),
            "{token}"
        );
        assert!(
            tls.contains(&name) && tls.contains("0 certificates"),
            "{tls}"
        );
        let missing = token_from_file(&path).unwrap_err().to_string();
        assert!(missing.contains("cannot read"), "{missing}");
        let folder = token_from_file(&std::env::temp_dir()).unwrap_err();
        assert!(matches!(folder, FileError::Irregular { .. }), "{folder}");
    }
}
