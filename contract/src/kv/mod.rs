//! The contract of [`holdfast_io::kv::Kv`]: the semantics of Consul, as far as we rely on them.
//!
//! [`suite`] lists the cases. Each gets a [`Test`]: the store, the clock that it lives by, and a
//! prefix for its keys, so that cases may run at one time on one store.

mod entries;
mod locks;
mod sessions;
mod watches;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_io::kv::{
    Condition, Consistency, Entry, Failure, Kv, Request, Response, SessionId, Wait,
};

/// What a case returns.
pub type Running = Pin<Box<dyn Future<Output = ()>>>;

/// The clock by which a store lives: virtual time for a simulated one.
pub trait Time {
    /// Now.
    fn now(&self) -> Instant;
    /// Wait.
    fn sleep(&self, for_: Duration) -> Running;
}

/// One case of the contract. It panics if the store breaks it.
#[derive(Clone, Copy)]
pub struct Case {
    /// What must hold, with underscores.
    pub name: &'static str,
    /// Run it.
    pub run: fn(Test) -> Running,
}

/// Everything that a store must do.
pub fn suite() -> Vec<Case> {
    let mut cases = entries::cases();
    cases.extend(locks::cases());
    cases.extend(sessions::cases());
    cases.extend(watches::cases());
    cases
}

/// Write cases down: `cases![name, …]` for functions `async fn name(test: Test)`.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        vec![$($crate::kv::Case {
            name: stringify!($name),
            run: |test| Box::pin($name(test)),
        }),*]
    };
}
use cases;

/// How late a store under load may be with what happens at a time, beyond what the semantics
/// permit. The machines that run this are small and busy.
const SLACK: Duration = Duration::from_secs(5);

/// What a case has to work with.
#[derive(Clone)]
pub struct Test {
    kv: Rc<dyn Kv>,
    time: Rc<dyn Time>,
    prefix: Rc<str>,
}

impl Test {
    /// A test on `kv`, which has no key that begins with `prefix`.
    pub fn new(kv: Rc<dyn Kv>, time: Rc<dyn Time>, prefix: &str) -> Test {
        Test {
            kv,
            time,
            prefix: prefix.into(),
        }
    }

    /// Ask.
    pub async fn call(&self, request: Request) -> Result<Response, Failure> {
        self.kv.call(request).await
    }

    /// One's own key of that name.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn now(&self) -> Instant {
        self.time.now()
    }

    async fn sleep(&self, for_: Duration) {
        self.time.sleep(for_).await;
    }

    async fn put(&self, name: &str, value: impl Into<Bytes>, condition: Condition) -> bool {
        self.done(Request::put(self.key(name), value, condition))
            .await
    }

    async fn delete(&self, name: &str, condition: Condition) -> bool {
        let key = self.key(name);
        self.done(Request::Delete { key, condition }).await
    }

    async fn get(&self, name: &str) -> Option<Entry> {
        self.read(name, None).await.1
    }

    /// Read one entry: the index and the entry.
    async fn read(&self, name: &str, wait: Option<Wait>) -> (u64, Option<Entry>) {
        let request = Request::Get {
            key: self.key(name),
            consistency: Consistency::Consistent,
            wait,
        };
        match self.call(request).await.unwrap() {
            Response::Entry { index, entry } => (index, entry),
            other => panic!("expected an entry, found {other:?}"),
        }
    }

    /// Read all entries below a name: the index and the entries.
    async fn list(&self, name: &str, wait: Option<Wait>) -> (u64, Vec<Entry>) {
        let request = Request::List {
            prefix: self.key(name),
            consistency: Consistency::Consistent,
            wait,
        };
        match self.call(request).await.unwrap() {
            Response::Entries { index, entries } => (index, entries),
            other => panic!("expected entries, found {other:?}"),
        }
    }

    /// Ask for something that is done or not.
    async fn done(&self, request: Request) -> bool {
        match self.call(request.clone()).await {
            Ok(Response::Done(done)) => done,
            other => panic!("{request:?}: expected done or not, found {other:?}"),
        }
    }

    /// Ask for something that is refused.
    async fn refused(&self, request: Request) -> Failure {
        match self.call(request.clone()).await {
            Err(failure) => failure,
            Ok(answer) => panic!("{request:?}: expected a refusal, found {answer:?}"),
        }
    }

    async fn acquire(&self, name: &str, value: &'static str, session: &SessionId) -> bool {
        self.done(Request::Acquire {
            key: self.key(name),
            value: value.into(),
            session: session.clone(),
        })
        .await
    }

    async fn release(&self, name: &str, value: &'static str, session: &SessionId) -> bool {
        self.done(Request::Release {
            key: self.key(name),
            value: value.into(),
            session: session.clone(),
        })
        .await
    }

    async fn renew(&self, session: &SessionId) -> bool {
        self.done(Request::SessionRenew(session.clone())).await
    }

    async fn destroy(&self, session: &SessionId) {
        let destroyed = self.done(Request::SessionDestroy(session.clone())).await;
        assert!(destroyed, "a session was not destroyed");
    }

    /// Read again and again until the entry is as `wanted`; returns when that was seen.
    async fn until(
        &self,
        name: &str,
        at_most: Duration,
        wanted: impl Fn(Option<&Entry>) -> bool,
    ) -> Instant {
        let began = self.now();
        loop {
            let entry = self.get(name).await;
            if wanted(entry.as_ref()) {
                return self.now();
            }
            let waited = self.now() - began;
            assert!(
                waited < at_most,
                "{name} is still {entry:?} after {waited:?}"
            );
            self.sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Run futures at one time; their outputs, in the same order.
async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(found) => *output = Some(found),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    let outputs = running.into_iter().map(|(_, output)| output);
    outputs.map(|o| o.expect("all are ready")).collect()
}
