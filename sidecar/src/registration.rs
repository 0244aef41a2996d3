//! Keeps what the Consul agent knows of this machine's services as it should be.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::http::Endpoint;
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::options::Member;
use crate::services::Service;
use crate::status::Shared;

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

pub(crate) async fn keep<N: Net, C: Clock, S: Spawn>(
    (_net, clock, _spawn): (N, C, S),
    _at: &Endpoint,
    _token: Option<Zeroizing<String>>,
    _member: Member,
    _wanted: watch::Receiver<Wanted>,
    _shared: Shared,
) {
    clock.sleep(Duration::from_secs(1)).await;
}
