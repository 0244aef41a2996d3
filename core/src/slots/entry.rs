//! The entry of a slot: our format, and what others may have written.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{INSTANCE_LEN_MAX, LEASE_MAX, LEASE_MIN};

/// The version that we write, and the only one that we read.
const VERSION: u32 = 1;
/// Longest entry that is looked at, bytes: ours have less than 300.
const VALUE_LEN_MAX: usize = 1024;
/// Digits of a run.
const RUN_LEN: usize = 32;
/// Greatest `beat`: one a millisecond for eight thousand years. A greater one could not be
/// counted on.
pub(super) const BEAT_MAX: u64 = 1 << 48;

/// `{"holdfast":1,"instance":"…","run":"…","beat":17,"lease_ms":600000}`.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    holdfast: u32,
    #[serde(borrow)]
    instance: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    run: std::borrow::Cow<'a, str>,
    beat: u64,
    lease_ms: u64,
}

/// What every version of our format begins with.
#[derive(Deserialize)]
struct Version {
    holdfast: u32,
}

/// What the value of a slot's entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Our format.
    Leased {
        instance: String,
        run: String,
        beat: u64,
        lease: Duration,
    },
    /// The reference's format: an instance id, owned for ever.
    Plain { instance: String },
    /// Anything else: nobody we know.
    Strange { problem: String },
}

impl Holder {
    /// Read a value that anybody may have written.
    pub(super) fn parse(value: &[u8]) -> Holder {
        if value.len() > VALUE_LEN_MAX {
            return strange(format!("a value of {} bytes", value.len()));
        }
        let Ok(text) = std::str::from_utf8(value) else {
            return strange("the value is no text".into());
        };
        let text = text.trim();
        if is_plain(text) {
            return Holder::Plain {
                instance: text.into(),
            };
        }
        match serde_json::from_str::<Version>(text) {
            Ok(Version { holdfast: VERSION }) => {}
            Ok(Version { holdfast }) => {
                return strange(format!(
                    "version {holdfast}: expected {VERSION}, is a newer holdfast in the cluster?"
                ));
            }
            Err(_) => return strange(format!("not written by us: {}", shown(text))),
        }
        match serde_json::from_str::<Wire>(text) {
            Ok(wire) => Holder::of_wire(&wire),
            Err(problem) => strange(format!("our format, damaged: {problem}")),
        }
    }

    fn of_wire(wire: &Wire) -> Holder {
        let is_run = wire.run.len() == RUN_LEN && wire.run.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_instance(&wire.instance) || !is_run || wire.beat > BEAT_MAX {
            return strange("its instance, run or beat cannot be one".into());
        }
        // Nobody of ours writes a lease outside of the limits; one that does shall not hold a
        // slot for a year.
        let lease = Duration::from_millis(wire.lease_ms).clamp(LEASE_MIN, LEASE_MAX);
        Holder::Leased {
            instance: wire.instance.clone().into_owned(),
            run: wire.run.clone().into_owned(),
            beat: wire.beat,
            lease,
        }
    }

    /// Who owns it, if somebody does whom we know.
    pub(super) fn instance(&self) -> Option<&str> {
        match self {
            Holder::Leased { instance, .. } | Holder::Plain { instance } => Some(instance),
            Holder::Strange { .. } => None,
        }
    }
}

/// The value that says that we own the slot.
pub(super) fn encode(instance: &str, run: &str, beat: u64, lease: Duration) -> Bytes {
    let wire = Wire {
        holdfast: VERSION,
        instance: instance.into(),
        run: run.into(),
        beat,
        lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
    };
    let text = serde_json::to_vec(&wire).expect("numbers and text are always JSON");
    text.into()
}

/// 1 to 128 printable ASCII characters without spaces.
pub(super) fn is_instance(text: &str) -> bool {
    (1..=INSTANCE_LEN_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What the reference could have written: JSON and the like must not pass for an id.
fn is_plain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    is_instance(text) && text.bytes().all(allowed)
}

fn strange(problem: String) -> Holder {
    Holder::Strange { problem }
}

/// The beginning of what somebody else wrote, without what would confuse a terminal.
fn shown(text: &str) -> String {
    text.chars()
        .take(40)
        .collect::<String>()
        .escape_debug()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RUN: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn an_entry_is_held_to_the_letter() {
        let value = encode("i-7", RUN, 17, Duration::from_secs(600));
        let expected = format!(
            r#"{{"holdfast":1,"instance":"i-7","run":"{RUN}","beat":17,"lease_ms":600000}}"#
        );
        assert_eq!(value, expected);
    }

    #[test]
    fn the_reference_wrote_an_instance_id_and_nothing_else() {
        let plain = Holder::parse(b"6a0f31c2\n");
        assert_eq!(plain.instance(), Some("6a0f31c2"));
        let long = "x".repeat(INSTANCE_LEN_MAX + 1);
        for other in [
            "",
            "a b",
            "{}",
            "[1]",
            "\"id\"",
            "null!",
            "\u{1b}[31m",
            &long,
        ] {
            let holder = Holder::parse(other.as_bytes());
            assert!(matches!(holder, Holder::Strange { .. }), "{other:?}");
        }
        assert!(matches!(
            Holder::parse(&[0xff, 0xfe]),
            Holder::Strange { .. }
        ));
    }

    #[test]
    fn what_cannot_be_ours_is_strange_and_a_lease_is_taken_within_its_limits() {
        let with = |version: u32, instance: &str, run: &str, beat: u64, lease_ms: u64| {
            let text = format!(
                r#"{{"holdfast":{version},"instance":"{instance}","run":"{run}","beat":{beat},"lease_ms":{lease_ms},"more":[]}}"#
            );
            Holder::parse(text.as_bytes())
        };
        for (found, what) in [
            (with(2, "i", RUN, 1, 1000), "version"),
            (with(1, "", RUN, 1, 1000), "instance"),
            (with(1, "i", "beef", 1, 1000), "run"),
            (with(1, "i", RUN, u64::MAX, 1000), "beat"),
        ] {
            assert!(matches!(found, Holder::Strange { .. }), "{what}");
        }
        for (lease_ms, expected) in [(0, LEASE_MIN), (u64::MAX, LEASE_MAX)] {
            let found = with(1, "i", RUN, 1, lease_ms);
            assert!(
                matches!(found, Holder::Leased { lease, .. } if lease == expected),
                "{lease_ms}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_value_is_read_without_a_panic(value: Vec<u8>) {
            Holder::parse(&value);
        }

        #[test]
        fn what_we_write_we_read(instance in "[!-~]{1,128}", beat in 0..=BEAT_MAX, ms in 1000u64..86_400_000) {
            let lease = Duration::from_millis(ms);
            let found = Holder::parse(&encode(&instance, RUN, beat, lease));
            prop_assert_eq!(found, Holder::Leased { instance, run: RUN.into(), beat, lease });
        }
    }
}
