//! The user's own file over what is generated, and what it may not say.

use serde_json::{Map, Value};

use super::{Error, MASK};

const NAMES: &str = "members, their endpoints and the KV's keys are found by it; set postgres.scope \
                     for the scope";
const KV: &str = "the sidecar leads Patroni to the KV that the mesh has; set [kv]";
const ADDRESSES: &str = "members and endpoints find each other by it; set postgres.port and \
                         postgres.rest_port";
const PASSWORDS: &str = "passwords are derived at bootstrap, the same on all members";
const REST: &str = "the sidecar asks the REST API of every member; the mesh encrypts it";
const FILES: &str = "the sidecar makes and guards this path; set postgres.data_dir or \
                     postgres.bin_dir";
const REMOVES: &str = "no data directory is ever removed";
const TLS: &str = "certificates are derived at bootstrap; set postgres.tls";
const CONNECTS: &str = "Patroni reaches its PostgreSQL through the socket in the run directory";
const INITDB: &str = "a new cluster is made with data checksums and passwords for everybody";
const REJOINS: &str = "without it an old leader or a replica that was away needs a whole new copy";
const DECIDES: &str = "when a leader is replaced rests on it; use patronictl for a while's pause";
const CUSTOM: &str = "another file's parameters would go past what is checked; set \
                      postgres.parameters";

/// What the user's own file may not say, by its path, and why. What lies below it neither.
const FORBIDDEN: &[(&str, &str)] = &[
    ("scope", NAMES),
    ("namespace", NAMES),
    ("name", NAMES),
    ("consul", KV),
    ("etcd", KV),
    ("etcd3", KV),
    ("zookeeper", KV),
    ("exhibitor", KV),
    ("kubernetes", KV),
    ("raft", KV),
    ("citus", NAMES),
    ("restapi.listen", ADDRESSES),
    ("restapi.connect_address", ADDRESSES),
    ("restapi.authentication", PASSWORDS),
    ("restapi.certfile", REST),
    ("restapi.keyfile", REST),
    ("restapi.keyfile_password", REST),
    ("restapi.cafile", REST),
    ("restapi.verify_client", REST),
    ("restapi.allowlist", REST),
    ("restapi.allowlist_include_members", REST),
    ("postgresql.listen", ADDRESSES),
    ("postgresql.connect_address", ADDRESSES),
    ("postgresql.proxy_address", ADDRESSES),
    ("postgresql.authentication", PASSWORDS),
    ("postgresql.pgpass", PASSWORDS),
    ("postgresql.data_dir", FILES),
    ("postgresql.bin_dir", FILES),
    ("postgresql.config_dir", FILES),
    ("postgresql.use_unix_socket", CONNECTS),
    ("postgresql.use_unix_socket_repl", CONNECTS),
    (
        "postgresql.remove_data_directory_on_rewind_failure",
        REMOVES,
    ),
    (
        "postgresql.remove_data_directory_on_diverged_timelines",
        REMOVES,
    ),
    ("bootstrap.dcs.postgresql.listen", ADDRESSES),
    ("bootstrap.dcs.postgresql.connect_address", ADDRESSES),
    ("bootstrap.dcs.postgresql.authentication", PASSWORDS),
    ("bootstrap.dcs.postgresql.data_dir", FILES),
    (
        "bootstrap.dcs.postgresql.remove_data_directory_on_rewind_failure",
        REMOVES,
    ),
    (
        "bootstrap.dcs.postgresql.remove_data_directory_on_diverged_timelines",
        REMOVES,
    ),
    ("bootstrap.initdb", INITDB),
    ("bootstrap.method", INITDB),
    ("bootstrap.dcs.postgresql.use_pg_rewind", REJOINS),
    ("bootstrap.dcs.postgresql.use_slots", REJOINS),
    ("postgresql.use_pg_rewind", REJOINS),
    ("postgresql.use_slots", REJOINS),
    ("bootstrap.dcs.primary_start_timeout", DECIDES),
    ("bootstrap.dcs.master_start_timeout", DECIDES),
    ("bootstrap.dcs.failsafe_mode", DECIDES),
    ("bootstrap.dcs.pause", DECIDES),
    ("postgresql.custom_conf", CUSTOM),
    // Patroni's older place for roles with passwords.
    ("bootstrap.users", PASSWORDS),
];

/// Where parameters of PostgreSQL's are.
const PARAMETERS: [&str; 2] = [
    "postgresql.parameters",
    "bootstrap.dcs.postgresql.parameters",
];

/// Why the user may not set this parameter of PostgreSQL's, if so.
pub(super) fn parameter_is_ours(name: &str) -> Option<&'static str> {
    const PATRONI: &str = "Patroni sets it itself";
    const DURABLE: &str = "without it a crash loses or destroys what was acknowledged";
    match name.to_ascii_lowercase().as_str() {
        "listen_addresses" | "port" => Some(ADDRESSES),
        "unix_socket_directories" => Some(CONNECTS),
        "data_directory" | "hba_file" | "ident_file" | "config_file" => Some(FILES),
        "ssl" | "ssl_cert_file" | "ssl_key_file" | "ssl_passphrase_command" => Some(TLS),
        "fsync" | "full_page_writes" => Some(DURABLE),
        "cluster_name"
        | "primary_conninfo"
        | "primary_slot_name"
        | "hot_standby"
        | "synchronous_standby_names"
        | "wal_log_hints" => Some(PATRONI),
        _ => None,
    }
}

/// Lay `over` on `document`, key by key: mappings are merged, anything else is replaced, and null
/// removes.
pub(super) fn lay_over(document: &mut Value, over: &Value) -> Result<(), Error> {
    match (document, over) {
        (_, Value::Null) => Ok(()),
        (Value::Object(map), Value::Object(over)) => merge(map, over, ""),
        (_, other) => Err(Error::value(
            "postgres.overlay",
            kind(other),
            "a mapping, as in patroni.yml",
        )),
    }
}

fn merge(map: &mut Map<String, Value>, over: &Map<String, Value>, at: &str) -> Result<(), Error> {
    for (key, value) in over {
        let path = match at {
            "" => key.clone(),
            at => format!("{at}.{key}"),
        };
        refuse(&path, key, at)?;
        match (map.get_mut(key), value) {
            (Some(Value::Object(map)), Value::Object(over)) => merge(map, over, &path)?,
            // A mapping that something of ours is in cannot be replaced as a whole.
            (Some(Value::Object(_)), other) if holds_ours(&path) => {
                let key = format!("{path} in postgres.overlay");
                return Err(Error::value(key, kind(other), "a mapping"));
            }
            (_, Value::Null) => {
                map.remove(key);
            }
            (_, Value::Object(over)) => {
                let mut fresh = Map::new();
                merge(&mut fresh, over, &path)?;
                map.insert(key.clone(), Value::Object(fresh));
            }
            (_, value) => {
                map.insert(key.clone(), value.clone());
            }
        }
    }
    Ok(())
}

fn refuse(path: &str, key: &str, at: &str) -> Result<(), Error> {
    let listed = FORBIDDEN.iter().find(|(listed, _)| *listed == path);
    let ours = PARAMETERS
        .contains(&at)
        .then(|| parameter_is_ours(key))
        .flatten();
    match listed.map(|(_, why)| *why).or(ours) {
        Some(why) => Err(Error::Forbidden {
            key: format!("{path} in postgres.overlay"),
            why,
        }),
        None => Ok(()),
    }
}

fn holds_ours(path: &str) -> bool {
    let below = |listed: &str| {
        listed
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    FORBIDDEN.iter().any(|(listed, _)| below(listed))
        || PARAMETERS
            .iter()
            .any(|listed| *listed == path || below(listed))
        || matches!(path, "bootstrap.dcs")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// Mask what the user's own file may have for secrets, by its name.
pub(crate) fn mask(document: &mut Value) {
    match document {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let key = key.to_ascii_lowercase();
                let secret = ["password", "passphrase", "secret", "token", "conninfo"];
                let scalar = !matches!(value, Value::Object(_) | Value::Array(_));
                match scalar && secret.iter().any(|word| key.contains(word)) {
                    true if key != "password_encryption" => *value = Value::String(MASK.to_owned()),
                    _ => mask(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}
