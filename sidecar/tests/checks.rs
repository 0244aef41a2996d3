//! What is looked at before a start, and what is ended after one.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::{PATIENCE, alone, sh, until};
use holdfast_io::clock::timeout;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_io::spawn::Spawn;
use holdfast_sidecar::children::{Check, Children, Command, Hooks, Supervised};
use holdfast_sidecar::processes::RealProcesses;
use holdfast_sidecar::{Child, ChildStatus, Ready, Shared};
use tokio::sync::mpsc;

struct Driver {
    shared: Shared,
    commands: mpsc::Sender<Command>,
    ended: Rc<Cell<bool>>,
    _task: holdfast_io::spawn::Task,
}

impl Driver {
    fn start(script: &str, ready: Ready, hooks: Hooks) -> Driver {
        let shared = Shared::default();
        let child = Child {
            ready,
            backoff_first: Duration::from_millis(10),
            backoff_last: Duration::from_millis(20),
            max_restarts: 1000,
            ..Child::new("db".parse().unwrap(), sh(script))
        };
        let list = vec![Supervised::from(&child).with(hooks)];
        let processes = Rc::new(RealProcesses::new().unwrap());
        let world = (RealNet, RealClock, RealSpawn);
        let children = Children::new(list, processes, world, shared.clone()).unwrap();
        let (commands, told) = mpsc::channel(8);
        let ended = Rc::new(Cell::new(false));
        let tell = ended.clone();
        let task = RealSpawn.spawn("children", async move {
            children.run(told).await;
            tell.set(true);
        });
        Driver {
            shared,
            commands,
            ended,
            _task: task,
        }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&ChildStatus) -> bool) -> ChildStatus {
        let found = |shared: &Shared| shared.view(|status| status.children.first().cloned());
        let is_there = self
            .shared
            .wait_for(|status| status.children.first().is_some_and(&is_so));
        let waited = timeout(&RealClock, PATIENCE, is_there).await;
        assert!(waited.is_ok(), "{what}: {:?}", found(&self.shared));
        found(&self.shared).unwrap()
    }

    async fn shut_down(&self) {
        self.commands.send(Command::Shutdown).await.unwrap();
        until("everything has ended", || self.ended.get()).await;
    }
}

fn check(look: impl Fn() -> Result<(), String> + 'static) -> Check {
    let look = Rc::new(look);
    Check::new(Rc::new(move || {
        let look = look.clone();
        Box::pin(async move { look() })
    }))
}

fn never() -> Check {
    Check::new(Rc::new(|| Box::pin(std::future::pending())))
}

#[test]
fn a_refused_start_says_why_until_it_is_mended() {
    let _one = alone();
    block_on(async {
        let why = Rc::new(RefCell::new(Some("the disk is full".to_owned())));
        let found = why.clone();
        let check = check(move || match &*found.borrow() {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        });
        let hooks = Hooks {
            check: Some(check),
            ..Hooks::default()
        };
        let driver = Driver::start("exec sleep 1000", Ready::AtOnce, hooks);
        let says = |status: &ChildStatus, what| status.problem.as_deref() == Some(what);
        let is_again = |status: &ChildStatus| {
            status.restarts > 3 && says(status, "the disk is full") && status.pid.is_none()
        };
        driver.until("it is tried again", is_again).await;
        why.replace(Some("another owner".to_owned()));
        let is_other = |status: &ChildStatus| says(status, "another owner");
        driver.until("the reason of now", is_other).await;
        why.replace(None);
        let is_ready = |status: &ChildStatus| status.state == "ready";
        let status = driver.until("it starts", is_ready).await;
        assert_eq!(status.problem, None);
        assert!(status.pid.is_some());
        driver.shut_down().await;
    })
    .unwrap();
}

#[test]
fn a_check_that_does_not_end_is_a_refusal() {
    let _one = alone();
    block_on(async {
        let check = Check {
            limit: Duration::from_millis(20),
            ..never()
        };
        let hooks = Hooks {
            check: Some(check),
            ..Hooks::default()
        };
        let driver = Driver::start("exec sleep 1000", Ready::AtOnce, hooks);
        let says = |status: &ChildStatus| {
            let why = status.problem.as_deref().unwrap_or_default();
            why.contains("no answer within 20 ms")
        };
        driver.until("it is refused", says).await;
        driver.shut_down().await;
    })
    .unwrap();
}

#[test]
fn a_stop_does_not_wait_for_a_check() {
    let _one = alone();
    block_on(async {
        let hooks = Hooks {
            check: Some(never()),
            ..Hooks::default()
        };
        let driver = Driver::start("exec sleep 1000", Ready::AtOnce, hooks);
        let is_starting = |status: &ChildStatus| status.state == "starting";
        driver.until("it is checked", is_starting).await;
        driver.shut_down().await;
        let status = driver.until("its end", |_| true).await;
        assert_eq!(status.state, "done");
    })
    .unwrap();
}

#[test]
fn what_a_child_has_left_is_ended_when_somebody_wanted_its_end_and_not_when_it_crashed() {
    let _one = alone();
    block_on(async {
        let cleaned = Rc::new(RefCell::new(Vec::new()));
        let told = cleaned.clone();
        let hooks = Hooks {
            cleanup: Some(Rc::new(move |hurry| {
                let told = told.clone();
                Box::pin(async move { told.borrow_mut().push(hurry.is_set()) })
            })),
            ..Hooks::default()
        };
        let driver = Driver::start("exec sleep 1000", Ready::AtOnce, hooks);
        let status = driver.until("it runs", |status| status.pid.is_some()).await;
        let pid = status.pid.unwrap().try_into().unwrap();
        // SAFETY: two integers: the process that this test has started.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        let is_again = |status: &ChildStatus| status.restarts == 1 && status.state == "ready";
        driver.until("it runs again", is_again).await;
        assert_eq!(*cleaned.borrow(), [] as [bool; 0]);
        driver.shut_down().await;
        assert_eq!(*cleaned.borrow(), [false], "once, and with all the time");
    })
    .unwrap();
}

#[test]
fn a_clean_up_without_end_is_told_to_hurry() {
    let _one = alone();
    block_on(async {
        let hooks = Hooks {
            cleanup: Some(Rc::new(|mut hurry| {
                Box::pin(async move { hurry.wait().await })
            })),
            ..Hooks::default()
        };
        let driver = Driver::start("exec sleep 1000", Ready::AtOnce, hooks);
        driver.until("it runs", |status| status.pid.is_some()).await;
        driver.commands.send(Command::Shutdown).await.unwrap();
        let cleans = |status: &ChildStatus| status.state == "stopping" && status.pid.is_none();
        driver.until("it cleans up", cleans).await;
        driver.commands.send(Command::Hurry).await.unwrap();
        until("everything has ended", || driver.ended.get()).await;
    })
    .unwrap();
}

#[test]
fn a_child_that_is_not_ready_says_why() {
    let _one = alone();
    block_on(async {
        let ready = "tcp:127.0.0.1:1".parse().unwrap();
        let driver = Driver::start("exec sleep 1000", ready, Hooks::default());
        let says = |status: &ChildStatus| {
            let why = status.problem.as_deref().unwrap_or_default();
            status.state == "starting" && why.contains("127.0.0.1:1")
        };
        driver.until("the reason", says).await;
        driver.shut_down().await;
    })
    .unwrap();
}
