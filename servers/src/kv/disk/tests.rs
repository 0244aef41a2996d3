#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use holdfast_core::entropy::Seed;
use holdfast_core::kv::{Condition, Failure, Request, Response};

use super::*;
use crate::kv::store::{Config, Input, Output, Store};

/// Names the file of a child, which is this test binary again.
const CHILD_FILE: &str = "HOLDFAST_TEST_KV_FILE";

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-kv-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("kv.redb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn now() -> Now {
    Now {
        mono: Instant::now(),
        unix: Duration::ZERO,
    }
}

fn serve(path: &Path) -> Store<Disk> {
    let (disk, state) = Disk::open(path).unwrap();
    let seed = Seed::new([3; 32]);
    Store::with_journal(Config::default(), seed, now(), state, disk).unwrap()
}

fn ask(store: &mut Store<Disk>, request: Request) -> Result<Response, Failure> {
    store.handle(now(), Input::Call { ticket: 1, request });
    let Some(Output::Answer { result, .. }) = store.poll_output() else {
        panic!("no answer");
    };
    result
}

fn put(store: &mut Store<Disk>, key: &str, value: &str) -> Result<Response, Failure> {
    let value = Bytes::copy_from_slice(value.as_bytes());
    ask(store, Request::put(key, value, Condition::Any))
}

fn fill(path: &Path) -> State {
    let mut store = serve(path);
    let asked = NewSession {
        name: "name".into(),
        ttl: Duration::from_secs(10),
        behavior: Behavior::Delete,
        lock_delay: Duration::from_millis(1),
    };
    let Response::Session(session) = ask(&mut store, Request::SessionCreate(asked)).unwrap() else {
        panic!("no session");
    };
    for round in 0..50 {
        put(&mut store, &format!("key/{round}"), &"value".repeat(round)).unwrap();
    }
    let acquire = Request::Acquire {
        key: "lock".into(),
        value: "me".into(),
        session,
    };
    assert_eq!(ask(&mut store, acquire), Ok(Response::Done(true)));
    let delete = Request::Delete {
        key: "key/7".into(),
        condition: Condition::Any,
    };
    ask(&mut store, delete).unwrap();
    store.state().clone()
}

fn same(one: &State, other: &State) -> bool {
    one.index() == other.index()
        && one.entries().eq(other.entries())
        && one.sessions().eq(other.sessions())
        && one.records().eq(other.records())
}

#[test]
fn what_was_answered_is_there_after_a_restart_and_sessions_begin_anew() {
    let folder = Folder::new();
    let before = fill(&folder.file());
    let mut store = serve(&folder.file());
    assert!(same(&before, store.state()));
    let session = store.state().sessions().next().unwrap().id.clone();
    let left = store.session_end(&session).unwrap() - Instant::now();
    assert!(left > Duration::from_secs(19), "{left:?}");
    put(&mut store, "key/1", "new").unwrap();
    let index = store.state().index();
    assert!(index > before.index());
    assert!(store.state().list_index("key/") == index);
}

#[test]
fn two_processes_do_not_serve_from_one_file() {
    let folder = Folder::new();
    let _first = serve(&folder.file());
    let Err(error) = Disk::open(&folder.file()) else {
        panic!("it was opened twice");
    };
    assert!(matches!(error, DiskError::Taken { .. }), "{error}");
}

#[test]
fn a_file_of_somebody_else_is_refused_and_left_alone() {
    let folder = Folder::new();
    let path = folder.file();
    for content in [
        &b""[..],
        b"x",
        b"SQLite format 3\0",
        &[0; 8192],
        &[0xff; 65536],
    ] {
        fs::write(&path, content).unwrap();
        let Err(error) = Disk::open(&path) else {
            panic!("{} bytes were taken for a store", content.len());
        };
        assert!(matches!(error, DiskError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("kv.redb"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    fs::remove_file(&path).unwrap();
    let foreign = Database::create(&path).unwrap();
    let write = foreign.begin_write().unwrap();
    let table: TableDefinition<&str, u64> = TableDefinition::new("something");
    write.open_table(table).unwrap().insert("a", 1).unwrap();
    write.commit().unwrap();
    drop(foreign);
    let Err(error) = Disk::open(&path) else {
        panic!("another's database was taken for a store");
    };
    assert!(error.to_string().contains("something else"), "{error}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = Folder::new();
    let path = folder.0.join("missing").join("kv.redb");
    let Err(error) = Disk::open(&path) else {
        panic!("it was opened");
    };
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_torn_file_is_refused_or_whole() {
    let folder = Folder::new();
    let before = fill(&folder.file());
    let whole = fs::read(folder.file()).unwrap();
    let torn = folder.0.join("torn.redb");
    let mut refused = 0;
    for part in 0..64 {
        let len = whole.len() * part / 64 + usize::from(part % 3 == 0);
        fs::write(&torn, &whole[..len]).unwrap();
        match Disk::open(&torn) {
            Ok((_, state)) => assert!(same(&before, &state), "{len} of {}", whole.len()),
            Err(error) => {
                assert!(matches!(error, DiskError::Unreadable { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 30, "{refused}");
}

fn child(test: &str, file: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("kv::disk::tests::{test}");
    command.args(["--exact", &name, "--ignored", "--nocapture"]);
    command.env(CHILD_FILE, file).stdout(Stdio::piped());
    command
}

/// Acknowledges on its output what the store acknowledged, until it is killed.
#[test]
#[ignore = "the child of a test"]
fn child_that_writes() {
    let Some(file) = std::env::var_os(CHILD_FILE) else {
        return;
    };
    let mut store = serve(Path::new(&file));
    let first = store.state().entries_len();
    for number in first..100_000 {
        let key = format!("{number:06}");
        put(&mut store, &key, &key.repeat(number % 97)).unwrap();
        println!("ack {number}");
    }
}

#[test]
fn whatever_was_acknowledged_outlives_a_kill_at_any_moment() {
    let folder = Folder::new();
    let mut draws = Seed::new([9; 32]).fork("kills").rng();
    let mut acknowledged = 0;
    for round in 0..12 {
        let mut child = child("child_that_writes", &folder.file()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let until = draws.below(120);
        let ack = |line: String| {
            line.strip_prefix("ack ")
                .map(|n| n.parse::<usize>().unwrap())
        };
        let mut seen = 0;
        while seen < until {
            let line = lines.next().expect("the child writes until it is killed");
            if let Some(number) = ack(line.unwrap()) {
                acknowledged = acknowledged.max(number + 1);
                seen += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for number in lines.map_while(Result::ok).filter_map(ack) {
            acknowledged = acknowledged.max(number + 1);
        }
        if !folder.file().exists() {
            assert_eq!(acknowledged, 0, "killed before there was a file");
            continue;
        }
        let (_, state) = Disk::open(&folder.file()).unwrap();
        let kept = state.entries_len();
        assert!(
            kept >= acknowledged,
            "round {round}: {kept} of {acknowledged}"
        );
        assert!(
            kept <= acknowledged + 1,
            "round {round}: {kept} of {acknowledged}"
        );
        for (number, stored) in state.entries().enumerate() {
            let key = format!("{number:06}");
            assert_eq!(stored.entry.key, key);
            assert_eq!(stored.entry.value, key.repeat(number % 97));
        }
        acknowledged = kept;
    }
    assert!(acknowledged > 100, "{acknowledged}");
}

/// Writes until the disk is full, then says what became of it.
#[test]
#[ignore = "the child of a test"]
fn child_that_fills() {
    let Some(file) = std::env::var_os(CHILD_FILE) else {
        return;
    };
    let mut store = serve(Path::new(&file));
    let value = "v".repeat(100_000);
    let mut failed = 0;
    for number in 0..200 {
        match put(&mut store, &format!("{number:06}"), &value) {
            Ok(_) => println!("ack {number}"),
            Err(failure) => {
                println!("refused {:?} {}", failure.determinacy, failure.message);
                failed += 1;
            }
        }
    }
    assert!(failed > 0);
    println!("entries {}", store.state().entries_len());
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing() {
    let folder = Folder::new();
    drop(serve(&folder.file()));
    // A file may not grow beyond 6 MiB (in blocks of 512 bytes): as good as a full disk.
    let limited = "ulimit -f 12288; trap '' XFSZ; exec \"$@\"";
    let inner = child("child_that_fills", &folder.file());
    let mut command = Command::new("sh");
    command.args(["-c", limited, "sh"]).arg(inner.get_program());
    command.args(inner.get_args());
    command.env(CHILD_FILE, folder.file());
    let output = command.stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("refused"), "{text}");
    assert!(
        text.contains("could not be kept") || text.contains("cannot be read"),
        "{text}"
    );
    let acks = text.lines().filter_map(|line| line.strip_prefix("ack "));
    let (_, state) = Disk::open(&folder.file()).unwrap();
    let mut count = 0;
    for number in acks {
        let key = format!("{:06}", number.parse::<u32>().unwrap());
        let stored = state.entry(&key).expect("it was acknowledged");
        assert_eq!(stored.entry.value.len(), 100_000);
        count += 1;
    }
    assert!(count > 5, "{text}");
}
