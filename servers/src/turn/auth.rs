//! Who may relay: the long-term credential mechanism (RFC 8489 section 9.2) over
//! credentials that expire ("REST API for access to TURN services", as coturn has it).
//!
//! Everything here is computed from the request and one secret. There is no table of users
//! and none of nonces, so strangers cannot fill one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use holdfast_core::entropy::Seed;
use holdfast_core::time::Now;
use ring::hmac;
use stun_types::attribute::{MessageIntegrity, Nonce, Realm, Username};
use stun_types::message::{IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message};
use stun_types::prelude::AttributeStaticType;
use zeroize::Zeroizing;

/// Longest accepted user name, in bytes: an expiry and a node's name, and room to spare.
pub const USERNAME_LEN_MAX: usize = 256;
/// Longest accepted shared secret, in bytes.
pub const SECRET_LEN_MAX: usize = 1024;
/// How long a nonce is good for: long enough that refreshes seldom pay an extra round trip,
/// short enough that a recorded request is soon worthless.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(3600);

/// The secret that the server shares with whoever hands out credentials
/// (`static-auth-secret` in coturn).
#[derive(Clone)]
pub struct SharedSecret(Zeroizing<Vec<u8>>);

/// A shared secret that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TURN shared secret is {found} bytes long: expected 1 to {SECRET_LEN_MAX}")]
pub struct SharedSecretError {
    found: usize,
}

impl SharedSecret {
    /// Take over a secret of 1 to 1024 bytes.
    pub fn new(bytes: Vec<u8>) -> Result<SharedSecret, SharedSecretError> {
        let secret = SharedSecret(Zeroizing::new(bytes));
        match secret.0.len() {
            1..=SECRET_LEN_MAX => Ok(secret),
            found => Err(SharedSecretError { found }),
        }
    }

    /// Credentials for `name` that are good until `expires`, measured since the Unix epoch.
    pub fn credentials(&self, name: &str, expires: Duration) -> Credentials {
        let username = format!("{}:{name}", expires.as_secs());
        let password = password(&self.key(), &username);
        Credentials { username, password }
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0)
    }
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

/// A user name and the password that goes with it.
#[derive(Clone)]
pub struct Credentials {
    /// `<unix expiry>:<name>`.
    pub username: String,
    /// Base64 of HMAC-SHA1 over the user name.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

fn password(key: &hmac::Key, username: &str) -> String {
    base64(hmac::sign(key, username.as_bytes()).as_ref())
}

/// Base64 with padding (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            let filler = digit > chunk.len() as u32;
            out.push(if filler {
                '='
            } else {
                ALPHABET[index as usize] as char
            });
        }
    }
    out
}

/// A user whose request was authentic.
pub(super) struct User {
    /// As in the USERNAME attribute.
    pub(super) name: String,
    /// To sign the answer with.
    pub(super) key: IntegrityKey,
}

/// Why a request was not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// It carries no credentials: how every client starts.
    Missing,
    /// It carries credentials, but not all parts of them.
    Incomplete,
    /// Its nonce is not ours, or too old, or was made for another address.
    StaleNonce,
    /// Its user name is not of our form, or its integrity check fails.
    Wrong,
    /// Its credentials have expired.
    Expired,
}

/// Checks requests.
pub(super) struct Authenticator {
    realm: String,
    secret: hmac::Key,
    nonces: hmac::Key,
    start: Instant,
}

impl Authenticator {
    pub(super) fn new(realm: String, secret: &SharedSecret, seed: &Seed, now: Now) -> Self {
        let nonces = seed.derive(b"turn nonces");
        Authenticator {
            realm,
            secret: secret.key(),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, &nonces),
            start: now.mono,
        }
    }

    pub(super) fn realm(&self) -> &str {
        &self.realm
    }

    /// Check a request (RFC 8489 section 9.2.4).
    pub(super) fn check(
        &self,
        now: Now,
        from: SocketAddr,
        msg: &Message<'_>,
    ) -> Result<User, Denial> {
        if msg.raw_attribute(MessageIntegrity::TYPE).is_none() {
            return Err(Denial::Missing);
        }
        let (Ok(username), Ok(_realm), Ok(nonce)) = (
            msg.attribute::<Username>(),
            msg.attribute::<Realm>(),
            msg.attribute::<Nonce>(),
        ) else {
            return Err(Denial::Incomplete);
        };
        if !self.nonce_is_fresh(now, from, nonce.nonce()) {
            return Err(Denial::StaleNonce);
        }
        let name = username.username();
        let expires = expiry(name).ok_or(Denial::Wrong)?;
        let key = LongTermKeyCredentials::new(
            name.to_owned(),
            password(&self.secret, name),
            self.realm.clone(),
        )
        .make_key(IntegrityAlgorithm::Sha1);
        msg.validate_integrity_with_key(&key)
            .map_err(|_| Denial::Wrong)?;
        if expires <= now.unix {
            return Err(Denial::Expired);
        }
        Ok(User {
            name: name.to_owned(),
            key,
        })
    }

    /// A nonce for the answer to a request from `from`: the second it was made in, and a MAC
    /// over that and the client's address.
    ///
    /// The request's own while that is fresh, because a new one would tell the client to try
    /// the same wrong credentials again.
    pub(super) fn nonce(&self, now: Now, from: SocketAddr, msg: &Message<'_>) -> String {
        let own = msg.attribute::<Nonce>().ok();
        let own = own.filter(|own| self.nonce_is_fresh(now, from, own.nonce()));
        own.map_or_else(
            || self.nonce_of(self.second(now), from),
            |own| own.nonce().to_owned(),
        )
    }

    fn nonce_is_fresh(&self, now: Now, from: SocketAddr, nonce: &str) -> bool {
        let Some(made) = nonce.get(..8).and_then(|s| u32::from_str_radix(s, 16).ok()) else {
            return false;
        };
        let age = self.second(now).checked_sub(made);
        let fresh = age.is_some_and(|age| u64::from(age) <= NONCE_LIFETIME.as_secs());
        // Not compared in constant time: a nonce is handed to whoever asks for it.
        fresh && self.nonce_of(made, from) == nonce
    }

    fn nonce_of(&self, made: u32, from: SocketAddr) -> String {
        let mut bound = Vec::with_capacity(24);
        bound.extend_from_slice(&made.to_be_bytes());
        match from.ip() {
            IpAddr::V4(ip) => bound.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bound.extend_from_slice(&ip.octets()),
        }
        bound.extend_from_slice(&from.port().to_be_bytes());
        let tag = hmac::sign(&self.nonces, &bound);
        // Short, because it goes to strangers: 64 bits are ample against guessing, and a
        // small answer amplifies little.
        let mut nonce = format!("{made:08x}");
        for byte in &tag.as_ref()[..8] {
            nonce.push_str(&format!("{byte:02x}"));
        }
        nonce
    }

    fn second(&self, now: Now) -> u32 {
        let since = now.mono.saturating_duration_since(self.start).as_secs();
        u32::try_from(since).unwrap_or(u32::MAX)
    }
}

/// The expiry in a user name `<unix expiry>:<name>`.
fn expiry(username: &str) -> Option<Duration> {
    if username.len() > USERNAME_LEN_MAX {
        return None;
    }
    let (seconds, _name) = username.split_once(':')?;
    let digits = !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| seconds.parse().ok().map(Duration::from_secs))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_vectors_of_rfc_4648() {
        let vectors = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        for (len, expected) in vectors.into_iter().enumerate() {
            assert_eq!(base64(&b"foobar"[..len]), expected);
        }
    }

    #[test]
    fn only_names_of_the_agreed_form_have_an_expiry() {
        assert_eq!(
            expiry("1700000000:a:b"),
            Some(Duration::from_secs(1_700_000_000))
        );
        let long = format!("1:{}", "x".repeat(USERNAME_LEN_MAX));
        for bad in [
            "",
            ":a",
            "+1:a",
            "1e3:a",
            "99999999999999999999999:a",
            "name",
            &long,
        ] {
            assert_eq!(expiry(bad), None, "{bad}");
        }
    }
}
