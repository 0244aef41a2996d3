//! Checks that compare what a configuration says of the database with the rest, and with this
//! machine. What only a start can tell, the sidecar does (`docs/postgres.md`).

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use holdfast_core::types::Vip;
use holdfast_postgres::Settings;

use super::Strict;
use super::check::{check_account, check_program};
use super::read::{Draft, allowed};
use super::system::{has_user, user_id};
use crate::config::problem::Problem;
use crate::config::reader::parsed;
use crate::config::tree::Tree;

/// Patroni's own minimum of `ttl`; half of it is the TTL of a session of Consul, which takes no
/// less than 10 s.
const TTL_MIN: Duration = Duration::from_secs(20);
/// Patroni's own minimum of `loop_wait`.
const LOOP_WAIT_MIN: Duration = Duration::from_secs(1);
/// Patroni's own minimum of `retry_timeout`.
const RETRY_TIMEOUT_MIN: Duration = Duration::from_secs(3);
/// An endpoint that asks more often than this is busy with asking.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// The Consul agent's own addresses.
const CONSUL: [SocketAddr; 1] = [SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    8500,
)];
/// Parameters that are given by other keys, or that a promise rests on.
const OWN_PARAMETERS: [(&str, &str); 4] = [
    ("port", "`postgres.port`"),
    ("listen_addresses", "nothing: PostgreSQL listens on the VIP"),
    ("data_directory", "`postgres.data_dir`"),
    ("synchronous_standby_names", "nothing: Patroni sets it"),
];

/// Compare.
pub fn check_postgres(draft: &Draft, tree: &Tree, strict: Strict, problems: &mut Vec<Problem>) {
    let Some(settings) = &draft.postgres else {
        return;
    };
    check_times(draft, settings, problems);
    check_ports(draft, tree, settings, problems);
    check_endpoints(draft, tree, settings, problems);
    check_parameters(draft, settings, problems);
    if !draft.runs_database {
        return;
    }
    if draft.kv.addresses.is_empty() && draft.consul.is_none() && !draft.is_given("kv.addresses") {
        let expected = "the KV that Patroni keeps the leader's key in, or a section [consul]";
        problem(draft, "kv.addresses", "nothing", expected, problems);
    }
    check_programs(draft, settings, problems);
    let user = &settings.user;
    check_account(
        draft,
        "postgres.user",
        "user",
        user,
        has_user,
        strict,
        problems,
    );
    if user == "root" {
        let expected = "another user: PostgreSQL does not run as root";
        problem(draft, "postgres.user", "\"root\"", expected, problems);
    }
    check_data_dir(draft, settings, problems);
    check_overlay(draft, settings, problems);
}

fn problem(
    draft: &Draft,
    key: &str,
    found: impl Into<String>,
    expected: impl Into<String>,
    problems: &mut Vec<Problem>,
) {
    problems.push(Problem::new(draft.origin(key), key, found, expected));
}

/// Patroni replaces what it finds wrong by its defaults, and says so in a log that nobody reads.
fn check_times(draft: &Draft, settings: &Settings, problems: &mut Vec<Problem>) {
    let before = problems.len();
    for (key, found, min) in [
        ("postgres.ttl", settings.ttl, TTL_MIN),
        ("postgres.loop_wait", settings.loop_wait, LOOP_WAIT_MIN),
        (
            "postgres.retry_timeout",
            settings.retry_timeout,
            RETRY_TIMEOUT_MIN,
        ),
    ] {
        if found < min || found.subsec_nanos() != 0 {
            let expected = format!("whole seconds, {} or more", min.as_secs());
            problem(draft, key, format!("{found:?}"), expected, problems);
        }
    }
    let needed = settings.loop_wait + 2 * settings.retry_timeout;
    if problems.len() == before && settings.ttl < needed {
        let expected = format!(
            "{needed:?} or more: loop_wait + 2 x retry_timeout, or a leader loses its key while it \
             tries to renew it"
        );
        let found = format!("{:?}", settings.ttl);
        problem(draft, "postgres.ttl", found, expected, problems);
    }
    let interval = settings.endpoints.check_interval;
    if interval < INTERVAL_MIN {
        let expected = format!("{INTERVAL_MIN:?} or more");
        let key = "postgres.endpoints.check.interval";
        problem(draft, key, format!("{interval:?}"), expected, problems);
    }
    for (key, found) in [
        (
            "postgres.endpoints.check.timeout",
            settings.endpoints.check_timeout,
        ),
        (
            "postgres.endpoints.connect_timeout",
            settings.endpoints.connect_timeout,
        ),
    ] {
        if found.is_zero() {
            problem(draft, key, "0", "some time", problems);
        }
    }
}

/// Members reach each other's PostgreSQL and Patroni through the mesh.
fn check_ports(draft: &Draft, tree: &Tree, settings: &Settings, problems: &mut Vec<Problem>) {
    if settings.port == settings.rest_port {
        let found = format!("{}, as `postgres.port`", settings.rest_port);
        let expected = "a port of its own";
        problem(draft, "postgres.rest_port", found, expected, problems);
    }
    let lists = [
        ("allow", &draft.allow),
        ("forward", &allowed(tree, "forward")),
    ];
    for (list, rules) in lists {
        let needed = match list {
            "allow" => draft.runs_database,
            // Without one, the ports of `allow` are those of the peers too.
            _ => tree.nodes.contains_key(list),
        };
        for (port, what) in [
            (settings.port, "PostgreSQL"),
            (settings.rest_port, "Patroni"),
        ] {
            if needed && !rules.iter().any(|(open, _)| *open == port) {
                let expected = format!(
                    "port {port}, since the members' {what} is reached through it ({})",
                    match port == settings.port {
                        true => "`postgres.port`",
                        false => "`postgres.rest_port`",
                    }
                );
                problem(draft, list, format!("no port {port}"), expected, problems);
            }
        }
    }
}

/// Addresses of their own, which neither the mesh nor PostgreSQL listens on.
fn check_endpoints(draft: &Draft, tree: &Tree, settings: &Settings, problems: &mut Vec<Problem>) {
    const PRIMARY: &str = "postgres.endpoints.primary";
    const REPLICAS: &str = "postgres.endpoints.replicas";
    let endpoints = &settings.endpoints;
    if clash(endpoints.primary, endpoints.replicas) {
        let found = format!("{}, as `primary`", endpoints.replicas);
        let expected = "an address of its own, such as 127.10.0.2:5432";
        problem(draft, REPLICAS, found, expected, problems);
    }
    let admin = tree.nodes.get("admin");
    let admin = admin.and_then(|node| parsed::<SocketAddr>(&node.value));
    let localhost = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let mut taken = vec![
        (localhost(settings.port), "PostgreSQL's own"),
        (admin.unwrap_or_else(|| localhost(7070)), "that of `admin`"),
    ];
    if draft.consul.is_some() {
        taken.extend(CONSUL.map(|at| (at, "the Consul agent's")));
    }
    for (key, address) in [(PRIMARY, endpoints.primary), (REPLICAS, endpoints.replicas)] {
        if is_vip(address) {
            let expected = "an address outside of 127.50.0.0/24, which the mesh listens on";
            problem(draft, key, address.to_string(), expected, problems);
        }
        if let Some((_, whose)) = taken.iter().find(|(other, _)| clash(address, *other)) {
            let found = format!("{address}, {whose}");
            problem(draft, key, found, "an address of its own", problems);
        }
    }
}

/// Whether nobody can listen on both.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let overlap = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && overlap
}

/// The mesh listens on the VIPs of peers, PostgreSQL on the own one; an address for all is one of
/// them too.
fn is_vip(address: SocketAddr) -> bool {
    let Ok(one) = Vip::new(1) else { return false };
    let network = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => Some([ip.octets()[0], ip.octets()[1], ip.octets()[2]]),
        std::net::IpAddr::V6(_) => None,
    };
    address.ip().is_unspecified() || network(address.ip()) == network(one.addr())
}

fn check_parameters(draft: &Draft, settings: &Settings, problems: &mut Vec<Problem>) {
    for (name, instead) in OWN_PARAMETERS {
        if let Some(value) = settings.parameters.get(name) {
            let key = format!("postgres.parameters.{name}");
            problem(draft, &key, format!("{value:?}"), instead, problems);
        }
    }
}

/// Programs that are not there may be by the time they are needed.
fn check_programs(draft: &Draft, settings: &Settings, problems: &mut Vec<Problem>) {
    let server = settings.bin_dir.join("postgres");
    if !server.is_file() {
        let found = format!("{}, without PostgreSQL in it", settings.bin_dir.display());
        let expected = "the folder of PostgreSQL's programs, such as /usr/lib/postgresql/15/bin";
        let key = "postgres.bin_dir";
        let problem = Problem::new(draft.origin(key), key, found, expected);
        problems.push(problem.help("`make setup` installs it").warning());
    }
    check_program(draft, "postgres.patroni", &settings.patroni, problems);
}

/// PostgreSQL refuses a data directory that is not its own, or that others can read.
fn check_data_dir(draft: &Draft, settings: &Settings, problems: &mut Vec<Problem>) {
    let Ok(data) = fs::metadata(&settings.data_dir) else {
        // It is made.
        return;
    };
    let key = "postgres.data_dir";
    let shown = settings.data_dir.display();
    if !data.is_dir() {
        let expected = "a folder, or nothing yet";
        problem(draft, key, format!("{shown}, a file"), expected, problems);
        return;
    }
    // An empty folder is taken over, whoever made it.
    let is_empty = fs::read_dir(&settings.data_dir).is_ok_and(|mut all| all.next().is_none());
    if is_empty {
        return;
    }
    if user_id(&settings.user).is_some_and(|id| id != data.uid()) {
        let found = format!(
            "{shown}, which belongs to the user with the id {}",
            data.uid()
        );
        let expected = format!("a folder of {:?} (`postgres.user`)", settings.user);
        problem(draft, key, found, expected, problems);
    }
    // As PostgreSQL has it: its group may read, others may nothing.
    if data.mode() & 0o027 != 0 {
        let found = format!("{shown} with mode {:04o}", data.mode() & 0o7777);
        let expected = "mode 0700 or 0750: nobody else may read it";
        problem(draft, key, found, expected, problems);
    }
}

fn check_overlay(draft: &Draft, settings: &Settings, problems: &mut Vec<Problem>) {
    let Some(overlay) = &settings.overlay else {
        return;
    };
    if let Err(error) = fs::File::open(overlay) {
        let key = "postgres.overlay";
        let found = format!("{}: {error}", overlay.display());
        problem(draft, key, found, "a readable file", problems);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn addresses_clash_where_nobody_can_listen_on_both() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(clash(at("127.0.0.1:1"), at("127.0.0.1:1")));
        assert!(clash(at("0.0.0.0:1"), at("127.0.0.1:1")));
        assert!(!clash(at("127.0.0.1:1"), at("127.0.0.1:2")));
        assert!(!clash(at("127.0.0.1:1"), at("127.0.0.2:1")));
    }

    #[test]
    fn addresses_of_the_mesh_are_known() {
        let is = |text: &str| is_vip(text.parse().unwrap());
        assert!(is("127.50.0.7:5432") && is("0.0.0.0:5432") && is("[::]:5432"));
        assert!(!is("127.10.0.1:5432") && !is("127.50.1.1:5432") && !is("[::1]:5432"));
    }
}
