//! Running the binary in a folder of its own, with nothing in its environment.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that is removed with the value.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-test-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    /// Write a file.
    pub fn write(&self, name: &str, content: &str, mode: u32) -> &Folder {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// A cluster secret of the name that the examples use.
    pub fn with_secret(self) -> Folder {
        self.write(
            "cluster.secret",
            "0123456789abcdef0123456789abcdef\n",
            0o400,
        );
        self
    }

    /// The command, to be run in the folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(args).current_dir(&self.0).env_clear();
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub fn run_with(&self, env: &[(&str, &str)], args: &[&str]) -> Ran {
        let mut command = self.command(args);
        Ran::of(command.envs(env.iter().copied()).output().unwrap())
    }

    pub fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.0.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    }

    pub fn read(&self, name: impl AsRef<Path>) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The output of a success.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Exit code and standard output, for a snapshot.
    pub fn snapshot(&self) -> String {
        format!("exit code {}\n{}", self.code, self.out)
    }
}

/// A command that goes on, with its log; killed with the value.
pub struct Running {
    pub child: Child,
    log: BufReader<ChildStderr>,
}

impl Running {
    pub fn start(folder: &Folder, args: &[&str]) -> Running {
        let mut command = folder.command(args);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Running { child, log }
    }

    /// Read the log until this message; its entry.
    pub fn wait_for(&mut self, message: &str) -> serde_json::Value {
        self.wait_until(message, |entry| entry["message"] == message)
    }

    /// Read the log until an entry is the one; `what` names it.
    pub fn wait_until(
        &mut self,
        what: &str,
        is_it: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let mut seen = String::new();
        loop {
            let before = seen.len();
            let read = self.log.read_line(&mut seen).unwrap();
            assert_ne!(read, 0, "the log ended before {what:?}: {seen}");
            // A warning about the configuration comes before there is a log.
            let entry = serde_json::from_str(&seen[before..]).unwrap_or_default();
            if is_it(&entry) {
                return entry;
            }
        }
    }

    /// Send a signal.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: the child is ours and not yet waited for, so its id names no other process.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// The exit code, once it has ended.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The embedded KV.
pub struct Kv {
    pub running: Running,
    pub address: String,
}

impl Kv {
    pub fn start(folder: &Folder, more: &[&str]) -> Kv {
        let args = ["kv", "--listen", "127.0.0.1:0", "--data", "kv"];
        let mut running = Running::start(folder, &[&args, more].concat());
        let entry = running.wait_for("the KV serves");
        let address = entry["address"].as_str().unwrap().to_owned();
        Kv { running, address }
    }
}
