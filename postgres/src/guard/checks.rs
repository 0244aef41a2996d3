//! What is checked before a start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;

use super::{Guard, Refusal};
use crate::dynamic::{Note, check_mark, get, parse_note, shorten};
use crate::host::{Host, Meta, Program, User};

/// Patroni's first version with `synchronous_mode: quorum`.
const PATRONI_MAJOR_MIN: u32 = 4;
/// PostgreSQL's first version with `max_slot_wal_keep_size`.
const POSTGRES_MAJOR_MIN: u32 = 13;
/// Python takes some time on a busy machine.
const VERSION_LIMIT: Duration = Duration::from_secs(20);
/// Room for the decimal digits of a system identifier, bytes.
const MADE_LEN_MAX: u64 = 32;
/// What of PostgreSQL's programs Patroni runs.
const PROGRAMS: [&str; 6] = [
    "initdb",
    "pg_ctl",
    "pg_controldata",
    "pg_basebackup",
    "pg_rewind",
    "pg_isready",
];

impl<N: Net, C: Clock, S: Spawn, H: Host> Guard<N, C, S, H> {
    pub(super) fn check_user(&self) -> Result<User, Refusal> {
        let name = &self.settings.user;
        let found = self.host.user(name);
        let found =
            found.map_err(|source| Refusal::file("look up the user", Path::new(name), source))?;
        let user = found.ok_or_else(|| Refusal::User { name: name.clone() })?;
        match self.host.may_become(user) {
            true => Ok(user),
            false => Err(Refusal::NotRoot { name: name.clone() }),
        }
    }

    /// Returns PostgreSQL's major version.
    pub(super) async fn check_programs(&self, user: User) -> Result<u32, Refusal> {
        let postgres = self.settings.bin_dir.join("postgres");
        let expected = "PostgreSQL 13 or newer";
        let said = self.version_of(&postgres, user, expected).await?;
        let major = at_least(
            &postgres,
            &said,
            "postgres (PostgreSQL)",
            POSTGRES_MAJOR_MIN,
            expected,
        )?;
        for program in PROGRAMS {
            let path = self.settings.bin_dir.join(program);
            if self
                .inspect(&path)?
                .is_none_or(|found| found.is_dir || found.mode & 0o001 == 0)
            {
                return Err(Refusal::Program {
                    path,
                    problem: "it is not there, or not everybody may run it".to_owned(),
                    expected: "a program of PostgreSQL's (postgres.bin_dir)",
                });
            }
        }
        let patroni = &self.settings.patroni;
        let expected = "Patroni 4 or newer";
        let said = self.version_of(patroni, user, expected).await?;
        at_least(patroni, &said, "patroni", PATRONI_MAJOR_MIN, expected)?;
        Ok(major)
    }

    async fn version_of(
        &self,
        path: &Path,
        user: User,
        expected: &'static str,
    ) -> Result<String, Refusal> {
        let program = Program {
            path,
            arguments: &["--version"],
            environment: &[],
            user,
            limit: VERSION_LIMIT,
        };
        self.host
            .run(program)
            .await
            .map_err(|error| Refusal::Program {
                path: path.to_owned(),
                problem: error.to_string(),
                expected,
            })
    }

    pub(super) fn check_data_dir(&self, user: User, major: u32) -> Result<(), Refusal> {
        let path = &self.settings.data_dir;
        let Some(found) = self.inspect(path)? else {
            return Ok(());
        };
        if !found.is_dir {
            return Err(Refusal::NoFolder { path: path.clone() });
        }
        // It is made the user's, whosever it is: there is nothing in it to be lost or seen.
        let empty = self.host.is_empty(path);
        if empty.map_err(|source| Refusal::file("look into", path, source))? {
            return Ok(());
        }
        if found.owner.uid != user.uid {
            return Err(Refusal::Owner {
                path: path.clone(),
                found: found.owner.uid,
                expected: user.uid,
                name: self.settings.user.clone(),
            });
        }
        if !is_closed(found, user) {
            return Err(Refusal::Mode {
                path: path.clone(),
                found: found.mode,
            });
        }
        let version = self.read_data("PG_VERSION", user, 16)?;
        let version = version.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        match version {
            Some(version) if version != major.to_string() => Err(Refusal::DataVersion {
                path: path.clone(),
                found: shorten(&version),
                expected: major,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn check_disk(&self) -> Result<(), Refusal> {
        let path = &self.settings.data_dir;
        let free = self.host.disk_free(path);
        let found = free.map_err(|source| Refusal::file("look at the disk of", path, source))?;
        match found >= self.settings.disk_free_min {
            true => Ok(()),
            false => Err(Refusal::Disk {
                path: path.clone(),
                found,
                expected: self.settings.disk_free_min,
            }),
        }
    }

    /// Whether the user can enter every folder above, and the path itself if it is one.
    pub(super) fn check_reach(&self, path: &Path, user: User) -> Result<(), Refusal> {
        for folder in path.ancestors() {
            let found = self.inspect(folder)?;
            if let Some(found) = found.filter(|found| !may_enter(*found, user)) {
                return Err(Refusal::Reach {
                    name: self.settings.user.clone(),
                    path: path.to_owned(),
                    folder: folder.to_owned(),
                    found: found.mode,
                });
            }
        }
        Ok(())
    }

    /// Returns what Holdfast keeps in the KV, if it is there.
    pub(super) async fn check_mark(&self) -> Result<Option<Note>, Refusal> {
        let key = self.keys.key("holdfast");
        let Some(entry) = get(&*self.kv, &key).await? else {
            return Ok(None);
        };
        let note = parse_note(&key, &entry)?;
        let Err(other) = check_mark(&key, &note, &self.mark) else {
            return Ok(Some(note));
        };
        // Our own name, and our own files: no other cluster, but other secrets.
        let own = self.system_on_disk()?.map(|system| system.to_string());
        if note.cluster == self.place.cluster && own.is_some() && own == self.initialized().await? {
            return Err(Refusal::Secrets {
                key,
                cluster: shorten(&note.cluster),
                path: self.settings.data_dir.clone(),
            });
        }
        Err(other.into())
    }

    /// Whether the path is ours to claim: it has our note, or no cluster, or one whose files are
    /// here. `made` is what `initialize` said before the note was looked for.
    pub(super) fn check_stranger(
        &self,
        note: Option<&Note>,
        made: Option<String>,
    ) -> Result<(), Refusal> {
        let made = made.filter(|text| !text.is_empty() && note.is_none());
        match (made, self.system_on_disk()?) {
            (Some(found), None) => Err(Refusal::Stranger {
                key: self.keys.key("initialize"),
                found: shorten(&found),
                path: self.settings.data_dir.clone(),
            }),
            // Files of another system are refused when they are compared with it.
            _ => Ok(()),
        }
    }

    /// What `initialize` says: nothing before anybody makes the cluster, an empty text while
    /// somebody does, then its system identifier.
    pub(super) async fn initialized(&self) -> Result<Option<String>, Refusal> {
        let entry = get(&*self.kv, &self.keys.key("initialize")).await?;
        Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }

    /// Returns the cluster's major version, if it is known: ours, or this is no start.
    pub(super) async fn check_major(
        &self,
        note: Option<&Note>,
        own: u32,
    ) -> Result<Option<u32>, Refusal> {
        if self.system_on_disk()?.is_some() {
            // It is the cluster's, and of our version.
            return Ok(Some(own));
        }
        match note.and_then(|note| note.major) {
            Some(expected) if expected != own => Err(Refusal::ClusterVersion {
                path: self.settings.bin_dir.clone(),
                found: own,
                expected,
                key: self.keys.key("holdfast"),
            }),
            Some(same) => Ok(Some(same)),
            // Who comes first says by what version the cluster is made.
            None => Ok(self.initialized().await?.is_none().then_some(own)),
        }
    }

    /// Whether what is in the data directory is the cluster's.
    pub(super) async fn check_system(&self) -> Result<(), Refusal> {
        let Some(found) = self.system_on_disk()? else {
            return Ok(());
        };
        let key = self.keys.key("initialize");
        let path = self.settings.data_dir.clone();
        match self.initialized().await?.filter(|text| !text.is_empty()) {
            Some(expected) if expected == found.to_string() => {
                // The watch tells when it cannot be written.
                let _ = self.remember_made(found);
                Ok(())
            }
            Some(expected) => Err(Refusal::System {
                path,
                found,
                expected: shorten(&expected),
                key,
            }),
            // The KV was lost, or a first start was interrupted: Patroni would take the half that
            // it left, without roles that anybody could follow by, for the whole.
            None if self.is_made(found)? => Ok(()),
            None => Err(Refusal::HalfMade { path, found, key }),
        }
    }

    /// Where it is kept that the cluster of these files was made. Beside the data directory: it
    /// has to outlive the KV and the run directory, and PostgreSQL and Patroni let it be.
    fn made_marker(&self) -> PathBuf {
        let data_dir = &self.settings.data_dir;
        let mut name = data_dir.file_name().unwrap_or_default().to_owned();
        name.push(".made");
        data_dir.with_file_name(name)
    }

    fn is_made(&self, system: u64) -> Result<bool, Refusal> {
        let path = self.made_marker();
        let root = User { uid: 0, gid: 0 };
        let owners = [self.check_user()?, root];
        let read = self.host.read_own(&path, &owners, MADE_LEN_MAX);
        let text = read.map_err(|source| Refusal::file("read", &path, source))?;
        // Another system's: of files that are no longer there.
        Ok(text.is_some_and(|text| text.trim_ascii() == system.to_string().as_bytes()))
    }

    /// Keep that the cluster of this system was made: `initialize` says so, which Patroni writes
    /// when everything is in it.
    pub(crate) fn remember_made(&self, system: u64) -> Result<(), Refusal> {
        if self.is_made(system)? {
            return Ok(());
        }
        let path = self.made_marker();
        let text = format!("{system}\n");
        let written = self.host.write(&path, text.as_bytes(), 0o600, None);
        written.map_err(|source| Refusal::file("write", &path, source))
    }

    /// The system identifier of what is in the data directory: the first field of `pg_control`
    /// (`ControlFileData` in PostgreSQL's `pg_control.h`), in the machine's own byte order.
    pub(crate) fn system_on_disk(&self) -> Result<Option<u64>, Refusal> {
        let user = self.check_user()?;
        let bytes = self.read_data("global/pg_control", user, 8)?;
        let first = bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        Ok(first.map(u64::from_ne_bytes))
    }

    /// From a file of the data directory, where its user may have put anything.
    fn read_data(&self, name: &str, user: User, len: u64) -> Result<Option<Vec<u8>>, Refusal> {
        let file = self.settings.data_dir.join(name);
        let read = self.host.read_own(&file, &[user], len);
        read.map_err(|source| Refusal::file("read", &file, source))
    }

    pub(super) fn inspect(&self, path: &Path) -> Result<Option<Meta>, Refusal> {
        let found = self.host.inspect(path);
        found.map_err(|source| Refusal::file("look at", path, source))
    }
}

/// Whether it is the user's, with what PostgreSQL itself takes for a mode: group access is for
/// backups by others.
pub(super) fn is_closed(folder: Meta, user: User) -> bool {
    folder.owner.uid == user.uid && folder.mode & 0o027 == 0
}

fn may_enter(folder: Meta, user: User) -> bool {
    let bit = match folder.owner {
        owner if owner.uid == user.uid => 0o100,
        owner if owner.gid == user.gid => 0o010,
        _ => 0o001,
    };
    !folder.is_dir || user.uid == 0 || folder.mode & bit != 0
}

/// The major version in `<name> <version>`, when it is high enough.
fn at_least(path: &Path, said: &str, name: &str, min: u32, expected: &str) -> Result<u32, Refusal> {
    let major = said.lines().find_map(|line| {
        let version = line.trim().strip_prefix(name)?.trim_start();
        let end = version
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(version.len());
        version.get(..end)?.parse().ok()
    });
    major
        .filter(|major| *major >= min)
        .ok_or_else(|| Refusal::Version {
            path: path.to_owned(),
            found: shorten(said.trim()),
            expected: expected.to_owned(),
        })
}
