//! Servers, clients, and endpoints between them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::Listener;
use crate::real::{
    RealBatch, RealClock, RealDatagram, RealListener, RealNet, RealSpawn, RealStream,
};
use crate::spawn::Task;

/// The real network, in which some addresses take no connection and refuse none.
#[derive(Clone, Default)]
pub(super) struct HoleNet(Rc<RefCell<BTreeSet<SocketAddr>>>);

impl HoleNet {
    pub(super) fn swallow(&self, addr: SocketAddr) {
        self.0.borrow_mut().insert(addr);
    }
}

impl Net for HoleNet {
    type Batch = RealBatch;
    type Datagram = RealDatagram;
    type Listener = RealListener;
    type Stream = RealStream;

    async fn bind_batch(&self, addr: SocketAddr) -> io::Result<RealBatch> {
        RealNet.bind_batch(addr).await
    }

    async fn bind_datagram(&self, addr: SocketAddr) -> io::Result<RealDatagram> {
        RealNet.bind_datagram(addr).await
    }

    async fn listen(&self, addr: SocketAddr) -> io::Result<RealListener> {
        RealNet.listen(addr).await
    }

    async fn connect(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<RealStream> {
        if self.0.borrow().contains(&to) {
            std::future::pending::<()>().await;
        }
        RealNet.connect(source, to).await
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        RealNet.resolve(host, port).await
    }

    fn local_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }
}

/// A server that says its name, and then whatever it is told, until it is told nothing more.
pub(super) struct Server {
    pub(super) backend: Backend,
    pub(super) accepted: Rc<Cell<usize>>,
    _task: Task,
}

impl Server {
    pub(super) async fn start(text: &str) -> Server {
        let listener = RealNet.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Rc::new(Cell::new(0));
        let (count, greeting) = (accepted.clone(), format!("{text}\n"));
        let task = RealSpawn.spawn("server", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.set(count.get() + 1);
                let greeting = greeting.clone();
                let echo = RealSpawn.spawn("echo", async move {
                    let (mut from, mut to) = tokio::io::split(stream);
                    let _ = to.write_all(greeting.as_bytes()).await;
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
                echo.detach();
            }
        });
        let name = name(text);
        Server {
            backend: Backend { name, addr },
            accepted,
            _task: task,
        }
    }
}

/// What servers answer.
#[derive(Default)]
pub(super) struct Answers(RefCell<BTreeMap<Name, Option<Observation>>>);

impl Probe for Answers {
    fn probe<'a>(&'a self, backend: &'a Backend) -> Probing<'a> {
        let answer = self.0.borrow().get(&backend.name).copied().flatten();
        Box::pin(std::future::ready(answer))
    }
}

/// Running endpoints: one address for each pool.
pub(super) struct Stage {
    pub(super) net: HoleNet,
    pub(super) backends: watch::Sender<Vec<Backend>>,
    pub(super) view: watch::Receiver<EndpointsView>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) task: Option<Task>,
    answers: Rc<Answers>,
}

impl Stage {
    pub(super) fn new(servers: &[&Server]) -> Stage {
        Stage::with(servers, |_| {})
    }

    pub(super) fn with(servers: &[&Server], adapt: impl Fn(&mut EndpointsOptions)) -> Stage {
        let backends = servers.iter().map(|server| server.backend.clone());
        let (backends, told) = watch::channel(backends.collect());
        let (tell, view) = watch::channel(EndpointsView::default());
        let (stop, stopped) = Stop::new();
        let listen = |pool| Listen {
            addr: ([127, 0, 0, 1], 0).into(),
            pool,
        };
        let mut options = EndpointsOptions {
            listen: vec![listen(Pool::Exclusive), listen(Pool::Shared)],
            backends: told,
            config: Config {
                backends: Vec::new(),
                fall_back: true,
                interval: Duration::from_millis(10),
                timeout: PATIENCE,
                rise: 1,
                fall: 2,
                hold: PATIENCE,
                sessions_max: 2000,
            },
            seed: Seed::new([7; 32]),
            connect_timeout: PATIENCE,
            drain: Duration::ZERO,
            view: tell,
        };
        adapt(&mut options);
        let (net, answers) = (HoleNet::default(), Rc::new(Answers::default()));
        let running = run_endpoints(
            options,
            answers.clone(),
            net.clone(),
            RealClock,
            RealSpawn,
            stopped,
        );
        let task = RealSpawn.spawn("endpoints", async move { running.await.unwrap() });
        Stage {
            net,
            backends,
            view,
            stop,
            task: Some(task),
            answers,
        }
    }

    /// From now on, and wait until that is seen: `leads_to` of the exclusive and the shared pool.
    pub(super) async fn say(
        &mut self,
        answers: &[(&str, Option<Observation>)],
        exclusive: &[&str],
        shared: &[&str],
    ) {
        for (text, answer) in answers {
            self.answers.0.borrow_mut().insert(name(text), *answer);
        }
        self.until(|view| {
            view.route.exclusive.leads_to == exclusive && view.route.shared.leads_to == shared
        })
        .await;
    }

    pub(super) async fn until(&mut self, what: impl FnMut(&EndpointsView) -> bool) {
        soon(self.view.wait_for(what)).await.unwrap();
    }

    /// Wait until nobody tells anything any more: the endpoints have ended.
    pub(super) async fn ended(&mut self) {
        soon(async { while self.view.changed().await.is_ok() {} }).await;
    }

    /// Where clients of this pool connect to.
    pub(super) async fn address(&mut self, pool: Pool) -> SocketAddr {
        let nth = usize::from(pool == Pool::Shared);
        let listens = |view: &EndpointsView| view.listeners.get(nth).is_some_and(|l| l.listens);
        self.until(listens).await;
        self.view.borrow().listeners[nth].address
    }

    pub(super) async fn connect(&mut self, pool: Pool) -> Client {
        let addr = self.address(pool).await;
        Client(RealNet.connect(None, addr).await.unwrap())
    }
}

/// An application.
pub(super) struct Client(pub(super) RealStream);

impl Client {
    /// The name of the server at the other end.
    pub(super) async fn greeting(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            match soon(self.0.read_u8()).await? {
                b'\n' => return Ok(String::from_utf8(line).unwrap()),
                byte => line.push(byte),
            }
        }
    }

    pub(super) async fn echoes(&mut self, text: &[u8]) -> bool {
        if self.0.write_all(text).await.is_err() {
            return false;
        }
        let mut back = vec![0; text.len()];
        soon(self.0.read_exact(&mut back)).await.is_ok() && back == text
    }

    /// How it ends, whatever comes before.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        let mut rest = Vec::new();
        soon(self.0.read_to_end(&mut rest)).await.map(|_| ())
    }

    pub(super) async fn is_reset(&mut self) -> bool {
        let end = self.end().await;
        end.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    }
}
