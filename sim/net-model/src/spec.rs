//! The language of impairments.
//!
//! A SPEC lists items, separated by commas, in any order and each at most once; `none` alone
//! is an ideal link. Numbers are integers; a SPEC replaces the previous one completely.
//!
//! | item | meaning |
//! |---|---|
//! | `delay=10ms` | one-way delay; units `ns`, `us`, `ms`, `s` |
//! | `jitter=2ms` | varies the delay uniformly by up to this, in both directions; keeps the order |
//! | `reorder` | lets jitter reorder |
//! | `loss=1/100` | loses packets independently at this ratio |
//! | `ge=1/90:1/10` | Gilbert-Elliott: ratio of entering and of leaving the bad state, per packet; optionally `:LOSS_BAD` (default `1/1`) and `:LOSS_GOOD` (default `0/1`); instead of `loss` |
//! | `rate=100mbit` | serialisation rate; units `bit`, `kbit`, `mbit`, `gbit` per second, powers of 1000 |
//! | `queue=256kb` | bytes that wait for the rate, drop-tail; units `b`, `kb`, `mb`, powers of 1000; needs `rate` |
//! | `dup=1/1000` | delivers packets twice at this ratio |
//! | `mtu=1400` | drops longer packets silently, in bytes |
//! | `blackhole` | drops everything |
//!
//! Lengths are those of IP packets: the Ethernet header does not count.

use crate::pipeline::QUEUE_BYTES_DEFAULT;
use crate::{LinkConfig, Loss, Order, Ratio};
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

/// Largest queue of a SPEC: what the link emulator can hold, with room to spare.
pub const SPEC_QUEUE_BYTES_MAX: u64 = 64_000_000;

/// Longest delay and jitter: beyond the longest timeout that a test waits for.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// Fastest rate, in bits per second: what nanosecond steps still resolve.
const RATE_MAX_BITS_PER_S: u64 = 100_000_000_000;
/// Smallest MTU: that of IPv4 (RFC 791).
const MTU_MIN_BYTES: u32 = 68;

const DURATIONS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
];
const RATES: &[(&str, u64)] = &[
    ("kbit", 1_000),
    ("mbit", 1_000_000),
    ("gbit", 1_000_000_000),
    ("bit", 1),
];
const SIZES: &[(&str, u64)] = &[("kb", 1_000), ("mb", 1_000_000), ("b", 1)];

/// What is wrong with a SPEC: the item, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError(String);

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SpecError {}

impl FromStr for LinkConfig {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        parse(text)
    }
}

/// The shortest SPEC that reads as this configuration.
impl fmt::Display for LinkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items = Vec::new();
        let mut item = |wanted: bool, text: String| wanted.then(|| items.push(text));
        item(self.blackhole, "blackhole".to_owned());
        item(!self.delay.is_zero(), format!("delay={}", time(self.delay)));
        item(
            !self.jitter.is_zero(),
            format!("jitter={}", time(self.jitter)),
        );
        item(self.order == Order::Free, "reorder".to_owned());
        item(self.loss != Loss::None, loss(self.loss));
        if let Some(rate) = self.rate_bits_per_s {
            item(true, format!("rate={rate}bit"));
            let queue = self.queue_bytes != QUEUE_BYTES_DEFAULT;
            item(queue, format!("queue={}b", self.queue_bytes));
        }
        item(
            self.duplicate != Ratio::NEVER,
            format!("dup={}", part(self.duplicate)),
        );
        if let Some(mtu) = self.mtu_bytes {
            item(true, format!("mtu={mtu}"));
        }
        if items.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&items.join(","))
    }
}

fn time(time: Duration) -> String {
    let nanos = time.as_nanos();
    let unit = DURATIONS.iter().rev();
    let (name, scale) = unit
        .copied()
        .find(|(_, scale)| nanos.is_multiple_of(u128::from(*scale)))
        .unwrap_or(("ns", 1));
    format!("{}{name}", nanos / u128::from(scale))
}

fn part(ratio: Ratio) -> String {
    format!("{}/{}", ratio.num(), ratio.den())
}

fn loss(loss: Loss) -> String {
    match loss {
        Loss::None => "loss=0/1".to_owned(),
        Loss::Bernoulli(ratio) => format!("loss={}", part(ratio)),
        Loss::GilbertElliott {
            good_to_bad,
            bad_to_good,
            loss_good,
            loss_bad,
        } => {
            let parts = [good_to_bad, bad_to_good, loss_bad, loss_good].map(part);
            format!("ge={}", parts.join(":"))
        }
    }
}

fn parse(text: &str) -> Result<LinkConfig, SpecError> {
    let mut config = LinkConfig::IDEAL;
    if text == "none" {
        return Ok(config);
    }
    let mut seen: Vec<&str> = Vec::new();
    for item in text.split(',') {
        let (key, value) = match item.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (item, None),
        };
        if seen.contains(&key) {
            return Err(SpecError(format!("{item}: {key} appears twice")));
        }
        seen.push(key);
        apply(&mut config, key, value)
            .map_err(|reason| SpecError(format!("{item:?}: {reason}")))?;
    }
    check(&config, &seen)?;
    Ok(config)
}

fn apply(config: &mut LinkConfig, key: &str, value: Option<&str>) -> Result<(), String> {
    match (key, value) {
        ("blackhole", None) => config.blackhole = true,
        ("reorder", None) => config.order = Order::Free,
        ("blackhole" | "reorder", Some(_)) => return Err("takes no value".to_owned()),
        ("delay", Some(value)) => config.delay = duration(value)?,
        ("jitter", Some(value)) => config.jitter = duration(value)?,
        ("loss", Some(value)) => config.loss = Loss::Bernoulli(ratio(value)?),
        ("ge", Some(value)) => config.loss = gilbert_elliott(value)?,
        ("dup", Some(value)) => config.duplicate = ratio(value)?,
        ("rate", Some(value)) => {
            let rate = scaled(value, RATES, RATE_MAX_BITS_PER_S)?;
            config.rate_bits_per_s =
                Some(NonZeroU64::new(rate).ok_or("use blackhole for no rate")?);
        }
        ("queue", Some(value)) => {
            config.queue_bytes = scaled(value, SIZES, SPEC_QUEUE_BYTES_MAX)?;
        }
        ("mtu", Some(value)) => {
            let mtu = number(value)?;
            let mtu = u32::try_from(mtu).ok().filter(|mtu| *mtu >= MTU_MIN_BYTES);
            config.mtu_bytes = Some(mtu.ok_or(format!("an MTU is at least {MTU_MIN_BYTES}"))?);
        }
        ("delay" | "jitter" | "loss" | "ge" | "dup" | "rate" | "queue" | "mtu", None) => {
            return Err(format!("needs a value: {key}=…"));
        }
        _ => {
            return Err(
                "unknown; known are delay, jitter, reorder, loss, ge, rate, queue, dup, \
                        mtu, blackhole, or none alone"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// What only the whole of a SPEC shows.
fn check(config: &LinkConfig, seen: &[&str]) -> Result<(), SpecError> {
    let problem = if seen.contains(&"loss") && seen.contains(&"ge") {
        "loss and ge exclude each other"
    } else if seen.contains(&"queue") && config.rate_bits_per_s.is_none() {
        "a queue needs a rate"
    } else if config.jitter > config.delay {
        "jitter exceeds the delay, which would not be uniform: raise delay"
    } else if config.order == Order::Free && config.jitter.is_zero() {
        "reorder needs jitter"
    } else {
        return Ok(());
    };
    Err(SpecError(problem.to_owned()))
}

fn duration(text: &str) -> Result<Duration, String> {
    let max = u64::try_from(DELAY_MAX.as_nanos()).expect("60 s in nanoseconds fit");
    scaled(text, DURATIONS, max).map(Duration::from_nanos)
}

/// An integer with a unit, in the unit's base, up to `max`.
fn scaled(text: &str, units: &[(&str, u64)], max: u64) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (amount, unit) = text.split_at(digits);
    let Some((_, scale)) = units.iter().find(|(name, _)| *name == unit) else {
        let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "expected an integer and one of the units {}",
            names.join(", ")
        ));
    };
    number(amount)?
        .checked_mul(*scale)
        .filter(|value| *value <= max)
        .ok_or_else(|| "too large".to_owned())
}

fn number(text: &str) -> Result<u64, String> {
    // `parse` alone would take a plus sign.
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text:?} is not an integer"));
    }
    text.parse().map_err(|_| "too large".to_owned())
}

fn ratio(text: &str) -> Result<Ratio, String> {
    let parse = || {
        let (num, den) = text.split_once('/')?;
        let part = |text| u32::try_from(number(text).ok()?).ok();
        Ratio::new(part(num)?, part(den)?)
    };
    parse().ok_or_else(|| format!("{text:?} is not a ratio from 0/1 to 1/1, such as 1/100"))
}

fn gilbert_elliott(text: &str) -> Result<Loss, String> {
    let ratios = text.split(':').map(ratio).collect::<Result<Vec<_>, _>>()?;
    let (good_to_bad, bad_to_good, loss_bad, loss_good) = match ratios[..] {
        [enter, leave] => (enter, leave, Ratio::ALWAYS, Ratio::NEVER),
        [enter, leave, bad] => (enter, leave, bad, Ratio::NEVER),
        [enter, leave, bad, good] => (enter, leave, bad, good),
        _ => return Err("expected 2 to 4 ratios, separated by colons".to_owned()),
    };
    Ok(Loss::GilbertElliott {
        good_to_bad,
        bad_to_good,
        loss_good,
        loss_bad,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_reaches_its_field() {
        let text = "delay=10ms,jitter=2ms,reorder,loss=1/100,rate=100mbit,queue=256kb,\
                    dup=1/1000,blackhole,mtu=1400";
        let expected = LinkConfig {
            blackhole: true,
            mtu_bytes: Some(1400),
            rate_bits_per_s: NonZeroU64::new(100_000_000),
            queue_bytes: 256_000,
            loss: Loss::Bernoulli(Ratio::of(1, 100)),
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(2),
            order: Order::Free,
            duplicate: Ratio::of(1, 1000),
        };
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse("none"), Ok(LinkConfig::IDEAL));
    }

    #[test]
    fn what_is_shown_reads_as_the_same_link() {
        for text in [
            "none",
            "blackhole",
            "delay=10ms,jitter=1500us,reorder,loss=1/100,rate=100mbit,queue=5kb,dup=1/9,mtu=1400",
            "delay=7ns,ge=1/90:1/10:1/2:1/1000",
            "rate=9bit",
        ] {
            let link: LinkConfig = text.parse().expect(text);
            assert_eq!(link.to_string().parse(), Ok(link), "{text}");
        }
    }

    #[test]
    fn burst_loss_has_defaults_for_its_states() {
        let (enter, leave) = (Ratio::of(1, 90), Ratio::of(1, 10));
        let full = Loss::GilbertElliott {
            good_to_bad: enter,
            bad_to_good: leave,
            loss_good: Ratio::NEVER,
            loss_bad: Ratio::ALWAYS,
        };
        assert_eq!(parse("ge=1/90:1/10").map(|config| config.loss), Ok(full));
        let part = Loss::GilbertElliott {
            good_to_bad: enter,
            bad_to_good: leave,
            loss_good: Ratio::of(1, 1000),
            loss_bad: Ratio::of(1, 2),
        };
        assert_eq!(
            parse("ge=1/90:1/10:1/2:1/1000").map(|config| config.loss),
            Ok(part)
        );
    }

    #[test]
    fn every_unit_scales() {
        let delay = |text| parse(text).map(|config| config.delay.as_nanos());
        assert_eq!(delay("delay=7ns"), Ok(7));
        assert_eq!(delay("delay=7us"), Ok(7_000));
        assert_eq!(delay("delay=7ms"), Ok(7_000_000));
        assert_eq!(delay("delay=7s"), Ok(7_000_000_000));
        let rate = |text| parse(text).map(|config| config.rate_bits_per_s.map(NonZeroU64::get));
        assert_eq!(rate("rate=9bit"), Ok(Some(9)));
        assert_eq!(rate("rate=9kbit"), Ok(Some(9_000)));
        assert_eq!(rate("rate=9gbit"), Ok(Some(9_000_000_000)));
        let queue = |text| parse(text).map(|config| config.queue_bytes);
        assert_eq!(queue("rate=1mbit,queue=5b"), Ok(5));
        assert_eq!(queue("rate=1mbit,queue=5mb"), Ok(5_000_000));
    }

    #[test]
    fn wrong_specs_are_refused_with_the_item_and_the_reason() {
        for (text, reason) in [
            ("", "unknown"),
            ("speed=1", "unknown"),
            ("none,delay=1ms", "unknown"),
            ("delay=1ms,,mtu=1400", "unknown"),
            ("delay=1ms, mtu=1400", "unknown"),
            ("delay", "needs a value"),
            ("delay=", "units ns, us, ms, s"),
            ("delay=10", "units"),
            ("delay=1.5ms", "units"),
            ("delay=-1ms", "units"),
            ("delay=+1ms", "units"),
            ("delay=ms", "not an integer"),
            ("delay=61s", "too large"),
            ("delay=99999999999999999999s", "too large"),
            ("delay=1ms,delay=2ms", "twice"),
            ("blackhole=1", "takes no value"),
            ("loss=1%", "not a ratio"),
            ("loss=2/1", "not a ratio"),
            ("loss=1/0", "not a ratio"),
            ("loss=1/100,ge=1/90:1/10", "exclude"),
            ("ge=1/90", "2 to 4 ratios"),
            ("rate=0bit", "blackhole"),
            ("rate=101gbit", "too large"),
            ("queue=1kb", "needs a rate"),
            ("rate=1mbit,queue=1gb", "units"),
            ("rate=1mbit,queue=1000mb", "too large"),
            ("mtu=67", "at least 68"),
            ("mtu=1400b", "not an integer"),
            ("delay=1ms,jitter=2ms", "jitter exceeds"),
            ("delay=1ms,reorder", "needs jitter"),
        ] {
            let SpecError(error) = parse(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
