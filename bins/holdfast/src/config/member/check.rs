//! Checks that compare keys of membership with each other, and with this machine.

use std::path::Path;

use holdfast_bootstrap::identity::{self, Role};
use holdfast_bootstrap::secrets::{Overrides, SecretError};
use holdfast_core::slots::{LEASE_MAX, LEASE_MIN, SLOTS_MAX, Slot};
use holdfast_core::types::PeerId;
use holdfast_sidecar::services;

use super::Strict;
use super::children::check_children;
use super::postgres_check::check_postgres;
use super::read::Draft;
use super::system::{find_program, has_user};
use crate::config::problem::Problem;
use crate::config::source::Origin;
use crate::config::suggest::closest;
use crate::config::tree::{Environment, Tree};

/// The keys of a plain node that a member learns from its slot and its secrets.
const LEARNT: [&str; 4] = ["id", "vip", "cluster_secret_file", "key_file"];
/// What Consul's agents reach each other on (Consul's documentation, "Required Ports"): a port,
/// whether UDP too, and whether only servers need it. 8302 is for other datacenters, which there
/// need not be.
const CONSUL_PORTS: [(u16, bool, bool); 2] = [(8300, false, true), (8301, true, false)];

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
    check_postgres(draft, tree, strict, problems);
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
    if let Some(lease) = draft
        .lease
        .filter(|lease| !(LEASE_MIN..=LEASE_MAX).contains(lease))
    {
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
        if is_open || (only_server && !is_server) {
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

/// A program that is not there may be by the time it is needed.
pub fn check_program(draft: &Draft, key: &str, program: &Path, problems: &mut Vec<Problem>) {
    if find_program(program).is_none() {
        let found = format!("{}, which is not there", program.display());
        let expected = "a program: a path, or a name in PATH";
        problems.push(Problem::new(draft.origin(key), key, found, expected).warning());
    }
}

/// A user, or a group, that has to exist by the time it is needed.
pub fn check_account(
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
