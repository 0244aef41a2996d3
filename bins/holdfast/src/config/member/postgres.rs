//! The database: reading what a configuration says of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use holdfast_bootstrap::identity::Role;
use holdfast_postgres::{EndpointSettings, Settings, Synchronous};

use super::system::find_program;
use crate::config::keys::find as find_key;
use crate::config::problem::Problem;
use crate::config::reader::{Reader, integer, path_text, text};
use crate::config::source::{Node, Value};
use crate::config::tree::Tree;

/// Where Debian's packages of PostgreSQL are, one folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Where `make setup` puts Patroni, since the database's user has to be able to run it.
const PATRONI_DIR: &str = "/opt/holdfast/bin";
/// Longest text of a version, bytes.
const VERSION_LEN_MAX: u64 = 16;
/// Most parameters of PostgreSQL: it knows fewer.
const PARAMETERS_MAX: usize = 512;
/// Longest value of a parameter, bytes.
const PARAMETER_LEN_MAX: usize = 1024;
/// Most sessions of an endpoint: each costs two descriptors.
const SESSIONS_MAX: i128 = 65_536;
/// Most answers in a row that can be asked for: beyond it a check is a mistake.
const IN_A_ROW_MAX: i128 = 100;

/// What defaults are made from.
pub struct Surroundings<'a> {
    /// The cluster's name.
    pub cluster: Option<&'a str>,
    /// What survives a restart.
    pub state_dir: Option<&'a Path>,
}

impl Reader<'_> {
    /// The database, if one is run. What could not be read is told, and has its default here, so
    /// that the rest is checked all the same.
    pub fn postgres(&mut self, around: &Surroundings<'_>) -> Option<Settings> {
        if !self.tree.has_section("postgres") {
            return None;
        }
        let second = std::time::Duration::from_secs(1);
        let scope = self.word("postgres.scope");
        let data_dir = self.path("postgres.data_dir");
        let data_dir = absolute(data_dir.unwrap_or_else(|| {
            let state_dir = around.state_dir.unwrap_or(Path::new(""));
            // The folder above is the database's user's: Patroni renames what a first start that
            // failed has made.
            state_dir.join("postgres/data")
        }));
        Some(Settings {
            bin_dir: self.bin_dir(&data_dir),
            patroni: self.patroni(),
            user: self
                .key("postgres.user", "the name of a user", text)
                .unwrap_or_default(),
            data_dir,
            scope: scope.unwrap_or_else(|| around.cluster.unwrap_or_default().to_owned()),
            port: self.port("postgres.port").unwrap_or(5432),
            rest_port: self.port("postgres.rest_port").unwrap_or(8008),
            synchronous: self.choice(
                "postgres.synchronous",
                &[
                    ("quorum", Synchronous::Quorum),
                    ("on", Synchronous::On),
                    ("off", Synchronous::Off),
                ],
            ),
            ttl: self.duration("postgres.ttl").unwrap_or(30 * second),
            loop_wait: self.duration("postgres.loop_wait").unwrap_or(10 * second),
            retry_timeout: self
                .duration("postgres.retry_timeout")
                .unwrap_or(10 * second),
            maximum_lag_on_failover: self
                .size("postgres.maximum_lag_on_failover")
                .unwrap_or(1 << 20),
            parameters: self.parameters(),
            overlay: self.path("postgres.overlay").map(absolute),
            tls: self.truth("postgres.tls").unwrap_or(true),
            disk_free_min: self.size("postgres.disk_free_min").unwrap_or(64 << 20),
            endpoints: self.endpoints(),
        })
    }

    fn port(&mut self, name: &'static str) -> Option<u16> {
        self.key(name, "a port, 1 to 65535", |value| {
            u16::try_from(integer(value, 1, 65_535)?).ok()
        })
    }

    /// Named, or the version that the data is of, or the newest that is there.
    fn bin_dir(&mut self, data_dir: &Path) -> PathBuf {
        match self.path("postgres.bin_dir") {
            Some(named) => absolute(named),
            // One that is not there is told when it is looked into.
            None => server_of(data_dir)
                .or_else(find_server)
                .unwrap_or_else(|| VERSIONS.into()),
        }
    }

    fn patroni(&mut self) -> PathBuf {
        let program = self.key(
            "postgres.patroni",
            "a program: its name, or its path",
            path_text,
        );
        let program = program.unwrap_or_default();
        match program.contains('/') {
            true => absolute(self.base.join(program)),
            false => find_patroni(&program),
        }
    }

    fn parameters(&mut self) -> BTreeMap<String, String> {
        const KEY: &str = "postgres.parameters";
        let expected = "a table of at most 512 names and values: { shared_buffers = \"256MB\" }";
        let given = self.key(KEY, expected, |value| match value {
            Value::Table(entries) if entries.len() <= PARAMETERS_MAX => Some(entries.clone()),
            _ => None,
        });
        let mut parameters = BTreeMap::new();
        for (name, node) in given.unwrap_or_default() {
            let path = format!("{KEY}.{name}");
            self.origins.insert(path.clone(), node.origin.clone());
            if let Some(value) = self.parameter(&path, &name, &node) {
                parameters.insert(name, value);
            }
        }
        parameters
    }

    fn parameter(&mut self, path: &str, name: &str, node: &Node) -> Option<String> {
        if !is_parameter(name) {
            let found = format!("the name {name:?}");
            let expected = "a parameter's name: letters, digits, '_', and '.' for an extension's";
            self.problems
                .push(Problem::new(&node.origin, path, found, expected));
            return None;
        }
        let expected = "a string, a number, true or false";
        let value = self.value(path, node, expected, |value| match value {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(if *truth { "on" } else { "off" }.to_owned()),
            Value::Other { kind, shown } if *kind == "a float" => Some(shown.clone()),
            _ => None,
        })?;
        let fits = value.len() <= PARAMETER_LEN_MAX && !value.contains(char::is_control);
        if !fits {
            let found = node.value.show();
            let expected = "at most 1024 bytes on one line";
            self.problems
                .push(Problem::new(&node.origin, path, found, expected));
        }
        fits.then_some(value)
    }

    fn endpoints(&mut self) -> EndpointSettings {
        let mut out = EndpointSettings::default();
        let at = "an address and a port, such as 127.10.0.1:5432";
        let set = |to: &mut SocketAddr, given: Option<SocketAddr>| {
            if let Some(given) = given {
                *to = given;
            }
        };
        set(
            &mut out.primary,
            self.address("postgres.endpoints.primary", at, false),
        );
        set(
            &mut out.replicas,
            self.address("postgres.endpoints.replicas", at, false),
        );
        if let Some(bytes) = self.size("postgres.endpoints.lag_max") {
            out.lag_max = bytes;
        }
        if let Some(truth) = self.truth("postgres.endpoints.replicas_fall_back") {
            out.replicas_fall_back = truth;
        }
        if let Some(n) = self.key("postgres.endpoints.sessions_max", "1 to 65536", |value| {
            usize::try_from(integer(value, 1, SESSIONS_MAX)?).ok()
        }) {
            out.sessions_max = n;
        }
        for (key, to) in [
            ("postgres.endpoints.hold", &mut out.hold),
            (
                "postgres.endpoints.connect_timeout",
                &mut out.connect_timeout,
            ),
            ("postgres.endpoints.check.interval", &mut out.check_interval),
            ("postgres.endpoints.check.timeout", &mut out.check_timeout),
        ] {
            if let Some(duration) = self.duration(key) {
                *to = duration;
            }
        }
        for (key, to) in [
            ("postgres.endpoints.check.rise", &mut out.rise),
            ("postgres.endpoints.check.fall", &mut out.fall),
        ] {
            if let Some(n) = self.key(key, "1 to 100", |value| {
                u32::try_from(integer(value, 1, IN_A_ROW_MAX)?).ok()
            }) {
                *to = n;
            }
        }
        out
    }
}

/// The path from the root: others are told of it, who are in another folder.
pub fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// Whether a database is run: not on coordinators, and not where all that is said is where one is
/// reached.
pub fn runs_database(tree: &Tree, role: Option<&Role>) -> bool {
    if role.is_some_and(Role::is_coordinator) {
        return false;
    }
    let given = tree.nodes.keys().any(|name| {
        let key = find_key(name);
        key.is_some_and(|key| key.split().0 == Some("postgres"))
    });
    given || tree.sections.contains("postgres")
}

/// What `config check` prints of it.
pub fn summary(settings: &Settings, runs: bool) -> Vec<(&'static str, String)> {
    let endpoints = &settings.endpoints;
    let mut fields = Vec::new();
    if runs {
        fields.push((
            "postgres",
            format!("{}, run as {}", settings.bin_dir.display(), settings.user),
        ));
        fields.push(("patroni", settings.patroni.display().to_string()));
        let data = settings.data_dir.display();
        fields.push(("data", format!("{data}, scope {}", settings.scope)));
    }
    let (primary, replicas) = (endpoints.primary, endpoints.replicas);
    fields.push((
        "endpoints",
        format!("primary {primary}, replicas {replicas}"),
    ));
    fields
}

/// The folder of the newest PostgreSQL's programs.
pub fn find_server() -> Option<PathBuf> {
    newest(Path::new(VERSIONS))
}

/// The programs of the version that made a data directory: a newer one that is installed beside it
/// cannot run on it.
fn server_of(data_dir: &Path) -> Option<PathBuf> {
    // The database's user may have put anything there.
    let careful = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = fs::File::options();
    let file = options.read(true).custom_flags(careful);
    let file = file.open(data_dir.join("PG_VERSION")).ok()?;
    let mut version = String::new();
    file.take(VERSION_LEN_MAX)
        .read_to_string(&mut version)
        .ok()?;
    let version: u32 = version.trim().parse().ok()?;
    let programs = Path::new(VERSIONS).join(version.to_string()).join("bin");
    programs.join("postgres").exists().then_some(programs)
}

/// Where a Patroni of that name is, or would be.
pub fn find_patroni(name: &str) -> PathBuf {
    find_program(Path::new(name)).unwrap_or_else(|| Path::new(PATRONI_DIR).join(name))
}

/// PostgreSQL's own rule for names of parameters, with those of extensions.
fn is_parameter(name: &str) -> bool {
    /// Longest name that PostgreSQL keeps (NAMEDATALEN).
    const NAME_LEN_MAX: usize = 63;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well && name.len() <= NAME_LEN_MAX && name.bytes().all(plain)
}

/// The programs of the newest version that has them all: a package of clients alone has no server.
fn newest(versions: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(versions).ok()?;
    let numbered = entries.flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let programs = entry.path().join("bin");
        programs
            .join("postgres")
            .exists()
            .then_some((version, programs))
    });
    numbered
        .max_by_key(|(version, _)| *version)
        .map(|(_, programs)| programs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_newest_version_with_a_server_is_found() {
        let folder = std::env::temp_dir().join(format!("holdfast-versions-{}", std::process::id()));
        for (version, server) in [("9", true), ("15", true), ("17", false), ("old", true)] {
            let programs = folder.join(version).join("bin");
            fs::create_dir_all(&programs).unwrap();
            if server {
                fs::write(programs.join("postgres"), "").unwrap();
            }
        }
        assert_eq!(newest(&folder), Some(folder.join("15/bin")));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(newest(&folder), None);
    }

    #[test]
    fn data_goes_on_with_the_version_that_made_it() {
        let Some(newest) = find_server() else { return };
        let version = newest.parent().and_then(Path::file_name).unwrap();
        let folder = std::env::temp_dir().join(format!("holdfast-data-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let told = folder.join("PG_VERSION");
        assert_eq!(server_of(&folder), None, "there is no data yet");
        fs::write(&told, format!("{}\n", version.to_str().unwrap())).unwrap();
        assert_eq!(server_of(&folder), Some(newest));
        for strange in ["99\n", "../../../tmp", ""] {
            fs::write(&told, strange).unwrap();
            assert_eq!(server_of(&folder), None, "{strange:?}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn names_of_parameters_are_those_of_postgresql() {
        for good in ["shared_buffers", "auto_explain.log_min_duration", "_x"] {
            assert!(is_parameter(good), "{good}");
        }
        for bad in ["", "1x", "a b", "a=b", "a'", "ü"] {
            assert!(!is_parameter(bad), "{bad}");
        }
    }
}
