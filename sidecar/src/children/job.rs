//! What the driver runs.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use holdfast_core::supervise::{self, Input, Run};
use holdfast_io::http::Stop;
use tokio::sync::mpsc;

use super::{Hooks, Told, digest};
use crate::options::{Child, Ready};
use crate::processes::Spec;

/// A part of this process that is run like a child.
///
/// The future ends when the part does, with an exit code; `ready` says that it does what it is
/// there for; the stop asks it to end.
pub type Inside = Rc<dyn Fn(Stop, ReadyNow) -> Pin<Box<dyn Future<Output = i32>>>>;

/// Says that a part of this process is ready.
pub struct ReadyNow {
    run: Run,
    told: mpsc::Sender<Told>,
}

impl ReadyNow {
    pub(super) fn new(run: Run, told: mpsc::Sender<Told>) -> ReadyNow {
        ReadyNow { run, told }
    }

    /// It is.
    pub async fn tell(self) {
        // Without a receiver everything has ended already.
        let _ = self.told.send(Input::Ready(self.run).into()).await;
    }
}

/// What runs.
#[derive(Clone)]
pub enum Job {
    /// A process.
    Process(Box<ProcessJob>),
    /// A part of this process.
    Inside(Inside),
}

/// A process, and what is done around its runs.
#[derive(Clone)]
pub struct ProcessJob {
    /// How it is started.
    pub spec: Spec,
    /// When it is ready.
    pub ready: Ready,
    /// What is done around its runs.
    pub hooks: Hooks,
}

/// A child as the driver needs it.
#[derive(Clone)]
pub struct Supervised {
    /// What the machine needs to know.
    pub child: supervise::Child,
    /// What runs.
    pub job: Job,
}

impl From<&Child> for Supervised {
    fn from(child: &Child) -> Supervised {
        let spec = Spec::from(child);
        let definition = format!("{spec:?} {:?} {}", child.ready, child.one_shot);
        Supervised {
            child: supervise::Child {
                name: child.name.clone(),
                after: child.after.clone(),
                ready_at_once: child.ready == Ready::AtOnce,
                one_shot: child.one_shot,
                digest: digest(definition.as_bytes()),
                stop_signal: child.stop_signal,
                stop_deadline: child.stop_deadline,
                backoff_first: child.backoff_first,
                backoff_last: child.backoff_last,
                max_restarts: child.max_restarts,
                window: child.window,
            },
            job: Job::Process(Box::new(ProcessJob {
                spec,
                ready: child.ready.clone(),
                hooks: Hooks::default(),
            })),
        }
    }
}

impl Supervised {
    /// A process with something done around its runs. Nothing changes for a part of this process.
    #[must_use]
    pub fn with(mut self, new: Hooks) -> Supervised {
        if let Job::Process(process) = &mut self.job {
            // For the machine it runs while it is checked: it is ready afterwards.
            self.child.ready_at_once &= new.check.is_none();
            process.hooks = new;
        }
        self
    }
}
