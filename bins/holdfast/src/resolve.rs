//! The names of STUN and TURN servers: looked up for a moment at the start, and after that in
//! the background. A machine that boots may have no resolver for a while, and a node goes on
//! without the servers that it cannot find yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{self, HostPort};

/// How long the start waits for names: a resolver that works answers in milliseconds.
const FIRST_BOUND: Duration = Duration::from_secs(2);
/// How long a later look may take: longer than the system's resolver tries by default (5 s,
/// twice, for each of three servers), so that looks do not pile up.
const LOOK_BOUND: Duration = Duration::from_secs(40);
/// The pause after a look that left a name without an address; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The longest pause: a server whose name appears late is used within a minute.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long names that were found wait for the others.
const OTHERS_BOUND: Duration = Duration::from_secs(60);

/// Addresses of servers by what the configuration calls them.
pub type Addresses = BTreeMap<String, SocketAddr>;

/// Names that are looked up until they have an address that a socket on `listen` can reach.
pub struct Names {
    listen: SocketAddr,
    missing: Vec<HostPort>,
}

impl Names {
    /// These names, each once. Those that are addresses need no resolver: they are returned, or
    /// left out for good if their family is not that of `listen`.
    pub fn new<'a>(
        servers: impl Iterator<Item = &'a HostPort>,
        listen: SocketAddr,
    ) -> (Names, Addresses) {
        let mut found = Addresses::new();
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for server in servers.filter(|server| seen.insert(server.to_string())) {
            if server.host.parse::<IpAddr>().is_err() {
                missing.push(server.clone());
                continue;
            }
            match config::resolve(server, listen) {
                Ok(address) => drop(found.insert(server.to_string(), address)),
                Err(error) => tracing::warn!(%server, %error, "going on without this server"),
            }
        }
        (Names { listen, missing }, found)
    }

    /// Do not look up what is known.
    pub fn forget(&mut self, known: &Addresses) {
        self.missing
            .retain(|server| !known.contains_key(&server.to_string()));
    }

    /// Whether every name has been found.
    pub fn is_done(&self) -> bool {
        self.missing.is_empty()
    }

    /// The look at the start, at most [`FIRST_BOUND`].
    pub async fn first_look(&mut self) -> Addresses {
        let found = self.look(FIRST_BOUND).await;
        for server in &self.missing {
            tracing::warn!(%server, "a server's name has no address yet: going on without it");
        }
        found
    }

    /// Look until every name has an address, or until what was found is `enough`; that is asked
    /// after each look, with the time since the first name was found.
    pub async fn look_until(&mut self, enough: impl Fn(&Addresses, Duration) -> bool) -> Addresses {
        let mut found = Addresses::new();
        let mut found_first = None;
        let mut pause = PAUSE_MIN;
        while !self.is_done() {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            found.extend(self.look(LOOK_BOUND).await);
            if !found.is_empty() {
                let waited = found_first.get_or_insert_with(Instant::now).elapsed();
                if enough(&found, waited) {
                    break;
                }
            }
        }
        found
    }

    /// What a node that runs already is told once: all names, or those that were found while
    /// others still have no address after [`OTHERS_BOUND`].
    pub async fn rest(mut self) -> Addresses {
        let found = self.look_until(|_, waited| waited >= OTHERS_BOUND).await;
        for server in &self.missing {
            tracing::warn!(%server, "a server's name has no address: going on without it for good");
        }
        found
    }

    /// Ask for all names at the same time.
    async fn look(&mut self, bound: Duration) -> Addresses {
        let (sender, mut answers) = mpsc::unbounded_channel();
        for server in self.missing.clone() {
            let (sender, listen) = (sender.clone(), self.listen);
            // Not one of the runtime's threads: those are waited for at the end, and a resolver
            // that does not answer would hold the node up.
            let thread = thread::Builder::new().name("resolver".to_owned());
            let started = thread.spawn(move || {
                let answer = config::resolve(&server, listen);
                // Nobody waits for an answer after the bound.
                let _ = sender.send((server, answer));
            });
            if let Err(error) = started {
                tracing::warn!(%error, "cannot look a name up");
            }
        }
        drop(sender);
        let mut found = Addresses::new();
        let collect = async {
            while let Some((server, answer)) = answers.recv().await {
                match answer {
                    Ok(address) => {
                        tracing::debug!(%server, %address, "found a server");
                        found.insert(server.to_string(), address);
                    }
                    Err(error) => tracing::debug!(%server, %error, "a name has no address"),
                }
            }
        };
        // What came in time counts.
        let _ = timeout(bound, collect).await;
        self.forget(&found);
        found
    }
}

#[cfg(test)]
mod tests {
    use holdfast_io::real::block_on;

    use super::*;

    fn servers(texts: &[&str]) -> Vec<HostPort> {
        let parse = |text: &&str| HostPort::parse(text, None).expect("a server");
        texts.iter().map(parse).collect()
    }

    #[test]
    fn addresses_need_no_resolver_and_one_of_another_family_is_left_out() {
        let servers = servers(&["203.0.113.10:3478", "[2001:db8::1]:3478"]);
        let (names, found) = Names::new(servers.iter(), ([0, 0, 0, 0], 0).into());
        assert!(names.is_done());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["203.0.113.10:3478"]);
    }

    #[test]
    fn a_name_without_an_address_stays_missing_while_others_are_found() {
        let servers = servers(&["localhost:3478", "absent.invalid:3478", "localhost:3478"]);
        let (mut names, found) = Names::new(servers.iter(), ([0, 0, 0, 0], 0).into());
        assert!(found.is_empty());
        let found = block_on(names.first_look()).expect("a runtime");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["localhost:3478"]);
        assert!(!names.is_done());
    }
}
