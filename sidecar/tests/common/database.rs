//! A database for one worker, with programs that only say what they are, or with real ones.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::http::{Request, Response, ServerLimits, StatusCode, Stop, serve};
use holdfast_io::net::{Listener, Net};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, os_seed};
use holdfast_io::spawn::{Spawn, Task};
use holdfast_postgres::{EndpointSettings, KvPlace, Settings, Synchronous};
use holdfast_servers::kv::http::{KvOptions, serve_kv};
use holdfast_servers::kv::store::{Config, Store};
use holdfast_sidecar::Postgres;
use holdfast_sidecar::postgres::Credentials;
use zeroize::Zeroizing;

use super::Folder;

/// The server's address, as `worker-3` has it in these tests.
pub const SERVER: &str = "127.50.0.201:15432";
pub const REST: &str = "127.50.0.201:18008";
/// What `worker-4` would have.
pub const OTHER_REST: &str = "127.50.0.202:18008";
pub const PRIMARY: &str = "127.91.7.2:15432";
pub const REPLICAS: &str = "127.91.7.3:15432";
pub const PASSWORD: &str = "superuserpassword";

/// The embedded KV, until it is dropped.
pub struct Kv {
    pub address: SocketAddr,
    _task: Task,
}

impl Kv {
    pub async fn start() -> Kv {
        let listener = RealNet
            .listen("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let now = holdfast_io::clock::Clock::now(&RealClock);
        let store = Store::new(Config::default(), os_seed().unwrap(), now).unwrap();
        let task = RealSpawn.spawn("kv", async move {
            let (_never, stop) = Stop::new();
            let options = KvOptions::default();
            serve_kv(listener, options, store, RealClock, RealSpawn, stop).await;
        });
        Kv {
            address,
            _task: task,
        }
    }
}

/// Who can own a database here: not root.
pub fn user() -> String {
    // SAFETY: takes nothing, cannot fail.
    let own = unsafe { libc::geteuid() };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let uid = if own == 0 { 65534 } else { own };
    let mut lines = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.get(2) == Some(&uid.to_string().as_str()));
    found.expect("every user has a line")[0].to_owned()
}

pub fn settings(folder: &Folder) -> Settings {
    Settings {
        bin_dir: folder.file("bin"),
        patroni: folder.file("bin/patroni"),
        user: user(),
        data_dir: folder.file("data"),
        scope: "north".to_owned(),
        port: port(SERVER),
        rest_port: port(REST),
        synchronous: Synchronous::Quorum,
        ttl: Duration::from_secs(30),
        loop_wait: Duration::from_secs(10),
        retry_timeout: Duration::from_secs(10),
        maximum_lag_on_failover: 1 << 20,
        parameters: Default::default(),
        overlay: None,
        tls: true,
        disk_free_min: 1 << 20,
        endpoints: EndpointSettings {
            primary: PRIMARY.parse().unwrap(),
            replicas: REPLICAS.parse().unwrap(),
            check_interval: Duration::from_millis(100),
            ..EndpointSettings::default()
        },
    }
}

fn port(addr: &str) -> u16 {
    addr.parse::<SocketAddr>().unwrap().port()
}

pub fn postgres(settings: Settings, kv: Option<&Kv>) -> Postgres {
    let password = |text: &str| Zeroizing::new(text.to_owned());
    Postgres {
        settings,
        role: "worker".to_owned(),
        kv: kv.map(|kv| KvPlace {
            address: format!("http://{}", kv.address),
            token: None,
            ca_file: None,
        }),
        credentials: Credentials {
            superuser: password(PASSWORD),
            replication: password("replicationpassword"),
            rewind: password("rewindpassword"),
            rest: password("restpassword"),
            ca: Zeroizing::new([7; 32]),
        },
    }
}

/// Programs that say what they are; Patroni then runs until it is asked to end.
pub fn fake_programs(folder: &Folder, postgres_version: &str) {
    let bin = folder.file("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let names = [
        "initdb",
        "pg_ctl",
        "pg_controldata",
        "pg_basebackup",
        "pg_rewind",
        "pg_isready",
    ];
    for name in names {
        program(bin.join(name), "exit 0");
    }
    let version = format!("echo 'postgres (PostgreSQL) {postgres_version}'");
    program(bin.join("postgres"), &version);
    let patroni = "if [ \"$1\" = --version ]; then echo 'patroni 4.1.5'; exit 0; fi
        env > \"$HOME/environment\"; exec sleep 1000";
    program(bin.join("patroni"), patroni);
}

fn program(path: PathBuf, script: &str) {
    // Not written in place: it may be running.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
}

/// What Patroni would answer: its word for the role, if it answers.
pub type Says = Rc<RefCell<Option<&'static str>>>;

/// Answers in the place of Patroni, until it is dropped.
pub async fn fake_rest(says: Says) -> Task {
    fake_rest_at(REST, says).await
}

/// As [`fake_rest`], at another address.
pub async fn fake_rest_at(addr: &str, says: Says) -> Task {
    let listener = RealNet.listen(addr.parse().unwrap()).await.unwrap();
    RealSpawn.spawn("rest", async move {
        let (_never, stop) = Stop::new();
        let handler = move |request: Request| {
            let answer = answer(&request, *says.borrow());
            async move { answer }
        };
        let limits = ServerLimits::default();
        serve(listener, RealClock, RealSpawn, limits, stop, handler).await;
    })
}

fn answer(request: &Request, says: Option<&str>) -> Response {
    let Some(role) = says else {
        return Response::text(StatusCode::SERVICE_UNAVAILABLE, "");
    };
    let ok = request.path == "/readiness" || role == "primary";
    let status = match ok {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = format!(
        r#"{{"state":"running","role":"{role}","server_version":150018,"timeline":2,
            "replication_state":"streaming","database_system_identifier":"1",
            "xlog":{{"location":100,"received_location":100,"replayed_location":100}},
            "patroni":{{"version":"4.1.5","scope":"north","name":"worker-3-instance-1"}}}}"#
    );
    Response::json(status, body)
}
