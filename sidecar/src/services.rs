//! The services of a machine, in the format of `SERVICES_JSON`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Most services of one machine.
pub const SERVICES_MAX: usize = 64;
/// Longest name: it must fit a DNS label.
const NAME_LEN_MAX: usize = 63;
/// Most role tags of one service.
pub const TAGS_MAX: usize = 8;

/// One entry of `SERVICES_JSON`. Fields that we do not know are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The name that others ask for.
    pub name: String,
    /// Where it listens on this machine.
    pub port: u16,
    /// Which instances are meant: those that carry this word as a tag. With a `parent` it is a
    /// subset of the parent's instances, otherwise the tag of this instance.
    #[serde(default, deserialize_with = "none_if_empty")]
    pub subset: Option<String>,
    /// The name's virtual address, 127.10.0.1 to 127.10.0.254, for the hosts file: whole, or its
    /// last octet.
    #[serde(default, deserialize_with = "service_vip")]
    pub vip: Option<Ipv4Addr>,
    /// The port of a sidecar proxy, where one is used: its callers then need an intention.
    #[serde(default)]
    pub sidecar_port: Option<u16>,
    /// The service whose instances answer for this name. Such a name has none of its own.
    #[serde(default, deserialize_with = "none_if_empty")]
    pub parent: Option<String>,
    /// Whether this entry, which has a parent, registers this machine's instance of it.
    #[serde(default)]
    pub registers_parent: bool,
    /// How the agent finds out whether it works; nothing is checked without.
    #[serde(default)]
    pub check: Option<Check>,
}

/// How the agent finds out whether a service works. A plain connection is none of them: servers
/// that serve one client at a time take it for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The sidecar says so: passing while its child of that name is ready.
    Child(String),
    /// A GET of this URL is answered with 2xx.
    Http(String),
}

fn none_if_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !text.is_empty()))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum VipText {
    Octet(u8),
    Text(String),
}

fn service_vip<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Ipv4Addr>, D::Error> {
    use serde::de::Error;
    let parsed = match Option::<VipText>::deserialize(from)? {
        None => return Ok(None),
        Some(VipText::Text(text)) if text.is_empty() => return Ok(None),
        Some(VipText::Octet(octet)) => Ok(Ipv4Addr::new(127, 10, 0, octet)),
        Some(VipText::Text(text)) => match text.parse::<u8>() {
            Ok(octet) => Ok(Ipv4Addr::new(127, 10, 0, octet)),
            Err(_) => text.parse::<Ipv4Addr>().map_err(|_| text),
        },
    };
    let found = parsed
        .map_err(|text| D::Error::custom(format!("vip {text:?} is no address in 127.10.0.0/24")))?;
    match found.octets() {
        [127, 10, 0, 1..=254] => Ok(Some(found)),
        _ => Err(D::Error::custom(format!(
            "vip {found} is not within 127.10.0.1 to 127.10.0.254"
        ))),
    }
}

impl Service {
    /// The service whose instance this entry registers on this machine, if it does.
    #[must_use]
    pub fn registered_name(&self) -> Option<&str> {
        match &self.parent {
            None => Some(&self.name),
            Some(parent) if self.registers_parent => Some(parent),
            Some(_) => None,
        }
    }
}

/// What is wrong with a list of services.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServicesError {
    /// It is no list of services.
    #[error("{0}")]
    Json(String),
    /// More than [`SERVICES_MAX`].
    #[error("{0} services: expected at most {SERVICES_MAX}")]
    TooMany(usize),
    /// A name that cannot be a DNS label, such as one with a slash.
    #[error("service name {0:?} is not valid: expected 1 to 63 letters, digits or '-'")]
    Name(String),
    /// A name twice.
    #[error("service {0:?} is there twice")]
    Twice(String),
    /// Two entries register one service.
    #[error("two entries register {0:?} on this machine")]
    RegisteredTwice(String),
    /// A port that cannot be one.
    #[error("service {0:?}: the port 0 cannot be reached")]
    Port(String),
    /// A virtual address twice.
    #[error("service {0:?}: its vip is another's too")]
    Vip(String),
    /// A subset of a parent is missing.
    #[error("service {0:?} has a parent and no subset: it would be another name of it")]
    NoSubset(String),
}

/// Read `SERVICES_JSON`.
///
/// # Errors
/// [`ServicesError`] with the first thing that is wrong.
pub fn parse(text: &str) -> Result<Vec<Service>, ServicesError> {
    let services: Vec<Service> =
        serde_json::from_str(text).map_err(|error| ServicesError::Json(error.to_string()))?;
    check(&services)?;
    Ok(services)
}

/// Whether a list of services makes sense as a whole.
///
/// # Errors
/// [`ServicesError`] with the first thing that is wrong.
pub fn check(services: &[Service]) -> Result<(), ServicesError> {
    if services.len() > SERVICES_MAX {
        return Err(ServicesError::TooMany(services.len()));
    }
    let (mut names, mut vips, mut registered) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for service in services {
        let words = [
            Some(&service.name),
            service.parent.as_ref(),
            service.subset.as_ref(),
        ];
        if let Some(bad) = words.into_iter().flatten().find(|word| !is_label(word)) {
            return Err(ServicesError::Name(bad.chars().take(80).collect()));
        }
        let name = || service.name.clone();
        if !names.insert(&service.name) {
            return Err(ServicesError::Twice(name()));
        }
        if service.port == 0 {
            return Err(ServicesError::Port(name()));
        }
        if service.vip.is_some_and(|vip| !vips.insert(vip)) {
            return Err(ServicesError::Vip(name()));
        }
        if service.parent.is_some() && service.subset.is_none() {
            return Err(ServicesError::NoSubset(name()));
        }
        if let Some(of) = service.registered_name()
            && !registered.insert(of)
        {
            return Err(ServicesError::RegisteredTwice(of.to_owned()));
        }
    }
    Ok(())
}

fn is_label(word: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&word.len())
        && !word.starts_with('-')
        && !word.ends_with('-')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_reference_format_is_read_as_it_is() {
        let services = parse(
            r#"[{"name":"postgres-master","port":5432,"subset":"master","vip":"127.10.0.2",
                 "sidecar_port":21000,"parent":"postgres","registers_parent":true},
                {"name":"postgres-replica","port":5432,"subset":"replica","vip":3,
                 "sidecar_port":21000,"parent":"postgres","registers_parent":false},
                {"name":"web","port":80,"subset":"","vip":"4","sidecar_port":null,"parent":""}]"#,
        )
        .unwrap();
        let registered: Vec<_> = services.iter().map(Service::registered_name).collect();
        assert_eq!(registered, [Some("postgres"), None, Some("web")]);
        let vips: Vec<_> = services
            .iter()
            .map(|s| s.vip.unwrap().to_string())
            .collect();
        assert_eq!(vips, ["127.10.0.2", "127.10.0.3", "127.10.0.4"]);
        assert_eq!(services[2].subset, None);
    }

    #[test]
    fn what_would_break_tools_or_contradicts_itself_is_refused_by_name() {
        for (text, says) in [
            ("{}", "expected"),
            (r#"[{"name":"a/b","port":1}]"#, "a/b"),
            (r#"[{"name":"a","port":0}]"#, "port 0"),
            (r#"[{"name":"a","port":1},{"name":"a","port":2}]"#, "twice"),
            (r#"[{"name":"a","port":1,"vip":"127.0.0.1"}]"#, "127.10.0.1"),
            (r#"[{"name":"a","port":1,"vip":"x"}]"#, "127.10.0.0/24"),
            (
                r#"[{"name":"a","port":1,"vip":1},{"name":"b","port":2,"vip":1}]"#,
                "vip",
            ),
            (r#"[{"name":"a","port":1,"parent":"b"}]"#, "subset"),
            (
                r#"[{"name":"b","port":1},
                    {"name":"a","port":1,"parent":"b","subset":"x","registers_parent":true}]"#,
                "two entries register",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
