//! What a cluster of databases offers to those who strike and watch it, however its members reach
//! each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_plan::drill::Processes;

use crate::stage::{Stage, StageError};

/// PostgreSQL's port.
pub const SQL_PORT: u16 = 5432;
/// Patroni's REST API.
pub const REST_PORT: u16 = 8008;
/// Consul's API.
pub const KV_PORT: u16 = 8500;
/// Patroni's `scope`.
pub const SCOPE: &str = "drill";
/// How long PostgreSQL, Patroni and the rest may take to end by themselves: a shutdown's
/// checkpoint on a busy machine.
pub const STOP_BOUND: Duration = Duration::from_secs(60);

/// A member: a worker with a database.
#[derive(Clone, Debug)]
pub struct Member {
    /// The worker's name, with which its name in Patroni begins.
    pub name: String,
    /// The namespace in the lab.
    pub space: String,
    /// PostgreSQL, as the other members reach it.
    pub sql: SocketAddr,
    /// Patroni's REST API.
    pub rest: SocketAddr,
    /// The data directory.
    pub data: PathBuf,
    /// Where clients at this worker connect; the first that takes writes is the primary.
    pub clients: Vec<SocketAddr>,
}

/// The passwords of the cluster.
#[derive(Clone, Debug)]
pub struct Logins {
    /// Of PostgreSQL's user `postgres`.
    pub superuser: String,
    /// Name and password for what changes something in Patroni's REST API.
    pub rest: (String, String),
}

/// A cluster that runs.
pub trait Ground {
    /// Its namespaces.
    fn stage(&self) -> &Stage;
    /// Its members.
    fn members(&self) -> &[Member];
    /// Its passwords.
    fn logins(&self) -> &Logins;
    /// A namespace, and addresses of the KV that are reached from there.
    fn kv(&self) -> (String, Vec<SocketAddr>);
    /// The processes of a member.
    ///
    /// # Errors
    /// When processes cannot be listed.
    fn pids(&self, member: usize, what: Processes) -> Result<Vec<u32>, StageError>;
    /// The process of the KV's server that leads, if one does.
    ///
    /// # Errors
    /// When nobody can be asked.
    fn kv_leader(&self) -> Result<Option<u32>, StageError>;
    /// From now on nobody starts the database of a member again, though everything else may run.
    ///
    /// # Errors
    /// When that cannot be told.
    fn hold(&mut self, member: usize) -> Result<(), StageError>;
    /// Starts what does not run of a member, and what does not run of the KV.
    ///
    /// # Errors
    /// What cannot be started.
    fn start(&mut self, member: usize) -> Result<(), StageError>;
    /// Stops everything of a member that a restart of its machine's software would.
    ///
    /// # Errors
    /// When it does not end.
    fn stop(&mut self, member: usize) -> Result<(), StageError>;
    /// From now on nobody starts anything of a member again that is killed, until it is started.
    fn lose(&mut self, member: usize);
    /// Whether a member's line carries nothing.
    ///
    /// # Errors
    /// When it cannot be changed.
    fn cut(&mut self, member: usize, on: bool) -> Result<(), StageError>;
    /// What a member's line does, in the emulator's words; `None` is what it does usually.
    ///
    /// # Errors
    /// When it cannot be changed.
    fn shape(&mut self, member: usize, link: Option<&str>) -> Result<(), StageError>;
    /// The logs of a member. They only grow.
    fn logs(&self, member: usize) -> Vec<PathBuf>;
    /// The logs of all machines, those without a database too. They only grow.
    fn all_logs(&self) -> Vec<PathBuf>;
    /// Whether the Consul agent of a member knows of a leader.
    ///
    /// # Errors
    /// When nobody can be asked.
    fn agent_answers(&self, member: usize) -> Result<bool, StageError>;
    /// What ended that should run, since this was asked last.
    fn ended(&mut self) -> Vec<Ended>;
}

/// Something that ended by itself.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Of which member; none of a machine without a database.
    pub member: Option<usize>,
    /// What, in words.
    pub what: String,
}

/// Whose name in Patroni this is.
pub fn member_of(members: &[Member], patroni: &str) -> Option<usize> {
    members.iter().position(|member| {
        let rest = patroni.strip_prefix(&member.name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}
