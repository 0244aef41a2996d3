//! What is generated, as a tree, and why each value is what it is.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Error, REPLICATION_USER, REST_USER, REWIND_USER, SUPERUSER as SUPERUSER_NAME};
use crate::place::Place;
use crate::settings::{Settings, Synchronous};

/// Names of secrets: a string of the tree that is NUL and one of them stands for it.
pub(super) const SUPERUSER: &str = "superuser";
pub(super) const REPLICATION: &str = "replication";
pub(super) const REWIND: &str = "rewind";
pub(super) const REST: &str = "rest";
pub(super) const TOKEN: &str = "token";

/// Longest name of a member: `synchronous_standby_names` compares it with `application_name`,
/// which PostgreSQL cuts there (NAMEDATALEN - 1).
const NAME_LEN_MAX: usize = 63;
/// So much of an instance's id has to be left in a name to tell two of them apart.
const INSTANCE_LEN_MIN: usize = 8;
/// Longest scope: it is a part of keys and of `cluster_name`, which PostgreSQL cuts there.
const SCOPE_LEN_MAX: usize = 63;
/// Longest path of a Unix socket, `sun_path` less its terminator.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Where generated files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Patroni's configuration.
    pub patroni_yml: PathBuf,
    /// The certificate of the authority, for everybody.
    pub ca: PathBuf,
    /// The folder of the database's user: the Unix socket, `pgpass`, the server's key.
    pub own: PathBuf,
    /// Passwords for libpq; Patroni writes it.
    pub pgpass: PathBuf,
    /// Passwords for libpq, for our own login.
    pub login: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// A copy of the KV's certificates that the database's user can read.
    pub kv_ca: PathBuf,
}

impl Paths {
    /// Below the folder for generated files.
    #[must_use]
    pub fn below(run_dir: &Path) -> Paths {
        let own = run_dir.join("postgres");
        Paths {
            patroni_yml: run_dir.join("patroni.yml"),
            ca: run_dir.join("ca.pem"),
            pgpass: own.join("pgpass"),
            login: own.join("login.pgpass"),
            certificate: own.join("server.crt"),
            key: own.join("server.key"),
            kv_ca: own.join("kv-ca.pem"),
            own,
        }
    }
}

/// Patroni's name of this machine: `<peer id>-<instance>`, the instance cut so that it fits.
///
/// # Errors
/// When there is no room for enough of the instance, or it has characters that no name can have.
pub fn member_name(place: &Place) -> Result<String, Error> {
    let (id, instance) = (place.id.as_str(), place.instance.as_str());
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if instance.is_empty() || !instance.bytes().all(fine) {
        let expected = "letters, digits, '-', '_' or '.'";
        return Err(Error::value(
            "the instance's id",
            format!("{instance:?}"),
            expected,
        ));
    }
    let room = NAME_LEN_MAX.saturating_sub(id.len() + 1);
    if room < INSTANCE_LEN_MIN.min(instance.len()) {
        let expected = format!("at most {} characters", NAME_LEN_MAX - 1 - INSTANCE_LEN_MIN);
        return Err(Error::value("the peer id", format!("{id:?}"), expected));
    }
    let kept = instance.get(..room).unwrap_or(instance);
    Ok(format!("{id}-{kept}"))
}

/// The tree that is generated, without the user's own file.
pub(super) fn document(settings: &Settings, place: &Place) -> Result<Value, Error> {
    check_scope(&settings.scope)?;
    let vip = place.vip.addr();
    let rest = format!("{vip}:{}", settings.rest_port);
    Ok(json!({
        "scope": settings.scope,
        "namespace": "/service/",
        "name": member_name(place)?,
        "log": {
            "level": "INFO",
            // To stderr, in milliseconds, so that logs of several members can be laid side by side.
            "format": "%(asctime)s.%(msecs)03d %(levelname)s: %(message)s",
            "dateformat": "%Y-%m-%d %H:%M:%S",
        },
        "restapi": {
            "listen": rest,
            "connect_address": rest,
            "authentication": { "username": REST_USER, "password": secret(REST) },
            // Every worker asks every member twice a second, each time on a new connection. What
            // a stalled link holds up must leave room for the questions of a leader race.
            "thread_pool_size": 16,
            "request_queue_size": 64,
        },
        "consul": consul(place),
        "bootstrap": {
            "dcs": dynamic(settings),
            "initdb": [
                { "encoding": "UTF8" },
                // A locale that every system has and whose order never changes.
                { "locale": "C.UTF-8" },
                { "auth-local": "scram-sha-256" },
                { "auth-host": "scram-sha-256" },
                "data-checksums",
            ],
        },
        "postgresql": postgresql(settings, place, vip)?,
        "watchdog": { "mode": "off" },
        "tags": {},
    }))
}

fn secret(name: &str) -> Value {
    Value::String(format!("\0{name}"))
}

fn check_scope(scope: &str) -> Result<(), Error> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let starts = scope.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && scope.len() <= SCOPE_LEN_MAX && scope.bytes().all(fine) {
        return Ok(());
    }
    let expected = format!(
        "1 to {SCOPE_LEN_MAX} letters, digits, '-', '_' or '.', starting with a letter or digit"
    );
    Err(Error::value(
        "postgres.scope",
        format!("{scope:?}"),
        expected,
    ))
}

fn consul(place: &Place) -> Value {
    let mut consul = json!({
        "url": place.kv.address,
        // The sidecar registers the service, with its role tags.
        "register_service": false,
        // The leader answers from its lease; what decides is a compare-and-set anyway.
        "consistency": "default",
    });
    if place.kv.token.is_some() {
        consul["token"] = secret(TOKEN);
    }
    if place.kv.ca_file.is_some() {
        consul["cacert"] = path(&Paths::below(&place.run_dir).kv_ca);
        consul["verify"] = Value::Bool(true);
    }
    consul
}

fn path(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

/// What belongs to `/config` in the KV.
fn dynamic(settings: &Settings) -> Value {
    let synchronous = match settings.synchronous {
        Synchronous::Quorum => json!("quorum"),
        Synchronous::On => json!(true),
        Synchronous::Off => json!(false),
    };
    let mut parameters = parameters();
    for (name, value) in &settings.parameters {
        parameters.insert(name.to_ascii_lowercase(), Value::String(value.clone()));
    }
    json!({
        "ttl": settings.ttl.as_secs(),
        "loop_wait": settings.loop_wait.as_secs(),
        "retry_timeout": settings.retry_timeout.as_secs(),
        "maximum_lag_on_failover": settings.maximum_lag_on_failover,
        "synchronous_mode": synchronous,
        // Not a recovery in place of up to 5 minutes, but a failover.
        "primary_start_timeout": 0,
        "failsafe_mode": false,
        // Patroni's own, said here because max_slot_wal_keep_size goes with it.
        "member_slots_ttl": "30min",
        "postgresql": {
            "use_pg_rewind": true,
            "use_slots": true,
            "parameters": parameters,
        },
    })
}

/// What every member's PostgreSQL has. Those that Patroni takes from the KV alone are among them.
fn parameters() -> Map<String, Value> {
    let parameters = json!({
        "wal_level": "replica",
        "hot_standby": "on",
        // `pg_rewind` needs them or checksums; a database that was taken over may have none.
        "wal_log_hints": "on",
        // A replica and its base backup for each of many workers, and pg_receivewal.
        "max_wal_senders": 20,
        "max_replication_slots": 20,
        // What a replica may have missed without a slot, so that it needs no base backup.
        "wal_keep_size": "128MB",
        // What a slot of a dead replica may keep, before the disk is full.
        "max_slot_wal_keep_size": "4GB",
        "password_encryption": "scram-sha-256",
        // The mesh ends TCP on each worker, so that keepalives reach only our own side of it.
        // What ends a stream whose other end is gone are these, the scale of `ttl`.
        "wal_sender_timeout": "30s",
        "wal_receiver_timeout": "30s",
        // A promotion that finds the walreceiver being started waits for this once more: 5 s, by
        // default, of the time without a primary.
        "wal_retrieve_retry_interval": "1s",
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_timezone": "UTC",
        "log_checkpoints": "on",
        "log_lock_waits": "on",
    });
    match parameters {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn postgresql(settings: &Settings, place: &Place, vip: IpAddr) -> Result<Value, Error> {
    let paths = Paths::below(&place.run_dir);
    let socket = paths.own.join(format!(".s.PGSQL.{}", settings.port));
    if socket.as_os_str().len() > SOCKET_PATH_LEN_MAX {
        let expected = format!("a Unix socket's path of at most {SOCKET_PATH_LEN_MAX} bytes");
        return Err(Error::value(
            "the run directory",
            socket.display(),
            expected,
        ));
    }
    let mut parameters = json!({ "unix_socket_directories": path(&paths.own) });
    if settings.tls {
        parameters["ssl"] = json!("on");
        parameters["ssl_min_protocol_version"] = json!("TLSv1.2");
        parameters["ssl_cert_file"] = path(&paths.certificate);
        parameters["ssl_key_file"] = path(&paths.key);
    }
    // The mesh encrypts what goes between members: TLS in it would do it twice.
    let user = |name, password| {
        json!({
            "username": name, "password": secret(password), "sslmode": "disable",
        })
    };
    Ok(json!({
        // Never 0.0.0.0, which clashes with the mesh's listeners on the other members' addresses.
        "listen": format!("{vip},127.0.0.1:{}", settings.port),
        "connect_address": format!("{vip}:{}", settings.port),
        "data_dir": path(&settings.data_dir),
        "bin_dir": path(&settings.bin_dir),
        "pgpass": path(&paths.pgpass),
        "use_unix_socket": true,
        "use_unix_socket_repl": true,
        "authentication": {
            "superuser": { "username": SUPERUSER_NAME, "password": secret(SUPERUSER) },
            "replication": user(REPLICATION_USER, REPLICATION),
            "rewind": user(REWIND_USER, REWIND),
        },
        "parameters": parameters,
        "pg_hba": pg_hba(settings),
        // Local, so that no live edit changes it: what is there is never removed.
        "remove_data_directory_on_rewind_failure": false,
        "remove_data_directory_on_diverged_timelines": false,
        "basebackup": [{ "checkpoint": "fast" }],
    }))
}

/// Who may come in: everybody with a password, and only over the mesh, which delivers from the
/// sender's virtual address.
fn pg_hba(settings: &Settings) -> Vec<String> {
    let mut rules = Vec::new();
    // Only where the names are the same is the system's user the database's.
    if settings.user == SUPERUSER_NAME {
        rules.push(format!("local all {SUPERUSER_NAME} peer"));
    }
    let mesh = "127.50.0.0/24";
    rules.extend([
        "local all all scram-sha-256".to_owned(),
        format!("local replication {REPLICATION_USER} scram-sha-256"),
        format!("host replication {REPLICATION_USER} {mesh} scram-sha-256"),
        format!("host all {REWIND_USER} {mesh} scram-sha-256"),
        format!("host all {REWIND_USER},{REPLICATION_USER} all reject"),
        "host all all 127.0.0.0/8 scram-sha-256".to_owned(),
    ]);
    rules
}
