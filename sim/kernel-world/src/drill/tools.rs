//! The programs of others that a drill needs, and where they are.

use std::env;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::members;

/// Where Debian keeps PostgreSQL's programs, one folder for each version.
const POSTGRES_HOME: &str = "/usr/lib/postgresql";
/// Who runs PostgreSQL, which refuses to be run by root.
pub const USER: &str = "postgres";

/// The programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Consul.
    pub consul: PathBuf,
    /// Patroni.
    pub patroni: PathBuf,
    /// `postgres`, `initdb` and the rest.
    pub postgres: PathBuf,
    /// Ids of the user and the group that run the database.
    pub owner: (u32, u32),
}

impl Tools {
    /// Looks for all of them.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub fn find() -> Result<Tools, String> {
        Ok(Tools {
            consul: members::consul()?,
            patroni: patroni()?,
            postgres: postgres()?,
            owner: owner()?,
        })
    }
}

/// Patroni: `PATRONI_BIN`, or what `deploy/setup.sh test` has put in place.
fn patroni() -> Result<PathBuf, String> {
    let given = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let home = given("HOLDFAST_OPT").unwrap_or_else(|| "/opt/holdfast".into());
    let program = match given("PATRONI_BIN") {
        Some(program) => PathBuf::from(program),
        None => PathBuf::from(home).join("bin/patroni"),
    };
    match program.is_file() {
        true => Ok(program),
        false => Err(format!(
            "there is no Patroni at {}: run `deploy/setup.sh test`, or set PATRONI_BIN",
            program.display()
        )),
    }
}

/// PostgreSQL's programs, of the newest version.
fn postgres() -> Result<PathBuf, String> {
    let entries = fs::read_dir(POSTGRES_HOME);
    let entries = entries.map_err(|error| format!("{POSTGRES_HOME}: {error}"))?;
    let versions = entries.flatten().filter_map(|entry| {
        let bin = entry.path().join("bin");
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        bin.join("initdb").is_file().then_some((version, bin))
    });
    let newest = versions.max_by_key(|(version, _)| *version);
    newest
        .map(|(_, bin)| bin)
        .ok_or_else(|| format!("there is no PostgreSQL below {POSTGRES_HOME}"))
}

fn owner() -> Result<(u32, u32), String> {
    let name = CString::new(USER).expect("it has no zero");
    // SAFETY: the name is a NUL-terminated string; what is returned is read at once, and this
    // crate asks from one thread alone.
    let entry = unsafe { libc::getpwnam(name.as_ptr()) };
    if entry.is_null() {
        return Err(format!("there is no user {USER}"));
    }
    // SAFETY: it is not null, and valid until the next such call.
    unsafe { Ok(((*entry).pw_uid, (*entry).pw_gid)) }
}

/// A folder that its owner alone may look into.
///
/// # Errors
/// What the system says.
pub fn own_folder(path: &Path, owner: (u32, u32)) -> std::io::Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    chown(path, Some(owner.0), Some(owner.1))
}
