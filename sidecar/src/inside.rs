//! The mesh as a child that is no process.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::supervise::{self, Signal};
use holdfast_io::http::Stop;
use holdfast_io::mesh::{MeshError, MeshHooks, MeshReload, run_mesh_within};
use holdfast_io::real::{RealClock, RealNet, RealSpawn};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::admin::PageSender;
use crate::children::{Job, ReadyNow, Supervised};
use crate::error::Error;
use crate::options::{MakeMesh, Member, MeshReloading};
use crate::run::MESH;

/// Reloads that may wait: each takes less than a millisecond.
const RELOADS_MAX: usize = 16;
/// The mesh ends within its own drain and a little; then it is dropped.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// The mesh of this process, across its restarts.
#[derive(Clone)]
pub(crate) struct Node {
    make: Rc<RefCell<MakeMesh>>,
    member: Rc<Member>,
    page: PageSender,
    /// To the mesh that runs.
    reloads: Rc<RefCell<Option<mpsc::Sender<MeshReload>>>>,
    /// What no restart mends.
    failed: watch::Sender<Option<Rc<Error>>>,
}

impl Node {
    pub(crate) fn new(make: MakeMesh, member: Member, page: PageSender) -> Node {
        Node {
            make: Rc::new(RefCell::new(make)),
            member: Rc::new(member),
            page,
            reloads: Rc::default(),
            failed: watch::Sender::new(None),
        }
    }

    /// As a child.
    pub(crate) fn supervised(&self) -> Supervised {
        let own = self.clone();
        Supervised {
            child: supervise::Child {
                name: MESH.parse().expect("letters are a name"),
                after: Vec::new(),
                ready_at_once: false,
                one_shot: false,
                // The same for ever: a reload tells it what has changed.
                digest: [0; 32],
                stop_signal: Signal(libc::SIGTERM),
                stop_deadline: STOP_DEADLINE,
                backoff_first: Duration::from_millis(200),
                backoff_last: Duration::from_secs(10),
                max_restarts: 10,
                window: Duration::from_secs(60),
            },
            job: Job::Inside(Rc::new(move |stop, ready| {
                let own = own.clone();
                Box::pin(async move { own.run(stop, ready).await })
            })),
        }
    }

    /// Another configuration for the mesh that runs, if one does: at its next start it reads its
    /// own.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub(crate) async fn reload(&self, (reload, taken): MeshReloading) -> Result<(), String> {
        let Some(reloads) = self.reloads.borrow().clone() else {
            return Ok(());
        };
        match reloads.try_reserve() {
            Err(TrySendError::Full(())) => return Err("the mesh is busy".to_owned()),
            Err(TrySendError::Closed(())) => return Ok(()),
            Ok(place) => place.send(reload),
        }
        match taken.await {
            Ok(result) => result.map_err(|error| error.to_string()),
            // It has just ended.
            Err(_) => Ok(()),
        }
    }

    /// Wait for what no restart mends.
    pub(crate) async fn failed(&self) -> Error {
        let mut failed = self.failed.subscribe();
        let found = failed.wait_for(Option::is_some).await;
        let error = found.expect("the sender is ours").clone();
        match error.as_deref() {
            Some(Error::Config(what)) => Error::Config(what.clone()),
            Some(other) => Error::Failure(other.to_string()),
            None => Error::Failure("the mesh failed".to_owned()),
        }
    }

    async fn run(self, stop: Stop, ready: ReadyNow) -> i32 {
        let made = (self.make.borrow_mut())(&self.member);
        let mut options = match made {
            Ok(options) => options,
            Err(error) => {
                self.failed.send_replace(Some(Rc::new(error)));
                return 2;
            }
        };
        // Its page is a part of the sidecar's.
        options.admin = None;
        let (sender, reloads) = mpsc::channel(RELOADS_MAX);
        *self.reloads.borrow_mut() = Some(sender);
        let hooks = MeshHooks {
            page: Some(self.page.clone()),
            reloads: Some(reloads),
        };
        let mut shown = self.page.subscribe();
        let tell = async {
            // Its sockets are bound then.
            let _ = shown.wait_for(Option::is_some).await.map(drop);
            ready.tell().await;
            std::future::pending::<()>().await;
        };
        let running = run_mesh_within(options, hooks, RealNet, RealClock, RealSpawn, stop);
        let result = tokio::select! {
            result = running => result,
            () = tell => return 1,
        };
        *self.reloads.borrow_mut() = None;
        match result {
            Ok(()) => 0,
            Err(error @ MeshError::Config(_)) => {
                let error = Error::Config(error.to_string());
                self.failed.send_replace(Some(Rc::new(error)));
                2
            }
            Err(error) => {
                tracing::error!(%error, "the mesh ended");
                1
            }
        }
    }
}
