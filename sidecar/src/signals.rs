//! Signals, as values. Which means what: the crate's first page.

use std::io;

use holdfast_core::supervise::Signal;
use holdfast_io::real::RealSpawn;
use holdfast_io::spawn::{Spawn, Task};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What the sidecar is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// End everything, in order; asked again: at once.
    Stop,
    /// Read the configuration again.
    Reload,
    /// Send this on to the children.
    Forward(Signal),
    /// Register the instance of this service with these tags beside its own: its role.
    Role {
        /// The name that is registered.
        service: String,
        /// The tags, at most [`TAGS_MAX`](crate::services::TAGS_MAX).
        tags: Vec<String>,
    },
}

/// Listen until the task is dropped.
pub(crate) fn listen(asks: mpsc::Sender<Ask>) -> io::Result<Task> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    let mut window = signal(SignalKind::window_change())?;
    Ok(RealSpawn.spawn("signals", async move {
        loop {
            let (name, ask) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", Ask::Stop),
                _ = interrupt.recv() => ("SIGINT", Ask::Stop),
                _ = hangup.recv() => ("SIGHUP", Ask::Reload),
                _ = user2.recv() => ("SIGUSR2", Ask::Forward(Signal(libc::SIGUSR2))),
                _ = window.recv() => ("SIGWINCH", Ask::Forward(Signal(libc::SIGWINCH))),
            };
            tracing::info!(signal = name, "asked by a signal");
            if asks.send(ask).await.is_err() {
                return;
            }
        }
    }))
}
