//! The sidecar as a whole, with real processes and a mesh, and without Consul.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::sidecar::{Known, Sidecar, child, is_ready, mesh, options, peers, state_of};
use common::{Folder, alone, consul_alone, exists, until};
use holdfast_io::clock::Clock;
use holdfast_io::http::StatusCode;
use holdfast_io::kv::{Answer, Condition, Entry, Failure, FailureKind, Kv, Request, Response};
use holdfast_io::real::{RealClock, block_on};
use holdfast_sidecar::{
    Ask, Consul, Member, Options, Peer, Reload, SidecarStatus, SlotOptions, run_asked, services,
};
use tokio::sync::mpsc;

#[test]
fn a_pinned_machine_becomes_ready_and_ends_in_order() {
    let _one = alone();
    let folder = Folder::new("run");
    let order = folder.file("order");
    std::fs::write(folder.file("hosts"), "127.0.0.1 localhost\n").unwrap();
    let script = |name: &str| {
        let (order, set) = (order.display(), folder.file(name));
        let trap = format!(
            "trap 'echo {name} >> {order}; exit 0' TERM; touch {}",
            set.display()
        );
        format!("{trap}; while :; do sleep 0.02; done")
    };
    block_on(async {
        let mut options = options(&folder);
        let mut second = child("second", &script("second"));
        second.after = vec!["first".parse().unwrap()];
        options.children = vec![second, child("first", &script("first"))];
        let sidecar = Sidecar::start(options);
        let status = sidecar.until("ready", is_ready).await;
        let traps = ["first", "second"].map(|name| folder.file(name));
        until("both listen to signals", || {
            traps.iter().all(|set| set.exists())
        })
        .await;
        assert_eq!(status.id.as_deref(), Some("worker-3"));
        assert_eq!(
            (status.slot.slot, status.slot.state.as_str()),
            (Some(3), "pinned")
        );
        assert_eq!(status.hosts, "written");
        let (code, page) = sidecar.page("/readyz").await.unwrap();
        assert_eq!((code, &page["ready"]), (StatusCode::OK, &true.into()));
        let (_, page) = sidecar.page("/status").await.unwrap();
        assert_eq!(page["id"], "worker-3", "the mesh's own status is there too");
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
        for child in status.children.iter().filter_map(|child| child.pid) {
            assert!(!exists(child.try_into().unwrap()));
        }
    })
    .unwrap();
    assert_eq!(folder.text("order"), "second\nfirst\n");
    let hosts = folder.text("hosts");
    assert!(hosts.starts_with("127.0.0.1 localhost\n"), "{hosts}");
    assert!(hosts.contains("127.50.0.202 worker-4\n"), "{hosts}");
}

#[test]
fn a_lone_coordinator_runs_consul_and_registers_its_services() {
    let _one = alone();
    let Some(program) = consul_alone() else {
        return;
    };
    let folder = Folder::new("lone");
    block_on(async {
        let mut options = options(&folder);
        options.role = "coordinator".to_owned();
        options.slots.pinned = Some(0);
        let coordinator = |id: &str| Peer {
            id: id.parse().unwrap(),
            vip: 203.try_into().unwrap(),
        };
        options.peers = vec![coordinator("coordinator-0")];
        options.mesh = Box::new(move |member| {
            let mut made = mesh(&Member {
                id: "worker-3".parse().unwrap(),
                ..member.clone()
            })?;
            made.config.id = member.id.clone();
            made.config.peers.clear();
            Ok(made)
        });
        options.consul = Some(Consul {
            program,
            raft_multiplier: 1,
            ..Consul::default()
        });
        std::fs::create_dir_all(folder.file("run")).unwrap();
        let text = r#"[{"name":"web","port":80,"subset":"blue","check":{"child":"app"}}]"#;
        options.services = services::parse(text).unwrap();
        let mut app = child("app", "exec sleep 1000");
        app.after = vec!["consul".parse().unwrap()];
        options.children = vec![app];
        let started = std::time::Instant::now();
        let sidecar = Sidecar::start(options);
        let status = sidecar.until("ready", is_ready).await;
        eprintln!("ready after {:?}", started.elapsed());
        assert!(status.consul.unwrap().ready);
        let is_there = |s: &SidecarStatus| s.services.iter().any(|one| one.registered);
        let status = sidecar.until("registered", is_there).await;
        eprintln!("registered after {:?}", started.elapsed());
        assert_eq!(status.services[0].id, "web-coordinator-0");
        assert_eq!(status.services[0].tags, ["blue"]);
        let role = Ask::Role {
            service: "web".to_owned(),
            tags: vec!["green".to_owned()],
        };
        sidecar.ask(role).await;
        let both = |s: &SidecarStatus| s.services.iter().any(|one| one.tags == ["blue", "green"]);
        sidecar.until("another role", both).await;
        let agent = status
            .children
            .iter()
            .find(|child| child.name == "consul")
            .unwrap();
        let pid: i32 = agent.pid.unwrap().try_into().unwrap();
        // SAFETY: two integers: the agent that this test has started.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        let again = |s: &SidecarStatus| {
            let mut children = s.children.iter();
            is_ready(s) && children.any(|child| child.name == "consul" && child.restarts == 1)
        };
        sidecar.until("the agent is started again", again).await;
        let stopping = std::time::Instant::now();
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
        eprintln!("ended within {:?}", stopping.elapsed());
        assert!(!exists(pid));
    })
    .unwrap();
}

#[test]
fn a_child_that_ends_again_and_again_takes_nobody_down() {
    let _one = alone();
    let folder = Folder::new("flap");
    block_on(async {
        let mut options = options(&folder);
        let mut flapping = child("flapping", "exit 1");
        flapping.max_restarts = 3;
        options.children = vec![flapping, child("calm", "exec sleep 1000")];
        let sidecar = Sidecar::start(options);
        let calm = |status: &SidecarStatus| {
            let calm = status.children.iter().find(|child| child.name == "calm");
            calm.and_then(|calm| calm.pid)
        };
        let before = sidecar.until("calm", |status| calm(status).is_some()).await;
        let is_failed = |status: &SidecarStatus| state_of(status, "flapping") == "failed";
        let after = sidecar.until("flapping is given up", is_failed).await;
        assert_eq!(calm(&after), calm(&before), "the same process");
        assert_eq!(state_of(&after, "mesh"), "ready");
        let (code, page) = sidecar.page("/readyz").await.unwrap();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        let reason = page["reason"].as_str().unwrap();
        assert_eq!(reason, "flapping is failed");
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_second_request_to_end_does_not_wait_for_deadlines() {
    let _one = alone();
    let folder = Folder::new("stubborn");
    block_on(async {
        let mut options = options(&folder);
        let started = folder.file("started");
        let script = format!(
            "trap '' TERM; touch {}; while :; do sleep 1; done",
            started.display()
        );
        let mut stubborn = child("stubborn", &script);
        stubborn.stop_deadline = Duration::from_secs(3600);
        options.children = vec![stubborn];
        let sidecar = Sidecar::start(options);
        until("it is stubborn", || started.exists()).await;
        sidecar.ask(Ask::Stop).await;
        sidecar
            .until("stopping", |s| state_of(s, "stubborn") == "stopping")
            .await;
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_reload_touches_only_what_changed() {
    let _one = alone();
    let folder = Folder::new("reload");
    block_on(async {
        let mut options = options(&folder);
        let list = |script: &str| vec![child("same", "exec sleep 1000"), child("other", script)];
        options.children = list("exec sleep 1001");
        let less = peers().into_iter().take(1).collect::<Vec<_>>();
        let children = list("exec sleep 1002");
        options.reload = Box::new(move |_| {
            Ok(Reload {
                peers: less.clone(),
                children: children.clone(),
                ..Reload::default()
            })
        });
        let sidecar = Sidecar::start(options);
        let pid = |status: &SidecarStatus, name: &str| {
            let found = status.children.iter().find(|child| child.name == name);
            found.and_then(|child| child.pid)
        };
        let before = sidecar.until("ready", is_ready).await;
        sidecar.ask(Ask::Reload).await;
        let other = pid(&before, "other");
        let is_new = |s: &SidecarStatus| is_ready(s) && pid(s, "other") != other;
        let after = sidecar.until("another process", is_new).await;
        assert_eq!(pid(&after, "same"), pid(&before, "same"));
        assert!(
            !folder.text("hosts").contains("worker-4"),
            "removed peers vanish"
        );
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_state_folder_has_one_sidecar() {
    let _one = alone();
    let folder = Folder::new("twice");
    block_on(async {
        let first = Sidecar::start(options(&folder));
        first.until("ready", is_ready).await;
        let (_asks, asked) = mpsc::channel(1);
        let mut second = options(&folder);
        second.admin = None;
        // The reaper is the process's: the second one would be another process.
        let error = run_asked(second, asked).await.unwrap_err();
        assert!(
            error.to_string().contains("another sidecar uses"),
            "{error}"
        );
        first.ask(Ask::Stop).await;
        first.ended().await.unwrap();
    })
    .unwrap();
}

/// A KV that answers every request alike.
struct Always(Failure);

impl Kv for Always {
    fn call(&self, _request: Request) -> Answer<'_> {
        let failure = self.0.clone();
        Box::pin(async move { Err(failure) })
    }
}

fn claiming(folder: &Folder, kind: FailureKind) -> Options<Known> {
    let mut options = options(folder);
    options.slots.pinned = None;
    options.slots.patience = Duration::from_millis(200);
    options.kv = Some(Rc::new(Always(Failure::determinate(kind, "told so"))));
    options
}

#[test]
fn a_machine_that_gets_no_slot_ends_with_the_exit_code_that_says_why() {
    let _one = alone();
    let folder = Folder::new("codes");
    block_on(async {
        for (options, code) in [
            (claiming(&folder, FailureKind::Unavailable), 3),
            (claiming(&folder, FailureKind::Forbidden), 6),
        ] {
            let sidecar = Sidecar::start(options);
            assert_eq!(sidecar.ended().await.unwrap_err().exit_code(), code);
        }
        let mut unknown = options(&folder);
        unknown.slots.pinned = Some(9);
        let error = Sidecar::start(unknown).ended().await.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("worker-9"), "{error}");
    })
    .unwrap();
}

/// A KV with one slot of interest, which somebody else may overwrite.
#[derive(Default)]
struct OneEntry(RefCell<Option<Entry>>);

impl OneEntry {
    fn overwrite(&self, value: &str) {
        let mut entry = self.0.borrow_mut();
        let entry = entry.as_mut().unwrap();
        entry.value = value.to_owned().into();
        entry.modify_index += 1;
    }

    fn put(&self, key: String, value: Bytes, condition: Condition) -> bool {
        let mut held = self.0.borrow_mut();
        let index = held.as_ref().map_or(0, |entry| entry.modify_index);
        let permitted = match condition {
            Condition::Any => true,
            Condition::Absent => held.is_none(),
            Condition::Unchanged(expected) => expected == index,
        };
        if permitted {
            *held = Some(Entry {
                key,
                value,
                create_index: 1,
                modify_index: index + 1,
                lock_index: 0,
                session: None,
            });
        }
        permitted
    }
}

impl Kv for OneEntry {
    fn call(&self, request: Request) -> Answer<'_> {
        Box::pin(async move {
            if let Request::Get { wait: Some(_), .. } | Request::List { wait: Some(_), .. } =
                &request
            {
                // Nothing here wakes who waits: they look again now and then.
                RealClock.sleep(Duration::from_millis(20)).await;
            }
            let entry = self.0.borrow().clone();
            let index = entry.as_ref().map_or(1, |entry| entry.modify_index);
            Ok(match request {
                Request::Get { .. } => Response::Entry { index, entry },
                Request::List { .. } => {
                    let entries = entry.into_iter().collect();
                    Response::Entries { index, entries }
                }
                Request::Put {
                    key,
                    value,
                    condition,
                } => Response::Done(self.put(key, value, condition)),
                _ => return Err(Failure::determinate(FailureKind::Invalid, "not asked here")),
            })
        })
    }
}

#[test]
fn a_machine_whose_slot_is_taken_ends_its_children_and_itself() {
    let _one = alone();
    let folder = Folder::new("taken");
    block_on(async {
        let kv = Rc::new(OneEntry::default());
        let mut options = options(&folder);
        options.slots = SlotOptions {
            lease: Duration::from_secs(3),
            ..SlotOptions::default()
        };
        options.kv = Some(kv.clone());
        options.children = vec![child("app", "exec sleep 1000")];
        let sidecar = Sidecar::start(options);
        let status = sidecar.until("ready", is_ready).await;
        assert_eq!(status.slot.slot, Some(3), "the lowest");
        assert_eq!(status.slot.state, "owning");
        assert!(status.slot.lease_left_ms.is_some(), "{status:?}");
        kv.overwrite(
            r#"{"holdfast":1,"instance":"other","run":"00000000000000000000000000000000","beat":1,"lease_ms":600000}"#,
        );
        let error = sidecar.ended().await.unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert!(error.to_string().contains("other"), "{error}");
        let app = status.children.iter().find(|child| child.name == "app").unwrap();
        assert!(!exists(app.pid.unwrap().try_into().unwrap()));
    })
    .unwrap();
}

#[test]
fn the_admin_page_answers_before_there_is_a_slot() {
    let _one = alone();
    let folder = Folder::new("early");
    block_on(async {
        let mut options = claiming(&folder, FailureKind::Unavailable);
        options.slots.patience = Duration::ZERO;
        let sidecar = Sidecar::start(options);
        let is_waiting = |status: &SidecarStatus| status.slot.waiting_for.is_some();
        let status = sidecar.until("it says what it waits for", is_waiting).await;
        assert_eq!(status.phase, "claiming");
        assert!(status.not_ready[0].contains("told so"), "{status:?}");
        let (code, _) = sidecar.page("/readyz").await.unwrap();
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

/// A KV that answers, or does not, as somebody says.
#[derive(Default)]
struct Moody {
    kv: OneEntry,
    away: Cell<bool>,
}

impl Kv for Moody {
    fn call(&self, request: Request) -> Answer<'_> {
        Box::pin(async move {
            if self.away.get() {
                // As a connection that is refused: not at once, again and again.
                RealClock.sleep(Duration::from_millis(20)).await;
                let kind = FailureKind::Unavailable;
                return Err(Failure::determinate(kind, "told so"));
            }
            self.kv.call(request).await
        })
    }
}

#[test]
fn what_stood_in_the_way_of_a_renewal_is_gone_with_it() {
    let _one = alone();
    let folder = Folder::new("moody");
    block_on(async {
        let kv = Rc::new(Moody::default());
        let mut options = options(&folder);
        options.slots = SlotOptions {
            // Renewed after a third of it: often enough for a test.
            lease: Duration::from_secs(3),
            pinned: Some(3),
            ..SlotOptions::default()
        };
        options.kv = Some(kv.clone());
        let sidecar = Sidecar::start(options);
        sidecar
            .until("owning", |status| status.slot.state == "owning")
            .await;
        kv.away.set(true);
        let waits = |status: &SidecarStatus| status.slot.waiting_for.is_some();
        let status = sidecar.until("it says so", waits).await;
        assert!(
            is_ready(&status),
            "a KV that is away for a moment costs nothing"
        );
        kv.away.set(false);
        sidecar
            .until("it no longer says so", |status| !waits(status))
            .await;
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_pinned_machine_whose_token_is_refused_runs_and_is_not_ready() {
    let _one = alone();
    let folder = Folder::new("refused");
    block_on(async {
        let mut options = claiming(&folder, FailureKind::Forbidden);
        options.slots.pinned = Some(3);
        let sidecar = Sidecar::start(options);
        let is_refused = |status: &SidecarStatus| {
            let mut why = status.not_ready.iter();
            status.phase == "running" && why.any(|why| why.contains("refuses us"))
        };
        let status = sidecar.until("it says so", is_refused).await;
        assert!(status.slot.refused && status.slot.pinned);
        sidecar.ask(Ask::Stop).await;
        sidecar.ended().await.unwrap();
    })
    .unwrap();
}
