//! Logs: for people on a terminal, one JSON object per line otherwise, on standard error.

mod queue;

use std::io::{self, IsTerminal};
use std::time::Duration;

use holdfast_io::dump::DumpTrigger;
use holdfast_io::real::DumpOnError;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use self::queue::Queue;
use crate::config::LogFormat;

/// How long the end of the process waits for its last lines to be written.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// Longest accepted filter, in bytes.
const FILTER_LEN_MAX: usize = 1024;

/// Begins the targets of Holdfast's own crates.
const OWN: &str = "holdfast";
/// What this library calls an error is a routine event to the machine that uses it.
const NOISY: &str = "turn_client_proto";
/// Below this level these libraries print what strangers send, or ICE passwords: whatever the
/// filter says, a secret is in no log. `stun_proto` calls a lost answer and a challenge (401)
/// errors, and says nothing else of use.
const CAPPED: [(&str, LevelFilter); 3] = [
    ("is", LevelFilter::INFO),
    ("stun_types", LevelFilter::ERROR),
    ("stun_proto", LevelFilter::OFF),
];

/// Whether a filter can be used: a level, or levels by target.
pub fn is_filter(filter: &str) -> bool {
    parse(filter).is_some()
}

/// A bare level is Holdfast's own; libraries are heard from `warn` up, or as named.
fn parse(filter: &str) -> Option<Targets> {
    if filter.len() > FILTER_LEN_MAX {
        return None;
    }
    let mut own = LevelFilter::INFO;
    let mut named: Vec<(&str, LevelFilter)> = Vec::new();
    for directive in filter.split(',').map(str::trim) {
        match directive.split_once('=') {
            Some((target, level)) => {
                let level = level.parse::<LevelFilter>().ok()?;
                let cap = CAPPED.iter().find(|(root, _)| is_within(target, root));
                named.push((target, cap.map_or(level, |(_, most)| level.min(*most))));
            }
            None if directive.is_empty() => return None,
            None => own = directive.parse().ok()?,
        }
    }
    let targets = Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_target(OWN, own)
        .with_target(NOISY, LevelFilter::OFF)
        .with_targets(CAPPED.map(|(target, most)| (target, most.min(LevelFilter::WARN).min(own))));
    Some(targets.with_targets(named))
}

/// Whether `target` is this crate or a module of it.
fn is_within(target: &str, root: &str) -> bool {
    target
        .strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Start to log. The first call counts. An error that is logged asks `dumps` for a dump.
pub fn start(filter: &str, format: LogFormat, dumps: Option<DumpTrigger>) {
    let filter =
        parse(filter).unwrap_or_else(|| Targets::new().with_target(OWN, LevelFilter::INFO));
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let layer = fmt::layer().with_writer(writer());
    let layer = match json {
        true => layer.json().flatten_event(true).boxed(),
        false => layer
            .with_ansi(io::stderr().is_terminal() && crate::output::colour_allowed())
            .boxed(),
    };
    // A second call finds a subscriber in place, which stays.
    let _ = registry()
        .with(layer.with_filter(filter))
        .with(dumps.map(|dumps| {
            DumpOnError(dumps).with_filter(Targets::new().with_target(OWN, LevelFilter::ERROR))
        }))
        .try_init();
}

/// Standard error behind a queue; directly where no thread can be had.
fn writer() -> BoxMakeWriter {
    match Queue::start() {
        Ok(queue) => BoxMakeWriter::new(queue),
        Err(_) => BoxMakeWriter::new(io::stderr),
    }
}

/// Give what was logged a moment to be written, before the process ends.
pub fn flush() {
    queue::flush(FLUSH_MAX);
}

/// Start to log in a role without a configuration file: `HOLDFAST_LOG` is the filter, and
/// `HOLDFAST_LOG_FORMAT` the format.
pub fn start_from_environment() {
    let filter = std::env::var("HOLDFAST_LOG").unwrap_or_else(|_| "info".to_owned());
    let format = match std::env::var("HOLDFAST_LOG_FORMAT").as_deref() {
        Ok("human") => LogFormat::Human,
        Ok("json") => LogFormat::Json,
        _ => LogFormat::Auto,
    };
    start(&filter, format, None);
    if !is_filter(&filter) {
        tracing::warn!(
            filter,
            "HOLDFAST_LOG is no filter, expected a level or levels by target"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_levels_by_target() {
        for good in ["info", "off", "warn,holdfast_io=debug", "DEBUG"] {
            assert!(is_filter(good), "{good:?} is a filter");
        }
        for bad in ["", "loud", "holdfast_io=loud", "info;debug"] {
            assert!(!is_filter(bad), "{bad:?} is none");
        }
    }

    #[test]
    fn no_filter_lets_a_library_print_secrets() {
        for filter in ["trace", "is=trace", "is::agent=debug", "info,is=debug"] {
            let targets = parse(filter).expect("a filter");
            for target in ["is", "is::agent", "is::stun"] {
                let most = tracing::Level::DEBUG;
                assert!(!targets.would_enable(target, &most), "{filter} {target}");
            }
        }
    }
}
