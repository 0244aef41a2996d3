//! Each refusal, on a machine of memory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;

use holdfast_io::real::{RealClock, RealNet, RealSpawn};
use serde_json::json;

use super::*;
use crate::host::{Meta, Program};
use crate::testing::{TestKv, credentials, place, run, settings};
use crate::watch::View;

const OWNER: User = User { uid: 101, gid: 104 };
const ROOT: User = User { uid: 0, gid: 0 };

/// What a file has in it, its mode and its owner.
type Written = (Vec<u8>, u32, Option<User>);

/// A machine on which everything is as it should be.
#[derive(Clone)]
struct Memory(Rc<Inner>);

struct Inner {
    metas: RefCell<BTreeMap<PathBuf, Meta>>,
    files: RefCell<BTreeMap<PathBuf, Written>>,
    said: RefCell<BTreeMap<PathBuf, String>>,
    free: Cell<u64>,
    root: Cell<bool>,
}

impl Memory {
    fn whole() -> Memory {
        let memory = Memory(Rc::new(Inner {
            metas: RefCell::default(),
            files: RefCell::default(),
            said: RefCell::default(),
            free: Cell::new(1 << 40),
            root: Cell::new(true),
        }));
        for folder in [
            "/",
            "/var",
            "/var/lib",
            "/var/lib/holdfast",
            "/run",
            "/run/holdfast",
        ] {
            memory.put(folder, ROOT, 0o755, true);
        }
        for program in [
            "initdb",
            "pg_ctl",
            "pg_controldata",
            "pg_basebackup",
            "pg_rewind",
            "pg_isready",
        ] {
            memory.put(
                &format!("/usr/lib/postgresql/15/bin/{program}"),
                ROOT,
                0o755,
                false,
            );
        }
        let says = |path: &str, text: &str| memory.says(path, text);
        says(
            "/usr/lib/postgresql/15/bin/postgres",
            "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n",
        );
        says("/opt/holdfast/bin/patroni", "patroni 4.1.5\n");
        memory
    }

    fn put(&self, path: &str, owner: User, mode: u32, is_dir: bool) {
        let meta = Meta {
            owner,
            mode,
            is_dir,
        };
        self.0.metas.borrow_mut().insert(path.into(), meta);
    }

    fn says(&self, path: &str, text: &str) {
        self.0
            .said
            .borrow_mut()
            .insert(path.into(), text.to_owned());
    }

    fn file(&self, path: &str, bytes: &[u8]) {
        self.0
            .files
            .borrow_mut()
            .insert(path.into(), (bytes.to_vec(), 0o600, None));
    }
}

impl Host for Memory {
    async fn run(&self, program: Program<'_>) -> io::Result<String> {
        assert_eq!(program.user, OWNER, "programs are run as the user");
        // Of psql, by whom it logs in as and where.
        let mut key = program.path.display().to_string();
        for flag in ["-U", "-h"] {
            let at = program.arguments.iter().position(|one| *one == flag);
            if let Some(given) = at.and_then(|at| program.arguments.get(at + 1)) {
                key = format!("{key} {given}");
            }
        }
        let said = self.0.said.borrow().get(Path::new(&key)).cloned();
        said.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn user(&self, name: &str) -> io::Result<Option<User>> {
        Ok((name == "postgres").then_some(OWNER))
    }

    fn may_become(&self, _: User) -> bool {
        self.0.root.get()
    }

    fn inspect(&self, path: &Path) -> io::Result<Option<Meta>> {
        Ok(self.0.metas.borrow().get(path).copied())
    }

    fn is_empty(&self, path: &Path) -> io::Result<bool> {
        let files = self.0.files.borrow();
        Ok(!files.keys().any(|file| file.starts_with(path)))
    }

    fn read(&self, path: &Path, _: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self
            .0
            .files
            .borrow()
            .get(path)
            .map(|(bytes, ..)| bytes.clone()))
    }

    fn read_own(&self, path: &Path, _: &[User], len: u64) -> io::Result<Option<Vec<u8>>> {
        self.read(path, len)
    }
    fn write(&self, path: &Path, bytes: &[u8], mode: u32, owner: Option<User>) -> io::Result<()> {
        self.0
            .files
            .borrow_mut()
            .insert(path.into(), (bytes.to_vec(), mode, owner));
        Ok(())
    }

    fn make_dir(&self, path: &Path, mode: u32, owner: User) -> io::Result<()> {
        let meta = Meta {
            owner,
            mode,
            is_dir: true,
        };
        self.0.metas.borrow_mut().insert(path.into(), meta);
        Ok(())
    }

    fn disk_free(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.free.get())
    }
}

fn guard(memory: &Memory, kv: &TestKv) -> Guard<RealNet, RealClock, RealSpawn, Memory> {
    let what = (settings(), place(), credentials());
    let world = (RealNet, RealClock, RealSpawn);
    Guard::on(memory.clone(), what, Rc::new(kv.clone()), world).unwrap()
}

const DATA: &str = "/var/lib/holdfast/postgres";

/// What is said when this was done to a machine on which all was well.
fn refused(spoil: impl Fn(&Memory, &TestKv)) -> String {
    let (memory, kv) = (Memory::whole(), TestKv::default());
    spoil(&memory, &kv);
    let config = kv.get("service/demo/config");
    let refusal = run(guard(&memory, &kv).before_start())
        .unwrap_err()
        .to_string();
    assert!(
        !memory
            .0
            .files
            .borrow()
            .contains_key(Path::new("/run/holdfast/patroni.yml"))
    );
    assert_eq!(
        kv.get("service/demo/config"),
        config,
        "a refused start changes nothing"
    );
    refusal
}

#[test]
fn a_start_writes_what_patroni_needs_for_its_user_alone() {
    let (memory, kv) = (Memory::whole(), TestKv::default());
    run(guard(&memory, &kv).before_start()).unwrap();
    let files = memory.0.files.borrow().clone();
    let modes: Vec<_> = files
        .iter()
        .map(|(path, (_, mode, owner))| (path.to_str().unwrap(), *mode, *owner))
        .collect();
    assert_eq!(
        modes,
        [
            ("/run/holdfast/ca.pem", 0o644, None),
            ("/run/holdfast/patroni.yml", 0o600, Some(OWNER)),
            ("/run/holdfast/postgres/login.pgpass", 0o600, Some(OWNER)),
            ("/run/holdfast/postgres/server.crt", 0o600, Some(OWNER)),
            ("/run/holdfast/postgres/server.key", 0o600, Some(OWNER)),
        ]
    );
    let own = memory
        .inspect(Path::new("/run/holdfast/postgres"))
        .unwrap()
        .unwrap();
    assert_eq!((own.owner, own.mode), (OWNER, 0o700));
    let data = memory.inspect(Path::new(DATA)).unwrap().unwrap();
    assert_eq!((data.owner, data.mode), (OWNER, 0o700));
    assert!(kv.get("service/demo/config").is_some());
    let before = kv.changes();
    run(guard(&memory, &kv).before_start()).unwrap();
    assert_eq!(
        kv.changes(),
        before,
        "a second start changes nothing in the KV"
    );
}

#[test]
fn the_folder_above_a_new_data_directory_is_the_users_when_it_is_new_too() {
    let (memory, kv) = (Memory::whole(), TestKv::default());
    let mut settings = settings();
    settings.data_dir = format!("{DATA}/data").into();
    let what = (settings, place(), credentials());
    let world = (RealNet, RealClock, RealSpawn);
    let guard = Guard::on(memory.clone(), what, Rc::new(kv), world).unwrap();
    run(guard.before_start()).unwrap();
    for (folder, owner) in [("/var/lib/holdfast", ROOT), (DATA, OWNER)] {
        let found = memory.inspect(Path::new(folder)).unwrap().unwrap();
        assert_eq!(found.owner, owner, "{folder}");
    }
}

#[test]
fn old_or_missing_programs_are_refused_with_the_version_found() {
    let postgres = "/usr/lib/postgresql/15/bin/postgres";
    let patroni = "/opt/holdfast/bin/patroni";
    for (path, said, expected) in [
        (
            postgres,
            "postgres (PostgreSQL) 12.22",
            "PostgreSQL 13 or newer",
        ),
        (
            postgres,
            "no such thing\u{1b}[31m",
            "PostgreSQL 13 or newer",
        ),
        (patroni, "patroni 3.3.2", "Patroni 4 or newer"),
        (patroni, "patroni ", "Patroni 4 or newer"),
    ] {
        let refusal = refused(|memory, _| memory.says(path, said));
        assert!(
            refusal.contains(path) && refusal.contains(expected),
            "{refusal}"
        );
        let found: String = said.trim().chars().take(10).collect();
        assert!(refusal.contains(&found), "{refusal}");
        assert!(!refusal.contains('\u{1b}'), "{refusal}");
    }
    let refusal = refused(|memory, _| drop(memory.0.said.borrow_mut().remove(Path::new(patroni))));
    assert!(refusal.contains("does not run"), "{refusal}");
    let rewind = "/usr/lib/postgresql/15/bin/pg_rewind";
    let refusal = refused(|memory, _| {
        memory.0.metas.borrow_mut().remove(Path::new(rewind));
    });
    assert!(refusal.contains("pg_rewind"), "{refusal}");
}

#[test]
fn a_data_directory_that_is_not_the_users_own_is_refused() {
    let put = |memory: &Memory, owner, mode| {
        memory.put(DATA, owner, mode, true);
        memory.file(&format!("{DATA}/PG_VERSION"), b"15\n");
    };
    let refusal = refused(|memory, _| put(memory, ROOT, 0o700));
    assert!(
        refusal.contains("belongs to the user 0: expected 101 (postgres)"),
        "{refusal}"
    );
    for mode in [0o755, 0o701, 0o770] {
        let refusal = refused(|memory, _| put(memory, OWNER, mode));
        assert!(
            refusal.contains(&format!("{mode:04o}: expected 0700 or 0750")),
            "{refusal}"
        );
    }
    let refusal = refused(|memory, _| memory.put(DATA, OWNER, 0o600, false));
    assert!(refusal.contains("is a file"), "{refusal}");
    let refusal = refused(|memory, _| memory.put("/var/lib/holdfast", ROOT, 0o700, true));
    assert!(
        refusal.contains("cannot reach") && refusal.contains("/var/lib/holdfast"),
        "{refusal}"
    );
    let refusal = refused(|memory, _| {
        memory.put(DATA, OWNER, 0o700, true);
        memory.file(&format!("{DATA}/PG_VERSION"), b"13\n");
    });
    assert!(
        refusal.contains("made by PostgreSQL 13: expected 15"),
        "{refusal}"
    );
}

#[test]
fn files_of_another_system_are_refused_and_stay() {
    let control = format!("{DATA}/global/pg_control");
    let with = |kv: &TestKv, memory: &Memory, initialize: &str| {
        memory.put(DATA, OWNER, 0o700, true);
        memory.file(&control, &42_u64.to_ne_bytes());
        kv.set("service/demo/initialize", initialize.to_owned());
    };
    let refusal = refused(|memory, kv| with(kv, memory, "43"));
    assert!(refusal.contains("system 42: expected 43"), "{refusal}");
    assert!(
        refusal.contains("service/demo/initialize") && refusal.contains(DATA),
        "{refusal}"
    );
    let (memory, kv) = (Memory::whole(), TestKv::default());
    with(&kv, &memory, "42");
    run(guard(&memory, &kv).before_start()).unwrap();
}

/// A database system in the data directory.
fn put_system(memory: &Memory, system: u64) {
    memory.put(DATA, OWNER, 0o700, true);
    memory.file(&format!("{DATA}/PG_VERSION"), b"15\n");
    memory.file(&format!("{DATA}/global/pg_control"), &system.to_ne_bytes());
}

#[test]
fn an_empty_data_directory_is_made_the_users_whosever_it_is() {
    for (owner, mode) in [(ROOT, 0o755), (OWNER, 0o755), (ROOT, 0o700)] {
        let (memory, kv) = (Memory::whole(), TestKv::default());
        memory.put(DATA, owner, mode, true);
        run(guard(&memory, &kv).before_start()).unwrap();
        let found = memory.inspect(Path::new(DATA)).unwrap().unwrap();
        assert_eq!((found.owner, found.mode), (OWNER, 0o700));
    }
}

#[test]
fn what_an_interrupted_first_start_left_is_refused_until_somebody_says_that_it_is_whole() {
    let key = "service/demo/initialize";
    for initialize in [None, Some("")] {
        let refusal = refused(|memory, kv| {
            put_system(memory, 42);
            if let Some(text) = initialize {
                kv.set(key, text);
            }
        });
        assert!(
            refusal.contains("half made") && refusal.contains(&format!("put 42 into {key}")),
            "{refusal}"
        );
    }
    let (memory, kv) = (Memory::whole(), TestKv::default());
    put_system(&memory, 42);
    kv.set(key, "42");
    run(guard(&memory, &kv).before_start()).unwrap();
}

#[test]
fn a_cluster_that_was_made_survives_the_loss_of_the_whole_kv() {
    let (memory, kv) = (Memory::whole(), TestKv::default());
    put_system(&memory, 42);
    kv.set("service/demo/initialize", "42");
    run(guard(&memory, &kv).before_start()).unwrap();
    let lost = TestKv::default();
    run(guard(&memory, &lost).before_start()).unwrap();
    // The mark is of that system alone.
    put_system(&memory, 43);
    let refusal = run(guard(&memory, &TestKv::default()).before_start()).unwrap_err();
    assert!(refusal.to_string().contains("half made"), "{refusal}");
}

#[test]
fn a_new_member_of_another_major_version_than_the_cluster_is_refused() {
    let postgres = "/usr/lib/postgresql/15/bin/postgres";
    let (memory, kv) = (Memory::whole(), TestKv::default());
    run(guard(&memory, &kv).before_start()).unwrap();
    let newer = Memory::whole();
    newer.says(postgres, "postgres (PostgreSQL) 16.4");
    let refusal = run(guard(&newer, &kv).before_start()).unwrap_err();
    let refusal = refusal.to_string();
    assert!(
        refusal.contains("PostgreSQL 16: expected 15, the cluster's")
            && refusal.contains("service/demo/holdfast"),
        "{refusal}"
    );
    // The cluster was brought to another version by hand: who has its files says so.
    put_system(&newer, 44);
    newer.file(&format!("{DATA}/PG_VERSION"), b"16\n");
    kv.set("service/demo/initialize", "44");
    run(guard(&newer, &kv).before_start()).unwrap();
    let refusal = run(guard(&memory, &kv).before_start()).unwrap_err();
    assert!(refusal.to_string().contains("expected 16"), "{refusal}");
}

#[test]
fn other_secrets_are_told_from_another_cluster() {
    let with = |memory: &Memory, kv: &TestKv, cluster: &str| {
        let note = json!({"cluster": cluster, "mark": "00ff"});
        kv.set("service/demo/holdfast", note.to_string());
        kv.set("service/demo/initialize", "42");
        put_system(memory, 42);
    };
    let refusal = refused(|memory, kv| with(memory, kv, "demo"));
    assert!(
        refusal.contains("made with other secrets") && refusal.contains("service/demo/holdfast"),
        "{refusal}"
    );
    let refusal = refused(|memory, kv| with(memory, kv, "another"));
    assert!(refusal.contains("two clusters share one path"), "{refusal}");
}

#[test]
fn a_path_of_another_cluster_is_refused_before_anything_in_it_is_believed() {
    let refusal = refused(|_, kv| {
        let note = json!({"cluster": "demo", "mark": "00ff"});
        kv.set("service/demo/holdfast", note.to_string());
        kv.set("service/demo/initialize", "43".to_owned());
        kv.set("service/demo/config", "{}".to_owned());
    });
    assert!(
        refusal.contains("service/demo/holdfast") && refusal.contains("00ff"),
        "{refusal}"
    );
}

#[test]
fn a_path_of_a_cluster_that_is_not_ours_is_refused_without_its_files() {
    let theirs = |kv: &TestKv| {
        kv.set("service/demo/initialize", "43");
        kv.set("service/demo/config", r#"{"ttl": 20}"#);
    };
    for has_folder in [false, true] {
        let (memory, kv) = (Memory::whole(), TestKv::default());
        theirs(&kv);
        if has_folder {
            memory.put(DATA, OWNER, 0o700, true);
        }
        let before = kv.changes();
        let refusal = run(guard(&memory, &kv).before_start()).unwrap_err();
        let refusal = refusal.to_string();
        for part in ["service/demo/initialize", "43", DATA, "postgres.scope"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        assert_eq!(kv.changes(), before, "nothing of theirs is touched");
    }
    let refusal = refused(|memory, kv| {
        theirs(kv);
        put_system(memory, 42);
    });
    assert!(refusal.contains("system 42: expected 43"), "{refusal}");
}

#[test]
fn a_cluster_that_patroni_made_alone_is_taken_over_first_where_its_files_are() {
    let (memory, kv) = (Memory::whole(), TestKv::default());
    put_system(&memory, 43);
    kv.set("service/demo/initialize", "43");
    run(guard(&Memory::whole(), &kv).before_start()).unwrap_err();
    run(guard(&memory, &kv).before_start()).unwrap();
    run(guard(&Memory::whole(), &kv).before_start()).unwrap();
}

#[test]
fn who_has_the_files_claims_the_path_again_that_the_kv_has_lost() {
    let view = View {
        system: Some("43".to_owned()),
        ..View::default()
    };
    for (own, claims) in [(Some(42), false), (None, false), (Some(43), true)] {
        let (memory, kv) = (Memory::whole(), TestKv::default());
        // As Patroni writes it again.
        kv.set("service/demo/initialize", "43");
        if let Some(own) = own {
            put_system(&memory, own);
        }
        run(guard(&memory, &kv).claim_again(Some(&view)));
        let started = run(guard(&Memory::whole(), &kv).before_start());
        assert_eq!(started.is_ok(), claims, "{own:?}: {started:?}");
    }
}

#[test]
fn a_note_that_is_there_is_never_claimed_again() {
    let (memory, kv) = (Memory::whole(), TestKv::default());
    put_system(&memory, 43);
    let note = json!({"cluster": "another", "mark": "00ff"}).to_string();
    kv.set("service/demo/holdfast", note.clone());
    // It was written after the look.
    let view = View {
        system: Some("43".to_owned()),
        ..View::default()
    };
    run(guard(&memory, &kv).claim_again(Some(&view)));
    assert_eq!(kv.get("service/demo/holdfast").unwrap(), note);
}

/// A key-value store into which another member writes, right after a call.
struct Meanwhile {
    kv: TestKv,
    calls_left: Cell<u32>,
    written: [(&'static str, Vec<u8>); 2],
}

impl Kv for Meanwhile {
    fn call(&self, request: holdfast_io::kv::Request) -> holdfast_io::kv::Answer<'_> {
        let answer = self.kv.call(request);
        let left = self.calls_left.get();
        self.calls_left.set(left.wrapping_sub(1));
        if left == 0 {
            for (key, value) in &self.written {
                self.kv.set(key, value.clone());
            }
        }
        answer
    }
}

#[test]
fn who_starts_while_another_member_makes_the_cluster_is_not_refused() {
    let first = TestKv::default();
    run(guard(&Memory::whole(), &first).before_start()).unwrap();
    let note = "service/demo/holdfast";
    for calls_left in 0..8 {
        let kv = Meanwhile {
            kv: TestKv::default(),
            calls_left: Cell::new(calls_left),
            written: [
                (note, first.get(note).unwrap().to_vec()),
                ("service/demo/initialize", b"42".to_vec()),
            ],
        };
        let what = (settings(), place(), credentials());
        let world = (RealNet, RealClock, RealSpawn);
        let guard = Guard::on(Memory::whole(), what, Rc::new(kv), world).unwrap();
        let started = run(guard.before_start());
        assert!(started.is_ok(), "after call {calls_left}: {started:?}");
    }
}

#[test]
fn a_full_disk_an_unknown_user_and_a_lack_of_rights_are_refused() {
    let refusal = refused(|memory, _| memory.0.free.set(5));
    assert!(
        refusal.contains("has 5 bytes free: expected at least 67108864"),
        "{refusal}"
    );
    let refusal = refused(|memory, _| memory.0.root.set(false));
    assert!(refusal.contains("as root"), "{refusal}");
    let (memory, kv) = (Memory::whole(), TestKv::default());
    let mut settings = settings();
    settings.user = "nobody-there".to_owned();
    let what = (settings, place(), credentials());
    let world = (RealNet, RealClock, RealSpawn);
    let guard = Guard::on(memory, what, Rc::new(kv), world).unwrap();
    let refusal = run(guard.before_start()).unwrap_err().to_string();
    assert!(refusal.contains("nobody-there"), "{refusal}");
}

#[test]
fn a_watch_tells_what_is_wrong_while_it_lasts() {
    let (memory, kv) = (Memory::whole(), TestKv::default());
    let guard = guard(&memory, &kv);
    run(guard.before_start()).unwrap();
    memory.0.free.set(5);
    let config: Value = serde_json::from_slice(&kv.get("service/demo/config").unwrap()).unwrap();
    let mut edited = config;
    edited["loop_wait"] = json!(7);
    kv.set("service/demo/config", edited.to_string());
    kv.set("service/other/members/worker-2-ff", "{}".to_owned());
    kv.set(
        "service/demo/members/worker-3-ff",
        r#"{"role": "replica"}"#.to_owned(),
    );
    kv.set("service/demo/leader", "worker-2-gone".to_owned());
    let (switch, stop) = holdfast_io::http::Stop::new();
    let last = RefCell::new(None);
    let wanted = [
        "loop_wait is 7 (the file: 10)",
        "5 bytes free",
        "worker-2 is a member of the scope \"other\"",
        "no replica is synchronous",
    ];
    let on_status = |status: crate::PostgresStatus| {
        let all = status.problems.join("\n");
        if wanted.iter().all(|one| all.contains(one)) {
            let _ = switch.send(true);
        }
        last.replace(Some(status));
    };
    let limit = Duration::from_secs(10);
    let watched = run(timeout(
        &RealClock,
        limit,
        guard.watch(|_| {}, on_status, stop),
    ));
    let status = last.take().unwrap();
    assert!(watched.is_ok(), "{:?}", status.problems);
    assert_eq!(status.leader.as_deref(), Some("worker-2"));
    assert_eq!(status.synchronous, "quorum");
    assert_eq!(status.members.len(), 3);
}

const OF_SUPERUSER: &str = "postgres 127.50.0.12";
const OF_REWIND: &str = "rewind 127.50.0.12";
const OF_REPLICATION: &str = "replicator 127.50.0.12";

/// What comes of the logins at a leader whose server says this to whom.
fn log_in(leader: &str, says: &[(&str, &str)]) -> (Option<String>, Vec<String>) {
    let memory = Memory::whole();
    for (login, text) in says {
        memory.says(&format!("/usr/lib/postgresql/15/bin/psql {login}"), text);
    }
    let view = View {
        leader: Some(leader.to_owned()),
        ..View::default()
    };
    run(guard(&memory, &TestKv::default()).log_in(Some(&view), None))
}

#[test]
fn each_password_that_the_leader_refuses_is_told_by_its_role() {
    let wrong = "psql: error: FATAL:  password authentication failed for user \"…\"\n";
    let (leader, other) = ("worker-2-ff", "43|1|0/3000060|\n");
    let good = [
        (OF_SUPERUSER, "1\n"),
        (OF_REWIND, "1\n"),
        (OF_REPLICATION, other),
    ];
    assert_eq!(log_in(leader, &good), (Some(leader.to_owned()), Vec::new()));
    for (at, role) in ["postgres", "rewind", "replicator"].iter().enumerate() {
        let mut says = good;
        says[at].1 = wrong;
        let (taken, problems) = log_in(leader, &says);
        let problem = format!(
            "worker-2 refuses our password of {role}: the cluster was made with other secrets"
        );
        assert_eq!((taken, problems), (None, vec![problem]));
    }
    let (taken, problems) = log_in(leader, &good.map(|(login, _)| (login, wrong)));
    assert_eq!((taken, problems.len()), (None, 3));
}

#[test]
fn a_server_that_does_not_answer_refuses_no_password_and_is_asked_again() {
    let starts = "psql: error: FATAL:  the database system is starting up\n";
    for says in [&[][..], &[(OF_SUPERUSER, starts)], &[(OF_SUPERUSER, "1\n")]] {
        assert_eq!(log_in("worker-2-ff", says), (None, Vec::new()));
    }
}

#[test]
fn a_pg_hba_of_the_users_own_says_nothing_of_a_password() {
    let closed = "psql: error: FATAL:  no pg_hba.conf entry for host \"127.50.0.11\"\n";
    let says = [OF_SUPERUSER, OF_REWIND, OF_REPLICATION].map(|login| (login, closed));
    let taken = Some("worker-2-ff".to_owned());
    assert_eq!(log_in("worker-2-ff", &says), (taken, Vec::new()));
}

#[test]
fn a_leader_asks_itself_over_its_socket_where_the_mesh_would_not_deliver() {
    let own = "/run/holdfast/postgres";
    let (rewind, replication) = (format!("rewind {own}"), format!("replicator {own}"));
    let says = [
        ("postgres 127.50.0.11", "1\n"),
        (&rewind, "1\n"),
        (&replication, "43|1|0/3000060|\n"),
    ];
    let taken = Some("worker-1-0a1b2c3d".to_owned());
    assert_eq!(log_in("worker-1-0a1b2c3d", &says), (taken, Vec::new()));
}

#[test]
fn the_file_of_passwords_has_a_line_for_each_role() {
    let (memory, kv) = (Memory::whole(), TestKv::default());
    let mut other = credentials();
    other.rewind = zeroize::Zeroizing::new("a:b\\c".to_owned());
    let what = (settings(), place(), other);
    let world = (RealNet, RealClock, RealSpawn);
    let guard = Guard::on(memory, what, Rc::new(kv), world).unwrap();
    assert_eq!(
        *guard.login_file(),
        "*:*:*:postgres:of-superuser\n*:*:*:rewind:a\\:b\\\\c\n*:*:*:replicator:of-replication\n"
    );
}
