//! The whole start, against the simulated agent and real files.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_io::real::block_on;
use tempfile::TempDir;

use super::*;
use crate::real::{TeeConfig, open_tee};
use crate::tee::AgentEndpoint;
use crate::testing::{Agent, Fault, Script};

const KEY_HEX: &str = "7e57ab1e7e57ab1e7e57ab1e7e57ab1e7e57ab1e7e57ab1e7e57ab1e7e57ab1e";

fn options(root: &TempDir) -> Options {
    let ids = ["coordinator-0", "worker-1", "worker-2"];
    Options {
        cluster: "north".to_owned(),
        role: "worker".parse().unwrap(),
        pinned: None,
        peers: ids.map(|id| id.parse().unwrap()).to_vec(),
        state_dir: root.path().join("state"),
        run_dir: root.path().join("run/instance"),
        secrets_dir: root.path().join("secrets"),
        overrides: Overrides::default(),
    }
}

fn endpoint(root: &TempDir) -> AgentEndpoint {
    AgentEndpoint::Unix(root.path().join("agent.sock"))
}

fn dstack(root: &TempDir, patience: Duration) -> TeeConfig {
    TeeConfig::Dstack {
        endpoint: endpoint(root),
        patience,
    }
}

fn plain(root: &TempDir) -> TeeConfig {
    let key_file = root.path().join("instance.key");
    if !key_file.exists() {
        fs::write(&key_file, KEY_HEX).unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o400)).unwrap();
    }
    TeeConfig::Plain {
        key_file,
        app_id: "shop".to_owned(),
    }
}

fn seed() -> Seed {
    Seed::new([3; 32])
}

fn prepare_with(options: &Options, config: &TeeConfig) -> Result<Prepared, BootstrapError> {
    let tee = open_tee(config, &seed())?;
    block_on(prepare(options, tee.as_ref(), &seed())).unwrap()
}

fn start(options: &Options, config: &TeeConfig, slot: Slot) -> Bootstrapped {
    finish(options, prepare_with(options, config).unwrap(), slot).unwrap()
}

/// Every file below a folder, with what tells its states apart.
fn states(root: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(states(&path));
        }
        found.push((path, meta.ino(), meta.mtime(), meta.mtime_nsec()));
    }
    found.sort();
    found
}

#[test]
fn a_machine_with_a_tee_becomes_what_its_slot_says() {
    let root = TempDir::new().unwrap();
    let _agent = Agent::start(&endpoint(&root), Script::new(0xaa, 0xbb)).unwrap();
    let options = options(&root);
    let done = start(&options, &dstack(&root, Duration::ZERO), 2);
    assert_eq!((done.peer_id.as_str(), done.slot), ("worker-2", 2));
    let info = fs::read_to_string(root.path().join("run/instance/info.json")).unwrap();
    let (app, instance, hash) = ("aa".repeat(20), "bb".repeat(20), "aa".repeat(32));
    assert_eq!(
        info,
        format!(
            r#"{{"instance_id":"{instance}","app_id":"{app}","compose_hash":"{hash}","cluster_name":"north","role":"worker","ordinal":2}}"#
        ) + "\n"
    );
    assert!(!options.state_dir.exists(), "the TEE gave the identity");
    for path in &done.prepared.secrets {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o400);
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&done.info), mode(&options.run_dir)), (0o444, 0o755));
    assert_eq!(mode(&options.secrets_dir), 0o700);
}

#[test]
fn a_machine_without_a_tee_keeps_its_identity_and_has_no_compose_hash() {
    let root = TempDir::new().unwrap();
    let (options, config) = (options(&root), plain(&root));
    let first = start(&options, &config, 1);
    let before = states(root.path());
    let again = start(&options, &config, 1);
    assert_eq!(again.prepared.instance_id, first.prepared.instance_id);
    assert_eq!(again.prepared.changed, Vec::<String>::new());
    assert_eq!(states(root.path()), before, "a second run changes nothing");
    let info = fs::read_to_string(first.info).unwrap();
    assert!(
        info.contains(r#""app_id":"shop","compose_hash":"","cluster_name""#),
        "{info}"
    );
}

#[test]
fn a_tee_without_an_instance_id_leaves_it_to_the_state_folder() {
    let root = TempDir::new().unwrap();
    let mut script = Script::new(1, 1);
    script.instance_id.clear();
    let _agent = Agent::start(&endpoint(&root), script).unwrap();
    let prepared = prepare_with(&options(&root), &dstack(&root, Duration::ZERO)).unwrap();
    assert_eq!(prepared.instance_id.len(), 32);
    assert!(root.path().join("state/instance.json").exists());
}

#[test]
fn all_machines_of_an_application_have_the_same_secrets() {
    let read = |instance| {
        let root = TempDir::new().unwrap();
        let _agent = Agent::start(&endpoint(&root), Script::new(1, instance)).unwrap();
        let prepared = prepare_with(&options(&root), &dstack(&root, Duration::ZERO)).unwrap();
        let files = prepared.secrets.iter().map(|path| fs::read(path).unwrap());
        files.collect::<Vec<_>>()
    };
    assert_eq!(read(1), read(2));
}

#[test]
fn an_agent_that_fails_at_first_is_waited_for() {
    let root = TempDir::new().unwrap();
    let faults = [Fault::Cut, Fault::Status(503), Fault::Status(400)];
    let script = Script::new(1, 1).with_faults(faults);
    let agent = Agent::start(&endpoint(&root), script).unwrap();
    prepare_with(&options(&root), &dstack(&root, Duration::from_secs(60))).unwrap();
    assert_eq!(agent.calls(), ["/Info", "/Info", "/Info", "/GetKey"]);
}

#[test]
fn a_tee_that_does_not_answer_is_exit_code_5_and_no_secret_is_there() {
    let root = TempDir::new().unwrap();
    let options = options(&root);
    let error = prepare_with(&options, &dstack(&root, Duration::from_millis(300))).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    let text = error.to_string();
    assert!(
        text.contains("gave up after") && text.contains("agent.sock"),
        "{text}"
    );
    assert_eq!(fs::read_dir(&options.secrets_dir).unwrap().count(), 0);
    assert!(!options.run_dir.exists());
}

#[test]
fn bad_configuration_is_exit_code_2_before_anything_is_touched() {
    let root = TempDir::new().unwrap();
    let config = plain(&root);
    let before = states(root.path());
    let good = options(&root);
    let duplicate = vec!["worker-1".parse().unwrap(), "worker-1".parse().unwrap()];
    let bad = [
        Options {
            cluster: "a/b".to_owned(),
            ..good.clone()
        },
        Options {
            peers: duplicate,
            ..good.clone()
        },
        Options {
            pinned: Some(9),
            ..good.clone()
        },
        Options {
            role: "gateway".parse().unwrap(),
            ..good.clone()
        },
    ];
    for options in bad {
        let error = prepare_with(&options, &config).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(check(&options).is_err());
    }
    assert_eq!(states(root.path()), before);
}

#[test]
fn a_secret_folder_with_the_wrong_mode_is_exit_code_2_before_the_tee_is_asked() {
    let root = TempDir::new().unwrap();
    let agent = Agent::start(&endpoint(&root), Script::new(1, 1)).unwrap();
    let options = options(&root);
    fs::create_dir(&options.secrets_dir).unwrap();
    fs::set_permissions(&options.secrets_dir, fs::Permissions::from_mode(0o755)).unwrap();
    let error = prepare_with(&options, &dstack(&root, Duration::ZERO)).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(
        error.to_string().contains("it has mode 0755; expected"),
        "{error}"
    );
    assert_eq!(agent.calls(), Vec::<String>::new());
}

#[test]
fn a_key_file_that_others_may_read_is_exit_code_2() {
    let root = TempDir::new().unwrap();
    let config = plain(&root);
    let key_file = root.path().join("instance.key");
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o444)).unwrap();
    let error = prepare_with(&options(&root), &config).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[test]
fn a_slot_whose_peer_is_not_in_the_list_is_exit_code_2_and_writes_no_info() {
    let root = TempDir::new().unwrap();
    let options = options(&root);
    let prepared = prepare_with(&options, &plain(&root)).unwrap();
    let error = finish(&options, prepared, 7).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(
        text.contains("worker-7") && text.contains("coordinator-0, worker-1"),
        "{text}"
    );
    assert!(!options.run_dir.exists());
}

#[test]
fn a_slot_is_claimed_with_the_identity_and_the_candidates() {
    let root = TempDir::new().unwrap();
    let options = Options {
        pinned: Some(2),
        ..options(&root)
    };
    let prepared = prepare_with(&options, &plain(&root)).unwrap();
    let config = prepared.slots_config("north", Duration::from_secs(600));
    assert_eq!((config.slots, config.pinned), (vec![1, 2], Some(2)));
    assert_eq!(config.instance, prepared.instance_id);
}

/// A log that is kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_secret_and_no_key_is_in_a_log_an_error_or_what_debug_shows() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let mut said = String::new();
    let mut secrets = vec![KEY_HEX.to_owned()];
    // For all threads: one for this thread alone would miss what other tests log first.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let root = TempDir::new().unwrap();
    let given = "5ec2e7".repeat(11)[..64].to_owned();
    let variable = ("HOLDFAST_SECRET_TURN_SECRET".into(), given.clone().into());
    let overrides = Overrides::from_env([variable]).unwrap();
    let options = Options {
        overrides,
        ..options(&root)
    };
    let faults = [Fault::Status(500), Fault::Cut];
    let script = Script::new(1, 1).with_faults(faults);
    let _agent = Agent::start(&endpoint(&root), script).unwrap();
    for config in [plain(&root), dstack(&root, Duration::from_secs(60))] {
        let tee = open_tee(&config, &seed()).unwrap();
        let key = block_on(tee.key(KEY_PATH, KEY_PURPOSE)).unwrap().unwrap();
        secrets.push(hex::encode(key.as_ref()).as_str().to_owned());
        secrets.push(format!("{:?}", &key[..])[1..20].to_owned());
        let prepared = prepare_with(&options, &config).unwrap();
        for path in &prepared.secrets {
            secrets.push(fs::read_to_string(path).unwrap());
        }
        let done = finish(&options, prepared, 1).unwrap();
        said += &format!("{done:?} {options:?} {config:?}");
        fs::set_permissions(&options.secrets_dir, fs::Permissions::from_mode(0o711)).unwrap();
        let error = prepare_with(&options, &config).unwrap_err();
        said += &format!("{error} {error:?}");
        fs::set_permissions(&options.secrets_dir, fs::Permissions::from_mode(0o700)).unwrap();
    }
    said += &String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let socket = endpoint(&root).to_string();
    let mut lines = said.lines().filter(|line| line.contains(&socket));
    assert!(lines.any(|line| line.contains("the TEE does not answer yet")));
    assert_eq!(secrets.len(), 1 + 2 * (2 + 8));
    for secret in secrets {
        assert!(
            !said.contains(&secret),
            "a secret of {} characters is shown",
            secret.len()
        );
    }
}
