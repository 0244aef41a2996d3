//! Logs: for people on a terminal, one JSON object per line otherwise, on standard error.

use std::io::{self, IsTerminal};

use holdfast_io::dump::DumpTrigger;
use holdfast_io::real::DumpOnError;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use crate::config::LogFormat;

/// Longest accepted filter, in bytes.
const FILTER_LEN_MAX: usize = 1024;

/// Whether a filter can be used: a level, or levels by target.
pub fn is_filter(filter: &str) -> bool {
    parse(filter).is_some()
}

fn parse(filter: &str) -> Option<Targets> {
    // A lone word that is no level would be taken for the name of a target.
    let directives = filter.split(',').map(str::trim);
    let mistaken = directives
        .filter(|directive| !directive.contains('='))
        .any(|directive| directive.is_empty() || directive.parse::<LevelFilter>().is_err());
    match mistaken || filter.len() > FILTER_LEN_MAX {
        true => None,
        false => filter.parse().ok(),
    }
}

/// Start to log. The first call counts. An error that is logged asks `dumps` for a dump.
pub fn start(filter: &str, format: LogFormat, dumps: Option<DumpTrigger>) {
    let filter = parse(filter).unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let layer = fmt::layer().with_writer(io::stderr);
    let layer = match json {
        true => layer.json().flatten_event(true).boxed(),
        false => layer
            .with_ansi(io::stderr().is_terminal() && crate::output::colour_allowed())
            .boxed(),
    };
    // A second call finds a subscriber in place, which stays.
    let _ = registry()
        .with(layer.with_filter(filter))
        .with(dumps.map(DumpOnError))
        .try_init();
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
        tracing::warn!(filter, "HOLDFAST_LOG is no filter, expected a level or levels by target");
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
}
