//! What Patroni would clamp or refuse, said before it does.

use std::time::Duration;

use serde_json::Value;

use super::Error;
use crate::settings::Settings;

/// Patroni's own minimums, seconds (its `MIN_TTL` and beside).
const TTL_MIN: u64 = 20;
const LOOP_WAIT_MIN: u64 = 1;
const RETRY_TIMEOUT_MIN: u64 = 3;
/// A day without a leader is no setting but a mistake; Consul's sessions end there, too.
const SECONDS_MAX: u64 = 86_400;

/// What of the settings can be wrong by itself.
pub(super) fn check_settings(settings: &Settings) -> Result<(), Error> {
    for (key, value) in [
        ("postgres.ttl", settings.ttl),
        ("postgres.loop_wait", settings.loop_wait),
        ("postgres.retry_timeout", settings.retry_timeout),
    ] {
        if value.subsec_nanos() != 0 {
            return Err(Error::value(key, format!("{value:?}"), "whole seconds"));
        }
    }
    for (key, port) in [
        ("postgres.port", settings.port),
        ("postgres.rest_port", settings.rest_port),
    ] {
        if port == 0 {
            return Err(Error::value(key, port, "1 to 65535"));
        }
    }
    if settings.port == settings.rest_port {
        let expected = format!("another port than postgres.port, {}", settings.port);
        return Err(Error::value(
            "postgres.rest_port",
            settings.rest_port,
            expected,
        ));
    }
    for (key, path) in [
        ("postgres.data_dir", &settings.data_dir),
        ("postgres.bin_dir", &settings.bin_dir),
    ] {
        // A quote or a line's end would have to survive three formats.
        let plain = path
            .to_str()
            .is_some_and(|p| !p.contains(['\'', '\\', '\n', '\0']));
        if !path.is_absolute() || !plain {
            let expected = "an absolute path in UTF-8 without quotes, backslashes and line ends";
            return Err(Error::value(key, path.display(), expected));
        }
    }
    settings
        .parameters
        .iter()
        .try_for_each(|(name, value)| check_parameter(name, value))
}

fn check_parameter(name: &str, value: &str) -> Result<(), Error> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    if name.is_empty() || !name.bytes().all(fine) {
        let expected = "the name of one of PostgreSQL's parameters";
        return Err(Error::value(
            "postgres.parameters",
            format!("{name:?}"),
            expected,
        ));
    }
    if value.contains(['\n', '\0']) {
        let key = format!("postgres.parameters.{name}");
        return Err(Error::value(key, format!("{value:?}"), "one line"));
    }
    match super::overlay::parameter_is_ours(name) {
        Some(why) => Err(Error::Forbidden {
            key: format!("postgres.parameters.{name}"),
            why,
        }),
        None => Ok(()),
    }
}

/// What belongs to `/config`, with the user's own file laid over it.
pub(super) fn check_dynamic(dynamic: &Value) -> Result<(), Error> {
    let ttl = seconds(dynamic, "ttl", TTL_MIN)?;
    let loop_wait = seconds(dynamic, "loop_wait", LOOP_WAIT_MIN)?;
    let retry_timeout = seconds(dynamic, "retry_timeout", RETRY_TIMEOUT_MIN)?;
    if loop_wait + 2 * retry_timeout > ttl {
        let found =
            format!("{ttl}s, with loop_wait {loop_wait}s and retry_timeout {retry_timeout}s");
        let expected = format!(
            "at least loop_wait + 2 * retry_timeout, {}s: a leader has to try twice before its key is gone",
            loop_wait + 2 * retry_timeout
        );
        return Err(Error::value("postgres.ttl", found, expected));
    }
    let lag = &dynamic["maximum_lag_on_failover"];
    if lag.as_u64().is_none() {
        return Err(Error::value(
            "postgres.maximum_lag_on_failover",
            lag,
            "bytes",
        ));
    }
    match &dynamic["synchronous_mode"] {
        Value::Bool(_) => Ok(()),
        Value::String(mode) if mode == "quorum" => Ok(()),
        other => {
            let expected = "\"quorum\", true or false";
            Err(Error::value(
                "bootstrap.dcs.synchronous_mode",
                other,
                expected,
            ))
        }
    }
}

fn seconds(dynamic: &Value, key: &str, min: u64) -> Result<u64, Error> {
    let found = &dynamic[key];
    match found.as_u64() {
        Some(value) if (min..=SECONDS_MAX).contains(&value) => Ok(value),
        value => {
            let found = match value {
                Some(value) => format!("{:?}", Duration::from_secs(value)),
                None => found.to_string(),
            };
            let expected = format!("{min} to {SECONDS_MAX} seconds, Patroni's own limits");
            Err(Error::value(format!("postgres.{key}"), found, expected))
        }
    }
}
