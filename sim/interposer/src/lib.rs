//! The canary of determinism: ambient time and entropy do not go unnoticed on a simulation
//! thread.
//!
//! Code under simulation gets its time and entropy as arguments. A dependency that reads
//! the clock or the kernel's generator behind our back would make seeds lie. This crate,
//! linked into a test binary, defines the libc symbols `getrandom`, `getentropy`,
//! `syscall`, `clock_gettime`, `gettimeofday` and `time` for the whole process. On threads
//! that [`simulate`] starts,
//!
//! * entropy comes from a seeded stream, and only for callers on an allowlist: the hash
//!   keys of `std`, and crates that cannot be given entropy ([`ALLOWED_BY_DEFAULT`]);
//! * any other entropy read, and every clock read, prints a backtrace to standard error
//!   and aborts the process.
//!
//! All other threads reach the real implementations, those included that the simulated
//! code starts itself.
//!
//! # Limits
//!
//! Not seen are reads of `/dev/urandom`, instructions such as `rdrand` and `rdtsc`, calls
//! inside libc itself, and what a generator that has been seeded once per thread hands out
//! later: when an allowed crate seeds `rand::rng()`, other callers share that stream. The
//! values are deterministic all the same.
//!
//! madsim defines the same symbols: the two exclude each other in one binary.
//!
//! ```
//! use std::{collections::HashMap, hash::{BuildHasher, RandomState}};
//!
//! let run = |seed| holdfast_interposer::simulate([seed; 32], || RandomState::new().hash_one(1));
//! assert_eq!(run(7).value, run(7).value);
//! assert_ne!(run(7).value, run(8).value);
//! ```

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("the interposer knows Linux on x86_64 and aarch64 only");

mod allow;
mod hooks;
mod real;
mod state;
mod stream;

use state::{Policy, State};

/// Crates that draw from `rand::rng()` with no way to inject a generator: the STUN and TURN
/// stack draws transaction ids and nonces there. A trailing `*` matches any ending.
pub const ALLOWED_BY_DEFAULT: &[&str] = &["stun_types", "stun_proto", "turn_*"];

/// Stack of a simulation thread. Whole worlds run on it, in unoptimised builds too; pages
/// that are not touched cost nothing.
const STACK_BYTES: usize = 64 << 20;

/// What a simulation returned, and what it read behind our back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<T> {
    /// The closure's result.
    pub value: T,
    /// Entropy reads, all served from the seed.
    pub entropy_reads: u64,
    /// Clock reads: 0 unless [`Interposer::count_only`].
    pub clock_reads: u64,
}

/// A simulation thread to be, with its seed and what it may do.
#[derive(Clone, Debug)]
pub struct Interposer {
    seed: [u8; 32],
    policy: Policy,
}

impl Interposer {
    /// Allows nothing but the hash keys of `std`.
    #[must_use]
    pub const fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            policy: Policy::Strict {
                entropy: Vec::new(),
                clocks: Vec::new(),
            },
        }
    }

    /// Serves entropy to these crates too. A crate allows what it calls: the entropy is
    /// served when any frame of the backtrace belongs to it. Names are those of paths
    /// (`stun_types`); a trailing `*` matches any ending (`turn_*`); one with a slash is part
    /// of a source file's path, for a single module of a crate.
    #[must_use]
    pub fn allow_entropy(mut self, crates: &[&str]) -> Self {
        if let Policy::Strict { entropy, .. } = &mut self.policy {
            entropy.extend(crates.iter().map(|name| (*name).to_owned()));
        }
        self
    }

    /// Lets these crates read the real clock. Only for those whose reading has no effect,
    /// such as a generator that is seeded again before it is used.
    #[must_use]
    pub fn allow_clocks(mut self, crates: &[&str]) -> Self {
        if let Policy::Strict { clocks, .. } = &mut self.policy {
            clocks.extend(crates.iter().map(|name| (*name).to_owned()));
        }
        self
    }

    /// Never aborts: serves seeded entropy to everyone and the real time, and counts both.
    #[must_use]
    pub fn count_only(mut self) -> Self {
        self.policy = Policy::CountOnly;
        self
    }

    /// Runs `body` on a fresh simulation thread and waits for it. Fresh, because thread
    /// locals such as hash keys outlive a run.
    ///
    /// # Panics
    /// When `body` does, with its payload; or when the system refuses another thread.
    pub fn run<T: Send>(self, body: impl FnOnce() -> T + Send) -> Report<T> {
        let Self { seed, policy } = self;
        let thread = move || {
            let state = State::new(seed, policy);
            let value = state.enter(body);
            Report {
                value,
                entropy_reads: state.entropy_reads(),
                clock_reads: state.clock_reads(),
            }
        };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("simulation".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, thread)
                .expect("a simulation needs a thread: raise the process limit")
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Runs `body` on a fresh simulation thread with the crates of [`ALLOWED_BY_DEFAULT`].
///
/// # Panics
/// As [`Interposer::run`].
pub fn simulate<T: Send>(seed: [u8; 32], body: impl FnOnce() -> T + Send) -> Report<T> {
    Interposer::new(seed)
        .allow_entropy(ALLOWED_BY_DEFAULT)
        .run(body)
}
