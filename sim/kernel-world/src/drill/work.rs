//! The writers: a thread in each worker's namespace, and whoever else speaks SQL.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use holdfast_plan::drill::Work;
use holdfast_workload::run::schema;
use holdfast_workload::run::{
    Login, Pace, Recorder, RegisterSpec, Session, Stop, WorkError, WriterSpec, use_register,
    write_rows,
};
use holdfast_workload::{Found, Outcome};
use tokio::net::TcpStream;
use tokio::runtime::{self, Runtime};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use super::ground::{Ground, Logins, Member};
use crate::members::Watch;
use crate::stage::StageError;

/// How long a connect with login may take beside the deadline of a write.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// The register is used so much less often than rows are written: its history is searched, and
/// all of its clients wait for one row.
const REGISTER_PAUSE: u32 = 5;
/// How often it is looked whether writers shall stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long to wait before a primary is looked for again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The first number of those that use the register; writers have smaller ones.
const REGISTER_FIRST: u16 = 1_000;

/// Writers at every worker. Dropping them stops them.
pub struct Writers {
    /// Where they note what they do.
    pub recorder: Recorder,
    stop: Stop,
    threads: Vec<Watch>,
}

impl Writers {
    /// Starts them; their history begins at that instant.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(ground: &dyn Ground, work: &Work, origin: Instant) -> Result<Writers, StageError> {
        let recorder = Recorder::new(origin);
        let stop = Stop::default();
        let mut threads = Vec::new();
        let login = login(ground.logins());
        for (index, member) in (0_u16..).zip(ground.members()) {
            let (own, work, login) = (member.clone(), work.clone(), login.clone());
            let (notes, enough) = (recorder.clone(), stop.clone());
            let door = ground.stage().lab.door(&member.space)?;
            let thread = Watch::start(format!("writers-{}", member.name), door, move |over| {
                let work = write(index, &own, &work, &login, &notes, &enough);
                let watched = async {
                    tokio::select! {
                        () = work => {}
                        () = async {
                            while !over.load(Ordering::SeqCst) {
                                sleep(LOOK_EVERY).await;
                            }
                        } => {}
                    }
                };
                // Without one the round fails, as no write of the member is acknowledged.
                if let Ok(runtime) = runtime() {
                    runtime.block_on(LocalSet::new().run_until(watched));
                }
            });
            threads.push(thread.map_err(super::thread(&member.name))?);
        }
        Ok(Writers {
            recorder,
            stop,
            threads,
        })
    }

    /// Whose writers had no write acknowledged that was asked for since that time.
    pub fn silent(&self, ground: &dyn Ground, since: Duration) -> Vec<String> {
        let history = self.recorder.history(None);
        let wrote = |name: &str| {
            history.writes.iter().any(|write| {
                write.member == name
                    && write.outcome == Outcome::Acknowledged
                    && write.asked >= since
            })
        };
        let is_read = history.register.iter().any(|op| {
            op.read.is_some() && op.outcome == Outcome::Acknowledged && op.asked >= since
        });
        let members = ground.members().iter();
        let silent = members.filter(|member| !wrote(&member.name));
        let silent = silent.map(|member| member.name.clone());
        let unread = (!is_read).then(|| "the register's readers".to_owned());
        silent.chain(unread).collect()
    }

    /// Which server took the last write that was asked for before that time.
    pub fn server_before(&self, moment: Duration) -> Option<String> {
        let history = self.recorder.history(None);
        let mut done = history
            .writes
            .iter()
            .rev()
            .filter(|write| write.outcome == Outcome::Acknowledged && write.asked < moment);
        done.next()?.server.clone()
    }

    /// When the first write was acknowledged that was asked for after that time, by another
    /// server than that one.
    pub fn acknowledged_after(&self, since: Duration, not_by: Option<&str>) -> Option<Duration> {
        let progress = self.recorder.progress();
        // Copying the history costs: only when there is something.
        progress.last_acknowledged.filter(|last| *last > since)?;
        let history = self.recorder.history(None);
        let mut found = history.writes.iter().filter(|write| {
            let is_other = not_by.is_none() || write.server.as_deref() != not_by;
            write.outcome == Outcome::Acknowledged && write.asked >= since && is_other
        });
        found.next().map(|write| write.ended)
    }

    /// Lets every writer end the write that it is at.
    ///
    /// # Errors
    /// When those of a member never began, or panicked.
    pub fn stop(&mut self, work: &Work) -> Result<(), StageError> {
        self.stop.stop();
        let bound = work.deadline + CONNECT_WITHIN + work.every * REGISTER_PAUSE;
        let ended = || self.threads.iter().all(Watch::is_over);
        // Those that do not are told once more when their thread is joined.
        let _ = holdfast_lab::process::wait_for("writers ended", bound, ended);
        let mut ended = Ok(());
        for mut thread in std::mem::take(&mut self.threads) {
            if let Err(error) = thread.join() {
                ended = Err(super::thread("writers")(error));
            }
        }
        ended
    }
}

fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

fn login(logins: &Logins) -> Login {
    Login {
        user: "postgres".to_owned(),
        password: Some(logins.superuser.clone()),
        database: "postgres".to_owned(),
    }
}

/// The writers of a member.
async fn write(
    index: u16,
    member: &Member,
    work: &Work,
    login: &Login,
    recorder: &Recorder,
    stop: &Stop,
) {
    let pace = |every| Pace {
        every,
        deadline: work.deadline,
        connect_within: CONNECT_WITHIN,
    };
    let mut tasks = JoinSet::new();
    for writer in 0..u16::from(work.writers) {
        let spec = WriterSpec {
            number: index * u16::from(work.writers) + writer,
            member: member.name.clone(),
            login: login.clone(),
            pace: pace(work.every),
        };
        let (recorder, stop) = (recorder.clone(), stop.clone());
        let (clients, login) = (member.clients.clone(), login.clone());
        tasks.spawn_local(async move {
            write_rows(&spec, &recorder, &stop, || to_primary(&clients, &login)).await;
        });
    }
    let spec = RegisterSpec {
        client: REGISTER_FIRST + index,
        login: login.clone(),
        pace: pace(work.every * REGISTER_PAUSE),
    };
    let (recorder, stop) = (recorder.clone(), stop.clone());
    let (clients, login) = (member.clients.clone(), login.clone());
    tasks.spawn_local(async move {
        use_register(&spec, &recorder, &stop, || to_primary(&clients, &login)).await;
    });
    while tasks.join_next().await.is_some() {}
}

/// A connection to the endpoint; or, without one, to that of several servers that takes writes.
fn to_primary(
    clients: &[SocketAddr],
    login: &Login,
) -> impl Future<Output = io::Result<TcpStream>> + use<> {
    let (clients, login) = (clients.to_vec(), login.clone());
    async move {
        let found = match clients.as_slice() {
            [one] => *one,
            // All at once: a server that is gone in silence must not keep us from the others.
            many => {
                let mut asked = JoinSet::new();
                for at in many.iter().copied() {
                    let login = login.clone();
                    asked.spawn_local(async move { (at, takes_writes(at, &login).await) });
                }
                loop {
                    match asked.join_next().await {
                        Some(Ok((at, true))) => break at,
                        Some(_) => {}
                        None => return Err(io::Error::other("no server takes writes")),
                    }
                }
            }
        };
        connect(found).await
    }
}

async fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn takes_writes(at: SocketAddr, login: &Login) -> bool {
    let session = Session::open(connect(at), login, CONNECT_WITHIN).await;
    let server = session
        .ok()
        .and_then(|session| session.server().map(str::to_owned));
    server.is_some_and(|server| server.contains("timeline"))
}

/// Does something with the primary, as clients at that member reach it; connecting is tried again
/// until the bound is over.
fn with_primary<T: Send>(
    ground: &dyn Ground,
    member: usize,
    bound: Duration,
    mut work: impl AsyncFnMut(&mut Session<TcpStream>) -> Result<T, WorkError> + Send,
) -> Result<T, StageError> {
    let own = &ground.members()[member];
    let login = login(ground.logins());
    let clients = own.clients.clone();
    let done = ground.stage().lab.run_in(&own.space, move || {
        let runtime = runtime().map_err(|error| error.to_string())?;
        let trying = async {
            let mut last = String::new();
            let tries = async {
                loop {
                    let stream = to_primary(&clients, &login);
                    let done = match Session::open(stream, &login, CONNECT_WITHIN * 2).await {
                        Ok(mut session) => work(&mut session).await,
                        Err(error) => Err(error),
                    };
                    match done {
                        Ok(done) => return done,
                        Err(error) => last = error.to_string(),
                    }
                    sleep(RETRY_AFTER).await;
                }
            };
            let done = timeout(bound, tries).await;
            done.map_err(|_| format!("not within {bound:?}: {last}"))
        };
        runtime.block_on(LocalSet::new().run_until(trying))
    })?;
    done.map_err(StageError::Drill)
}

/// Makes the tables and empties them.
///
/// # Errors
/// When that does not succeed within the bound.
pub fn prepare(ground: &dyn Ground, bound: Duration) -> Result<(), StageError> {
    with_primary(ground, 0, bound, async |session| {
        schema::prepare(session, bound).await
    })
}

/// Fills a table until it has so many bytes.
///
/// # Errors
/// When that does not succeed within the bound.
pub fn fill(ground: &dyn Ground, bytes: u64, bound: Duration) -> Result<(), StageError> {
    with_primary(ground, 0, bound, async |session| {
        schema::fill(session, bytes, bound).await
    })
}

/// The timeline that a server writes, none of one in recovery. A segment's name has it at once; the
/// control file only after the checkpoint that follows a promotion.
const TIMELINE: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE \
     ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int::text END";

/// All rows that are there, of the server that writes that timeline before and after they are
/// read: a replica lacks some, and one that was deposed has others.
///
/// # Errors
/// When they cannot be read within the bound.
pub fn read_rows(
    ground: &dyn Ground,
    timeline: u64,
    bound: Duration,
) -> Result<Vec<Found>, StageError> {
    with_primary(ground, 0, bound, async |session| {
        leads(session, timeline).await?;
        let rows = schema::read_rows(session, bound).await?;
        leads(session, timeline).await?;
        Ok(rows)
    })
}

async fn leads(session: &mut Session<TcpStream>, timeline: u64) -> Result<(), WorkError> {
    let said = session.rows(TIMELINE).await?;
    let said = said.into_iter().flatten().next().flatten();
    match said.as_deref().map(str::parse::<u64>) {
        Some(Ok(found)) if found == timeline => Ok(()),
        _ => {
            let said = said.unwrap_or_else(|| "a replica".to_owned());
            let why = format!("not the leader, which writes timeline {timeline}: {said}");
            Err(WorkError::Answer(why))
        }
    }
}

/// Cancels every wait for a standby at that member, until this is dropped.
///
/// # Errors
/// When there is no thread to be had.
pub fn cancel_waits(ground: &dyn Ground, member: usize) -> Result<Watch, StageError> {
    let own = &ground.members()[member];
    let (login, at) = (login(ground.logins()), own.sql);
    let door = ground.stage().lab.door(&own.space)?;
    let watch = Watch::start(format!("cancel-{}", own.name), door, move |over| {
        let cancelling = async {
            while !over.load(Ordering::SeqCst) {
                let session = Session::open(connect(at), &login, CONNECT_WITHIN).await;
                let Ok(mut session) = session else {
                    sleep(RETRY_AFTER).await;
                    continue;
                };
                while !over.load(Ordering::SeqCst) && !session.is_over() {
                    let sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                               WHERE wait_event = 'SyncRep'";
                    // A server that stands still must not keep the round from its end.
                    match timeout(CONNECT_WITHIN, session.rows(sql)).await {
                        Ok(Ok(_)) => {}
                        _ => break,
                    }
                    sleep(RETRY_AFTER).await;
                }
            }
        };
        if let Ok(runtime) = runtime() {
            runtime.block_on(cancelling);
        }
    });
    watch.map_err(super::thread(&own.name))
}
