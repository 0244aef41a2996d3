//! Clients on a node that write rows through the primary's endpoint, on threads of their own.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use holdfast_io::real::block_on;
use holdfast_lab::Door;
use holdfast_workload::check::durability;
use holdfast_workload::run::{
    Login, Pace, Recorder, Session, Stop, WorkError, WriterSpec, schema, write_rows,
};
use holdfast_workload::{Durability, Found, History};
use tokio::net::TcpStream;

use super::{login, primary};
use crate::dev::state::Mesh;

/// How long a write, or a connect with login, may take: an endpoint holds a client for longer
/// (5 s), so that it asks again while there is no primary.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long making the tables, and reading what was written, may take: also right after a
/// failover.
const AROUND_BOUND: Duration = Duration::from_secs(60);
/// How long one attempt at it may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait between attempts.
const ATTEMPT_EVERY: Duration = Duration::from_millis(200);

/// How many write, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// At once, each over a connection of its own.
    pub writers: u16,
    /// From one write to the next; zero: as fast as they are acknowledged.
    pub every: Duration,
}

/// Writers that write.
pub struct Writing {
    /// What they did so far.
    pub recorder: Recorder,
    client: Client,
    door: Door,
    stop: Stop,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    /// Held until it ends: two would empty and check the same table.
    _alone: File,
}

/// The right to write in this cluster's table.
fn alone(mesh: &Mesh) -> anyhow::Result<File> {
    let path = mesh.folder().join("writers.lock");
    let name = || path.display().to_string();
    let lock = File::create(&path).with_context(name)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another `dev bench` or `dev kill leader` writes to this cluster: wait until it ends"
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(name),
    }
}

/// What a client has to know.
#[derive(Clone)]
struct Client {
    node: String,
    at: SocketAddr,
    login: Login,
}

impl Writing {
    /// Make the tables, and begin. The history's clock begins at `origin`.
    pub fn start(mesh: &Mesh, node: &str, load: Load, origin: Instant) -> anyhow::Result<Writing> {
        let client = Client {
            node: node.to_owned(),
            at: primary(),
            login: login(mesh, node)?,
        };
        let alone = alone(mesh)?;
        mesh.lab
            .run_in(node, || patiently(&client, Task::Prepare))?
            .with_context(|| format!("cannot make a table through {} on {node}", client.at))?;
        let mut writing = Writing {
            recorder: Recorder::new(origin),
            client,
            door: mesh.lab.door(node)?,
            stop: Stop::default(),
            threads: Vec::new(),
            _alone: alone,
        };
        for number in 0..load.writers {
            let door = mesh.lab.door(node)?;
            let thread = writing.writer(number, load.every, door);
            writing.threads.push(thread);
        }
        Ok(writing)
    }

    fn writer(&self, number: u16, every: Duration, door: Door) -> JoinHandle<anyhow::Result<()>> {
        let spec = WriterSpec {
            number,
            member: self.client.node.clone(),
            login: self.client.login.clone(),
            pace: Pace {
                every,
                deadline: DEADLINE,
                connect_within: DEADLINE,
            },
        };
        let (recorder, stop, at) = (self.recorder.clone(), self.stop.clone(), self.client.at);
        thread::spawn(move || {
            door.enter()?;
            block_on(write_rows(&spec, &recorder, &stop, || connect(at)))?;
            Ok(())
        })
    }

    /// Whether a writer has ended before it was told to.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stop, read every row, and compare.
    pub fn finish(self) -> anyhow::Result<(History, Durability)> {
        self.stop.stop();
        for thread in self.threads {
            join(thread)?;
        }
        let (client, door) = (self.client, self.door);
        let reader = thread::spawn(move || {
            door.enter()?;
            patiently(&client, Task::Read)
        });
        let found = join(reader).context("what was written cannot be read")?;
        let history = self.recorder.history(Some(found));
        let durability = durability(&history);
        Ok((history, durability))
    }
}

fn join<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked),
    }
}

async fn connect(at: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What is done around the writing.
#[derive(Clone, Copy)]
enum Task {
    Prepare,
    Read,
}

/// Do it, again and again while there is no primary. In the namespace of this thread.
fn patiently(client: &Client, task: Task) -> anyhow::Result<Vec<Found>> {
    let begun = Instant::now();
    block_on(async {
        loop {
            let error = match once(client, task).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if begun.elapsed() > AROUND_BOUND {
                return Err(anyhow!(error));
            }
            tokio::time::sleep(ATTEMPT_EVERY).await;
        }
    })?
}

async fn once(client: &Client, task: Task) -> Result<Vec<Found>, WorkError> {
    let mut session = Session::open(connect(client.at), &client.login, DEADLINE).await?;
    match task {
        Task::Prepare => schema::prepare(&mut session, ATTEMPT_LIMIT).await?,
        Task::Read => return schema::read_rows(&mut session, ATTEMPT_LIMIT).await,
    }
    Ok(Vec::new())
}

/// A verdict in a line: how many rows, and what is wrong with them.
pub fn verdict(durability: &Durability) -> String {
    let mut text = format!(
        "{} rows acknowledged, {} lost, {} duplicated",
        durability.acknowledged,
        durability.lost.len(),
        durability.duplicated.len(),
    );
    for (ids, what) in [
        (&durability.invented, "that nobody wrote"),
        (&durability.failed_but_there, "there though they failed"),
    ] {
        if !ids.is_empty() {
            text.push_str(&format!(", {} {what}", ids.len()));
        }
    }
    if durability.unknown > 0 {
        text.push_str(&format!(
            " ({} unknown: they may be there or not)",
            durability.unknown
        ));
    }
    text
}

/// The same for programs.
pub fn verdict_json(durability: &Durability) -> serde_json::Value {
    serde_json::json!({
        "holds": durability.holds(),
        "acknowledged": durability.acknowledged,
        "unknown": durability.unknown,
        "failed": durability.failed,
        "lost": durability.lost.len(),
        "duplicated": durability.duplicated.len(),
        "invented": durability.invented.len(),
        "failed_but_there": durability.failed_but_there.len(),
    })
}

/// Wait until writes are acknowledged.
pub fn wait_until_steady(writing: &Writing, count: u64, bound: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    while writing.recorder.progress().acknowledged < count {
        if writing.has_ended() || begun.elapsed() > bound {
            let done = writing.recorder.history(None);
            let last = done.writes.iter().rev().find_map(|w| w.error.as_deref());
            bail!(
                "no write is acknowledged: {}",
                last.unwrap_or("and nobody says why")
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
