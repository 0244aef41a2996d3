//! What vouches for this machine: who it is, and keys that only its application gets.

pub mod answers;
mod dstack;
mod http;
mod patience;
mod plain;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use zeroize::Zeroizing;

pub use dstack::{ATTEMPT_LIMIT, AgentEndpoint, AgentEndpointError, Dstack};
pub use patience::Patient;
pub use plain::Plain;

/// A future of the calling thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Longest path and longest purpose of a key, bytes.
pub const KEY_NAME_LEN_MAX: usize = 128;

/// What vouches for this machine.
pub trait Tee {
    /// Who this machine is.
    fn info(&self) -> LocalBoxFuture<'_, Result<Info, TeeError>>;

    /// A key that is the same on every machine of one application, and on no other.
    ///
    /// `path` alone separates keys: dstack's agent derives from it, and only signs the purpose.
    /// Both are 1 to [`KEY_NAME_LEN_MAX`] letters, digits, `/`, `-`, `_` and `.`.
    fn key<'a>(
        &'a self,
        path: &'a str,
        purpose: &'a str,
    ) -> LocalBoxFuture<'a, Result<Zeroizing<[u8; 32]>, TeeError>>;

    /// A statement of the hardware about this machine, bound to `report_data`.
    fn quote<'a>(
        &'a self,
        report_data: &'a [u8; 64],
    ) -> LocalBoxFuture<'a, Result<Quote, TeeError>>;
}

/// Who a machine is, as its TEE says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The machine: the same at every start. `None` where the TEE gives none (a machine
    /// without one, or dstack's `no_instance_id`): then the state folder keeps one.
    pub instance_id: Option<String>,
    /// What it runs, the same on every machine that has the same keys.
    pub app_id: String,
    /// The digest of what it runs, hexadecimal, where the TEE measures it.
    pub compose_hash: Option<String>,
}

/// A statement of the hardware.
#[derive(Clone, PartialEq, Eq)]
pub struct Quote {
    /// The quote itself, for example Intel's TDX quote.
    pub quote: Vec<u8>,
    /// The events that its registers were extended with: JSON, as the agent gave it.
    pub event_log: String,
    /// What the machine was given: JSON, as the agent gave it; empty if it did not.
    pub vm_config: String,
}

impl fmt::Debug for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quote")
            .field("quote_len", &self.quote.len())
            .field("event_log_len", &self.event_log.len())
            .finish_non_exhaustive()
    }
}

/// The TEE did not do what it was asked. No variant holds anything of a key.
#[derive(Debug, thiserror::Error)]
pub enum TeeError {
    /// The socket is not there.
    #[error(
        "{endpoint}: there is no such socket; expected the guest agent's (is it mounted, and is tee.endpoint right?)"
    )]
    Missing {
        /// Where.
        endpoint: String,
    },
    /// Something else is there.
    #[error("{endpoint} is {found}; expected the guest agent's socket")]
    NotASocket {
        /// Where.
        endpoint: String,
        /// What it is.
        found: &'static str,
    },
    /// We may not use the socket.
    #[error("{endpoint}: permission denied; expected a socket that this user may write to")]
    Denied {
        /// Where.
        endpoint: String,
    },
    /// Nobody listens.
    #[error("{endpoint} refuses the connection: nothing listens there; expected the guest agent")]
    Refused {
        /// Where.
        endpoint: String,
    },
    /// No connection for another reason, or it broke.
    #[error("{endpoint}: the connection failed: {reason}; expected the guest agent")]
    Broken {
        /// Where.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("{endpoint}: no answer to {call} within {limit_ms} ms")]
    Slow {
        /// Where.
        endpoint: String,
        /// To what.
        call: &'static str,
        /// The limit.
        limit_ms: u64,
    },
    /// The answer is no HTTP.
    #[error("{endpoint}: the answer to {call} is no HTTP; expected the guest agent's HTTP API")]
    NotHttp {
        /// Where.
        endpoint: String,
        /// To what.
        call: &'static str,
    },
    /// The agent says no.
    #[error("{endpoint}: {call} was answered with status {status}{detail}; expected 200")]
    Status {
        /// Where.
        endpoint: String,
        /// What.
        call: &'static str,
        /// The status.
        status: u16,
        /// What the agent says about it, with a separator; may be empty.
        detail: String,
    },
    /// The answer is not what the API promises.
    #[error("{endpoint}: {call} was answered with {found}; expected {expected}")]
    Shape {
        /// Where.
        endpoint: String,
        /// What.
        call: &'static str,
        /// What it is, without its content.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// This machine's TEE cannot do that.
    #[error("{what}: not possible with tee.kind = \"plain\", a machine without a TEE")]
    Unsupported {
        /// What.
        what: &'static str,
    },
    /// A name of a key that cannot be one.
    #[error(
        "{found:?} is no name of a key: expected 1 to {KEY_NAME_LEN_MAX} letters, digits, '/', '-', '_' and '.'"
    )]
    KeyName {
        /// The name, shortened.
        found: String,
    },
    /// It went on for too long.
    #[error("gave up after {attempts} attempts in {waited_ms} ms (tee.patience): {last}")]
    GaveUp {
        /// How often it was tried.
        attempts: u32,
        /// For how long.
        waited_ms: u64,
        /// The failure of the last attempt that had one of its own.
        last: Box<TeeError>,
    },
}

impl TeeError {
    /// Whether the same call may succeed later, without anybody changing anything.
    ///
    /// The agent answers any failure of its own with 400, a missing method as well
    /// (dstack 0.5 and 0.6), so that status is worth another attempt; it is over when patience is.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            TeeError::Missing { .. }
            | TeeError::Refused { .. }
            | TeeError::Broken { .. }
            | TeeError::Slow { .. } => true,
            TeeError::Status { status, .. } => matches!(*status, 400 | 408 | 429 | 500..=599),
            TeeError::NotASocket { .. }
            | TeeError::Denied { .. }
            | TeeError::NotHttp { .. }
            | TeeError::Shape { .. }
            | TeeError::Unsupported { .. }
            | TeeError::KeyName { .. }
            | TeeError::GaveUp { .. } => false,
        }
    }
}

/// Refuse a name of a key that would need escaping somewhere.
fn check_key_name(name: &str) -> Result<(), TeeError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.');
    match (1..=KEY_NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(TeeError::KeyName {
            found: name.chars().take(80).collect(),
        }),
    }
}

/// A time as whole milliseconds, for messages.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
