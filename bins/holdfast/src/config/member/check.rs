//! Checks that compare keys of membership with each other, and with this machine.

use std::path::Path;
use std::time::Duration;

use holdfast_bootstrap::identity::{self, Role};
use holdfast_bootstrap::secrets::{Overrides, SecretError};
use holdfast_core::slots::{SLOTS_MAX, Slot};
use holdfast_core::supervise::CHILDREN_MAX;
use holdfast_core::types::PeerId;
use holdfast_sidecar::services;

use super::Strict;
use super::read::Draft;
use super::system::{find_program, has_group, has_user};
use crate::config::problem::Problem;
use crate::config::source::Origin;
use crate::config::suggest::closest;
use crate::config::tree::{Environment, Tree};

/// Shortest and longest lease: as core has it.
const LEASE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);
/// Names that children may wait for, beside each other.
const OWN_NAMES: [&str; 2] = ["mesh", "consul"];
/// The keys of a plain node that a member learns from its slot and its secrets.
const LEARNT: [&str; 4] = ["id", "vip", "cluster_secret_file", "key_file"];
/// What Consul's agents reach each other on (Consul's documentation, "Required Ports"): a port,
/// whether UDP too, and whether only servers need it.
const CONSUL_PORTS: [(u16, bool, bool); 3] =
    [(8300, false, true), (8301, true, false), (8302, true, true)];

/// Compare. The slots of the role, ascending.
pub fn check(
    draft: &Draft,
    tree: &Tree,
    environment: &Environment,
    strict: Strict,
    problems: &mut Vec<Problem>,
) -> Vec<Slot> {
    check_secrets(environment, problems);
    check_given(draft, problems);
    check_learnt(tree, problems);
    let slots = check_slots(draft, problems);
    check_lease(draft, problems);
    check_consul(draft, strict, problems);
    check_services(draft, problems);
    check_children(draft, strict, problems);
    slots
}

/// Secrets that the environment gives, in their formats. No value is shown.
fn check_secrets(environment: &Environment, problems: &mut Vec<Problem>) {
    let Err(error) = Overrides::from_env(environment.clone()) else {
        return;
    };
    let (variable, found, expected) = match error {
        SecretError::Format {
            variable,
            found,
            expected,
        } => {
            let found = format!("{found} characters that are something else");
            (variable.to_owned(), found, expected.to_owned())
        }
        SecretError::NotText { variable, expected } => {
            let found = "bytes that are no UTF-8".to_owned();
            (variable.to_owned(), found, expected.to_owned())
        }
        SecretError::Unknown { variable, expected } => {
            let found = "a secret that there is not".to_owned();
            (variable, found, format!("one of {expected}"))
        }
    };
    let name = variable.as_str().into();
    problems.push(Problem::new(
        &Origin::Env { name },
        variable,
        found,
        expected,
    ));
}

fn check_given(draft: &Draft, problems: &mut Vec<Problem>) {
    let mut missing = |key: &str, expected: &str| {
        problems.push(Problem::new(&draft.whole, key, "nothing", expected));
    };
    if !draft.is_given("cluster") {
        missing("cluster", "the cluster's name");
    }
    if !draft.is_given("role") {
        missing(
            "role",
            "what this machine is: \"coordinator\" or \"worker\"",
        );
    }
    if !draft.is_given("kv.addresses") && !draft.is_given("ordinal") {
        missing(
            "kv.addresses",
            "where the KV is reached without the mesh, or `ordinal` with this machine's own slot",
        );
    }
}

fn check_learnt(tree: &Tree, problems: &mut Vec<Problem>) {
    for key in LEARNT {
        if let Some(node) = tree.nodes.get(key) {
            let expected = "nothing: a member's name comes from its slot, and its secrets from \
                            `secrets_dir`";
            let problem = Problem::new(&node.origin, key, node.value.kind(), expected);
            problems.push(problem.help("it is not read").warning());
        }
    }
}

/// The ordinals at the end of the peers' names. Slots are named by the ordinal alone, so that no
/// two peers may have the same.
fn check_slots(draft: &Draft, problems: &mut Vec<Problem>) -> Vec<Slot> {
    let mut all: Vec<(Slot, Role, &PeerId)> = Vec::new();
    for (path, origin, id) in &draft.peers {
        let Some((role, slot)) = identity::split(id) else {
            continue;
        };
        if let Some((_, _, other)) = all.iter().find(|(taken, ..)| *taken == slot)
            && *other != id
        {
            let key = format!("{path}.id");
            let expected = format!("an ordinal of its own: {other} has {slot}");
            problems.push(
                Problem::new(origin, key, format!("{:?}", id.as_str()), expected)
                    .help("ordinals of workers start after the coordinators'"),
            );
        }
        all.push((slot, role, id));
    }
    let Some(role) = &draft.role else {
        return Vec::new();
    };
    let own = all.iter().filter(|(_, of, _)| of == role);
    let mut slots: Vec<Slot> = own.map(|(slot, ..)| *slot).collect();
    slots.sort_unstable();
    slots.dedup();
    check_own_slots(draft, role, &slots, &all, problems);
    slots
}

fn check_own_slots(
    draft: &Draft,
    role: &Role,
    slots: &[Slot],
    all: &[(Slot, Role, &PeerId)],
    problems: &mut Vec<Problem>,
) {
    if slots.is_empty() {
        let mut problem = Problem::new(
            draft.origin("role"),
            "role",
            format!("{:?}, and no peer is named {role}-ORDINAL", role.as_str()),
            "the role of at least one peer",
        );
        if let Some(meant) = closest(role.as_str(), all.iter().map(|(_, of, _)| of.as_str())) {
            problem = problem.help(format!("did you mean {meant:?}?"));
        }
        problems.push(problem);
        return;
    }
    if slots.len() > SLOTS_MAX {
        let found = format!("{} peers named {role}-…", slots.len());
        let expected = format!("at most {SLOTS_MAX}");
        problems.push(Problem::new(
            draft.origin("peers"),
            "peers",
            found,
            expected,
        ));
    }
    match draft.pinned {
        Some(slot) if !slots.contains(&slot) => {
            let own: Vec<String> = slots.iter().map(Slot::to_string).collect();
            let expected = format!("an ordinal of a {role} in the peers: {}", own.join(", "));
            let origin = draft.origin("ordinal");
            problems.push(Problem::new(origin, "ordinal", slot.to_string(), expected));
        }
        None if role.is_coordinator() && !draft.is_given("ordinal") => {
            let problem = Problem::new(
                draft.origin("role"),
                "ordinal",
                "nothing",
                "this coordinator's own slot, unless the KV runs elsewhere",
            );
            problems.push(problem.help("COORDINATOR_ORDINAL is read too").warning());
        }
        _ => {}
    }
}

fn check_lease(draft: &Draft, problems: &mut Vec<Problem>) {
    if let Some(lease) = draft.lease.filter(|lease| !LEASE.contains(lease)) {
        problems.push(Problem::new(
            draft.origin("slots.lease"),
            "slots.lease",
            format!("{lease:?}"),
            "1 second to 24 hours",
        ));
    }
}

fn check_consul(draft: &Draft, strict: Strict, problems: &mut Vec<Problem>) {
    let Some(consul) = &draft.consul else {
        return;
    };
    check_program(draft, "consul.program", &consul.program, problems);
    if let Some(user) = &consul.user {
        check_account(
            draft,
            "consul.user",
            "user",
            user,
            has_user,
            strict,
            problems,
        );
    }
    let is_server = draft.role.as_ref().is_some_and(Role::is_coordinator);
    for (port, udp, only_server) in CONSUL_PORTS {
        let open = draft.allow.iter().find(|(open, _)| *open == port);
        let is_open = open.is_some_and(|(_, with_udp)| *with_udp || !udp);
        // 8302 is for other datacenters, which there need not be.
        if port == 8302 || is_open || (only_server && !is_server) {
            continue;
        }
        let protocol = if udp { "TCP and UDP" } else { "TCP" };
        let found = match open {
            Some(_) => format!("port {port} without UDP"),
            None => format!("no port {port}"),
        };
        let expected = format!("port {port}, {protocol}, since Consul's agents talk through it");
        problems.push(Problem::new(draft.origin("allow"), "allow", found, expected).warning());
    }
}

fn check_program(draft: &Draft, key: &str, program: &Path, problems: &mut Vec<Problem>) {
    if find_program(program).is_none() {
        let found = format!("{}, which is not there", program.display());
        let expected = "a program: a path, or a name in PATH";
        problems.push(Problem::new(draft.origin(key), key, found, expected).warning());
    }
}

fn check_account(
    draft: &Draft,
    key: &str,
    what: &str,
    name: &str,
    exists: impl Fn(&str) -> bool,
    strict: Strict,
    problems: &mut Vec<Problem>,
) {
    if exists(name) {
        return;
    }
    let expected = format!("a {what} of this machine");
    let problem = Problem::new(draft.origin(key), key, format!("{name:?}"), expected);
    problems.push(match strict {
        Strict::No => problem.warning(),
        Strict::Yes => problem,
    });
}

fn check_services(draft: &Draft, problems: &mut Vec<Problem>) {
    let services: Vec<_> = draft.services.iter().map(|(_, s)| s.clone()).collect();
    // The first entry up to which they do not make sense is the one that is wrong.
    let wrong =
        (1..=services.len()).find_map(|n| Some((n - 1, services::check(&services[..n]).err()?)));
    if let Some((index, error)) = wrong {
        let path = &draft.services[index].0;
        let origin = match draft.origins.get(&format!("{path}.name")) {
            Some(origin) => origin,
            None => draft.origin("services"),
        };
        let expected = "services that a cluster can have";
        problems.push(Problem::new(origin, path, error.to_string(), expected));
    }
    for (path, service) in &draft.services {
        if let Some(services::Check::Child(name)) = &service.check
            && !draft
                .children
                .iter()
                .any(|(_, child)| child.name.as_str() == name)
        {
            let key = format!("{path}.check");
            let origin = draft.origin(&key).clone();
            let expected = "the name of a child";
            problems.push(Problem::new(&origin, key, format!("{name:?}"), expected));
        }
    }
    if draft.consul.is_none() && !draft.services.is_empty() {
        let problem = Problem::new(
            draft.origin("services"),
            "services",
            format!(
                "{}, and no agent to register them with",
                draft.services.len()
            ),
            "a section [consul]",
        );
        problems.push(problem.warning());
    }
}

fn check_children(draft: &Draft, strict: Strict, problems: &mut Vec<Problem>) {
    if draft.children.len() > CHILDREN_MAX {
        let found = format!("{} children", draft.children.len());
        let expected = format!("at most {CHILDREN_MAX}");
        problems.push(Problem::new(
            draft.origin("children"),
            "children",
            found,
            expected,
        ));
        return;
    }
    for (index, (path, child)) in draft.children.iter().enumerate() {
        let name = child.name.as_str();
        let earlier = draft.children[..index].iter().map(|(_, child)| child);
        let key = format!("{path}.name");
        if OWN_NAMES.contains(&name) {
            let expected = "another name: this one is the sidecar's own";
            let origin = draft.origin(&key);
            problems.push(Problem::new(
                origin,
                key.as_str(),
                format!("{name:?}"),
                expected,
            ));
        }
        if earlier.into_iter().any(|other| other.name == child.name) {
            let found = format!("{name:?} again");
            let origin = draft.origin(&key);
            problems.push(Problem::new(origin, key.as_str(), found, "every name once"));
        }
        let command = format!("{path}.command");
        check_program(draft, &command, Path::new(&child.command[0]), problems);
        if let Some(user) = &child.user {
            let key = format!("{path}.user");
            check_account(draft, &key, "user", user, has_user, strict, problems);
        }
        if let Some(group) = &child.group {
            let key = format!("{path}.group");
            check_account(draft, &key, "group", group, has_group, strict, problems);
        }
        check_after(draft, path, child, problems);
    }
    check_circle(draft, problems);
}

fn check_after(
    draft: &Draft,
    path: &str,
    child: &holdfast_sidecar::Child,
    problems: &mut Vec<Problem>,
) {
    let key = format!("{path}.after");
    let children = draft.children.iter().map(|(_, child)| child.name.as_str());
    let known: Vec<&str> = children.chain(OWN_NAMES).collect();
    for after in &child.after {
        let problem = |expected: &str| {
            let found = format!("{:?}", after.as_str());
            Problem::new(draft.origin(&key), key.as_str(), found, expected)
        };
        if *after == child.name {
            problems.push(problem("another child: this one cannot wait for itself"));
        } else if after.as_str() == "consul" && draft.consul.is_none() {
            problems.push(problem("a section [consul]: without it no agent is run"));
        } else if !known.contains(&after.as_str()) {
            let mut problem = problem("the name of a child, \"mesh\" or \"consul\"");
            if let Some(meant) = closest(after.as_str(), known.iter().copied()) {
                problem = problem.help(format!("did you mean {meant:?}?"));
            }
            problems.push(problem);
        }
    }
}

/// Children that wait for each other would wait for ever.
fn check_circle(draft: &Draft, problems: &mut Vec<Problem>) {
    let mut waiting: Vec<_> = draft.children.iter().collect();
    loop {
        let before = waiting.len();
        let names: Vec<_> = waiting
            .iter()
            .map(|(_, child)| child.name.clone())
            .collect();
        waiting.retain(|(_, child)| {
            let mut after = child.after.iter().filter(|after| **after != child.name);
            after.any(|after| names.contains(after))
        });
        if waiting.len() == before {
            break;
        }
    }
    if let Some((path, _)) = waiting.first() {
        let names: Vec<_> = waiting
            .iter()
            .map(|(_, child)| child.name.as_str())
            .collect();
        let key = format!("{path}.after");
        let found = format!("a circle among {}", names.join(", "));
        let expected = "children that do not wait for each other";
        problems.push(Problem::new(
            draft.origin(&key),
            key.as_str(),
            found,
            expected,
        ));
    }
}
