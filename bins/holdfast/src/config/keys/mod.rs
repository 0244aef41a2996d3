//! Every key there is, once: its variable, its default, its documentation.

mod member;
mod mesh;
mod postgres;

pub use member::MEMBER;
pub use mesh::MESH;
pub use postgres::POSTGRES;

/// Begins the environment variable of every key.
pub const ENV_PREFIX: &str = "HOLDFAST_";

/// The reference's variable for the peers (`PEERS_JSON`).
pub const PEERS_JSON: &str = "PEERS_JSON";
/// The reference's variable for the allowlist.
pub const MESH_CONN_ALLOWLIST: &str = "MESH_CONN_ALLOWLIST";

/// The reference's variable for the services.
pub const SERVICES_JSON: &str = "SERVICES_JSON";
/// How an environment variable's text becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Text,
    /// Decimal digits.
    Integer,
    /// `true` or `false`.
    Truth,
    /// Texts with commas between them, or a JSON list.
    Texts,
    /// JSON: a list of objects, whose fields are these.
    Tables(&'static [&'static str]),
    /// JSON: an object whose names are the user's own.
    Map,
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file, with its section: `limits.mtu_max`.
    pub name: &'static str,
    /// How its variable is read.
    pub form: Form,
    /// Its default as TOML, if it has one.
    pub default: Option<&'static str>,
    /// A value for the example, where there is no default. For tables, the TOML lines.
    pub example: &'static str,
    /// Whether the example leaves it commented out.
    pub optional: bool,
    /// Lines that explain it.
    pub help: &'static str,
}

impl Key {
    /// The environment variable: `HOLDFAST_LIMITS_MTU_MAX`.
    pub fn variable(&self) -> String {
        format!(
            "{ENV_PREFIX}{}",
            self.name.replace('.', "_").to_ascii_uppercase()
        )
    }

    /// Whether it is in this section, or in one within it.
    pub fn is_in(&self, section: &str) -> bool {
        let rest = self.name.strip_prefix(section);
        rest.is_some_and(|rest| rest.starts_with('.'))
    }

    /// The section, which may be within another (`a.b`), and the name within it.
    pub fn split(&self) -> (Option<&'static str>, &'static str) {
        match self.name.rsplit_once('.') {
            Some((section, name)) => (Some(section), name),
            None => (None, self.name),
        }
    }
}

/// The fields of a peer.
pub const PEER_FIELDS: &[&str] = &["id", "vip", "key"];
/// The fields of an allowlist rule.
pub const ALLOW_FIELDS: &[&str] = &["port", "udp"];
/// The fields of a TURN server.
pub const TURN_FIELDS: &[&str] = &["url", "secret_file", "username", "password_file"];

/// The fields of a service.
pub const SERVICE_FIELDS: &[&str] = &[
    "name",
    "port",
    "subset",
    "vip",
    "sidecar_port",
    "parent",
    "registers_parent",
    "check",
];
/// The fields of a child.
pub const CHILD_FIELDS: &[&str] = &[
    "name",
    "command",
    "user",
    "group",
    "after",
    "ready",
    "env",
    "dir",
    "stop_signal",
    "stop_deadline",
    "max_restarts",
    "window",
    "one_shot",
];

const fn key(name: &'static str, form: Form, help: &'static str) -> Key {
    Key {
        name,
        form,
        default: None,
        example: "",
        optional: false,
        help,
    }
}

const fn with_default(mut key: Key, default: &'static str) -> Key {
    key.default = Some(default);
    key
}

const fn with_example(mut key: Key, example: &'static str) -> Key {
    key.example = example;
    key
}

const fn optional(mut key: Key) -> Key {
    key.optional = true;
    key
}

/// Every key, in the order of the example of a plain node.
pub fn all() -> impl Iterator<Item = &'static Key> + Clone {
    MESH.iter().chain(of_member())
}

/// Every key that a plain node does not have, in the order of the example.
pub fn of_member() -> impl Iterator<Item = &'static Key> + Clone {
    MEMBER.iter().chain(POSTGRES)
}

/// Every section, once.
pub fn sections() -> impl Iterator<Item = &'static str> {
    let mut found: Vec<&str> = all().filter_map(|key| key.split().0).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter()
}

/// Whether keys are in this section, or in one within it.
pub fn is_section(name: &str) -> bool {
    all().any(|key| key.is_in(name))
}

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_share_a_name_or_a_variable() {
        let mut variables: Vec<_> = all().map(Key::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), all().count());
    }
}
