//! The secrets of a deployment: each derived from the TEE's key by its label, in the format that
//! its consumer takes, unless the environment gives it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hkdf;
use zeroize::Zeroizing;

use crate::hex;

/// The path of the TEE's key that all secrets are derived from.
pub const KEY_PATH: &str = "holdfast/1/secrets";
/// Its purpose.
pub const KEY_PURPOSE: &str = "holdfast-secrets";
/// How variables begin that give a secret.
pub const ENV_PREFIX: &str = "HOLDFAST_SECRET_";

/// Separates these secrets from everything else that is ever derived from the same key.
const SALT: &[u8] = b"holdfast/1 secrets";
/// Letters and digits of a password.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Characters of a password: 190 bits.
const PASSWORD_LEN: usize = 32;

/// How a secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 64 hexadecimal digits.
    Hex,
    /// Base64 of 32 bytes.
    Base64,
    /// 32 letters and digits.
    Password,
}

impl Format {
    /// In words.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Format::Hex => "64 hexadecimal digits",
            Format::Base64 => "base64 of 32 bytes (44 characters)",
            Format::Password => "32 letters and digits",
        }
    }

    fn fits(self, text: &str) -> bool {
        match self {
            Format::Hex => text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()),
            Format::Base64 => {
                let bytes = BASE64.decode(text).map(Zeroizing::new);
                bytes.is_ok_and(|bytes| bytes.len() == 32)
            }
            Format::Password => {
                text.len() == PASSWORD_LEN && text.bytes().all(|b| b.is_ascii_alphanumeric())
            }
        }
    }
}

/// One of the secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The name of its file, which is its label too.
    pub file: &'static str,
    /// The variable that gives it.
    pub variable: &'static str,
    /// How it is written.
    pub format: Format,
}

/// All of them, in the order in which they are written.
pub const KINDS: [Kind; 8] = [
    Kind {
        file: "cluster.secret",
        variable: "HOLDFAST_SECRET_CLUSTER_SECRET",
        format: Format::Hex,
    },
    Kind {
        file: "turn.secret",
        variable: "HOLDFAST_SECRET_TURN_SECRET",
        format: Format::Hex,
    },
    Kind {
        file: "gossip.key",
        variable: "HOLDFAST_SECRET_GOSSIP_KEY",
        format: Format::Base64,
    },
    Kind {
        file: "postgres-superuser.password",
        variable: "HOLDFAST_SECRET_POSTGRES_SUPERUSER_PASSWORD",
        format: Format::Password,
    },
    Kind {
        file: "postgres-replication.password",
        variable: "HOLDFAST_SECRET_POSTGRES_REPLICATION_PASSWORD",
        format: Format::Password,
    },
    Kind {
        file: "postgres-rewind.password",
        variable: "HOLDFAST_SECRET_POSTGRES_REWIND_PASSWORD",
        format: Format::Password,
    },
    Kind {
        file: "patroni-rest.password",
        variable: "HOLDFAST_SECRET_PATRONI_REST_PASSWORD",
        format: Format::Password,
    },
    Kind {
        file: "postgres-ca.key",
        variable: "HOLDFAST_SECRET_POSTGRES_CA_KEY",
        format: Format::Hex,
    },
];

/// A variable that gives no secret. The value is in no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The wrong format.
    #[error(
        "{variable} has {found} characters in a format that is not expected (its value is not shown): expected {expected}"
    )]
    Format {
        /// Which.
        variable: &'static str,
        /// How many characters it has.
        found: usize,
        /// What it should be.
        expected: &'static str,
    },
    /// It is no text.
    #[error("{variable} is not valid UTF-8 (its value is not shown): expected {expected}")]
    NotText {
        /// Which.
        variable: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// No secret of this name.
    #[error("{variable} names no secret: expected one of {expected}")]
    Unknown {
        /// The variable, shortened.
        variable: String,
        /// All that there are.
        expected: String,
    },
}

/// Secrets that the environment gives.
#[derive(Clone, Default)]
pub struct Overrides(Vec<(&'static str, Zeroizing<String>)>);

impl Overrides {
    /// Pick the secrets out of an environment (`std::env::vars_os`); other variables are
    /// ignored, an empty one is unset.
    pub fn from_env(
        variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Overrides, SecretError> {
        let mut overrides = Overrides::default();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else {
                continue;
            };
            let Some(kind) = KINDS.iter().find(|kind| kind.variable == name) else {
                return Err(unknown(name));
            };
            let value = value.into_string().map(Zeroizing::new);
            let value = value.map_err(|_| SecretError::NotText {
                variable: kind.variable,
                expected: kind.format.describe(),
            })?;
            overrides.set(*kind, value)?;
        }
        Ok(overrides)
    }

    fn set(&mut self, kind: Kind, value: Zeroizing<String>) -> Result<(), SecretError> {
        if value.is_empty() {
            return Ok(());
        }
        if !kind.format.fits(&value) {
            return Err(SecretError::Format {
                variable: kind.variable,
                found: value.chars().count(),
                expected: kind.format.describe(),
            });
        }
        self.0.push((kind.file, value));
        Ok(())
    }

    fn get(&self, kind: Kind) -> Option<&Zeroizing<String>> {
        let mut all = self.0.iter();
        all.find_map(|(file, value)| (*file == kind.file).then_some(value))
    }
}

fn unknown(variable: &str) -> SecretError {
    let names: Vec<_> = KINDS.iter().map(|kind| kind.variable).collect();
    SecretError::Unknown {
        variable: variable.chars().take(80).collect(),
        expected: names.join(", "),
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.0.iter().map(|(file, _)| file);
        f.debug_set().entries(files).finish()
    }
}

/// All secrets of one deployment, as they are written.
pub struct Secrets(Vec<(Kind, Zeroizing<String>)>);

impl Secrets {
    /// Derive what is not given. Clusters of different names have different secrets, even
    /// where they have the same key.
    #[must_use]
    pub fn derive(key: &[u8; 32], cluster: &str, overrides: &Overrides) -> Secrets {
        let one = |kind: &Kind| match overrides.get(*kind) {
            Some(given) => (*kind, given.clone()),
            None => (*kind, derive_one(key, cluster, *kind)),
        };
        Secrets(KINDS.iter().map(one).collect())
    }

    /// Each with its file's content.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &str)> {
        self.0.iter().map(|(kind, text)| (*kind, text.as_str()))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

fn derive_one(key: &[u8; 32], cluster: &str, kind: Kind) -> Zeroizing<String> {
    match kind.format {
        Format::Hex => hex::encode(derive_block(key, cluster, kind, 0).as_ref()),
        Format::Base64 => {
            let block = derive_block(key, cluster, kind, 0);
            Zeroizing::new(BASE64.encode(block.as_ref()))
        }
        Format::Password => derive_password(key, cluster, kind),
    }
}

/// Bytes below the largest multiple of 62 choose a character each, the others are skipped, so
/// that all characters are equally likely.
fn derive_password(key: &[u8; 32], cluster: &str, kind: Kind) -> Zeroizing<String> {
    let bound = 256 / ALPHABET.len() * ALPHABET.len();
    let mut password = Zeroizing::new(String::with_capacity(PASSWORD_LEN));
    for counter in 0..=u8::MAX {
        let block = derive_block(key, cluster, kind, counter);
        let usable = block.iter().map(|byte| usize::from(*byte));
        for byte in usable.filter(|byte| *byte < bound) {
            if password.len() < PASSWORD_LEN {
                password.push(char::from(ALPHABET[byte % ALPHABET.len()]));
            }
        }
        if password.len() == PASSWORD_LEN {
            break;
        }
    }
    assert_eq!(
        password.len(),
        PASSWORD_LEN,
        "8192 bytes have 32 usable ones"
    );
    password
}

/// HKDF-SHA-256 (RFC 5869) of the key; info: label, 0, cluster's name, 0, counter. Neither
/// label nor name has a 0.
fn derive_block(key: &[u8; 32], cluster: &str, kind: Kind, counter: u8) -> Zeroizing<[u8; 32]> {
    let mut block = Zeroizing::new([0; 32]);
    let info = [
        kind.file.as_bytes(),
        &[0],
        cluster.as_bytes(),
        &[0, counter],
    ];
    hkdf::Salt::new(hkdf::HKDF_SHA256, SALT)
        .extract(key)
        .expand(&info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(block.as_mut()))
        .expect("one hash block is always available");
    block
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    fn key() -> [u8; 32] {
        std::array::from_fn(|i| u8::try_from(i).unwrap())
    }

    fn overrides(pairs: &[(&str, &str)]) -> Result<Overrides, SecretError> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        Overrides::from_env(pairs)
    }

    #[test]
    fn the_secrets_of_a_key_and_a_cluster_never_change() {
        let secrets = Secrets::derive(&key(), "north", &Overrides::default());
        let derived: Vec<_> = secrets
            .iter()
            .map(|(kind, text)| (kind.file, text))
            .collect();
        // Computed from RFC 5869 with another implementation.
        assert_eq!(
            derived,
            [
                (
                    "cluster.secret",
                    "e0ea4a45ccb0fc0b9bb3ffe8cb240a4e0248bd10bf2f0f787a54cbcc2be22eae"
                ),
                (
                    "turn.secret",
                    "53f2a0053d65a48d128ddf464c834ec9ee8c13c0130d402663173c446ac4e5e8"
                ),
                ("gossip.key", "kGFzwGN7NADFDH+wQ6V33EYK7fZap3kN84JXcv5WIn4="),
                (
                    "postgres-superuser.password",
                    "UqjadE1pzp7noqE7SVX2IULtvXoPVxPe"
                ),
                (
                    "postgres-replication.password",
                    "NycRBX6FYosusnWWqtmNTdBhF6PJ71Of"
                ),
                (
                    "postgres-rewind.password",
                    "OLol3XKggpx5jye6xvvKhpdgJoEt0VuN"
                ),
                ("patroni-rest.password", "9TAR5NV91658taL6SKE2IV2vEnc7lwBn"),
                (
                    "postgres-ca.key",
                    "ad634652c7a4542b171a8d5d832bb03c0b0fdc6ecc865feca899ebc7b591dca2"
                ),
            ]
        );
    }

    #[test]
    fn another_cluster_or_another_key_has_other_secrets() {
        let texts = |key: &[u8; 32], cluster| {
            let secrets = Secrets::derive(key, cluster, &Overrides::default());
            secrets
                .iter()
                .map(|(_, text)| text.to_owned())
                .collect::<Vec<_>>()
        };
        let all = [texts(&key(), "a"), texts(&key(), "b"), texts(&[9; 32], "a")].concat();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 3 * KINDS.len());
    }

    #[test]
    fn a_variable_is_the_files_name_in_capitals() {
        for kind in KINDS {
            let name = kind.file.to_uppercase().replace(['.', '-'], "_");
            assert_eq!(kind.variable, format!("{ENV_PREFIX}{name}"));
        }
    }

    #[test]
    fn the_environment_replaces_what_it_gives_and_an_empty_variable_nothing() {
        let given = "A".repeat(64);
        let overrides = overrides(&[
            ("PATH", "/bin"),
            ("HOLDFAST_SECRET_TURN_SECRET", &given),
            ("HOLDFAST_SECRET_GOSSIP_KEY", ""),
        ]);
        let secrets = Secrets::derive(&key(), "north", &overrides.unwrap());
        let derived = Secrets::derive(&key(), "north", &Overrides::default());
        for ((kind, text), (_, without)) in secrets.iter().zip(derived.iter()) {
            let expected = if kind.file == "turn.secret" {
                &given
            } else {
                without
            };
            assert_eq!(text, expected, "{}", kind.file);
        }
    }

    #[test]
    fn a_variable_in_the_wrong_format_is_refused_without_being_shown() {
        let marker = "hunter2";
        for kind in KINDS {
            let error = overrides(&[(kind.variable, marker)]).unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(said.contains(kind.variable), "{said}");
            assert!(said.contains(kind.format.describe()), "{said}");
            assert!(said.contains("7 characters"), "{said}");
            assert!(!said.contains(marker), "{said}");
        }
        let not_text = OsString::from_vec(vec![b'h', 0xff]);
        let error = Overrides::from_env([(KINDS[0].variable.into(), not_text)]).unwrap_err();
        assert!(matches!(error, SecretError::NotText { .. }));
    }

    #[test]
    fn lines_that_end_and_keys_of_another_length_are_no_secrets() {
        let hex = format!("{}\n", "a".repeat(64));
        let short = BASE64.encode([1; 16]);
        let umlaut = format!("{}ä", "a".repeat(30));
        for (variable, value) in [
            ("HOLDFAST_SECRET_CLUSTER_SECRET", hex.as_str()),
            ("HOLDFAST_SECRET_GOSSIP_KEY", short.as_str()),
            ("HOLDFAST_SECRET_PATRONI_REST_PASSWORD", umlaut.as_str()),
        ] {
            assert!(overrides(&[(variable, value)]).is_err(), "{variable}");
        }
    }

    #[test]
    fn a_variable_that_names_no_secret_is_an_error_that_lists_them() {
        let error = overrides(&[("HOLDFAST_SECRET_TYPO", "x")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("HOLDFAST_SECRET_TYPO") && error.contains(KINDS[6].variable));
    }

    #[test]
    fn what_is_shown_of_secrets_is_nothing() {
        let given = overrides(&[("HOLDFAST_SECRET_TURN_SECRET", &"ab".repeat(32))]).unwrap();
        let secrets = Secrets::derive(&key(), "north", &given);
        assert_eq!(format!("{secrets:?}"), "Secrets(..)");
        assert_eq!(format!("{given:?}"), r#"{"turn.secret"}"#);
    }

    proptest! {
        #[test]
        fn every_key_gives_secrets_in_their_formats(key: [u8; 32], cluster in "[a-z0-9._-]{1,64}") {
            let secrets = Secrets::derive(&key, &cluster, &Overrides::default());
            for (kind, text) in secrets.iter() {
                prop_assert!(kind.format.fits(text), "{} has another format", kind.file);
            }
        }

        #[test]
        fn no_value_of_a_variable_is_shown(value in "[^0-9]{9,200}", index in 0..KINDS.len()) {
            if let Err(error) = overrides(&[(KINDS[index].variable, &value)]) {
                prop_assert!(!error.to_string().contains(&value));
            }
        }
    }
}
