//! Everything around the child `patroni`: what is checked and made before each start, and what is
//! said of the cluster while it runs.
//!
//! * [`Guard::before_start`]: refuses, with a sentence for people, what would go wrong.
//! * [`Guard::watch`]: the role of this member, and the status of the cluster.

mod checks;
mod refusal;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::{Clock, timeout};
use holdfast_io::kv::Kv;
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;
use serde_json::Value;

pub use refusal::Refusal;

use crate::dynamic::{self, Claim, Keys};
use crate::generate::{Error, Generated, Paths, generate, member_name};
use crate::host::{Host, User};
use crate::place::{Credentials, Place};
use crate::real::RealHost;
use crate::settings::Settings;
use crate::tls;

/// The KV answers within its own limit; this one is for all the calls of a reconciliation.
const KV_LIMIT: Duration = Duration::from_secs(30);
/// A larger list of authorities is none, bytes.
const KV_CA_LEN_MAX: u64 = 1 << 20;

/// Everything around the child `patroni`.
pub struct Guard<N, C, S, H = RealHost> {
    pub(crate) settings: Settings,
    pub(crate) place: Place,
    pub(crate) credentials: Credentials,
    pub(crate) kv: Rc<dyn Kv>,
    pub(crate) net: N,
    pub(crate) clock: C,
    pub(crate) spawn: S,
    pub(crate) host: H,
    pub(crate) keys: Keys,
    pub(crate) paths: Paths,
    pub(crate) name: String,
    pub(crate) mark: String,
    /// What the file says of `/config`, as it was read last.
    pub(crate) wanted: RefCell<Option<Value>>,
}

impl<N: Net, C: Clock, S: Spawn> Guard<N, C, S> {
    /// For the real machine. `kv` is the one that [`Place::kv`] names, or sees the same keys.
    ///
    /// # Errors
    /// What no start could mend: the name of the member.
    pub fn new(
        (settings, place, credentials): (Settings, Place, Credentials),
        kv: Rc<dyn Kv>,
        world: (N, C, S),
    ) -> Result<Guard<N, C, S>, Error> {
        Guard::on(RealHost, (settings, place, credentials), kv, world)
    }
}

impl<N: Net, C: Clock, S: Spawn, H: Host> Guard<N, C, S, H> {
    /// For a machine of the caller's.
    ///
    /// # Errors
    /// As [`Guard::new`].
    pub fn on(
        host: H,
        (settings, place, credentials): (Settings, Place, Credentials),
        kv: Rc<dyn Kv>,
        (net, clock, spawn): (N, C, S),
    ) -> Result<Guard<N, C, S, H>, Error> {
        Ok(Guard {
            name: member_name(&place)?,
            mark: dynamic::mark(&place.cluster, &credentials),
            keys: Keys::of(&settings.scope),
            paths: Paths::below(&place.run_dir),
            settings,
            place,
            credentials,
            kv,
            net,
            clock,
            spawn,
            host,
            wanted: RefCell::new(None),
        })
    }

    /// Patroni's name of this member.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where generated files are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Check what would go wrong, make what Patroni needs, and bring `/config` in the KV to what
    /// the file says. To be awaited before each start of Patroni, `patroni <run_dir>/patroni.yml`
    /// as the user, with no `PATRONI_*` and no `PG*` in its environment: Patroni lays the first over
    /// its file, and libpq takes the others. Nothing is removed.
    ///
    /// # Errors
    /// One sentence for people. Trying again may help, when it was mended meanwhile.
    pub async fn before_start(&self) -> Result<(), Refusal> {
        let generated = generate(&self.settings, &self.place, &self.credentials)?;
        self.wanted.replace(Some(generated.dynamic.clone()));
        let user = self.check_user()?;
        let major = self.check_programs(user).await?;
        self.check_data_dir(user, major)?;
        self.check_disk()?;
        self.make_folders(user)?;
        let reconciled = timeout(&self.clock, KV_LIMIT, self.reconcile(major, &generated)).await;
        let late = |_| Refusal::Slow {
            address: self.place.kv.address.clone(),
            limit_s: KV_LIMIT.as_secs(),
        };
        reconciled.map_err(late)??;
        self.write_files(user, &generated)
    }

    async fn reconcile(&self, major: u32, generated: &Generated) -> Result<(), Refusal> {
        // Before the note: that is written before anything of ours makes a cluster, so whoever sees
        // a cluster of ours sees its note, too, also while another member makes it.
        let made = self.initialized().await?;
        // First whose path it is: what another cluster's `initialize` says means nothing.
        let note = self.check_mark().await?;
        self.check_stranger(note.as_ref(), made)?;
        self.check_system().await?;
        let ours = Claim {
            cluster: &self.place.cluster,
            mark: &self.mark,
            major: self.check_major(note.as_ref(), major).await?,
        };
        dynamic::reconcile(&*self.kv, &self.keys, ours, &generated.dynamic).await?;
        Ok(())
    }

    fn make_folders(&self, user: User) -> Result<(), Refusal> {
        let make = |path: &PathBuf| {
            let made = self.host.make_dir(path, 0o700, user);
            made.map_err(|source| Refusal::file("make", path, source))
        };
        make(&self.paths.own)?;
        self.check_reach(&self.paths.own, user)?;
        let data_dir = &self.settings.data_dir;
        // What a first start that failed has made, Patroni renames to `….failed`: the folder above
        // has to be the user's, too. One that is there stays as it is.
        for folder in data_dir
            .parent()
            .map(Path::to_owned)
            .iter()
            .chain([data_dir])
        {
            if self.inspect(folder)?.is_none() {
                make(folder)?;
            }
        }
        // An empty one that is somebody else's: one that is not empty was refused.
        if self
            .inspect(data_dir)?
            .is_some_and(|found| !checks::is_closed(found, user))
        {
            make(data_dir)?;
        }
        self.check_reach(data_dir, user)
    }

    fn write_files(&self, user: User, generated: &Generated) -> Result<(), Refusal> {
        let write = |path: &PathBuf, bytes: &[u8], mode, owner| {
            let written = self.host.write(path, bytes, mode, owner);
            written.map_err(|source| Refusal::file("write", path, source))
        };
        let authority = tls::Authority::derive(&self.place.cluster, &self.credentials);
        write(&self.paths.ca, authority.pem().as_bytes(), 0o644, None)?;
        let server = authority.server(&self.place.id, &self.server_addresses());
        write(
            &self.paths.certificate,
            server.certificate.as_bytes(),
            0o600,
            Some(user),
        )?;
        write(&self.paths.key, server.key.as_bytes(), 0o600, Some(user))?;
        write(
            &self.paths.login,
            self.login_file().as_bytes(),
            0o600,
            Some(user),
        )?;
        if let Some(path) = &self.place.kv.ca_file {
            let read = self.host.read(path, KV_CA_LEN_MAX);
            let read = read.map_err(|source| Refusal::file("read", path, source))?;
            let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
            let pem = read.ok_or_else(|| Refusal::file("read", path, gone()))?;
            write(&self.paths.kv_ca, &pem, 0o600, Some(user))?;
        }
        write(
            &self.paths.patroni_yml,
            generated.yaml.as_bytes(),
            0o600,
            Some(user),
        )
    }

    /// By which addresses clients reach this server.
    fn server_addresses(&self) -> Vec<std::net::IpAddr> {
        let endpoints = &self.settings.endpoints;
        let loopback = std::net::Ipv4Addr::LOCALHOST.into();
        let all = [
            self.place.vip.addr(),
            loopback,
            endpoints.primary.ip(),
            endpoints.replicas.ip(),
        ];
        let mut addresses = Vec::from(all);
        addresses.dedup();
        addresses
    }
}

#[cfg(test)]
mod tests;
