//! `holdfast bootstrap` and `holdfast slots`, with a simulated guest agent and the embedded KV.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Folder, Kv, Ran};
use holdfast_bootstrap::tee::AgentEndpoint;
use holdfast_bootstrap::testing::{Agent, Fault, Script};

/// A machine: a folder of its own with its configuration, and perhaps its guest agent.
struct Machine {
    folder: Folder,
    _agent: Option<Agent>,
}

impl Machine {
    fn new(script: Option<Script>, role: &str, kv: &str, more: &str) -> Machine {
        let folder = Folder::new();
        let socket = folder.0.join("agent.sock");
        let endpoint = AgentEndpoint::Unix(socket.clone());
        let agent = script.map(|script| Agent::start(&endpoint, script).unwrap());
        let text = format!(
            "cluster = \"north\"\nrole = \"{role}\"\nbrokers = [\"http://127.0.0.1:9\"]\n\
             state_dir = \"state\"\nrun_dir = \"run\"\nsecrets_dir = \"secrets\"\n\
             hosts_file = \"\"\nadmin = \"127.0.0.1:1\"\n{more}\n\
             [tee]\nendpoint = \"unix:{}\"\npatience = \"300ms\"\n\
             [kv]\naddresses = [{kv}]\n\
             [slots]\nlease = \"1s\"\npatience = \"300ms\"\n\
             [[peers]]\nid = \"coordinator-1\"\nvip = 1\n\
             [[peers]]\nid = \"worker-2\"\nvip = 2\n[[peers]]\nid = \"worker-3\"\nvip = 3\n",
            socket.display()
        );
        folder.write("holdfast.toml", &text, 0o644);
        Machine {
            folder,
            _agent: agent,
        }
    }

    fn worker(instance: u8, kv: &Kv) -> Machine {
        let kv = format!("\"http://{}\"", kv.address);
        Machine::new(Some(Script::new(1, instance)), "worker", &kv, "")
    }

    fn bootstrap(&self) -> Ran {
        self.folder.run(&["bootstrap", "--config", "holdfast.toml"])
    }

    fn info(&self) -> serde_json::Value {
        serde_json::from_str(&self.folder.read("run/info.json")).unwrap()
    }

    /// Every file that was written, with what tells whether it was written again.
    fn files(&self) -> Vec<(String, u64, i64)> {
        let mut files = Vec::new();
        for folder in ["secrets", "run"] {
            for entry in fs::read_dir(self.folder.0.join(folder)).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                let name = format!("{folder}/{}", entry.file_name().to_str().unwrap());
                files.push((name, meta.ino(), meta.mtime_nsec()));
            }
        }
        files.sort();
        files
    }
}

#[test]
fn a_pinned_machine_gets_a_name_and_secrets_without_a_kv_and_a_second_run_changes_nothing() {
    let script = Script::new(1, 7).with_faults([Fault::Cut, Fault::Status(500)]);
    let machine = Machine::new(Some(script), "coordinator", "", "ordinal = 1");
    let out = machine.bootstrap().ok();
    assert_eq!(out, "coordinator-1 run/info.json\n");
    let info = machine.info();
    assert_eq!(info["ordinal"], 1);
    assert_eq!(info["cluster_name"], "north");
    assert_eq!(info["instance_id"], "07".repeat(20));
    let files = machine.files();
    assert_eq!(files.len(), 9, "eight secrets and info.json: {files:?}");
    for (name, ..) in files
        .iter()
        .filter(|(name, ..)| name.starts_with("secrets"))
    {
        assert_eq!(machine.folder.mode(name), 0o400, "{name}");
    }
    assert_eq!(machine.folder.mode("secrets"), 0o700);
    machine.bootstrap().ok();
    assert_eq!(machine.files(), files);
    let check = machine.folder.run(&["config", "check", "holdfast.toml"]);
    assert_eq!(check.code, 0, "{check:?}");
}

#[test]
fn machines_get_the_free_slots_and_one_too_many_ends_with_exit_code_3() {
    let place = Folder::new();
    let kv = Kv::start(&place, &[]);
    let machines = [1, 2].map(|instance| Machine::worker(instance, &kv));
    for (machine, slot) in machines.iter().zip([2, 3]) {
        machine.bootstrap().ok();
        assert_eq!(machine.info()["ordinal"], slot);
    }
    let secret = |machine: &Machine| machine.folder.read("secrets/cluster.secret");
    assert_eq!(secret(&machines[0]), secret(&machines[1]));
    let third = Machine::worker(3, &kv).bootstrap();
    // Its patience is shorter than their leases.
    assert_eq!(third.code, 3, "{third:?}");
    assert!(third.err.contains("2 slots"), "{third:?}");
    let again = machines[1].bootstrap();
    assert_eq!(again.ok(), "worker-3 run/info.json\n");
}

#[test]
fn beside_a_sidecar_that_runs_nothing_is_claimed_and_its_name_is_told() {
    let place = Folder::new();
    let kv = Kv::start(&place, &[]);
    let machine = Machine::worker(1, &kv);
    machine.bootstrap().ok();
    // As the sidecar does; and a KV that is gone cannot be asked.
    let lock = machine.folder.0.join("state/sidecar.lock");
    let lock = fs::File::options().append(true).open(lock).unwrap();
    lock.lock().unwrap();
    drop(kv);
    assert_eq!(machine.bootstrap().ok(), "worker-2 run/info.json\n");
}

#[test]
fn slots_are_listed_and_released_when_their_owner_is_silent() {
    let place = Folder::new();
    let kv = Kv::start(&place, &[]);
    let machine = Machine::worker(1, &kv);
    let slots = |args: &[&str]| {
        let args = [&["slots", "--config", "holdfast.toml"], args].concat();
        machine.folder.run(&args)
    };
    machine.bootstrap().ok();
    let table = slots(&[]).ok();
    assert!(table.contains("worker-2       0101010101"), "{table}");
    assert!(table.contains("worker-3       free"), "{table}");
    // A lease of a second, and nobody renews it.
    assert_eq!(slots(&["release", "2"]).ok(), "slot 2 is free\n");
    assert_eq!(slots(&["release", "2"]).ok(), "slot 2 is free already\n");
    machine.bootstrap().ok();
    assert_eq!(slots(&["release", "2", "--force"]).ok(), "slot 2 is free\n");
    let json: serde_json::Value = serde_json::from_str(&slots(&["--json"]).ok()).unwrap();
    assert!(
        json.as_array()
            .unwrap()
            .iter()
            .all(|slot| slot["free"] == true)
    );
}

#[test]
fn what_keeps_a_machine_from_being_a_member_has_an_exit_code_of_its_own() {
    let silent = Machine::new(None, "coordinator", "", "ordinal = 1");
    let ran = silent.bootstrap();
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("agent.sock"), "{ran:?}");
    assert!(!silent.folder.0.join("run").exists(), "nothing half done");

    let place = Folder::new();
    place.write("kv.token", "the-token\n", 0o400);
    let kv = Kv::start(&place, &["--token-file", "kv.token"]);
    let stranger = Machine::worker(1, &kv);
    let ran = stranger.bootstrap();
    assert_eq!(ran.code, 6, "{ran:?}");
    stranger.folder.write("kv.token", "the-token\n", 0o400);
    let text = stranger.folder.read("holdfast.toml");
    let text = text.replace("[kv]\n", "[kv]\ntoken_file = \"kv.token\"\n");
    stranger.folder.write("holdfast.toml", &text, 0o644);
    stranger.bootstrap().ok();

    let open = Machine::new(Some(Script::new(1, 1)), "coordinator", "", "ordinal = 1");
    fs::create_dir(open.folder.0.join("secrets")).unwrap();
    let ran = open.bootstrap();
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("secrets"), "{ran:?}");
}

#[test]
fn the_kv_keeps_what_it_was_told_across_a_restart() {
    let place = Folder::new();
    let kv = Kv::start(&place, &[]);
    let machine = Machine::worker(1, &kv);
    machine.bootstrap().ok();
    drop(kv);
    let kv = Kv::start(&place, &[]);
    let other = Machine::worker(2, &kv);
    let table = other
        .folder
        .run(&["slots", "--config", "holdfast.toml"])
        .ok();
    assert!(table.contains("worker-2       0101010101"), "{table}");
}
