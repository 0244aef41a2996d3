//! A network namespace, a KV, two members, and an end to all of it.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use holdfast_core::entropy::Seed;
use holdfast_core::types::Vip;
use holdfast_io::clock::Clock;
use holdfast_io::http::Stop;
use holdfast_io::kv::Kv;
use holdfast_io::kv::consul::{Config, Consul};
use holdfast_io::net::Net;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, loopback_up};
use holdfast_io::spawn::Spawn;
use holdfast_postgres::host::{Host, Program, User};
use holdfast_postgres::real::RealHost;
use holdfast_postgres::{
    Credentials, EndpointSettings, Guard, KvPlace, Place, Settings, Synchronous,
};
use holdfast_servers::kv::http::{KvOptions, serve_kv};
use holdfast_servers::kv::store::Store;
use zeroize::Zeroizing;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const PATRONI: &str = "/opt/holdfast/bin/patroni";
const KV: &str = "127.0.0.1:8500";

/// What must be in nobody's sight.
pub fn secrets() -> Vec<String> {
    ["superuser", "replication", "rewind", "rest"]
        .map(|of| format!("hush-{of}-0123456789"))
        .into()
}

/// The namespace and the folder of the test.
pub struct World {
    folder: PathBuf,
    user: User,
}

impl World {
    /// A world, if this machine can have one.
    pub fn open() -> Option<World> {
        // SAFETY: takes nothing, cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        let there = Path::new(PATRONI).exists() && Path::new(BIN).exists();
        let user = RealHost.user("postgres").unwrap();
        let (true, true, Some(user)) = (root, there, user) else {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "needs root, the user postgres, {BIN} and {PATRONI}");
            eprintln!("NOT CHECKED: needs root, the user postgres, {BIN} and {PATRONI}");
            return None;
        };
        // SAFETY: one integer. Only this thread and what it starts are in the new namespace.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(unshared, 0, "{}", io::Error::last_os_error());
        loopback_up().unwrap();
        // As the mesh delivers: from a virtual address.
        let route = "route add local 127.50.0.0/24 dev lo src 127.50.0.250 table local";
        let routed = Command::new("ip").args(route.split(' ')).status().unwrap();
        assert!(routed.success());
        let folder = std::env::temp_dir().join(format!("pg-cluster-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Some(World { folder, user })
    }

    pub async fn serve_kv(&self) -> Rc<dyn Kv> {
        let listener = RealNet.listen(KV.parse().unwrap()).await.unwrap();
        let store = Store::new(Default::default(), Seed::new([5; 32]), RealClock.now()).unwrap();
        let (switch, stop) = Stop::new();
        let serving = async move {
            let _switch = switch;
            serve_kv(
                listener,
                KvOptions::default(),
                store,
                RealClock,
                RealSpawn,
                stop,
            )
            .await;
        };
        RealSpawn.spawn("kv", serving).detach();
        let config = Config::new(vec![format!("http://{KV}").parse().unwrap()]);
        Rc::new(Consul::new(RealNet, RealClock, RealSpawn, config).unwrap())
    }

    pub fn member(&self, n: u16) -> Member {
        let home = self.folder.join(n.to_string());
        let secret = |of: usize| Zeroizing::new(secrets()[of].clone());
        Member {
            vip: Vip::new(200 + n).unwrap(),
            log: self.folder.join(format!("{n}.log")),
            settings: Settings {
                bin_dir: BIN.into(),
                patroni: PATRONI.into(),
                user: "postgres".into(),
                data_dir: home.join("data"),
                scope: "demo".into(),
                port: 5432,
                rest_port: 8008,
                synchronous: Synchronous::Quorum,
                ttl: Duration::from_secs(20),
                loop_wait: Duration::from_secs(1),
                retry_timeout: Duration::from_secs(3),
                maximum_lag_on_failover: 1 << 20,
                parameters: [("shared_buffers".into(), "16MB".into())].into(),
                overlay: None,
                tls: true,
                disk_free_min: 1 << 20,
                endpoints: EndpointSettings::default(),
            },
            place: Place {
                cluster: "demo".into(),
                id: format!("w-{n}").parse().unwrap(),
                instance: "0a1b2c3d".into(),
                vip: Vip::new(200 + n).unwrap(),
                members: [1, 2]
                    .map(|n| {
                        (
                            format!("w-{n}").parse().unwrap(),
                            Vip::new(200 + n).unwrap(),
                        )
                    })
                    .into(),
                kv: KvPlace {
                    address: format!("http://{KV}"),
                    token: None,
                    ca_file: None,
                },
                run_dir: home.join("run"),
            },
            credentials: Credentials {
                superuser: secret(0),
                replication: secret(1),
                rewind: secret(2),
                rest: secret(3),
                ca: Zeroizing::new([9; 32]),
            },
            user: self.user,
        }
    }

    /// The processes in the namespace: ours and those of this test.
    pub fn processes(&self) -> Vec<u32> {
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let inside =
            |pid: &u32| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns == own);
        pids.filter(inside).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What a failed test left: it is in the namespace, and so it is ours.
        for pid in self
            .processes()
            .into_iter()
            .filter(|pid| *pid != std::process::id())
        {
            // SAFETY: two integers.
            unsafe { libc::kill(i32::try_from(pid).unwrap(), libc::SIGKILL) };
        }
        if std::thread::panicking() {
            for n in [1, 2] {
                let log = fs::read_to_string(self.folder.join(format!("{n}.log")));
                eprintln!("--- member {n}\n{}", log.unwrap_or_default());
            }
        }
        let gone = (0..100).any(|_| {
            let gone = fs::remove_dir_all(&self.folder).is_ok();
            if !gone {
                std::thread::sleep(Duration::from_millis(20));
            }
            gone
        });
        assert!(
            gone || std::thread::panicking(),
            "{} stays",
            self.folder.display()
        );
    }
}

/// A machine with a database.
#[derive(Clone)]
pub struct Member {
    pub vip: Vip,
    pub log: PathBuf,
    pub settings: Settings,
    pub place: Place,
    credentials: Credentials,
    user: User,
}

impl Member {
    pub fn guard(&self, kv: Rc<dyn Kv>) -> Guard<RealNet, RealClock, RealSpawn> {
        let what = (
            self.settings.clone(),
            self.place.clone(),
            self.credentials.clone(),
        );
        Guard::new(what, kv, (RealNet, RealClock, RealSpawn)).unwrap()
    }

    /// The same machine, with its own files, and passwords that are not the cluster's.
    pub fn with_other_passwords(&self) -> Member {
        let mut other = self.clone();
        let elsewhere = Zeroizing::new("of-elsewhere".to_owned());
        other.credentials.superuser = elsewhere.clone();
        other.credentials.replication = elsewhere.clone();
        other.credentials.rewind = elsewhere;
        other.place.run_dir = self.place.run_dir.with_file_name("other");
        other
    }

    pub fn start(&self) -> Running {
        let log = fs::File::create(&self.log).unwrap();
        let mut command = Command::new(PATRONI);
        command
            .arg(self.place.run_dir.join("patroni.yml"))
            .env_clear();
        command
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC");
        command
            .uid(self.user.uid)
            .gid(self.user.gid)
            .current_dir("/")
            .stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Running(command.spawn().unwrap())
    }

    async fn run(&self, path: &str, arguments: &[&str]) -> String {
        let passwords = self.place.run_dir.join("postgres/login.pgpass");
        let program = Program {
            path: Path::new(path),
            arguments,
            environment: &[
                ("PGPASSFILE", passwords.as_os_str()),
                ("PGCONNECT_TIMEOUT", "5".as_ref()),
                ("TERM", "dumb".as_ref()),
            ],
            user: self.user,
            limit: Duration::from_secs(30),
        };
        RealHost.run(program).await.unwrap()
    }

    pub async fn psql(&self, url: &str, statement: &str) -> String {
        let psql = format!("{BIN}/psql");
        self.run(&psql, &["-X", "-w", "-At", url, "-c", statement])
            .await
    }

    /// Ask this member as the superuser, over its address.
    pub async fn sql(&self, statement: &str) -> String {
        let url = format!("host={} port=5432 user=postgres dbname=postgres", self.vip);
        self.psql(&url, statement).await
    }

    pub async fn switch_over(&self, from: &str, to: &str) {
        let config = self.place.run_dir.join("patroni.yml");
        let config = config.display().to_string();
        let ask = [
            "-c",
            &config,
            "switchover",
            "demo",
            "--leader",
            from,
            "--candidate",
            to,
            "--force",
        ];
        let said = self.run(&format!("{PATRONI}ctl"), &ask).await;
        assert!(said.contains("Successfully switched over"), "{said}");
    }
}

/// A Patroni.
pub struct Running(Child);

impl Running {
    /// Ask it to end, which ends PostgreSQL, too.
    pub async fn end(&mut self) {
        let pid = i32::try_from(self.0.id()).unwrap();
        // SAFETY: two integers. It is our child and not reaped: its number is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        for _ in 0..1000 {
            if self.0.try_wait().unwrap().is_some() {
                return;
            }
            RealClock.sleep(Duration::from_millis(20)).await;
        }
        panic!("Patroni does not end");
    }
}
