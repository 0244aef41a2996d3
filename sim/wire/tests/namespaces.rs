//! The wire between two real network namespaces. Needs root and the programs `ip` and `ping`;
//! without root the test says that it was skipped, on a build machine it fails.

#![allow(clippy::unwrap_used)] // a failed set-up should fail the test where it happens

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{self, Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

const ADDRESS_A: &str = "10.77.0.1/24";
const ADDRESS_B: &str = "10.77.0.2/24";
/// The host part of [`ADDRESS_B`].
const TARGET: &str = "10.77.0.2";

/// A device that has just come up may take this many pings before one is answered.
const FIRST_PINGS_MAX: u32 = 20;

/// Two namespaces of this process alone, removed at the end, however it comes.
struct Namespaces {
    a: String,
    b: String,
}

impl Namespaces {
    /// `None` without the privilege to make them.
    fn create(label: &str) -> Option<Self> {
        // SAFETY: this call takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            assert!(
                env::var_os("CI").is_none_or(|ci| ci != "true"),
                "CI must run this as root"
            );
            // Not by `eprintln!`, which the test harness swallows where a test passes.
            let _ = writeln!(io::stderr(), "SKIPPED, not tested: namespaces need root");
            return None;
        }
        let name = |side| format!("hfw-{label}{side}-{:x}", process::id());
        let namespaces = Self {
            a: name('a'),
            b: name('b'),
        };
        for namespace in [&namespaces.a, &namespaces.b] {
            ip(&["netns", "add", namespace]);
        }
        Some(namespaces)
    }

    fn has_device(&self) -> bool {
        [&self.a, &self.b].into_iter().any(|namespace| {
            let show = Command::new("ip")
                .args(["-n", namespace, "link", "show", "wire0"])
                .output();
            show.unwrap().status.success()
        })
    }

    fn ping(&self, extra: &[&str]) -> Output {
        let ping = ["netns", "exec", &self.a, "ping", "-n", "-i", "0.02", TARGET];
        Command::new("ip").args(ping).args(extra).output().unwrap()
    }

    /// The shortest round trip among ten.
    fn round_trip(&self) -> Duration {
        let output = self.ping(&["-c", "10", "-W", "2"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let times = text
            .split("time=")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next());
        let shortest = times
            .map(|time| time.parse().unwrap())
            .fold(f64::INFINITY, f64::min);
        assert!(shortest.is_finite(), "no answers: {text}");
        Duration::from_secs_f64(shortest / 1000.0)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in [&self.a, &self.b] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

/// A running wire with both devices up and addresses on them.
struct Wire {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Wire {
    fn start(namespaces: &Namespaces) -> Self {
        let Namespaces { a, b } = namespaces;
        let mut child = Command::new(env!("CARGO_BIN_EXE_holdfast-wire"))
            .args([a, "wire0", b, "wire0", "--seed", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut wire = Self {
            child,
            commands,
            answers,
        };
        assert_eq!(wire.answer(), "ready");
        for (namespace, address) in [(a, ADDRESS_A), (b, ADDRESS_B)] {
            ip(&["-n", namespace, "addr", "add", address, "dev", "wire0"]);
            ip(&["-n", namespace, "link", "set", "wire0", "up"]);
        }
        let is_up =
            (0..FIRST_PINGS_MAX).any(|_| namespaces.ping(&["-c", "1", "-W", "1"]).status.success());
        assert!(is_up, "no ping crosses an ideal wire");
        wire
    }

    fn command(&mut self, command: &str) -> String {
        writeln!(self.commands.as_ref().unwrap(), "{command}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
}

#[test]
fn impairments_take_effect_while_the_wire_runs_and_stay_in_their_direction() {
    let Some(namespaces) = Namespaces::create("i") else {
        return;
    };
    let mut wire = Wire::start(&namespaces);

    assert_eq!(wire.command("ab delay=20ms"), "ok");
    assert_eq!(wire.command("ba delay=30ms"), "ok");
    let round_trip = namespaces.round_trip();
    let expected = Duration::from_millis(50);
    assert!(round_trip >= expected, "{round_trip:?}");
    // Far more than the wire adds, far less than a forgotten delay: the machine may be busy.
    assert!(round_trip < 2 * expected, "{round_trip:?}");

    assert_eq!(wire.command("ab none"), "ok");
    assert_eq!(wire.command("ba blackhole"), "ok");
    assert!(!namespaces.ping(&["-c", "3", "-W", "0.2"]).status.success());
    let statistics = wire.command("stats");
    let (ab, ba) = statistics.split_once(r#""ba":"#).unwrap();
    assert!(ab.contains(r#""dropped_blackhole":0,"#), "{statistics}");
    assert!(!ba.contains(r#""dropped_blackhole":0,"#), "{statistics}");

    assert_eq!(wire.command("ba mtu=1000"), "ok");
    let sized = |bytes| {
        namespaces
            .ping(&["-c", "2", "-W", "0.5", "-s", bytes])
            .status
            .success()
    };
    // 28 bytes of headers: exactly the MTU, and one byte more.
    assert!(sized("972"));
    assert!(!sized("973"));
}

#[test]
fn a_wrong_command_is_refused_and_the_wire_goes_on() {
    let Some(namespaces) = Namespaces::create("w") else {
        return;
    };
    let mut wire = Wire::start(&namespaces);
    assert!(wire.command("ab loss=1%").starts_with("error: "));
    assert!(wire.command("").starts_with("error: "));
    assert!(namespaces.round_trip() < Duration::from_secs(1));
}

#[test]
fn the_devices_disappear_with_the_end_of_input_and_with_a_signal() {
    let Some(namespaces) = Namespaces::create("e") else {
        return;
    };

    let mut wire = Wire::start(&namespaces);
    assert!(namespaces.has_device());
    wire.commands = None;
    assert!(wire.child.wait().unwrap().success());
    assert!(!namespaces.has_device());

    let mut wire = Wire::start(&namespaces);
    let pid = libc::pid_t::try_from(wire.child.id()).unwrap();
    // SAFETY: the child has not been waited for, so its number is still its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    wire.child.wait().unwrap();
    assert!(!namespaces.has_device());
}

#[test]
fn a_missing_namespace_and_a_taken_name_are_reported() {
    let Some(namespaces) = Namespaces::create("r") else {
        return;
    };
    let _wire = Wire::start(&namespaces);
    let report = |arguments: [&str; 4]| {
        let wire = Command::new(env!("CARGO_BIN_EXE_holdfast-wire"))
            .args(arguments)
            .output();
        let wire = wire.unwrap();
        assert_eq!(wire.status.code(), Some(1));
        String::from_utf8(wire.stderr).unwrap()
    };
    let missing = report(["hfw-nobody", "wire0", &namespaces.b, "wire1"]);
    assert!(
        missing.contains("network namespace hfw-nobody"),
        "{missing}"
    );
    let taken = report([&namespaces.a, "wire0", &namespaces.b, "wire1"]);
    assert!(taken.contains("cannot create wire0"), "{taken}");
}
