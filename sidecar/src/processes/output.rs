//! What a process prints, as log events.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use holdfast_core::supervise::Name;
use holdfast_io::clock::Clock;
use holdfast_io::real::RealClock;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

/// Longest line, bytes; the rest of it is left out. A log event is kept in memory as a whole.
pub(super) const LINE_LEN_MAX: usize = 8 << 10;
/// What is read at one time: then others have their turn.
const CHUNK_LEN: usize = 8 << 10;
/// So much of one stream is logged in [`PACE`]; then reading pauses, the pipe fills, and the
/// process waits. More than a log collector takes, less than a processor.
const BYTES_PER_PACE: usize = 512 << 10;
const PACE: Duration = Duration::from_millis(100);
/// The most that a pipe holds (pipe(7), pipe-max-size).
const PIPE_LEN_MAX: usize = 1 << 20;

/// Log every line until the end of the stream, or until what was printed before `ended` is read.
pub(super) async fn log_lines(
    child: Name,
    stream: &'static str,
    pipe: OwnedFd,
    mut ended: watch::Receiver<bool>,
) {
    let mut pipe = match Receiver::from_owned_fd(pipe) {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::warn!(%child, stream, %error, "its output cannot be read");
            return;
        }
    };
    let mut lines = Lines::default();
    let mut chunk = vec![0; CHUNK_LEN];
    let mut emit = |line: &str| tracing::info!(target: "holdfast_child", %child, stream, "{line}");
    let mut budget = Budget::new();
    loop {
        let read = tokio::select! {
            biased;
            read = pipe.read(&mut chunk) => read,
            // A process that left the group may hold the stream open for ever.
            _ = ended.wait_for(|ended| *ended) => {
                if let Ok(pipe) = pipe.into_nonblocking_fd() {
                    log_rest(pipe, &mut chunk, &mut lines, &mut emit);
                }
                break;
            }
        };
        match read {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                lines.push(&chunk[..len], &mut emit);
                budget.spend(len).await;
            }
        }
    }
    lines.finish(&mut emit);
}

/// Log what is in the pipe at this moment. Asks the system itself: the runtime knows of bytes only
/// once it has been told of them.
fn log_rest(pipe: OwnedFd, chunk: &mut [u8], lines: &mut Lines, emit: &mut impl FnMut(&str)) {
    let mut pipe = File::from(pipe);
    let mut left = PIPE_LEN_MAX;
    while let Ok(len @ 1..) = pipe.read(chunk) {
        lines.push(&chunk[..len], emit);
        left = left.saturating_sub(len);
        if left == 0 {
            break;
        }
    }
}

/// How much may be read before a pause.
struct Budget {
    left: usize,
    since: std::time::Instant,
}

impl Budget {
    fn new() -> Budget {
        Budget {
            left: BYTES_PER_PACE,
            since: RealClock.now().mono,
        }
    }

    async fn spend(&mut self, len: usize) {
        let now = RealClock.now().mono;
        if now >= self.since + PACE {
            (self.left, self.since) = (BYTES_PER_PACE, now);
        }
        self.left = self.left.saturating_sub(len);
        if self.left == 0 {
            RealClock.sleep_until(self.since + PACE).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Lines {
    /// The line so far, at most [`LINE_LEN_MAX`] bytes.
    line: Vec<u8>,
    /// How much of it was left out.
    cut: usize,
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(&str)) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..at]);
            self.end(emit);
            bytes = &bytes[at + 1..];
        }
        self.take(bytes);
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = LINE_LEN_MAX - self.line.len();
        let (kept, left_out) = bytes.split_at(bytes.len().min(room));
        self.line.extend_from_slice(kept);
        self.cut += left_out.len();
    }

    fn end(&mut self, emit: &mut impl FnMut(&str)) {
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        let text = String::from_utf8_lossy(&self.line);
        match self.cut {
            0 => emit(&text),
            cut => emit(&format!("{text} [{cut} more bytes]")),
        }
        self.line.clear();
        self.cut = 0;
    }

    /// A last line without its end.
    fn finish(&mut self, emit: &mut impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.end(emit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        let mut emit = |line: &str| found.push(line.to_owned());
        for piece in pieces {
            lines.push(piece, &mut emit);
        }
        lines.finish(&mut emit);
        found
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut_into_pieces() {
        assert_eq!(
            lines_of(&[b"one\r\n\ntwo\nthr", b"ee"]),
            ["one", "", "two", "three"]
        );
        assert_eq!(lines_of(&[b"o", b"ne", b"\n", b"two\n"]), ["one", "two"]);
    }

    #[test]
    fn a_long_line_is_cut_and_what_is_no_text_is_replaced() {
        let long = vec![b'x'; LINE_LEN_MAX + 5];
        let found = lines_of(&[&long, b"y\nnext\n", b"\xff!\n"]);
        assert!(found[0].ends_with("x [6 more bytes]"));
        assert_eq!(found[0].len(), LINE_LEN_MAX + " [6 more bytes]".len());
        assert_eq!(found[1..], ["next", "\u{fffd}!"]);
    }
}
