//! Values that are written as text: times, sizes, shares, links.
//!
//! Each reads what it writes, says in its schema's `format` which it is, and has limits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use holdfast_net_model::{LinkConfig, Ratio};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The longest time in a scenario: a week of simulated idling says all there is to say.
pub const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The largest size in a scenario, bytes: more than any world moves in an hour.
pub const SIZE_MAX: u64 = 100_000_000_000;

const TIME_UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A time span or a point in time, like `5s` or `100ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// A time that may be negative, like `-90m`, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offset(pub i64);

/// A number of bytes, like `2MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A part of a whole, like `50%` or `1/100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub Ratio);

/// One direction of a link, in the language of `holdfast_net_model::spec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire(pub LinkConfig);

/// A whole number and the unit behind it.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that leaves a whole number.
fn in_units(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    let fits = |(_, factor): &&(&str, u64)| value.is_multiple_of(*factor);
    match units.iter().find(fits) {
        Some((name, factor)) if value > 0 => format!("{}{name}", value / factor),
        _ => zero.to_owned(),
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Time, String> {
        let nanos = quantity(text, &TIME_UNITS)
            .ok_or("a time: a whole number with h, m, s, ms, us or ns, like \"1500ms\"")?;
        let time = Duration::from_nanos(nanos);
        match time <= TIME_MAX {
            true => Ok(Time(time)),
            false => Err(format!("at most {}", Time(TIME_MAX))),
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        f.write_str(&in_units(nanos, &TIME_UNITS, "0s"))
    }
}

impl FromStr for Offset {
    type Err = String;

    fn from_str(text: &str) -> Result<Offset, String> {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text),
        };
        let expected = "a time in whole milliseconds that may be negative, like \"-90m\"";
        let time: Time = rest.parse().map_err(|_| expected)?;
        match time.0.subsec_nanos() % 1_000_000 {
            0 => Ok(Offset(sign * time.0.as_millis() as i64)),
            _ => Err(expected.to_owned()),
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let time = Time(Duration::from_millis(self.0.unsigned_abs()));
        write!(f, "{sign}{time}")
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let bytes = quantity(text, &SIZE_UNITS)
            .ok_or("a size: a whole number with B, kB, MB or GB, like \"2MB\"")?;
        match bytes <= SIZE_MAX {
            true => Ok(Size(bytes)),
            false => Err(format!("at most {}", Size(SIZE_MAX))),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_units(self.0, &SIZE_UNITS, "0B"))
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let parts = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().zip(Some(100)),
            None => text
                .split_once('/')
                .and_then(|(num, den)| num.parse().ok().zip(den.parse().ok())),
        };
        let ratio = parts.and_then(|(num, den)| Ratio::new(num, den));
        let expected = || "a share of at most 1, like \"50%\" or \"1/100\"".to_owned();
        ratio.map(Share).ok_or_else(expected)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.den() {
            100 => write!(f, "{}%", self.0.num()),
            den => write!(f, "{}/{den}", self.0.num()),
        }
    }
}

impl FromStr for Wire {
    type Err = String;

    fn from_str(text: &str) -> Result<Wire, String> {
        let config = text.parse::<LinkConfig>().map(Wire);
        config.map_err(|error| format!("a link, like \"delay=5ms,loss=1/100\": {error}"))
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! as_text {
    ($($type:ident $format:literal $about:literal;)*) => {
        $(
            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(D::Error::custom)
                }
            }

            impl JsonSchema for $type {
                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": "string", "format": $format, "description": $about })
                }
            }
        )*

        /// What is expected instead of a text of that format; `None` when it is one.
        pub fn expected_instead(format: &str, text: &str) -> Option<String> {
            match format {
                $($format => text.parse::<$type>().err(),)*
                "ipv4" => match text.parse::<std::net::Ipv4Addr>() {
                    Ok(_) => None,
                    Err(_) => Some("an IPv4 address".to_owned()),
                },
                _ => None,
            }
        }
    };
}

as_text! {
    Time "time" "A whole number with h, m, s, ms, us or ns.";
    Offset "offset" "A time that may be negative.";
    Size "size" "A whole number with B, kB, MB or GB.";
    Share "share" "A percentage or a ratio.";
    Wire "link" "The language of holdfast-wire.";
}

/// A point in time, or a range that it is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum When {
    /// Then.
    At(Time),
    /// Not before the first, not after the second.
    Between([Time; 2]),
}

impl When {
    /// The earliest.
    #[must_use]
    pub const fn from(self) -> Duration {
        match self {
            When::At(at) | When::Between([at, _]) => at.0,
        }
    }

    /// The latest.
    #[must_use]
    pub const fn to(self) -> Duration {
        match self {
            When::At(at) | When::Between([_, at]) => at.0,
        }
    }
}

impl Default for When {
    fn default() -> When {
        When::At(Time::default())
    }
}

/// Says that a node does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Never {
    /// Not by itself.
    Never,
}

/// When a node starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Start {
    /// Not by itself.
    Never(Never),
    /// Then.
    When(When),
}

/// A link: the same in both directions, or each by itself. A direction that is not mentioned
/// stays as it would be without this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LinkText {
    /// Both directions.
    Both(Wire),
    /// Each direction.
    Each(Directions),
}

/// The directions of a link, as seen from its lower end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Directions {
    /// Away from the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<Wire>,
    /// Towards the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<Wire>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sizes_and_shares_are_written_as_they_are_read() {
        for text in ["5s", "1500ms", "24h", "90m", "0s", "7us"] {
            assert_eq!(text.parse::<Time>().map(|t| t.to_string()), Ok(text.into()));
        }
        for text in ["2MB", "10kB", "200B", "1500kB"] {
            assert_eq!(text.parse::<Size>().map(|t| t.to_string()), Ok(text.into()));
        }
        for text in ["50%", "1/3", "100%"] {
            let written = text.parse::<Share>().map(|t| t.to_string());
            assert_eq!(written, Ok(text.into()));
        }
        let back: Offset = "-90m".parse().expect("an offset");
        assert_eq!(
            (back, back.to_string()),
            (Offset(-5_400_000), "-90m".into())
        );
    }

    #[test]
    fn what_has_no_unit_or_is_too_much_is_refused() {
        for text in [
            "5",
            "s",
            "",
            "-5s",
            "1.5s",
            "5 s",
            "99999999999999999999s",
            "200h",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        for text in ["5", "2mb", "-1B", "18446744073709551615GB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["101%", "2/1", "1/0", "half", "/"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
