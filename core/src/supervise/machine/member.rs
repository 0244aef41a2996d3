//! One child.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::supervise::{Child, Ended, Run, State};

/// One child, with its history.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) child: Child,
    pub(super) phase: Phase,
    pub(super) spawns: u32,
    /// When it was restarted within the window.
    pub(super) recent: VecDeque<Instant>,
    /// Ends in a row.
    pub(super) failures: u32,
    /// The place of its latest readiness among all; 0: never.
    pub(super) readied: u64,
    pub(super) last_end: Option<Ended>,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Waiting,
    Running {
        run: Run,
        started: bool,
        ready_since: Option<Instant>,
    },
    Stopping {
        run: Run,
        started: bool,
        /// `None`: not signalled yet, or killed.
        kill_at: Option<Instant>,
        then: Then,
    },
    Resting {
        until: Instant,
        failed: bool,
    },
    Done,
}

/// What follows when a child that was asked to end has ended.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Start,
    /// Start as it is defined now.
    Replace(Box<Child>),
    Remove,
    Stay,
}

impl Child {
    /// Whether a process of the one would do as a process of the other.
    pub(super) fn is_same_process(&self, other: &Child) -> bool {
        let kind = |child: &Child| (child.digest, child.one_shot, child.ready_at_once);
        kind(self) == kind(other)
    }
}

impl Member {
    pub(super) fn new(child: Child) -> Member {
        Member {
            child,
            phase: Phase::Waiting,
            spawns: 0,
            recent: VecDeque::new(),
            failures: 0,
            readied: 0,
            last_end: None,
        }
    }

    /// Another definition starts without the history of the one before.
    pub(super) fn redefine(&mut self, child: Child) {
        self.child = child;
        self.recent.clear();
        self.failures = 0;
    }

    pub(super) fn run(&self) -> Option<Run> {
        match self.phase {
            Phase::Running { run, .. } | Phase::Stopping { run, .. } => Some(run),
            Phase::Waiting | Phase::Resting { .. } | Phase::Done => None,
        }
    }

    /// Whether those that wait for it may start.
    pub(super) fn is_ready(&self) -> bool {
        match self.phase {
            Phase::Running { ready_since, .. } => ready_since.is_some(),
            Phase::Done => self.child.one_shot,
            Phase::Waiting | Phase::Stopping { .. } | Phase::Resting { .. } => false,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Waiting => State::Waiting,
            Phase::Running {
                ready_since: None, ..
            } => State::Starting,
            Phase::Running { .. } => State::Ready,
            Phase::Stopping { .. } => State::Stopping,
            Phase::Resting { failed: false, .. } => State::Backoff,
            Phase::Resting { failed: true, .. } => State::Failed,
            Phase::Done => State::Done,
        }
    }

    pub(super) fn backoff(&self) -> Duration {
        let factor = 1u32 << self.failures.min(30);
        let wait = self.child.backoff_first.checked_mul(factor);
        wait.map_or(self.child.backoff_last, |wait| {
            wait.min(self.child.backoff_last)
        })
    }
}
