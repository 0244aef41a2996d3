//! What is seen of a failover, from several places at once and on one clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use holdfast_io::http::StatusCode;
use holdfast_postgres::PostgresStatus;

use super::primary_endpoint;
use crate::dev::plan::{CLUSTER, KV_PORT, REST_PORT, SERVER};
use crate::dev::state::Mesh;
use crate::dev::view::NodeReport;
use crate::status::{fetch, get};

/// How often each is asked. Patroni answers in a few milliseconds.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The endpoint leads to the old leader no more.
    Detected,
    /// The key names nobody, or another.
    KeyFree,
    /// A database leads: the peer, and its timeline.
    Promoted(String, Option<u64>),
}

/// Those who look; told to stop with the value.
pub struct Watch {
    /// What they see, with the instant.
    pub events: Receiver<(Event, Instant)>,
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // One that panicked has seen nothing more.
            let _ = thread.join();
        }
    }
}

/// One who looks, until it has seen it.
struct Eye {
    to: Sender<(Event, Instant)>,
    enough: Arc<AtomicBool>,
}

impl Eye {
    fn look(&self, mut see: impl FnMut() -> Option<Event>) {
        while !self.enough.load(Ordering::Acquire) {
            let begun = Instant::now();
            if let Some(event) = see() {
                // Nobody hears it any more: the same as enough.
                let _ = self.to.send((event, Instant::now()));
                return;
            }
            thread::sleep(ASK_EVERY.saturating_sub(begun.elapsed()));
        }
    }
}

impl Watch {
    /// Look from `client` at its endpoint and the KV, and on every other worker at its database.
    pub fn start(
        mesh: &Mesh,
        reports: &[NodeReport],
        client: &str,
        old: &NodeReport,
    ) -> anyhow::Result<Watch> {
        let (to, events) = mpsc::channel();
        let mut watch = Watch {
            events,
            enough: Arc::default(),
            threads: Vec::new(),
        };
        let old_peer = old.peer().unwrap_or_default();
        let admin = mesh.admin();
        let peer = old_peer.clone();
        watch.add(mesh, client, &to, move || leaves(admin, &peer))?;
        let key = match mesh.database().is_some_and(|database| database.consul) {
            true => SocketAddr::from(([127, 0, 0, 1], KV_PORT)),
            false => SocketAddr::from((SERVER, KV_PORT)),
        };
        let held = format!("{old_peer}-");
        watch.add(mesh, client, &to, move || is_free(key, &held))?;
        for report in reports.iter().filter(|report| report.node() != old.node()) {
            let Some((peer, status)) = report.peer().zip(report.database()) else {
                continue;
            };
            if let Some(rest) = rest_of(report, status) {
                watch.add(mesh, report.node(), &to, move || leads(rest, &peer))?;
            }
        }
        Ok(watch)
    }

    fn add(
        &mut self,
        mesh: &Mesh,
        node: &str,
        to: &Sender<(Event, Instant)>,
        see: impl FnMut() -> Option<Event> + Send + 'static,
    ) -> anyhow::Result<()> {
        let door = mesh.lab.door(node)?;
        let eye = Eye {
            to: to.clone(),
            enough: self.enough.clone(),
        };
        self.threads.push(thread::spawn(move || {
            // A namespace that is gone shows nothing.
            if door.enter().is_ok() {
                eye.look(see);
            }
        }));
        Ok(())
    }
}

/// Where a worker's own Patroni answers, if it has one.
fn rest_of(report: &NodeReport, status: &PostgresStatus) -> Option<SocketAddr> {
    let peer = report.peer()?;
    let is_member = status.members.iter().any(|member| member.peer == peer);
    let vip = report.vip()?;
    is_member.then_some(SocketAddr::new(vip, REST_PORT))
}

fn leaves(admin: SocketAddr, old: &str) -> Option<Event> {
    let status = fetch(admin).ok()?.sidecar?.postgres?;
    let endpoint = primary_endpoint(&status)?;
    let leads = endpoint.leads_to.iter().any(|peer| peer == old);
    (!leads).then_some(Event::Detected)
}

/// The entry's value is Patroni's name of the leader, which begins with the peer id.
fn is_free(kv: SocketAddr, held: &str) -> Option<Event> {
    let path = format!("/v1/kv/service/{CLUSTER}/leader?raw");
    let is_held = match get(kv, &path).ok()? {
        (StatusCode::OK, name) => name.starts_with(held.as_bytes()),
        (StatusCode::NOT_FOUND, _) => false,
        _ => true,
    };
    (!is_held).then_some(Event::KeyFree)
}

fn leads(rest: SocketAddr, peer: &str) -> Option<Event> {
    let (status, body) = get(rest, "/primary").ok()?;
    if status != StatusCode::OK {
        return None;
    }
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    Some(Event::Promoted(peer.to_owned(), body["timeline"].as_u64()))
}
