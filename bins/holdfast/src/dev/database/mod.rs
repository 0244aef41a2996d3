//! The databases of the cluster: who leads, where clients come in, and what is done to them.

mod bench;
mod failover;
mod heal;
mod psql;
mod strike;
mod watch;
mod writer;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use holdfast_postgres::{EndpointSettings, EndpointStatus, MemberStatus, PostgresStatus, Role};
use holdfast_workload::run::Login;
use zeroize::Zeroizing;

use super::plan::Database;
use super::state::Mesh;
use super::view::{self, NodeReport};
use crate::config::member::postgres::{find_patroni, find_server};
use crate::config::member::{find_program, has_user};
use crate::keys_command::write_secret;

pub use bench::bench;
pub use heal::heal;
pub use psql::psql;
pub use strike::{kill, thaw};

/// Who runs the databases, and owns them.
const USER: &str = "postgres";
/// The database that clients come to.
const NAME: &str = "postgres";

/// What the databases of a new cluster are run with.
pub fn find(consul: bool) -> anyhow::Result<Database> {
    const HELP: &str = "`make setup` puts it in place, and --no-postgres does without";
    let bin_dir = find_server()
        .with_context(|| format!("PostgreSQL is not below /usr/lib/postgresql: {HELP}"))?;
    let patroni = find_patroni("patroni");
    if find_program(&patroni).is_none() {
        bail!(
            "Patroni is neither in PATH nor at {}: {HELP}",
            patroni.display()
        );
    }
    if !has_user(USER) {
        bail!("there is no user {USER:?} to run databases as: {HELP}");
    }
    Ok(Database {
        bin_dir,
        patroni,
        consul,
    })
}

/// The databases of a cluster that is up.
pub fn of(mesh: &Mesh) -> anyhow::Result<Database> {
    mesh.database().context(
        "this cluster has no databases: `holdfast dev down` and `holdfast dev up` make one with",
    )
}

/// What the nodes say of the database: of those that do, the one that leads, else the first that
/// knows a leader.
pub fn told(reports: &[NodeReport]) -> Option<&PostgresStatus> {
    let all = || reports.iter().filter_map(|report| report.database());
    let leads = all().find(|status| status.role == Role::Primary);
    let knows = || all().find(|status| status.leader.is_some());
    leads.or_else(knows).or_else(|| all().next())
}

/// The node whose database leads.
fn leader(reports: &[NodeReport]) -> Option<&NodeReport> {
    let leader = told(reports)?.leader.as_ref()?;
    reports
        .iter()
        .find(|report| report.peer().as_ref() == Some(leader))
}

/// Whether a member streams from the leader, and commits wait for it: before that it could not take
/// over.
fn follows(member: &MemberStatus) -> bool {
    member.role == Role::Replica && member.state == "streaming" && member.sync.is_some()
}

/// How far a new cluster of databases is: in words, and whether it is whole. Every node has to
/// lead its clients to the primary.
pub fn progress(reports: &[NodeReport], workers: usize) -> (String, bool) {
    let Some(status) = told(reports) else {
        return ("no database says anything yet".to_owned(), false);
    };
    let following = status.members.iter().filter(|member| follows(member));
    let following = following.count();
    let expected = workers - 1;
    let endpoints = reports.iter().filter(|report| reaches_primary(report));
    let reached = endpoints.count();
    let text = match (&status.leader, problem(reports)) {
        (_, Some(problem)) => problem,
        (None, None) => "initdb".to_owned(),
        (Some(leader), None) if following < expected => {
            format!("{leader} leads, {following} of {expected} replicas are waited for")
        }
        (Some(leader), None) => format!(
            "{leader} leads, {following} of {expected} replicas are waited for, reached from {reached} of {}",
            reports.len()
        ),
    };
    let whole = status.leader.is_some() && following == expected && reached == reports.len();
    (text, whole)
}

/// What keeps a database from being started.
fn problem(reports: &[NodeReport]) -> Option<String> {
    reports.iter().find_map(|report| {
        let sidecar = report.sidecar()?;
        let child = sidecar.children.iter().find(|c| c.name == "patroni")?;
        let why = child.problem.as_ref()?;
        Some(format!("{}: {why}", report.node()))
    })
}

fn reaches_primary(report: &NodeReport) -> bool {
    let status = report.database();
    let endpoint = status.and_then(primary_endpoint);
    endpoint.is_some_and(|endpoint| !endpoint.leads_to.is_empty())
}

fn primary_endpoint(status: &PostgresStatus) -> Option<&EndpointStatus> {
    let mut endpoints = status.endpoints.iter();
    endpoints.find(|endpoint| endpoint.name == "primary")
}

/// Where clients on any node reach the primary.
fn primary() -> SocketAddr {
    EndpointSettings::default().primary
}

/// Where they reach the replicas.
fn replicas() -> SocketAddr {
    EndpointSettings::default().replicas
}

/// Whom clients say they are.
fn login(mesh: &Mesh, node: &str) -> anyhow::Result<Login> {
    Ok(Login {
        user: USER.to_owned(),
        password: Some(mesh.superuser_password(node)?.to_string()),
        database: NAME.to_owned(),
    })
}

/// The node that a client runs on: the named one, else the first worker whose endpoint leads to the
/// primary, else the first that runs.
fn client_node(mesh: &Mesh, named: Option<&str>) -> anyhow::Result<String> {
    if let Some(node) = named {
        mesh.check_node(node)?;
        return Ok(node.to_owned());
    }
    let reports = view::collect(mesh);
    let reaches = |report: &&NodeReport| is_worker(report.node()) && reaches_primary(report);
    if let Some(report) = reports.iter().find(reaches) {
        return Ok(report.node().to_owned());
    }
    let runs = |node: &String| mesh.process(node).is_some_and(|id| id.is_alive());
    let mut workers = mesh.nodes().into_iter().filter(|node| is_worker(node));
    let found = workers.find(runs);
    found.context("no worker runs: `holdfast dev heal` starts them")
}

fn is_worker(node: &str) -> bool {
    node.starts_with(holdfast_bootstrap::identity::WORKER)
}

/// Where libpq finds the password: a file that only its owner can read. All nodes derive the same.
fn password_file(mesh: &Mesh, node: &str) -> anyhow::Result<PathBuf> {
    let path = mesh.folder().join("pgpass");
    if !path.exists() {
        let password = mesh.superuser_password(node)?;
        // A derived password has neither a colon nor a backslash, which would have to be quoted.
        let line = Zeroizing::new(format!("*:*:*:{USER}:{}\n", *password));
        write_secret(&path, &line)?;
    }
    Ok(path)
}

/// What libpq is told of an endpoint, in its own variables.
fn libpq(mesh: &Mesh, node: &str, at: SocketAddr) -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("PGHOST", at.ip().to_string()),
        ("PGPORT", at.port().to_string()),
        ("PGUSER", USER.to_owned()),
        ("PGDATABASE", NAME.to_owned()),
        (
            "PGPASSFILE",
            password_file(mesh, node)?.display().to_string(),
        ),
        ("PGSSLMODE", "verify-full".to_owned()),
        ("PGSSLROOTCERT", mesh.ca(node).display().to_string()),
        ("PGCONNECT_TIMEOUT", "10".to_owned()),
    ])
}
