//! The loop: checks, deadlines, other servers, the view, and the end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use holdfast_core::route::{CheckId, ConfigError, Input, Router};
use tokio::sync::watch;

use super::listener::spawn_listener;
use super::shared::Shared;
use super::{Backend, EndpointsOptions, EndpointsView, Listen, Observation, Probe};
use crate::clock::{Clock, Sleep, timeout};
use crate::http::Stop;
use crate::net::Net;
use crate::spawn::{Spawn, Task};

/// Longest time for sessions that were reset to end: each has its order, and waits for nobody.
const RESET_MAX: Duration = Duration::from_millis(500);

/// A check on its way.
type Checking = Pin<Box<dyn Future<Output = (CheckId, Option<Observation>)>>>;

/// Endpoints with all their tasks: dropped, they end.
pub(super) struct Driver<N: Net, C: Clock, S: Spawn> {
    shared: Rc<Shared<N, C, S>>,
    probe: Rc<dyn Probe>,
    check_timeout: Duration,
    checks: Vec<Checking>,
    listen: Vec<Listen>,
    backends: Option<watch::Receiver<Vec<Backend>>>,
    drain: Duration,
    view: watch::Sender<EndpointsView>,
    sleep: C::Sleep,
}

/// Why a turn began.
enum Woken {
    Checked(CheckId, Option<Observation>),
    Backends,
    Deadline,
    Changed,
}

impl<N: Net, C: Clock, S: Spawn> Driver<N, C, S> {
    pub(super) fn new(
        mut options: EndpointsOptions,
        probe: Rc<dyn Probe>,
        net: N,
        clock: C,
        spawn: S,
    ) -> Result<Self, ConfigError> {
        let now = clock.now();
        let backends = options.backends.borrow_and_update().clone();
        options.config.backends = backends.iter().map(|b| b.name.clone()).collect();
        let check_timeout = options.config.timeout;
        let router = Router::new(options.config, &options.seed, now)?;
        let sleep = clock.sleep_until(now.mono);
        let world = (net, clock, spawn);
        let limit = options.connect_timeout;
        Ok(Driver {
            shared: Shared::new(world, router, &backends, &options.listen, limit),
            probe,
            check_timeout,
            checks: Vec::new(),
            listen: options.listen,
            backends: Some(options.backends),
            drain: options.drain,
            view: options.view,
            sleep,
        })
    }

    pub(super) async fn run(mut self, mut stop: Stop) {
        let listeners: Vec<Task> = self
            .listen
            .iter()
            .enumerate()
            .map(|(nth, listen)| spawn_listener(&self.shared, nth, listen.addr, listen.pool))
            .collect();
        {
            let mut stopped = pin!(stop.wait());
            let mut turns = pin!(self.turns());
            poll_fn(|cx| match stopped.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => turns.as_mut().poll(cx),
            })
            .await;
        }
        drop(listeners);
        let clock = self.shared.clock.clone();
        // Roles are still watched: a server that loses its own loses its sessions.
        if timeout(&clock, self.drain, self.until_idle())
            .await
            .is_err()
        {
            self.shared.reset_all();
            let _ = timeout(&clock, RESET_MAX, self.until_idle()).await;
        }
        self.publish();
    }

    /// Go on for ever.
    async fn turns(&mut self) {
        loop {
            self.turn().await;
        }
    }

    async fn until_idle(&mut self) {
        while !self.shared.is_idle() {
            self.turn().await;
        }
    }

    async fn turn(&mut self) {
        self.start_checks();
        self.publish();
        let deadline = self.shared.view(|router| router.deadline());
        match self.woken(deadline.map(|(at, _why)| at)).await {
            Woken::Checked(check, observation) => {
                self.shared.handle(Input::Checked { check, observation });
            }
            Woken::Backends => {
                let backends = self.backends.as_mut();
                if let Some(backends) = backends.map(|watch| watch.borrow_and_update().clone()) {
                    self.shared.set_backends(&backends);
                }
            }
            Woken::Deadline => self.shared.handle_deadline(),
            Woken::Changed => {}
        }
    }

    async fn woken(&mut self, deadline: Option<Instant>) -> Woken {
        let shared = self.shared.clone();
        let mut changed = pin!(shared.changed.notified());
        let (checks, sleep) = (&mut self.checks, &mut self.sleep);
        let mut other = pin!(other_backends(&mut self.backends));
        if let Some(at) = deadline {
            sleep.reset(at);
        }
        poll_fn(|cx| {
            for at in 0..checks.len() {
                if let Poll::Ready((check, observation)) = checks[at].as_mut().poll(cx) {
                    drop(checks.swap_remove(at));
                    return Poll::Ready(Woken::Checked(check, observation));
                }
            }
            if other.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Woken::Backends);
            }
            if deadline.is_some() && Pin::new(&mut *sleep).poll(cx).is_ready() {
                return Poll::Ready(Woken::Deadline);
            }
            changed.as_mut().poll(cx).map(|()| Woken::Changed)
        })
        .await
    }

    fn start_checks(&mut self) {
        while let Some((check, backend)) = self.shared.next_check() {
            let (clock, limit) = (self.shared.clock.clone(), self.check_timeout);
            let probe = self.probe.clone();
            self.checks.push(Box::pin(async move {
                let asked = timeout(&clock, limit, probe.probe(&backend));
                (check, asked.await.ok().flatten())
            }));
        }
    }

    fn publish(&self) {
        let view = EndpointsView {
            listeners: self.shared.listeners(),
            route: self.shared.view(Router::view),
        };
        self.view.send_if_modified(|known| {
            let is_new = *known != view;
            *known = view;
            is_new
        });
    }
}

impl<N: Net, C: Clock, S: Spawn> Drop for Driver<N, C, S> {
    fn drop(&mut self) {
        // Their tasks hold what holds them.
        self.shared.clear();
    }
}

/// Ready when other servers are there: never again, once nobody can say so.
async fn other_backends(backends: &mut Option<watch::Receiver<Vec<Backend>>>) {
    if let Some(watch) = backends {
        if watch.changed().await.is_ok() {
            return;
        }
        *backends = None;
    }
    std::future::pending().await
}
