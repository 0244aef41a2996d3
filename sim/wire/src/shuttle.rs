//! Carries frames from one device to the other, when and if the pipeline says so.

use crate::Failure;
use crate::draw::SplitMix;
use crate::tap::{self, Tap};
use holdfast_net_model::{Counters, LinkConfig, Pipeline};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most bytes in flight per direction: 2 Gbit/s for a quarter of a second.
pub(crate) const HELD_BYTES_MAX: usize = 64 << 20;

/// What one small frame costs beside its bytes, so that the limit holds for tiny ones too.
const HELD_OVERHEAD_BYTES: usize = 64;

/// Frames taken in before due ones are looked at again: few enough to keep them punctual.
const BATCH_COUNT: usize = 32;

/// Longest frame: the largest MTU of a TAP device with its header.
const FRAME_BYTES_MAX: usize = 65_536 + ETHERNET_HEADER_BYTES;

const ETHERNET_HEADER_BYTES: usize = 14;

/// One direction of the wire, shared by the thread that carries and the one that commands.
pub(crate) struct Direction {
    start: Instant,
    line: Mutex<Line>,
}

struct Line {
    pipeline: Pipeline,
    /// Earliest first.
    held: BinaryHeap<Held>,
    held_bytes: usize,
    sequence: u64,
    written: u64,
    write_errors: u64,
    overflow: u64,
}

/// A frame on its way.
struct Held {
    due: Duration,
    sequence: u64,
    frame: Box<[u8]>,
}

/// What a direction has done so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statistics {
    /// What the pipeline decided.
    pub(crate) link: Counters,
    /// Frames that the far device took.
    pub(crate) written: u64,
    /// Frames that the far device refused.
    pub(crate) write_errors: u64,
    /// Frames lost because too many were in flight.
    pub(crate) overflow: u64,
    /// Frames in flight.
    pub(crate) held: u64,
    /// Their bytes.
    pub(crate) held_bytes: u64,
}

impl Direction {
    pub(crate) fn new(config: LinkConfig, start: Instant) -> Self {
        let line = Line {
            pipeline: Pipeline::new(config),
            held: BinaryHeap::new(),
            held_bytes: 0,
            sequence: 0,
            written: 0,
            write_errors: 0,
            overflow: 0,
        };
        Self {
            start,
            line: Mutex::new(line),
        }
    }

    pub(crate) fn set_config(&self, config: LinkConfig) {
        let now = self.now();
        self.lock().pipeline.set_config(now, config);
    }

    #[cfg(test)]
    pub(crate) fn config(&self) -> LinkConfig {
        *self.lock().pipeline.config()
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let line = self.lock();
        Statistics {
            link: *line.pipeline.counters(),
            written: line.written,
            write_errors: line.write_errors,
            overflow: line.overflow,
            held: line.held.len() as u64,
            held_bytes: line.held_bytes as u64,
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One round: releases what is due and takes in a batch. Says how long to sleep, or
    /// `None` when there may be more to read already.
    fn carry(
        &self,
        from: &Tap,
        to: &Tap,
        draw: &mut SplitMix,
        buffer: &mut [u8],
    ) -> std::io::Result<Option<Sleep>> {
        let mut line = self.lock();
        line.release(self.now(), to);
        for _ in 0..BATCH_COUNT {
            let Some(len) = from.read(buffer)? else {
                let due = line.held.peek().map(|held| held.due);
                drop(line);
                return Ok(Some(match due {
                    Some(due) => Sleep::Until(due.saturating_sub(self.now())),
                    None => Sleep::UntilFrame,
                }));
            };
            line.take_in(self.now(), &buffer[..len], to, draw);
        }
        Ok(None)
    }
}

enum Sleep {
    Until(Duration),
    UntilFrame,
}

impl Line {
    fn release(&mut self, now: Duration, to: &Tap) {
        while self.held.peek().is_some_and(|held| held.due <= now) {
            let held = self.held.pop().expect("peeked");
            self.held_bytes -= held.cost();
            self.write(&held.frame, to);
        }
    }

    fn take_in(&mut self, now: Duration, frame: &[u8], to: &Tap, draw: &mut SplitMix) {
        let packet_len = frame.len().saturating_sub(ETHERNET_HEADER_BYTES);
        let len_bytes = u32::try_from(packet_len).expect("a frame is shorter than FRAME_BYTES_MAX");
        for due in self.pipeline.offer(now, len_bytes, draw).times() {
            if due <= now && self.held.is_empty() {
                self.write(frame, to);
            } else {
                self.hold(due, frame);
            }
        }
    }

    fn hold(&mut self, due: Duration, frame: &[u8]) {
        let held = Held {
            due,
            sequence: self.sequence,
            frame: Box::from(frame),
        };
        if self.held_bytes + held.cost() > HELD_BYTES_MAX {
            self.overflow += 1;
            return;
        }
        self.sequence += 1;
        self.held_bytes += held.cost();
        self.held.push(held);
    }

    fn write(&mut self, frame: &[u8], to: &Tap) {
        if to.write(frame) {
            self.written += 1;
        } else {
            self.write_errors += 1;
        }
    }
}

impl Held {
    const fn cost(&self) -> usize {
        self.frame.len() + HELD_OVERHEAD_BYTES
    }
}

impl Ord for Held {
    /// The greatest is the one that is due first, for a heap that pops the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

/// Carries frames on a thread of its own until the process ends.
///
/// # Errors
/// When the system refuses another thread.
pub(crate) fn start(
    name: &str,
    direction: Arc<Direction>,
    from: Arc<Tap>,
    to: Arc<Tap>,
    mut draw: SplitMix,
) -> Result<(), Failure> {
    let carry = move || {
        tap::wake_precisely();
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            match direction.carry(&from, &to, &mut draw, &mut buffer) {
                Ok(None) => {}
                Ok(Some(Sleep::Until(timeout))) => from.wait(Some(timeout)),
                Ok(Some(Sleep::UntilFrame)) => from.wait(None),
                Err(error) => {
                    // A wire with one end is none; who started it sees it end.
                    eprintln!("holdfast-wire: a device is gone: {error}");
                    std::process::exit(1);
                }
            }
        }
    };
    std::thread::Builder::new()
        .name(format!("wire-{name}"))
        .spawn(carry)
        .map_err(|error| Failure(format!("cannot start a thread: {error}")))?;
    Ok(())
}
