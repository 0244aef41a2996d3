//! What only a Consul agent can be asked, against a real one.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::kv::FailureKind;
use holdfast_io::kv::consul::{Agent, Check, Service};
use holdfast_io::real::{RealClock, RealNet, RealSpawn};
use libtest_mimic::Trial;
use serde_json::json;

use super::consul::plain;
use super::real::{RealConsul, run};

/// The agent of a trial.
type RealAgent<'a> = Agent<'a, RealNet, RealClock, RealSpawn>;

/// Trials `async fn name(consul: Rc<RealConsul>)`.
macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(Trial::test(concat!("kv/consul/agent/", stringify!($name)), || {
            run(&plain, |consul| $name(consul))
        })),*]
    };
}

pub fn trials() -> Vec<Trial> {
    trials![
        it_knows_itself_its_members_and_its_leader,
        a_service_is_registered_changed_and_removed,
        maintenance_of_what_is_not_there_is_false,
        a_config_entry_is_written_and_read_back,
        an_intention_permits_and_forbids,
        joining_nobody_is_a_failure,
    ]
}

async fn it_knows_itself_its_members_and_its_leader(consul: Rc<RealConsul>) {
    let agent = consul.agent();
    let about = agent.about().await.unwrap();
    assert_eq!((about.node_name.as_str(), about.server), ("contract", true));
    assert_eq!(about.datacenter, "dc1");
    assert!(about.version.starts_with("1."), "{}", about.version);
    let members = agent.members().await.unwrap();
    assert_eq!(members.len(), 1);
    assert!(
        members[0].is_alive() && members[0].is_server(),
        "{members:?}"
    );
    let leader = agent.leader().await.unwrap();
    assert_eq!(
        agent.peers().await.unwrap(),
        leader.into_iter().collect::<Vec<_>>()
    );
}

async fn a_service_is_registered_changed_and_removed(consul: Rc<RealConsul>) {
    let agent = consul.agent();
    let mut service = Service {
        id: "contract a".to_owned(),
        name: "contract".to_owned(),
        address: Some("127.10.0.1".parse().unwrap()),
        port: 5432,
        tags: vec!["replica".to_owned()],
        meta: BTreeMap::from([("role".to_owned(), "replica".to_owned())]),
        checks: vec![
            Check::Tcp {
                address: "127.0.0.1:1".to_owned(),
                interval: "10s".to_owned(),
                timeout: "1s".to_owned(),
            },
            Check::Ttl {
                ttl: "30s".to_owned(),
            },
        ],
        ..Service::default()
    };
    agent.register_service(&service).await.unwrap();
    agent.register_service(&service).await.unwrap();
    service.tags = vec!["leader".to_owned()];
    agent.register_service(&service).await.unwrap();
    let services = agent.services().await.unwrap();
    let found = services.get(&service.id).unwrap();
    assert_eq!(
        (&found.name, found.port, &found.tags),
        (&service.name, 5432, &service.tags)
    );
    assert_eq!(
        (&found.meta, found.address.as_str()),
        (&service.meta, "127.10.0.1")
    );
    assert!(
        agent
            .service_maintenance(&service.id, true, "a test & more")
            .await
            .unwrap()
    );
    assert!(
        agent
            .service_maintenance(&service.id, false, "")
            .await
            .unwrap()
    );
    assert!(agent.deregister_service(&service.id).await.unwrap());
    assert!(!agent.deregister_service(&service.id).await.unwrap());
    assert!(!agent.services().await.unwrap().contains_key(&service.id));
}

async fn maintenance_of_what_is_not_there_is_false(consul: Rc<RealConsul>) {
    let agent = consul.agent();
    assert!(!agent.service_maintenance("none", true, "").await.unwrap());
    agent.maintenance(true, "a test").await.unwrap();
    agent.maintenance(false, "").await.unwrap();
}

async fn a_config_entry_is_written_and_read_back(consul: Rc<RealConsul>) {
    let agent = consul.agent();
    assert_eq!(
        agent
            .config_entry("service-defaults", "none")
            .await
            .unwrap(),
        None
    );
    let mut entry = BTreeMap::from([("Kind", "service-defaults"), ("Name", "contract-entry")]);
    for protocol in ["http", "tcp", "tcp"] {
        entry.insert("Protocol", protocol);
        agent.put_config_entry(&json!(entry)).await.unwrap();
        let found = agent
            .config_entry("service-defaults", "contract-entry")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(found["Protocol"], protocol);
    }
    let wrong = json!({ "Kind": "nonsense", "Name": "x" });
    let failure = agent.put_config_entry(&wrong).await.unwrap_err();
    assert_eq!(
        (failure.is_determinate(), failure.kind),
        (true, FailureKind::Invalid),
        "{failure}"
    );
}

async fn an_intention_permits_and_forbids(consul: Rc<RealConsul>) {
    let agent = consul.agent();
    for allow in [true, false, false, true] {
        agent
            .put_intention("contract-web", "contract-db", allow)
            .await
            .unwrap();
        agent
            .put_intention("contract-cron", "contract-db", !allow)
            .await
            .unwrap();
        await_intention(&agent, "contract-web", allow).await;
        await_intention(&agent, "contract-cron", !allow).await;
    }
}

/// The agent's answer comes from a cache.
async fn await_intention(agent: &RealAgent<'_>, source: &str, allow: bool) {
    for _ in 0..100 {
        if agent.check_intention(source, "contract-db").await.unwrap() == allow {
            return;
        }
        RealClock.sleep(Duration::from_millis(50)).await;
    }
    panic!(
        "{source} is not {}",
        if allow { "permitted" } else { "forbidden" }
    );
}

async fn joining_nobody_is_a_failure(consul: Rc<RealConsul>) {
    let failure = consul.agent().join("127.0.0.1:1").await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable, "{failure}");
}
