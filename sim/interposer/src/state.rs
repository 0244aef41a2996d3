//! What a simulation thread carries, and how the hooks find it.

use crate::allow;
use crate::stream::Stream;
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::ptr;

thread_local! {
    // Constant and without a destructor: readable at any time in a thread's life, also
    // while its other thread locals are torn down.
    static CURRENT: Cell<*const State> = const { Cell::new(ptr::null()) };
}

#[derive(Clone, Debug)]
pub(crate) enum Policy {
    /// Abort, except for entropy read by some crates and clocks read by others.
    Strict {
        entropy: Vec<String>,
        clocks: Vec<String>,
    },
    CountOnly,
}

pub(crate) struct State {
    policy: Policy,
    stream: Cell<Stream>,
    entropy_reads: Cell<u64>,
    clock_reads: Cell<u64>,
}

/// Points the thread at a state for as long as it lives.
struct Entered(*const State);

impl Entered {
    fn new(state: *const State) -> Self {
        Self(CURRENT.replace(state))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl State {
    pub(crate) fn new(seed: [u8; 32], policy: Policy) -> Self {
        let stream = Cell::new(Stream::new(seed));
        Self {
            policy,
            stream,
            entropy_reads: Cell::new(0),
            clock_reads: Cell::new(0),
        }
    }

    pub(crate) const fn entropy_reads(&self) -> u64 {
        self.entropy_reads.get()
    }

    pub(crate) const fn clock_reads(&self) -> u64 {
        self.clock_reads.get()
    }

    /// Runs `body` with the calling thread marked as a simulation thread.
    pub(crate) fn enter<T>(&self, body: impl FnOnce() -> T) -> T {
        let _entered = Entered::new(self);
        body()
    }

    fn serve(&self, call: &str, buffer: &mut [u8]) {
        self.entropy_reads.set(self.entropy_reads.get() + 1);
        if let Policy::Strict { entropy, .. } = &self.policy {
            let trace = Backtrace::force_capture().to_string();
            if !allow::is_entropy_allowed(&trace, entropy) {
                abort(
                    call,
                    "inject the entropy, or allow the crate that reads it",
                    &trace,
                );
            }
        }
        let mut stream = self.stream.get();
        stream.fill(buffer);
        self.stream.set(stream);
    }

    fn note_clock(&self, call: &str) {
        self.clock_reads.set(self.clock_reads.get() + 1);
        if let Policy::Strict { clocks, .. } = &self.policy {
            let trace = Backtrace::force_capture().to_string();
            if !allow::is_allowed(&trace, clocks) {
                abort(call, "inject the time", &trace);
            }
        }
    }
}

/// Fills `buffer` when this is a simulation thread; says whether it did.
pub(crate) fn serve_entropy(call: &str, buffer: &mut [u8]) -> bool {
    with_current(|state| state.serve(call, buffer))
}

/// Counts or aborts when this is a simulation thread.
pub(crate) fn note_clock_read(call: &str) {
    with_current(|state| state.note_clock(call));
}

/// Whether there was a state. While `act` runs the thread counts as an ordinary one, since a
/// backtrace allocates, locks and reads files.
fn with_current(act: impl FnOnce(&State)) -> bool {
    let current = CURRENT.get();
    if current.is_null() {
        return false;
    }
    let _outside = Entered::new(ptr::null());
    // SAFETY: only `State::enter` sets a pointer, to a state that it borrows until it has
    // reset the pointer; states never leave their thread's stack.
    act(unsafe { &*current });
    true
}

/// Straight to standard error: the test harness captures what goes through `eprintln`, and
/// nothing would print it after an abort.
fn abort(call: &str, remedy: &str, trace: &str) -> ! {
    let text = format!("interposer: {call} on a simulation thread: {remedy}\n{trace}\n");
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        // SAFETY: the pointer and the length are those of one live slice.
        let written = unsafe { libc::write(libc::STDERR_FILENO, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(written) {
            Ok(count) if count > 0 => rest = &rest[count..],
            _ => break,
        }
    }
    std::process::abort()
}
