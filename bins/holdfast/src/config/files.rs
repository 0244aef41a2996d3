//! Files that hold secrets: read with their mode checked, written so that nothing is lost.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use holdfast_core::identity::Identity;
use zeroize::Zeroizing;

/// Largest secret file: more than the longest cluster secret, and no accident's size.
const SECRET_FILE_LEN_MAX: u64 = 4096;

/// Begins the one line of a node key file, so that it cannot be taken for a cluster secret.
const NODE_KEY_PREFIX: &str = "ed25519-seed:";

/// Why a secret file cannot be used.
pub struct SecretError {
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// What to do.
    pub help: Option<String>,
}

impl SecretError {
    fn new(found: impl Into<String>, expected: &str) -> SecretError {
        SecretError {
            found: found.into(),
            expected: expected.to_owned(),
            help: None,
        }
    }

    fn help(mut self, help: String) -> SecretError {
        self.help = Some(help);
        self
    }
}

impl std::fmt::Display for SecretError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; expected {}", self.found, self.expected)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// The content of a secret file without its last line break.
///
/// The file is refused if its group or others may read it.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    const EXPECTED: &str = "a readable file of mode 0400";
    let shown = path.display();
    let failed = |error: io::Error| SecretError::new(format!("{shown}: {error}"), EXPECTED);
    let file = File::options()
        .read(true)
        // A pipe under this name must not make us wait for its writer.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(SecretError::new(format!("{shown} is no file"), EXPECTED));
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let found = format!("{shown} has mode {mode:04o}: others than its owner may use it");
        return Err(SecretError::new(found, EXPECTED).help(format!("chmod 0400 {shown}")));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(SECRET_FILE_LEN_MAX as usize + 1));
    file.take(SECRET_FILE_LEN_MAX + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > SECRET_FILE_LEN_MAX {
        let found = format!("{shown} is {} bytes long", meta.len());
        return Err(SecretError::new(found, "at most 4096 bytes"));
    }
    while content.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        content.pop();
    }
    match content.is_empty() {
        true => Err(SecretError::new(format!("{shown} is empty"), EXPECTED)),
        false => Ok(content),
    }
}

/// A secret that is text: a TURN secret or password.
pub fn read_secret_text(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    let bytes = read_secret(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| {
        SecretError::new(
            format!("{} holds bytes that are no text", path.display()),
            "text",
        )
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The seed of a node key file.
pub fn read_node_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, SecretError> {
    let content = read_secret(path)?;
    node_key_of(&content).ok_or_else(|| {
        SecretError::new(
            format!(
                "{} ({} bytes) is no node key",
                path.display(),
                content.len()
            ),
            "a file made by `holdfast keys node`",
        )
    })
}

/// The seed in the content of a node key file, if it is one.
pub fn node_key_of(content: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let digits = content.strip_prefix(NODE_KEY_PREFIX.as_bytes())?;
    let mut seed = Zeroizing::new([0; 32]);
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(nibble(pair[0])? << 4 | nibble(pair[1])?).ok()?;
    }
    Some(seed)
}

/// The content of a new node key file, and its public key.
pub fn new_node_key(seed: &[u8; 32]) -> (Zeroizing<String>, Identity) {
    let digits = Zeroizing::new(hex(seed));
    let content = Zeroizing::new(format!("{NODE_KEY_PREFIX}{}\n", *digits));
    (content, Identity::from_seed(*seed))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Write a new file; one that exists is never touched. Mode 0400 for secrets, else 0644.
pub fn write_new(path: &Path, content: &[u8], secret: bool) -> io::Result<()> {
    let mode = if secret { 0o400 } else { 0o644 };
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a secret would be taken for a whole one.
        let _ = fs::remove_file(path);
    }
    written
}
