//! Writers against a real PostgreSQL on loopback: what a client is told, and what is there after.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_workload::check::{durability, linearizable};
use holdfast_workload::run::{
    Login, Pace, Recorder, RegisterSpec, Session, Stop, WriterSpec, schema, use_register,
    write_rows,
};
use holdfast_workload::{Outcome, Verdict};
use tokio::net::TcpStream;

/// How long anything may take here.
const BOUND: Duration = Duration::from_secs(30);

/// A server of its own, gone with its folder at the end.
struct Server {
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    process: Child,
}

fn command(program: &Path) -> Command {
    // PostgreSQL refuses to run as root.
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    match is_root {
        true => {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=postgres",
                "--regid=postgres",
                "--init-groups",
                "--",
            ]);
            command.arg(program);
            command
        }
        false => Command::new(program),
    }
}

impl Server {
    fn start() -> Server {
        let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
        let bins = versions
            .filter_map(Result::ok)
            .map(|v| v.path().join("bin"));
        let bin = bins.max().expect("PostgreSQL is installed");
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = std::env::temp_dir().join(format!("holdfast-workload-{port}"));
        let made = command(&bin.join("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-N", "-D"])
            .arg(&folder)
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let process = Server::spawn(&bin, &folder, port);
        Server {
            bin,
            folder,
            port,
            process,
        }
    }

    fn spawn(bin: &Path, folder: &Path, port: u16) -> Child {
        let mut server = command(&bin.join("postgres"));
        server
            .arg("-D")
            .arg(folder)
            .args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        server.args(["-k", "", "-c", "shared_buffers=16MB"]);
        let log = std::fs::File::create(folder.with_extension("log")).unwrap();
        server.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn kill_and_start(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        // Its children see that it is gone; a new one waits for their shared memory.
        let begun = Instant::now();
        loop {
            self.process = Server::spawn(&self.bin, &self.folder, self.port);
            std::thread::yield_now();
            let answer = command(&self.bin.join("pg_isready"))
                .args([
                    "-q",
                    "-h",
                    "127.0.0.1",
                    "-t",
                    "5",
                    "-p",
                    &self.port.to_string(),
                ])
                .status();
            if answer.unwrap().code() != Some(2) || self.process.try_wait().unwrap().is_none() {
                return;
            }
            assert!(begun.elapsed() < BOUND, "it does not start again");
        }
    }

    async fn stream(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(("127.0.0.1", self.port)).await
    }

    /// A session, once the server takes one.
    async fn session(&self) -> Session<TcpStream> {
        let begun = Instant::now();
        loop {
            match Session::open(self.stream(), &login(), BOUND).await {
                Ok(session) => return session,
                Err(error) => assert!(begun.elapsed() < BOUND, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn tell(&self, sql: &str) {
        self.session().await.rows(sql).await.unwrap();
    }

    async fn set(&self, sql: &str) {
        self.tell(sql).await;
        self.tell("SELECT pg_reload_conf()").await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = command(&self.bin.join("pg_ctl"))
            .args(["-s", "-m", "immediate", "-D"])
            .arg(&self.folder)
            .arg("stop")
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
        let _ = std::fs::remove_file(self.folder.with_extension("log"));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn login() -> Login {
    Login {
        user: "postgres".to_owned(),
        password: None,
        database: "postgres".to_owned(),
    }
}

fn spec(number: u16, deadline: Duration) -> WriterSpec {
    WriterSpec {
        number,
        member: "worker-1".to_owned(),
        login: login(),
        pace: Pace {
            every: Duration::from_millis(5),
            deadline,
            connect_within: Duration::from_secs(5),
        },
    }
}

/// Lets a writer write until something is so.
async fn until(
    server: &Server,
    spec: &WriterSpec,
    recorder: &Recorder,
    done: impl AsyncFn(&Recorder) -> bool,
) {
    let stop = Stop::default();
    let writing = write_rows(spec, recorder, &stop, || server.stream());
    let watching = async {
        let begun = Instant::now();
        while !done(recorder).await {
            assert!(
                begun.elapsed() < BOUND,
                "{:?}",
                recorder.history(None).writes.last()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.stop();
    };
    both(writing, watching).await;
}

async fn both(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (Box::pin(a), Box::pin(b));
    let (mut a_over, mut b_over) = (false, false);
    std::future::poll_fn(|cx| {
        a_over = a_over || a.as_mut().poll(cx).is_ready();
        b_over = b_over || b.as_mut().poll(cx).is_ready();
        match a_over && b_over {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

#[test]
fn what_a_server_acknowledges_is_there_and_what_it_refuses_is_not() {
    run(async {
        let server = Server::start();
        schema::prepare(&mut server.session().await, BOUND)
            .await
            .unwrap();
        let recorder = Recorder::new(Instant::now());
        let patient = spec(1, BOUND);
        until(&server, &patient, &recorder, async |r| {
            r.progress().acknowledged >= 20
        })
        .await;

        server
            .set("ALTER SYSTEM SET default_transaction_read_only = on")
            .await;
        let refused = spec(2, BOUND);
        until(&server, &refused, &recorder, async |r| {
            r.progress().failed >= 3
        })
        .await;
        let told = recorder.history(None);
        let error = told.writes.last().unwrap().error.clone().unwrap();
        assert!(error.starts_with("25006 ERROR"), "{error}");
        let at = told.writes[0].server.clone().unwrap();
        assert_eq!(at, "127.0.0.1 timeline 1");

        let found = schema::read_rows(&mut server.session().await, BOUND)
            .await
            .unwrap();
        let result = durability(&recorder.history(Some(found)));
        assert!(result.holds() && result.acknowledged >= 20, "{result:?}");
    });
}

#[test]
fn a_wait_for_a_standby_that_is_cut_short_is_unknown_and_named() {
    run(async {
        let server = Server::start();
        schema::prepare(&mut server.session().await, BOUND)
            .await
            .unwrap();
        server
            .set("ALTER SYSTEM SET synchronous_standby_names = 'ghost'")
            .await;

        let recorder = Recorder::new(Instant::now());
        let hasty = spec(1, Duration::from_millis(200));
        until(&server, &hasty, &recorder, async |r| {
            r.progress().unknown >= 2
        })
        .await;
        let patient = spec(2, BOUND);
        until(&server, &patient, &recorder, async |r| {
            let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                          WHERE wait_event = 'SyncRep'";
            server.tell(cancel).await;
            let named = |error: &String| error.starts_with("01000 WARNING");
            let writes = r.history(None).writes;
            writes
                .iter()
                .any(|write| write.error.as_ref().is_some_and(named))
        })
        .await;

        let mut history = recorder.history(None);
        assert!(
            history.writes.iter().all(|w| w.outcome == Outcome::Unknown),
            "{history:?}"
        );
        history.found = Some(
            schema::read_rows(&mut server.session().await, BOUND)
                .await
                .unwrap(),
        );
        let result = durability(&history);
        assert!(
            result.holds() && result.unknown_and_there >= 2,
            "{result:?}"
        );
    });
}

#[test]
fn after_a_crash_everything_acknowledged_is_there_and_the_register_is_linearizable() {
    run(async {
        let mut server = Server::start();
        schema::prepare(&mut server.session().await, BOUND)
            .await
            .unwrap();
        let recorder = Recorder::new(Instant::now());
        let stop = Stop::default();
        let register = RegisterSpec {
            client: 1,
            login: login(),
            pace: spec(0, BOUND).pace,
        };
        let port = server.port;
        let connect = || TcpStream::connect(("127.0.0.1", port));
        let clients = async {
            let other = RegisterSpec {
                client: 2,
                ..register.clone()
            };
            let both_registers = both(
                use_register(&register, &recorder, &stop, connect),
                use_register(&other, &recorder, &stop, connect),
            );
            let writer = spec(1, Duration::from_secs(2));
            both(
                write_rows(&writer, &recorder, &stop, connect),
                both_registers,
            )
            .await;
        };
        let story = async {
            let wait_for = async |count| {
                let begun = Instant::now();
                while recorder.progress().acknowledged < count {
                    assert!(begun.elapsed() < BOUND, "{recorder:?}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            wait_for(20).await;
            server.kill_and_start();
            let before = recorder.progress().acknowledged;
            wait_for(before + 20).await;
            stop.stop();
        };
        both(clients, story).await;
        let found = schema::read_rows(&mut server.session().await, BOUND)
            .await
            .unwrap();
        let history = recorder.history(Some(found));
        let result = durability(&history);
        assert!(
            result.holds() && result.failed + result.unknown > 0,
            "{result:?}"
        );
        let verdict = linearizable(&history.register);
        assert!(
            matches!(verdict, Verdict::Linearizable { operations } if operations > 10),
            "{verdict:?}"
        );
    });
}

#[test]
fn a_table_is_filled_to_its_size() {
    run(async {
        let server = Server::start();
        let mut session = server.session().await;
        schema::prepare(&mut session, BOUND).await.unwrap();
        schema::fill(&mut session, 12_000_000, BOUND).await.unwrap();
        let sql = "SELECT pg_table_size('holdfast_workload.filler')";
        let rows = session.rows(sql).await.unwrap();
        let size: u64 = rows[0][0].as_ref().unwrap().parse().unwrap();
        assert!((11_000_000..14_000_000).contains(&size), "{size}");
    });
}
