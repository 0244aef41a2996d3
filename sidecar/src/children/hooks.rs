//! What is done around the runs of a process, beside starting and signalling it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::Stop;

/// Longest time for a check before a start, unless it says another.
pub const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Looks whether a process may be started. The error says why not, for people.
pub type Look = Rc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>>>>>;

/// Ends what a process has left outside of its group. The stop says that there is no time left
/// for asking: it has to be gone within a second or two.
pub type Cleanup = Rc<dyn Fn(Stop) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A look before every start.
#[derive(Clone)]
pub struct Check {
    /// What looks.
    pub look: Look,
    /// No answer for so long is a reason not to start. Positive.
    pub limit: Duration,
}

impl Check {
    /// With the usual limit.
    #[must_use]
    pub fn new(look: Look) -> Check {
        Check {
            look,
            limit: CHECK_LIMIT,
        }
    }

    /// Look, but not for ever.
    pub(super) async fn run<C: Clock>(self, clock: C) -> Result<(), String> {
        match timeout(&clock, self.limit, (self.look)()).await {
            Ok(result) => result,
            Err(elapsed) => Err(format!("what is checked before a start: {elapsed}")),
        }
    }
}

/// What is done around the runs of a process.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Before every start. A refusal counts as a failed start: backoff, and another look.
    pub check: Option<Check>,
    /// After a run that was asked to end, before it counts as ended. Not after one that ended by
    /// itself: the next run may go on with what it has left.
    pub cleanup: Option<Cleanup>,
}
