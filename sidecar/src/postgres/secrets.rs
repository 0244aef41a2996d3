//! What bootstrap has derived for the database, read from the folder of secrets.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use holdfast_postgres::Credentials;
use zeroize::Zeroizing;

use crate::error::Error;

/// The files, as bootstrap names them.
const SUPERUSER: &str = "postgres-superuser.password";
const REPLICATION: &str = "postgres-replication.password";
const REWIND: &str = "postgres-rewind.password";
const REST: &str = "patroni-rest.password";
const CA: &str = "postgres-ca.key";
/// Longest secret, bytes: they are 32 or 64 characters, and a line that ends.
const LEN_MAX: usize = 128;
/// Hexadecimal digits of the authority's key.
const CA_DIGITS: usize = 64;

/// Read what bootstrap has written for the database.
///
/// # Errors
/// [`Error::Config`] with the file that is missing or is none of its secrets; no value is shown.
pub fn credentials(secrets_dir: &Path) -> Result<Credentials, Error> {
    let password = |name: &str| {
        let text = read(&secrets_dir.join(name))?;
        match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(text),
            false => Err(refused(&secrets_dir.join(name), "it is no password")),
        }
    };
    let ca = read(&secrets_dir.join(CA))?;
    let expected = "expected 64 hexadecimal digits";
    Ok(Credentials {
        superuser: password(SUPERUSER)?,
        replication: password(REPLICATION)?,
        rewind: password(REWIND)?,
        rest: password(REST)?,
        ca: decode(&ca).ok_or_else(|| refused(&secrets_dir.join(CA), expected))?,
    })
}

fn refused(path: &Path, why: &str) -> Error {
    Error::Config(format!("{}: {why}", path.display()))
}

fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(String::with_capacity(LEN_MAX + 1));
    let limit = LEN_MAX as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
    match read {
        Ok(len) if len > LEN_MAX => Err(refused(path, "it is too long for a secret")),
        Ok(_) => Ok(Zeroizing::new(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(refused(path, "it is no text"))
        }
        Err(error) => Err(refused(path, &error.to_string())),
    }
}

fn decode(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    if text.len() != CA_DIGITS || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut key = Zeroizing::new([0; 32]);
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn what_is_missing_or_no_secret_is_named_and_not_shown() {
        let folder = std::env::temp_dir().join(format!("holdfast-pgsec-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let says = |what: &str| {
            let text = credentials(&folder).map(drop).unwrap_err().to_string();
            assert!(text.contains(what) && !text.contains("hunter"), "{text}");
        };
        says(CA);
        std::fs::write(folder.join(CA), "hunter2").unwrap();
        for name in [SUPERUSER, REPLICATION, REWIND] {
            std::fs::write(folder.join(name), format!("{name}\n")).unwrap();
        }
        says(REST);
        std::fs::write(folder.join(REST), "x".repeat(200)).unwrap();
        says("too long");
        std::fs::write(folder.join(REST), "rest").unwrap();
        says("hexadecimal");
        std::fs::write(folder.join(CA), "0f".repeat(32)).unwrap();
        let found = credentials(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(*found.ca, [15; 32]);
        assert_eq!(
            found.superuser.as_str(),
            SUPERUSER,
            "without its end of line"
        );
    }
}
