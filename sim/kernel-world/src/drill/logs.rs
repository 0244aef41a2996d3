//! What the logs of a member say, on the world's clock.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::agent::Clock;

/// How much of a log's end is read at most, bytes: a round writes a hundredth of it.
const READ_LEN_MAX: u64 = 64 << 20;

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was written.
    pub at: Duration,
    /// All of it.
    pub text: String,
}

/// The world's clock and the one on the wall.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    clock: Clock,
    origin: SystemTime,
}

impl Clocks {
    /// Compares them now.
    pub fn new(clock: Clock) -> Clocks {
        let origin = SystemTime::now() - clock.now();
        Clocks { clock, origin }
    }

    /// The world's.
    pub fn world(self) -> Clock {
        self.clock
    }

    /// How far the clock on the wall went another way than the world's since they were compared.
    pub fn drift(self) -> Duration {
        let now = Clocks::new(self.clock).origin;
        let later = now.duration_since(self.origin);
        later.unwrap_or_else(|earlier| earlier.duration())
    }

    fn of(self, wall: SystemTime) -> Option<Duration> {
        wall.duration_since(self.origin).ok()
    }
}

/// Where the logs end now.
#[derive(Clone, Debug)]
pub struct Ends(Vec<(PathBuf, u64)>);

impl Ends {
    /// Of those files; one that is not there yet ends at its beginning.
    pub fn of(paths: Vec<PathBuf>) -> Ends {
        let len = |path: &Path| path.metadata().map_or(0, |meta| meta.len());
        Ends(
            paths
                .into_iter()
                .map(|path| (path.clone(), len(&path)))
                .collect(),
        )
    }

    /// What was written since, with a time, and in files that came since.
    pub fn since(&self, paths: &[PathBuf], clocks: Clocks) -> Vec<Line> {
        let mut lines = Vec::new();
        for path in paths {
            let known = self.0.iter().find(|(known, _)| known == path);
            let from = known.map_or(0, |(_, end)| *end);
            for text in read(path, from).lines() {
                if let Some(at) = written_at(text).and_then(|at| clocks.of(at)) {
                    let text = of_child(text).unwrap_or_else(|| text.to_owned());
                    lines.push(Line { at, text });
                }
            }
        }
        lines.sort_by_key(|line| line.at);
        lines
    }
}

/// What a Rust program writes when it panics.
const PANICKED: &str = "panicked at";
/// How many panics are told of: one that repeats says nothing more.
const PANICS_MAX: usize = 10;
/// How much of each, characters.
const PANIC_LEN_MAX: usize = 300;

impl Ends {
    /// The panics since, with or without a time.
    pub fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (path, from) in &self.0 {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            for line in read(path, *from).lines() {
                if line.contains(PANICKED) && found.len() < PANICS_MAX {
                    let line: String = line.chars().take(PANIC_LEN_MAX).collect();
                    found.push(format!("{name}: {line}"));
                }
            }
        }
        found
    }
}

fn read(path: &Path, from: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path)
        && file.seek(SeekFrom::Start(from)).is_ok()
    {
        // What could be read is read.
        let _ = file.take(READ_LEN_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a child of a sidecar wrote, of the sidecar's line that holds it.
fn of_child(text: &str) -> Option<String> {
    let line: Relayed = serde_json::from_str(text).ok()?;
    (line.target == "holdfast_child").then_some(line.message)
}

#[derive(Deserialize)]
struct Relayed {
    target: String,
    message: String,
}

/// The time of a line, in UTC, wherever in its first words it is: Patroni's
/// `2026-01-02 03:04:05,678`, PostgreSQL's `2026-01-02 03:04:05.678 UTC`, and JSON with
/// `"timestamp":"2026-01-02T03:04:05.678Z"`; a sidecar's line that holds a child's has both, and
/// the child's is the better one.
fn written_at(text: &str) -> Option<SystemTime> {
    let mut found = None;
    for (at, _) in text.match_indices("20") {
        let Some(stamp) = text.get(at..at + 23) else {
            break;
        };
        let bytes = stamp.as_bytes();
        let is_stamp = bytes[4] == b'-'
            && bytes[7] == b'-'
            && (bytes[10] == b' ' || bytes[10] == b'T')
            && bytes[13] == b':'
            && bytes[16] == b':'
            && (bytes[19] == b',' || bytes[19] == b'.');
        if is_stamp {
            let stamp = format!("{}T{}.{}Z", &stamp[..10], &stamp[11..19], &stamp[20..]);
            if let Ok(time) = humantime::parse_rfc3339(&stamp) {
                found = Some(time);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_a_child_wrote_is_told_without_its_wrapping() {
        let relayed = r#"{"message":"2026 LOG: x","child":"patroni","target":"holdfast_child"}"#;
        assert_eq!(of_child(relayed), Some("2026 LOG: x".to_owned()));
        let own = r#"{"message":"ready","child":"patroni","target":"holdfast_sidecar"}"#;
        assert_eq!(of_child(own), None);
        assert_eq!(of_child("2026 LOG: x"), None);
    }

    #[test]
    fn a_panic_since_is_told_though_it_has_no_time() {
        let folder = std::env::temp_dir().join(format!("holdfast-logs-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("node-4.log");
        fs::write(&path, "thread 'main' panicked at src/a.rs:1:1:\n").unwrap();
        let ends = Ends::of(vec![path.clone()]);
        assert_eq!(ends.panics(), Vec::<String>::new());
        let mut log = fs::OpenOptions::new().append(true).open(&path).unwrap();
        log.write_all(b"thread 'main' panicked at src/b.rs:2:2:\n")
            .unwrap();
        let told = ends.panics();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(told, ["node-4: thread 'main' panicked at src/b.rs:2:2:"]);
    }

    #[test]
    fn the_times_of_all_logs_are_understood() {
        let wanted = humantime::parse_rfc3339("2026-01-02T03:04:05.678Z").unwrap();
        for text in [
            "2026-01-02 03:04:05,678 INFO: no action",
            "2026-01-02 03:04:05.678 UTC [12] LOG:  hello",
            r#"{"timestamp":"2026-01-02T03:04:05.678901Z","level":"INFO"}"#,
            r#"{"timestamp":"2026-01-02T03:04:05.700901Z","line":"2026-01-02 03:04:05,678 INFO: x"}"#,
        ] {
            assert_eq!(written_at(text), Some(wanted), "{text}");
        }
        assert_eq!(written_at("2026 was a year"), None);
        assert_eq!(written_at("2026-99-99 99:99:99,999 nonsense ü 20ü"), None);
    }
}
