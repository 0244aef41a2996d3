//! SIGTERM and SIGINT: the first asks for a graceful end, the second for an end at once.

use std::io;

use holdfast_io::http::Stop;
use tokio::signal::unix::{SignalKind, signal};

/// A stop that the first SIGTERM or SIGINT throws. Call it inside a runtime.
pub fn stop_on_signal() -> io::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (switch, stop) = Stop::new();
    tokio::task::spawn_local(async move {
        let mut asked = false;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if asked {
                tracing::warn!(signal = name, "asked again: ending at once");
                crate::logging::flush();
                std::process::exit(1);
            }
            asked = true;
            tracing::info!(signal = name, "ending; a second signal ends at once");
            // Without a receiver everything has ended already.
            let _ = switch.send(true);
        }
    });
    Ok(stop)
}
