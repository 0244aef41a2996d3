//! What should be registered, as values.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_io::kv::consul::{self, ListedService};
use serde_json::{Value, json};

use crate::children::digest;
use crate::options::Member;
use crate::services::{Check, Service};

/// Marks what we have registered, and for whom.
const MARK: &str = "holdfast";
const NODE: &str = "holdfast-node";
/// Changes with the definition, also where the agent does not list what has changed.
const DIGEST: &str = "holdfast-digest";
/// How often the agent looks at a URL, and for how long.
const CHECK_INTERVAL: &str = "10s";
const CHECK_TIMEOUT: &str = "2s";

/// The tag of a primary, and what configurations made for the reference deployment call it.
const PRIMARY: &str = "primary";
const MASTER: &str = "master";

/// What should be registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The services.
    pub services: Vec<Service>,
    /// Tags beside that of the subset, by the name of the registered service: what the instance is
    /// at this moment, such as `master`.
    pub roles: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    /// These services, with no tags beside their own.
    #[must_use]
    pub fn new(services: Vec<Service>) -> Wanted {
        Wanted {
            services,
            roles: BTreeMap::new(),
        }
    }
}

/// A service as the agent should have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The definition.
    pub service: consul::Service,
    /// It can be found while this child is ready.
    pub child: Option<String>,
}

impl Desired {
    /// Whether the agent has it like that.
    #[must_use]
    pub fn is(&self, found: &ListedService) -> bool {
        let own = &self.service;
        let address = own.address.map(|addr| addr.to_string());
        found.name == own.name
            && found.port == own.port
            && found.tags == own.tags
            && found.meta == own.meta
            && found.address == address.unwrap_or_default()
    }
}

/// Whether this machine has registered it, at this start or before, under whatever name it had
/// then: the agent is its own, and brings services back from its disk.
pub(super) fn is_ours(found: &ListedService) -> bool {
    found.meta.get(MARK).is_some_and(|mark| mark == "1")
}

/// The services that the agent of this machine should have.
#[must_use]
pub fn desired(wanted: &Wanted, member: &Member) -> Vec<Desired> {
    let mut all = Vec::new();
    for service in &wanted.services {
        let Some(name) = service.registered_name() else {
            continue;
        };
        let mut tags: BTreeSet<String> = wanted
            .roles
            .get(name)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        if service.parent.is_none() {
            tags.extend(service.subset.clone());
        }
        if tags.contains(PRIMARY) && names_master(wanted, name) {
            tags.insert(MASTER.to_owned());
        }
        let mut definition = consul::Service {
            id: format!("{name}-{}", member.id),
            name: name.to_owned(),
            address: Some(member.vip.addr()),
            port: service.port,
            tags: tags.into_iter().collect(),
            checks: checks(service),
            ..consul::Service::default()
        };
        let text = format!("{definition:?} {:?}", service.check);
        let hash: String = digest(text.as_bytes())[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        definition.meta = [
            (MARK, "1".to_owned()),
            (NODE, member.id.to_string()),
            (DIGEST, hash),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        all.push(Desired {
            service: definition,
            child: match &service.check {
                Some(Check::Child(child)) => Some(child.clone()),
                Some(Check::Http(_)) | None => None,
            },
        });
    }
    all
}

/// Whether others are led to the primary by the former word.
fn names_master(wanted: &Wanted, parent: &str) -> bool {
    wanted.services.iter().any(|service| {
        service.parent.as_deref() == Some(parent) && service.subset.as_deref() == Some(MASTER)
    })
}

fn checks(service: &Service) -> Vec<consul::Check> {
    match &service.check {
        Some(Check::Http(url)) => vec![consul::Check::Http {
            url: url.clone(),
            interval: CHECK_INTERVAL.to_owned(),
            timeout: CHECK_TIMEOUT.to_owned(),
        }],
        Some(Check::Child(_)) | None => Vec::new(),
    }
}

/// The config entries that the services need, each with a name of its own, in an order in which
/// Consul takes them: who is led to comes first.
#[must_use]
pub fn config_entries(wanted: &Wanted) -> Vec<(String, Value)> {
    let (mut names, mut subsets) = (BTreeSet::new(), BTreeMap::new());
    for service in &wanted.services {
        let of = service.parent.as_ref().unwrap_or(&service.name);
        names.extend([&service.name, of]);
        if let Some(subset) = &service.subset {
            let filter = json!({ "Filter": format!("{subset:?} in Service.Tags") });
            let all: &mut BTreeMap<&String, Value> = subsets.entry(of).or_default();
            all.insert(subset, filter);
        }
    }
    let mut entries = Vec::new();
    for name in names {
        let entry = json!({ "Kind": "service-defaults", "Name": name, "Protocol": "tcp" });
        entries.push((format!("service-defaults/{name}"), entry));
    }
    for (of, subsets) in subsets {
        let entry = json!({ "Kind": "service-resolver", "Name": of, "Subsets": subsets });
        entries.push((format!("service-resolver/{of}"), entry));
    }
    for service in &wanted.services {
        if let Some(parent) = &service.parent {
            let redirect = json!({ "Service": parent, "ServiceSubset": service.subset });
            let name = &service.name;
            let entry = json!({ "Kind": "service-resolver", "Name": name, "Redirect": redirect });
            entries.push((format!("service-resolver/{name}"), entry));
        }
    }
    entries
}

/// Who needs an intention: names behind a proxy, which lets nobody in without.
pub(super) fn intentions(wanted: &Wanted) -> BTreeSet<String> {
    let with_proxy = wanted
        .services
        .iter()
        .filter(|one| one.sidecar_port.is_some());
    with_proxy
        .map(|one| one.parent.as_ref().unwrap_or(&one.name).clone())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::services;

    fn postgres() -> Wanted {
        Wanted::new(
            services::parse(
                r#"[{"name":"postgres-master","port":5432,"subset":"master","sidecar_port":21000,
                     "parent":"postgres","registers_parent":true},
                    {"name":"postgres-replica","port":5432,"subset":"replica","parent":"postgres"},
                    {"name":"web","port":80,"subset":"blue","check":{"child":"nginx"}}]"#,
            )
            .unwrap(),
        )
    }

    fn member() -> Member {
        Member {
            instance: "i".to_owned(),
            slot: 3,
            id: "worker-3".parse().unwrap(),
            vip: 4.try_into().unwrap(),
        }
    }

    #[test]
    fn a_parent_is_registered_once_with_the_role_of_the_moment() {
        let mut wanted = postgres();
        let role = vec!["replica".to_owned()];
        wanted.roles.insert("postgres".to_owned(), role.clone());
        let found = desired(&wanted, &member());
        let ids: Vec<_> = found.iter().map(|one| one.service.id.as_str()).collect();
        assert_eq!(ids, ["postgres-worker-3", "web-worker-3"]);
        assert_eq!(found[0].service.tags, role);
        assert_eq!(found[1].service.tags, ["blue"]);
        assert_eq!(found[1].child.as_deref(), Some("nginx"));
    }

    #[test]
    fn a_primary_is_called_what_its_callers_call_it() {
        let mut wanted = postgres();
        wanted
            .roles
            .insert("postgres".to_owned(), vec!["primary".to_owned()]);
        assert_eq!(
            desired(&wanted, &member())[0].service.tags,
            ["master", "primary"]
        );
        wanted.services.remove(0);
        wanted.services[0].registers_parent = true;
        assert_eq!(desired(&wanted, &member())[0].service.tags, ["primary"]);
    }

    #[test]
    fn a_changed_definition_is_not_the_one_that_the_agent_has() {
        let wanted = postgres();
        let one = desired(&wanted, &member()).remove(0);
        let listed = ListedService {
            id: one.service.id.clone(),
            name: one.service.name.clone(),
            address: "127.50.0.4".to_owned(),
            port: one.service.port,
            tags: one.service.tags.clone(),
            meta: one.service.meta.clone(),
        };
        assert!(one.is(&listed) && is_ours(&listed));
        let mut changed = wanted.clone();
        changed.services[0].check = Some(Check::Http("http://127.0.0.1:8008/health".to_owned()));
        assert!(
            !desired(&changed, &member())[0].is(&listed),
            "a check is part of it"
        );
        let mut foreign = listed;
        foreign.meta.remove(MARK);
        assert!(!is_ours(&foreign), "somebody else's stays");
    }

    #[test]
    fn a_name_with_a_parent_leads_to_its_subset() {
        let entries: BTreeMap<_, _> = config_entries(&postgres()).into_iter().collect();
        let of = |name: &str| &entries[&format!("service-resolver/{name}")];
        let filter = &of("postgres")["Subsets"]["replica"]["Filter"];
        assert_eq!(filter, "\"replica\" in Service.Tags");
        assert_eq!(of("postgres-replica")["Redirect"]["Service"], "postgres");
        assert_eq!(
            of("postgres-replica")["Redirect"]["ServiceSubset"],
            "replica"
        );
        assert_eq!(
            of("web")["Subsets"]["blue"]["Filter"],
            "\"blue\" in Service.Tags"
        );
        assert_eq!(
            intentions(&postgres()),
            BTreeSet::from(["postgres".to_owned()])
        );
    }
}
