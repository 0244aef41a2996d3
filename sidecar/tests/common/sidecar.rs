//! The sidecar as a whole, with real processes and a mesh.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::config::{Config, PeerConfig};
use holdfast_core::identity::Identity;
use holdfast_io::clock::timeout;
use holdfast_io::http::{Client, Endpoint, Method, StatusCode};
use holdfast_io::mesh::{DRAIN_DEFAULT, MeshOptions};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, os_seed};
use holdfast_io::spawn::Spawn;
use holdfast_sidecar::{
    Ask, Bootstrap, Child, Error, Member, Options, Peer, Postgres, Prepared, SidecarStatus,
    SlotOptions, run_asked,
};
use tokio::sync::mpsc;

use super::{Folder, PATIENCE, sh, until};

pub const ADMIN: &str = "127.91.7.1:7390";

/// A machine of which everything is known, with a database or without.
#[derive(Default)]
pub struct Known(pub Option<Postgres>);

impl Bootstrap for Known {
    async fn prepare(&mut self) -> Result<Prepared, Error> {
        Ok(Prepared {
            instance: "instance-1".to_owned(),
            gossip_key: None,
        })
    }

    async fn finish(&mut self, _member: &Member) -> Result<(), Error> {
        Ok(())
    }

    async fn postgres(&mut self) -> Result<Option<Postgres>, Error> {
        Ok(self.0.take())
    }
}

pub fn peers() -> Vec<Peer> {
    let peer = |(id, vip): (&str, u16)| Peer {
        id: id.parse().unwrap(),
        vip: vip.try_into().unwrap(),
    };
    [("worker-3", 201), ("worker-4", 202)]
        .into_iter()
        .map(peer)
        .collect()
}

pub fn mesh(member: &Member) -> Result<MeshOptions, Error> {
    let identity = |peer: &Peer| Identity::from_seed([peer.vip.octet(); 32]);
    let (own, others): (Vec<Peer>, Vec<Peer>) =
        peers().into_iter().partition(|peer| peer.id == member.id);
    Ok(MeshOptions {
        config: Config {
            id: member.id.clone(),
            vip: member.vip,
            identity: identity(&own[0]),
            peers: others
                .iter()
                .map(|peer| PeerConfig {
                    id: peer.id.clone(),
                    vip: peer.vip,
                    key: identity(peer).public(),
                })
                .collect(),
            allow: Vec::new(),
            udp_port: 0,
            stun: Vec::new(),
            turn: Vec::new(),
            paths: Default::default(),
            congestion: Default::default(),
            limits: Default::default(),
        },
        seed: os_seed().unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        brokers: Vec::new(),
        forward: Vec::new(),
        admin: None,
        dumps: None,
        drain: DRAIN_DEFAULT,
        late_servers: None,
        version: "test".to_owned(),
    })
}

pub fn child(name: &str, script: &str) -> Child {
    Child {
        backoff_first: Duration::from_millis(10),
        ..Child::new(name.parse().unwrap(), sh(script))
    }
}

pub fn options(folder: &Folder) -> Options<Known> {
    Options {
        cluster: "test".to_owned(),
        role: "worker".to_owned(),
        peers: peers(),
        slots: SlotOptions {
            pinned: Some(3),
            ..SlotOptions::default()
        },
        kv: None,
        state_dir: folder.file("state"),
        run_dir: folder.file("run"),
        hosts_file: Some(folder.file("hosts")),
        consul: None,
        services: Vec::new(),
        children: Vec::new(),
        admin: Some(ADMIN.parse().unwrap()),
        version: "test".to_owned(),
        bootstrap: Known::default(),
        mesh: Box::new(mesh),
        reload: Box::new(|_| Err("nothing to reload".to_owned())),
    }
}

pub type Outcome = Rc<RefCell<Option<Result<(), Error>>>>;

pub struct Sidecar {
    pub asks: mpsc::Sender<Ask>,
    pub outcome: Outcome,
    _task: holdfast_io::spawn::Task,
}

impl Sidecar {
    pub fn start(options: Options<Known>) -> Sidecar {
        let (asks, asked) = mpsc::channel(8);
        let outcome = Outcome::default();
        let told = outcome.clone();
        let task = RealSpawn.spawn("sidecar", async move {
            let result = run_asked(options, asked).await;
            *told.borrow_mut() = Some(result);
        });
        Sidecar {
            asks,
            outcome,
            _task: task,
        }
    }

    pub async fn ask(&self, ask: Ask) {
        self.asks.send(ask).await.unwrap();
    }

    pub async fn ended(&self) -> Result<(), Error> {
        until("the end", || self.outcome.borrow().is_some()).await;
        self.outcome.borrow_mut().take().unwrap()
    }

    pub async fn page(&self, path: &str) -> Option<(StatusCode, serde_json::Value)> {
        let addr: SocketAddr = ADMIN.parse().unwrap();
        let at: Endpoint = format!("http://{addr}").parse().unwrap();
        let mut client = Client::new(RealNet, RealClock, RealSpawn, at);
        let asked = client.request(Method::GET, path, Bytes::new(), 1 << 20, PATIENCE);
        let (status, body) = asked.await.ok()?;
        Some((status, serde_json::from_slice(&body).ok()?))
    }

    pub async fn status(&self) -> Option<SidecarStatus> {
        let (_, mut page) = self.page("/status").await?;
        serde_json::from_value(page["sidecar"].take()).ok()
    }

    pub async fn until(&self, what: &str, is_so: impl Fn(&SidecarStatus) -> bool) -> SidecarStatus {
        let looking = async {
            loop {
                if let Some(status) = self.status().await
                    && is_so(&status)
                {
                    return status;
                }
                if let Some(Err(error)) = &*self.outcome.borrow() {
                    panic!("it ended: {error}");
                }
                tokio::task::yield_now().await;
            }
        };
        let found = timeout(&RealClock, PATIENCE, looking).await;
        match found {
            Ok(status) => status,
            Err(_) => panic!("waited in vain for: {what}; {:?}", self.status().await),
        }
    }
}

pub fn is_ready(status: &SidecarStatus) -> bool {
    status.not_ready.is_empty()
}

pub fn state_of<'a>(status: &'a SidecarStatus, name: &str) -> &'a str {
    let found = status.children.iter().find(|child| child.name == name);
    found.map_or("", |child| child.state.as_str())
}
