//! Patroni's configuration: what is generated, and a file of the user's own laid over it.
//!
//! * `document`: what is generated, and why each value is what it is.
//! * `overlay`: the user's file over it, and what it may not say.
//! * `limits`: what Patroni would clamp or refuse.
//! * `yaml`: how it is read and written.

mod document;
mod limits;
mod overlay;
mod yaml;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use zeroize::Zeroizing;

pub use document::{Paths, member_name};
pub(crate) use overlay::mask;
pub use yaml::YamlError;

use crate::place::{Credentials, Place};
use crate::settings::Settings;

/// What is shown in the place of a secret.
pub const MASK: &str = "********";
/// A longer file of the user's own is none, bytes.
const OVERLAY_LEN_MAX: u64 = 256 << 10;
/// The names of roles in PostgreSQL.
pub const SUPERUSER: &str = "postgres";
/// See [`SUPERUSER`].
pub const REPLICATION_USER: &str = "replicator";
/// See [`SUPERUSER`].
pub const REWIND_USER: &str = "rewind";
/// Who changes something over Patroni's REST API.
pub const REST_USER: &str = "patroni";

/// Patroni's configuration.
#[derive(Clone)]
pub struct Generated {
    /// `patroni.yml`, with the passwords.
    pub yaml: Zeroizing<String>,
    /// The same with every secret as [`MASK`], for people.
    pub shown: String,
    /// What belongs to `/config` in the KV, and is given to Patroni as `bootstrap.dcs`.
    pub dynamic: Value,
}

impl std::fmt::Debug for Generated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A configuration that cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that Patroni or PostgreSQL would not take, or would clamp.
    #[error("{key} is {found}: expected {expected}")]
    Value {
        /// The key, as the user wrote it.
        key: String,
        /// What it is.
        found: String,
        /// What it could be.
        expected: String,
    },
    /// The user's own file cannot be read.
    #[error("cannot read postgres.overlay {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The user's own file is no YAML.
    #[error("postgres.overlay {path}: {source}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: YamlError,
    },
    /// Something that the user may not set.
    #[error("{key} cannot be set: {why}")]
    Forbidden {
        /// The key, and in which file it is.
        key: String,
        /// Why, and what to do instead.
        why: &'static str,
    },
}

impl Error {
    fn value(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> Error {
        Error::Value {
            key: key.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}

/// Generate Patroni's configuration, with the user's own file laid over it.
///
/// # Errors
/// The setting, or the key of the file, and what is wrong with it.
pub fn generate(
    settings: &Settings,
    place: &Place,
    credentials: &Credentials,
) -> Result<Generated, Error> {
    let overlay = settings.overlay.as_deref().map(read_overlay).transpose()?;
    generate_with(settings, place, credentials, overlay.as_ref())
}

/// [`generate`] with what the user's own file says.
fn generate_with(
    settings: &Settings,
    place: &Place,
    credentials: &Credentials,
    overlay: Option<&Value>,
) -> Result<Generated, Error> {
    limits::check_settings(settings)?;
    let mut document = document::document(settings, place)?;
    if let Some(over) = overlay {
        overlay::lay_over(&mut document, over)?;
    }
    let dynamic = document["bootstrap"]["dcs"].clone();
    limits::check_dynamic(&dynamic)?;
    let token = place.kv.token.as_ref();
    let yaml = yaml::write(&document, &|name| {
        let secret = match name {
            document::SUPERUSER => &credentials.superuser,
            document::REPLICATION => &credentials.replication,
            document::REWIND => &credentials.rewind,
            document::REST => &credentials.rest,
            _ => return token.map(|token| token.to_string()).unwrap_or_default(),
        };
        secret.to_string()
    });
    mask(&mut document);
    let shown = yaml::write(&document, &|_| MASK.to_owned());
    Ok(Generated {
        yaml,
        shown: shown.to_string(),
        dynamic,
    })
}

fn read_overlay(path: &Path) -> Result<Value, Error> {
    let unreadable = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let mut limited = file.take(OVERLAY_LEN_MAX + 1);
    limited.read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > OVERLAY_LEN_MAX {
        let problem = format!("it is larger than {OVERLAY_LEN_MAX} bytes");
        return Err(unreadable(io::Error::other(problem)));
    }
    yaml::read(&text).map_err(|source| Error::Yaml {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
