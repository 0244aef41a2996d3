//! Standard error behind a queue: who reads it, or does not, never holds the process up.
//!
//! A member that stood still because nobody reads its log could not renew its slot, nor notice that
//! it is another's.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait. Beyond it they are dropped, and counted.
const LINES_MAX: usize = 8192;
/// How often the end of the queue is looked for at the end of the process.
const FLUSH_TICK: Duration = Duration::from_millis(2);

static WAITING: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Makes a writer for each line.
#[derive(Clone)]
pub struct Queue(SyncSender<Vec<u8>>);

impl Queue {
    /// Start the thread that writes.
    pub fn start() -> io::Result<Queue> {
        let (sender, lines) = sync_channel(LINES_MAX);
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || write(&lines))?;
        Ok(Queue(sender))
    }
}

/// Give what waits a moment to be written.
pub fn flush(limit: Duration) {
    let began = Instant::now();
    while WAITING.load(Ordering::Acquire) > 0 && began.elapsed() < limit {
        thread::sleep(FLUSH_TICK);
    }
}

fn write(lines: &Receiver<Vec<u8>>) {
    while let Ok(line) = lines.recv() {
        let mut err = io::stderr().lock();
        // Without a reader there is nobody to tell.
        let _ = err.write_all(&line);
        let dropped = DROPPED.swap(0, Ordering::AcqRel);
        if dropped > 0 {
            let _ = writeln!(
                err,
                "holdfast: {dropped} log lines were dropped: nobody read them"
            );
        }
        WAITING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One line.
pub struct Line<'a> {
    queue: &'a Queue,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            queue: self,
            bytes: Vec::new(),
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        WAITING.fetch_add(1, Ordering::AcqRel);
        if self
            .queue
            .0
            .try_send(std::mem::take(&mut self.bytes))
            .is_err()
        {
            WAITING.fetch_sub(1, Ordering::AcqRel);
            DROPPED.fetch_add(1, Ordering::AcqRel);
        }
    }
}
