//! A lab comes up fast, is what was described, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    env, fs,
    io::Write,
    mem,
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use holdfast_lab::{
    Builder, Direction, Error, Guard, Lab, LinkSpec, Nat, PUB, Place,
    coturn::{Config, Coturn},
    process::{Process, ProcessId, wait_for},
};
use support::{Probe, namespaces, prefix};

const BOUND: Duration = Duration::from_secs(10);

/// Held by tests whose abandoned labs another's sweep would remove.
static ABANDONED: Mutex<()> = Mutex::new(());

fn sweep_nobody_else() -> MutexGuard<'static, ()> {
    ABANDONED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn describe(prefix: &str) -> Builder {
    Lab::builder(prefix)
        .router("r1", Nat::default())
        .router("r2", Nat::hairpinning())
        .node("n1", Place::Behind("r1"))
        .node("n2", Place::Behind("r2"))
}

fn up(prefix: &str) -> Guard {
    describe(prefix).build().unwrap().up_guarded().unwrap()
}

/// Starts a process in a node that has a child of its own there, and ignores SIGTERM.
fn stubborn(lab: &Lab, node: &str) -> ProcessId {
    let mut command = lab.command(node, "sh").unwrap();
    command.args([
        "-c",
        "trap '' TERM; sleep 1000 & echo begun; wait; sleep 1000",
    ]);
    let mut process = Process::spawn("sh", command, &lab.folder().join("sh.log")).unwrap();
    process.wait_for_log("begun", BOUND).unwrap();
    process.detach()
}

fn assert_nothing_left(prefix: &str, processes: &[ProcessId]) {
    assert_eq!(namespaces(prefix), Vec::<String>::new());
    assert!(!Path::new("/run/holdfast-lab").join(prefix).exists());
    for process in processes {
        wait_for("process reaped", BOUND, || !process.is_alive()).unwrap();
    }
}

#[test]
fn two_nodes_behind_nats_are_up_in_less_than_a_second() {
    let Some(prefix) = prefix('s') else { return };
    let started = Instant::now();
    let mut lab = up(&prefix);
    let up_in = started.elapsed();
    let started = Instant::now();
    lab.down().unwrap();
    println!("2 nodes: up in {up_in:?}, down in {:?}", started.elapsed());
    // Generous: the machine may be busy with other builds.
    assert!(up_in < Duration::from_secs(1), "took {up_in:?}");
}

#[test]
fn teardown_leaves_no_namespace_no_process_and_no_file() {
    let Some(prefix) = prefix('t') else { return };
    let lab = up(&prefix);
    assert_eq!(namespaces(&prefix).len(), 5);
    let process = stubborn(&lab, "n1");
    assert!(process.is_alive());
    let inside = lab.status().unwrap().namespaces[3].pids.clone();
    assert_eq!(inside.len(), 2, "the shell and its child");
    drop(lab);
    let inside: Vec<ProcessId> = inside.into_iter().map(ProcessId::of).collect();
    assert_nothing_left(&prefix, &inside);
    assert_nothing_left(&prefix, &[process]);
    assert!(!Lab::clean(&prefix).unwrap(), "nothing is there to clean");
}

#[test]
fn a_frozen_process_neither_runs_nor_keeps_a_lab_up() {
    let Some(prefix) = prefix('z') else { return };
    let lab = up(&prefix);
    let process = stubborn(&lab, "n1");
    let pids = lab.pids("n1").unwrap();
    assert!(pids.contains(&process.pid));
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
        stat.rsplit_once(')').unwrap().1.trim().chars().next()
    };
    let freezer = lab.freezer("all").unwrap();
    freezer.take(&pids);
    freezer.freeze().unwrap();
    // It is in the kernel, and SIGCONT does not wake it up.
    assert_eq!(state(), Some('D'));
    freezer.thaw().unwrap();
    wait_for("it sleeps as usual", BOUND, || state() == Some('S')).unwrap();
    freezer.freeze().unwrap();
    mem::forget(freezer);
    drop(lab);
    assert_nothing_left(&prefix, &[process]);
}

#[test]
fn a_freeze_of_nobody_is_an_error_and_one_of_all_leaves_nothing_behind() {
    let Some(prefix) = prefix('y') else { return };
    let lab = up(&prefix);
    let process = stubborn(&lab, "n1");
    let freezer = lab.new_freezer("all").unwrap();
    assert!(lab.new_freezer("all").is_err(), "it is there already");
    let nobody = || Ok::<_, Error>(Vec::new());
    assert!(freezer.freeze_all(nobody).is_err());
    // Nobody is taken in beforehand, and the listing is asked for until it adds nothing.
    freezer.freeze_all(|| lab.pids("n1")).unwrap();
    for pid in lab.pids("n1").unwrap() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let state = stat.rsplit_once(')').unwrap().1.trim().chars().next();
        assert_eq!(state, Some('D'), "{stat}");
    }
    freezer.release().unwrap();
    // The name is free again.
    lab.new_freezer("all").unwrap().release().unwrap();
    drop(lab);
    assert_nothing_left(&prefix, &[process]);
}

#[test]
fn clean_removes_what_a_lost_lab_left() {
    let Some(prefix) = prefix('c') else { return };
    let lab = up(&prefix);
    let process = stubborn(&lab, "n2");
    mem::forget(lab);
    assert!(matches!(
        describe(&prefix).build().unwrap().up(),
        Err(Error::AlreadyUp { .. })
    ));
    assert!(Lab::clean(&prefix).unwrap());
    assert_nothing_left(&prefix, &[process]);
}

/// Not a test by itself: the next one runs it in a process of its own, and it dies there.
#[test]
fn helper_makes_a_lab_and_aborts() {
    if let Ok(prefix) = env::var("HOLDFAST_LAB_ABORT") {
        let lab = up(&prefix);
        stubborn(&lab, "n1");
        process::abort();
    }
}

#[test]
fn a_lab_whose_maker_crashed_gives_way_to_the_next_of_its_prefix() {
    let Some(prefix) = prefix('a') else { return };
    let _alone = sweep_nobody_else();
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "helper_makes_a_lab_and_aborts"])
        .env("HOLDFAST_LAB_ABORT", &prefix)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    assert_eq!(namespaces(&prefix).len(), 5, "it left its lab behind");
    let lab = up(&prefix);
    assert_eq!(lab.status().unwrap().namespaces[3].pids, Vec::<u32>::new());
    drop(lab);
    assert_nothing_left(&prefix, &[]);
}

#[test]
fn a_sweep_removes_abandoned_labs_and_no_other() {
    let Some(lost) = prefix('b') else { return };
    let _alone = sweep_nobody_else();
    let (kept, lasting) = (prefix('d').unwrap(), prefix('g').unwrap());
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "helper_makes_a_lab_and_aborts"])
        .env("HOLDFAST_LAB_ABORT", &lost)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
    let _kept = up(&kept);
    let mut persistent = describe(&lasting).persistent(true).build().unwrap();
    persistent.up().unwrap();
    // Another sweep at the same time may have been faster.
    Lab::sweep().unwrap();
    assert_nothing_left(&lost, &[]);
    for prefix in [&kept, &lasting] {
        assert_eq!(namespaces(prefix).len(), 5, "{prefix}");
    }
    persistent.down().unwrap();
}

#[test]
fn a_lab_with_a_missing_or_damaged_state_is_cleaned_by_its_name_alone() {
    let Some(prefix) = prefix('i') else { return };
    let _alone = sweep_nobody_else();
    let state = Path::new("/run/holdfast-lab")
        .join(&prefix)
        .join("state.json");
    for damage in [true, false] {
        let lab = up(&prefix);
        let process = stubborn(&lab, "n1");
        match damage {
            true => fs::write(&state, "{").unwrap(),
            false => fs::remove_file(&state).unwrap(),
        }
        mem::forget(lab);
        assert!(Lab::clean(&prefix).unwrap());
        assert_nothing_left(&prefix, &[process]);
    }
}

#[test]
fn a_persistent_lab_is_found_again_by_its_prefix() {
    let Some(prefix) = prefix('k') else { return };
    let mut made = describe(&prefix).persistent(true).build().unwrap();
    made.up().unwrap();
    drop(made);
    let mut found = Lab::attach(&prefix).unwrap();
    assert_eq!(found.nodes().collect::<Vec<_>>(), ["n1", "n2"]);
    assert_eq!(found.address("n2").unwrap().to_string(), "10.2.2.2");
    assert_eq!(
        found.public_address("n2").unwrap().to_string(),
        "203.0.113.102"
    );
    assert_eq!(found.router_of("n1").unwrap(), Some("r1"));
    found.down().unwrap();
    assert!(matches!(Lab::attach(&prefix), Err(Error::NotUp { .. })));
}

#[test]
fn a_command_enters_the_network_namespace_and_no_other() {
    let Some(prefix) = prefix('e') else { return };
    let lab = up(&prefix);
    let namespace = |kind: &str| {
        let mut command = lab.command("n1", "readlink").unwrap();
        let output = command
            .arg(format!("/proc/self/ns/{kind}"))
            .output()
            .unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    };
    let ours = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    assert_ne!(namespace("net"), ours("net"));
    // `ip netns exec` would make another mount namespace, without the cgroups.
    assert_eq!(namespace("mnt"), ours("mnt"));
    assert_eq!(namespace("cgroup"), ours("cgroup"));
    assert!(matches!(
        lab.command("n9", "true"),
        Err(Error::Unknown { .. })
    ));
}

#[test]
fn a_thread_that_goes_through_a_door_stays_in_the_namespace() {
    let Some(prefix) = prefix('o') else { return };
    let lab = up(&prefix);
    let (address, door) = (lab.address("n1").unwrap(), lab.door("n1").unwrap());
    // Only in its namespace is the node's address one's own.
    let bind = move || UdpSocket::bind((address, 0)).is_ok();
    let inside = thread::spawn(move || {
        door.enter().unwrap();
        [bind(), thread::spawn(bind).join().unwrap()]
    });
    assert_eq!(inside.join().unwrap(), [true, true]);
    assert!(!bind());
}

#[test]
fn the_loopback_of_nodes_stays_down_on_request() {
    let Some(prefix) = prefix('l') else { return };
    let lab = describe(&prefix).lo_up(false).build().unwrap();
    let lab = lab.up_guarded().unwrap();
    let flags = |name: &str| {
        let mut command = lab.command(name, "ip").unwrap();
        let output = command.args(["link", "show", "lo"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!flags("n1").contains("LOOPBACK,UP"), "{}", flags("n1"));
    assert!(flags("r1").contains("LOOPBACK,UP"), "{}", flags("r1"));
    assert!(flags(PUB).contains("LOOPBACK,UP"), "{}", flags(PUB));
}

#[test]
fn mtu_and_offload_are_set_on_both_ends() {
    let Some(prefix) = prefix('p') else { return };
    let lab = describe(&prefix)
        .mtu("n1", 1280)
        .offload(false)
        .build()
        .unwrap();
    let lab = lab.up_guarded().unwrap();
    for (name, interface) in [("n1", "eth0"), ("r1", "l1")] {
        let output = |program: &str, arguments: &[&str]| {
            let mut command = lab.command(name, program).unwrap();
            let output = command.args(arguments).arg(interface).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(output("ip", &["link", "show"]).contains("mtu 1280"));
        assert!(output("ethtool", &["-k"]).contains("tcp-segmentation-offload: off"));
    }
}

#[test]
fn coturn_answers_and_ends_with_its_owner() {
    let Some(prefix) = prefix('q') else { return };
    let lab = up(&prefix);
    let started = Instant::now();
    let coturn = Coturn::start(&lab, &Config::new("north")).unwrap();
    println!("coturn ready in {:?}", started.elapsed());
    let process = ProcessId::of(coturn.pid());
    assert!(process.is_alive());
    coturn.stop().unwrap();
    assert!(!process.is_alive());
    let detached = Coturn::start(&lab, &Config::new("north")).unwrap().detach();
    drop(lab);
    assert_nothing_left(&prefix, &[detached]);
}

/// A stand-in for the link emulator that speaks its protocol over a plain veth pair.
fn stand_in(folder: &Path) -> PathBuf {
    let path = folder.join("wire.sh");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(
        b"#!/bin/sh\n\
          ip link add \"$2\" netns \"$1\" type veth peer name \"$4\" netns \"$3\"\n\
          echo ready\n\
          while read -r line; do case $line in\n\
          stats) echo 'packets 7';; *bad*) echo 'error: bad spec';; *) echo \"ok $line\";; esac; done\n",
    )
    .unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o700))
        .unwrap();
    path
}

#[test]
fn an_emulated_link_is_changed_while_it_runs_and_ends_with_the_lab() {
    let Some(prefix) = prefix('w') else { return };
    let folder = env::temp_dir().join(format!("holdfast-lab-{prefix}"));
    fs::create_dir_all(&folder).unwrap();
    let spec = |text: &str| LinkSpec::new(text).unwrap();
    let lab = describe(&prefix)
        .wire_binary(&stand_in(&folder))
        .link("n1", spec("delay=10ms"), LinkSpec::none())
        .link("r2", LinkSpec::none(), LinkSpec::none())
        .seed(7)
        .build()
        .unwrap()
        .up_guarded()
        .unwrap();
    lab.set_link("n1", Direction::Up, &spec("loss=1/100"))
        .unwrap();
    // Another process would do the same through the prefix alone.
    let attached = Lab::attach(&prefix).unwrap();
    attached
        .set_link("r2", Direction::Down, &LinkSpec::blackhole())
        .unwrap();
    assert_eq!(attached.link_stats("n1").unwrap(), "packets 7");
    let refused = lab.set_link("n1", Direction::Up, &spec("bad"));
    assert!(matches!(refused, Err(Error::Link { .. })), "{refused:?}");
    let plain = lab.set_link("n2", Direction::Up, &LinkSpec::none());
    assert!(plain.unwrap_err().to_string().contains("not emulated"));
    assert_eq!(lab.status().unwrap().links.len(), 2);
    drop(lab);
    assert_nothing_left(&prefix, &[]);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_lab_that_fails_half_way_is_removed_and_says_what_failed() {
    let Some(prefix) = prefix('m') else { return };
    let lab = describe(&prefix)
        .wire_binary(Path::new("/bin/false"))
        .link("n2", LinkSpec::none(), LinkSpec::none())
        .build()
        .unwrap();
    let error = lab.up_guarded().unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    assert_nothing_left(&prefix, &[]);
}

#[test]
fn a_namespace_of_somebody_else_is_left_alone() {
    let Some(prefix) = prefix('x') else { return };
    let taken = format!("{prefix}-n1");
    let ip = |action: &str| {
        Command::new("ip")
            .args(["netns", action, &taken])
            .status()
            .unwrap()
    };
    assert!(ip("add").success());
    let error = describe(&prefix).build().unwrap().up_guarded().unwrap_err();
    let left = namespaces(&prefix);
    assert!(ip("del").success());
    assert!(matches!(error, Error::NamespaceTaken { .. }), "{error}");
    assert_eq!(left, [taken]);
}

#[test]
fn a_public_node_has_an_address_of_its_own() {
    let Some(prefix) = prefix('n') else { return };
    let lab = Lab::builder(&prefix)
        .node("n1", Place::Public)
        .build()
        .unwrap();
    let lab = lab.up_guarded().unwrap();
    let _server = support::Server::start(&lab);
    let mut probe = Probe::new(&lab, "n1");
    let seen = probe
        .observed(holdfast_lab::SERVERS[0], support::PORTS[0])
        .unwrap();
    assert_eq!(*seen.ip(), lab.address("n1").unwrap());
    assert_eq!(seen.ip().to_string(), "203.0.113.21");
}
