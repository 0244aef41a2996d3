//! Real Consul: a server of its own for this run, on addresses of its own, in memory.
//!
//! Three of them: one as it comes, one with HTTPS and ACLs, and one that finds no leader.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_contract::kv::suite;
use holdfast_io::clock::Clock;
use holdfast_io::kv::consul::{Config, Token, tls_from_file};
use holdfast_io::real::{RealClock, block_on};
use libtest_mimic::Trial;
use zeroize::Zeroizing;

use super::real::{Missing, client, trial};

/// Longest time until a server leads itself and answers. It takes about two seconds.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The token of the server with ACLs.
const TOKEN: &str = "5ecb1e9a-0000-4000-8000-c0ffee000001";

static PLAIN: OnceLock<Result<Server, String>> = OnceLock::new();
static SECURE: OnceLock<Result<Server, String>> = OnceLock::new();
static LEADERLESS: OnceLock<Result<Server, String>> = OnceLock::new();
static KEEPERS: Mutex<Vec<Keeper>> = Mutex::new(Vec::new());

/// How a server is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    Plain,
    Secure,
    Leaderless,
}

/// A server that runs.
struct Server {
    config: Config,
}

/// The thread that started a server, which the server does not survive.
struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Every case on both servers.
pub fn trials() -> Vec<Trial> {
    let plain = suite().into_iter().map(|case| trial("consul", case, plain));
    let secure = suite()
        .into_iter()
        .filter(|case| !case.name.contains("session"));
    let secure = secure.map(|case| trial("consul-tls-acl", case, secure_config));
    plain.chain(secure).collect()
}

/// The server as it comes.
pub fn plain() -> Result<Config, Missing> {
    connect(&PLAIN, Setup::Plain)
}

/// The server with HTTPS and ACLs, with a token that may do everything.
pub fn secure_config() -> Result<Config, Missing> {
    connect(&SECURE, Setup::Secure)
}

/// The server that waits for two others, which never come.
pub fn leaderless() -> Result<Config, Missing> {
    connect(&LEADERLESS, Setup::Leaderless)
}

/// End every server.
pub fn stop() {
    let keepers = std::mem::take(&mut *KEEPERS.lock().unwrap());
    for keeper in keepers {
        drop(keeper.stop);
        let _ = keeper.thread.join();
    }
}

fn connect(server: &OnceLock<Result<Server, String>>, setup: Setup) -> Result<Config, Missing> {
    let Some(program) = program() else {
        let why =
            "Consul is not installed: run `deploy/setup.sh test`, or set CONSUL_BIN".to_owned();
        return Err(match std::env::var("CI").as_deref() {
            Ok("true") => Missing::Fail(why),
            _ => Missing::Skip(why),
        });
    };
    let server = server.get_or_init(|| start(&program, setup));
    match server {
        Ok(server) => Ok(server.config.clone()),
        Err(why) => Err(Missing::Fail(why.clone())),
    }
}

/// `CONSUL_BIN`, or what `deploy/setup.sh test` has built.
fn program() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("CONSUL_BIN").filter(|given| !given.is_empty()) {
        return Some(given.into());
    }
    let cache = match std::env::var_os("HOLDFAST_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/holdfast"),
    };
    Some(cache.join("tools/bin/consul")).filter(|program| program.exists())
}

fn start(program: &Path, setup: Setup) -> Result<Server, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("consul-{}-{setup:?}", std::process::id()));
    let failed = |what: &str, error: io::Error| format!("{what} {}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(|error| failed("cannot make", error))?;
    let ports = free_ports().map_err(|error| failed("no free ports for", error))?;
    if setup == Setup::Secure {
        make_certificates(program, &folder)?;
    }
    let settings = settings(&folder, ports, setup);
    fs::write(folder.join("consul.hcl"), settings)
        .map_err(|error| failed("cannot write", error))?;
    let log =
        fs::File::create(folder.join("log")).map_err(|error| failed("cannot write", error))?;
    let mut command = Command::new(program);
    command
        .args(match setup {
            Setup::Plain | Setup::Secure => &["agent", "-dev"][..],
            Setup::Leaderless => &["agent", "-server", "-bootstrap-expect=3", "-data-dir=data"],
        })
        .arg("-config-file=consul.hcl")
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(log);
    keep(command, folder.clone())?;
    let config = config(&folder, ports[0], setup)?;
    await_start(&config, &folder, setup)?;
    Ok(Server { config })
}

/// HTTP or HTTPS, and what Consul must have besides.
fn free_ports() -> io::Result<[u16; 3]> {
    // All are open at once, so that they differ; between now and Consul's start somebody else
    // might take one, which is unlikely and a clear failure.
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners = [
        TcpListener::bind(any)?,
        TcpListener::bind(any)?,
        TcpListener::bind(any)?,
    ];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn settings(folder: &Path, [http, serf, server]: [u16; 3], setup: Setup) -> String {
    let (plain, tls) = if setup == Setup::Secure {
        (-1, i32::from(http))
    } else {
        (i32::from(http), -1)
    };
    let mut text = format!(
        "node_name = \"contract\"\nbind_addr = \"127.0.0.1\"\nclient_addr = \"127.0.0.1\"\n\
         log_level = \"warn\"\ndisable_update_check = true\nui_config {{ enabled = false }}\n\
         ports {{ http = {plain} https = {tls} dns = -1 grpc = -1 grpc_tls = -1 serf_wan = -1 \
         serf_lan = {serf} server = {server} }}\n"
    );
    if setup == Setup::Secure {
        let file = |name: &str| folder.join(name).display().to_string();
        text += &format!(
            "acl {{ enabled = true default_policy = \"deny\" tokens {{ initial_management = \"{TOKEN}\" agent = \"{TOKEN}\" }} }}\n\
             tls {{ https {{ ca_file = {:?} cert_file = {:?} key_file = {:?} }} }}\n",
            file("consul-agent-ca.pem"),
            file("dc1-server-consul-0.pem"),
            file("dc1-server-consul-0-key.pem"),
        );
    }
    text
}

fn make_certificates(program: &Path, folder: &Path) -> Result<(), String> {
    for args in [
        &["tls", "ca", "create"][..],
        &["tls", "cert", "create", "-server", "-dc=dc1"],
    ] {
        let output = Command::new(program)
            .args(args)
            .current_dir(folder)
            .output();
        let output =
            output.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("consul {args:?}: {said}"));
        }
    }
    Ok(())
}

/// Start Consul on a thread that lasts as long as it: it is killed when that thread ends, which
/// it does whatever ends this process.
fn keep(mut command: Command, folder: PathBuf) -> Result<(), String> {
    let (stop, stopped) = channel();
    let (tell, told) = channel();
    let thread = std::thread::spawn(move || {
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        let command = unsafe {
            command.pre_exec(
                || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                },
            )
        };
        let started = command.spawn();
        match started {
            Ok(child) => {
                let _ = tell.send(Ok(()));
                wait_and_end(child, &stopped);
                let _ = fs::remove_dir_all(folder);
            }
            Err(error) => {
                let _ = tell.send(Err(format!(
                    "cannot run {:?}: {error}",
                    command.get_program()
                )));
            }
        }
    });
    KEEPERS.lock().unwrap().push(Keeper { stop, thread });
    told.recv().expect("the thread tells in any case")
}

fn wait_and_end(mut child: Child, stopped: &Receiver<()>) {
    // Ends when the sender is dropped.
    let _ = stopped.recv();
    let _ = child.kill();
    let _ = child.wait();
}

fn config(folder: &Path, port: u16, setup: Setup) -> Result<Config, String> {
    let secure = setup == Setup::Secure;
    let scheme = if secure { "https" } else { "http" };
    let address = format!("{scheme}://127.0.0.1:{port}")
        .parse()
        .expect("an address");
    let mut config = Config::new(vec![address]);
    if secure {
        let token = Token::new(&Zeroizing::new(TOKEN.to_owned()));
        config.token = Some(token.expect("a token"));
        let tls = tls_from_file(&folder.join("consul-agent-ca.pem"));
        config.tls = Some(tls.map_err(|error| error.to_string())?);
    }
    Ok(config)
}

fn await_start(config: &Config, folder: &Path, setup: Setup) -> Result<(), String> {
    let began = Instant::now();
    let waiting = async {
        let consul = client(config.clone());
        loop {
            if setup == Setup::Leaderless && consul.agent().about().await.is_ok() {
                return Ok(());
            }
            let leader = consul.agent().leader().await;
            // The token is there some time after the leader is.
            let works = match &leader {
                Ok(Some(_)) => consul.agent().members().await.map(|_| ()),
                Ok(None) => Ok(()),
                Err(failure) => Err(failure.clone()),
            };
            if matches!((&leader, &works), (Ok(Some(_)), Ok(()))) {
                return Ok(());
            }
            if began.elapsed() > START_LIMIT {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(format!(
                    "Consul does not lead: {leader:?}, {works:?}; it says:\n{log}"
                ));
            }
            RealClock.sleep(Duration::from_millis(100)).await;
        }
    };
    block_on(waiting).map_err(|error| error.to_string())?
}
