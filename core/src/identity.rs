//! Who a node is: an Ed25519 key, and where that key comes from.

use std::fmt;
use std::str::FromStr;

use curve25519_dalek::edwards::CompressedEdwardsY;
use ring::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use ring::{digest, hkdf};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::types::PeerId;

/// Shortest accepted cluster secret, in bytes: below that it can be guessed.
pub const CLUSTER_SECRET_LEN_MIN: usize = 16;
/// Longest accepted cluster secret, in bytes.
pub const CLUSTER_SECRET_LEN_MAX: usize = 1024;

/// A node's Ed25519 public key (RFC 8032), written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

/// Text or bytes that are no [`PublicKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 public key: expected 64 hexadecimal digits that encode a point")]
pub struct PublicKeyError;

impl PublicKey {
    /// Take over an encoded key. Whether it is a point on the curve is checked here, so that
    /// what was accepted can always be sealed to.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<PublicKey, PublicKeyError> {
        let point = CompressedEdwardsY(bytes)
            .decompress()
            .ok_or(PublicKeyError)?;
        if point.is_small_order() {
            return Err(PublicKeyError);
        }
        Ok(PublicKey(bytes))
    }

    /// The encoded key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `signature` over `message` was made with the private key.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }

    /// The X25519 key of the same curve point (RFC 7748 section 4.1), to seal to.
    pub(crate) fn to_x25519(self) -> x25519_dalek::PublicKey {
        let point = CompressedEdwardsY(self.0)
            .decompress()
            .expect("checked when the key was accepted");
        x25519_dalek::PublicKey::from(point.to_montgomery().to_bytes())
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<PublicKey, PublicKeyError> {
        let mut bytes = [0; 32];
        hex_decode(text, &mut bytes).ok_or(PublicKeyError)?;
        PublicKey::from_bytes(bytes)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(text: String) -> Result<PublicKey, PublicKeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Decode exactly `out.len()` bytes of hexadecimal.
pub(crate) fn hex_decode(text: &str, out: &mut [u8]) -> Option<()> {
    let text = text.as_bytes();
    if text.len() != out.len() * 2 {
        return None;
    }
    let nibble = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(())
}

/// One secret shared by all nodes of a deployment, from which each derives its own key.
///
/// Whoever holds it can be any node: it is the simplest of the three sources of keys, and
/// the weakest (`docs/architecture.md`, identity and trust).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClusterSecret(Vec<u8>);

/// A cluster secret that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cluster secret is {found} bytes long: expected {CLUSTER_SECRET_LEN_MIN} to {CLUSTER_SECRET_LEN_MAX}"
)]
pub struct ClusterSecretError {
    found: usize,
}

impl ClusterSecret {
    /// Take over a secret of 16 to 1024 bytes.
    pub fn new(bytes: Vec<u8>) -> Result<ClusterSecret, ClusterSecretError> {
        let found = bytes.len();
        let secret = ClusterSecret(bytes);
        if (CLUSTER_SECRET_LEN_MIN..=CLUSTER_SECRET_LEN_MAX).contains(&found) {
            Ok(secret)
        } else {
            Err(ClusterSecretError { found })
        }
    }

    /// The key of the node `id`: HKDF-SHA-256 (RFC 5869) of the secret, bound to the id.
    pub fn identity(&self, id: &PeerId) -> Identity {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"holdfast/1 node key");
        let mut seed = Zeroizing::new([0; 32]);
        salt.extract(&self.0)
            .expand(&[id.as_str().as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(seed.as_mut()))
            .expect("one hash block is always available");
        Identity::from_seed(*seed)
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// A node's private key.
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
    key: Ed25519KeyPair,
    public: PublicKey,
}

impl Identity {
    /// The key with this RFC 8032 seed.
    pub fn from_seed(seed: [u8; 32]) -> Identity {
        let seed = Zeroizing::new(seed);
        let key = Ed25519KeyPair::from_seed_unchecked(seed.as_ref())
            .expect("every 32 bytes are an Ed25519 seed");
        let mut public = [0; 32];
        public.copy_from_slice(key.public_key().as_ref());
        Identity {
            seed,
            key,
            public: PublicKey(public),
        }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Sign a message; Ed25519 signatures are deterministic.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        out.copy_from_slice(self.key.sign(message).as_ref());
        out
    }

    /// The X25519 key of the same scalar (RFC 8032 section 5.1.5 gives the hash).
    pub(crate) fn to_x25519(&self) -> x25519_dalek::StaticSecret {
        let hash = digest::digest(&digest::SHA512, self.seed.as_ref());
        let mut scalar = Zeroizing::new([0; 32]);
        scalar.copy_from_slice(&hash.as_ref()[..32]);
        x25519_dalek::StaticSecret::from(*scalar)
    }

    /// The key in PKCS#8 version 1 (RFC 8410 section 7), as rustls takes it.
    pub(crate) fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        // SEQUENCE { INTEGER 0, SEQUENCE { OID 1.3.101.112 }, OCTET STRING { OCTET STRING seed } }
        const PREFIX: [u8; 16] = [
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        let mut out = Zeroizing::new(Vec::with_capacity(48));
        out.extend_from_slice(&PREFIX);
        out.extend_from_slice(self.seed.as_ref());
        out
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.public).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn secret() -> ClusterSecret {
        ClusterSecret::new(vec![9; 32]).unwrap()
    }

    #[test]
    fn one_shared_secret_gives_every_node_its_own_stable_key() {
        let a = secret().identity(&"a".parse().unwrap());
        let b = secret().identity(&"b".parse().unwrap());
        assert_ne!(a.public(), b.public());
        assert_eq!(
            a.public(),
            secret().identity(&"a".parse().unwrap()).public()
        );
    }

    #[test]
    fn the_derived_key_is_frozen_so_that_versions_agree() {
        let key = secret().identity(&"worker-3".parse().unwrap()).public();
        insta::assert_snapshot!(key.to_string());
    }

    #[test]
    fn both_halves_agree_on_a_sealing_key() {
        let (a, b) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let ab = a.to_x25519().diffie_hellman(&b.public().to_x25519());
        let ba = b.to_x25519().diffie_hellman(&a.public().to_x25519());
        assert_eq!(ab.as_bytes(), ba.as_bytes());
    }

    #[test]
    fn a_short_secret_and_a_non_point_are_refused() {
        assert!(ClusterSecret::new(vec![1; 15]).is_err());
        assert!(PublicKey::from_bytes([0; 32]).is_err());
        assert!("zz".parse::<PublicKey>().is_err());
    }

    #[test]
    fn debug_output_of_secrets_shows_no_secret() {
        let text = format!("{:?} {:?}", secret(), Identity::from_seed([3; 32]));
        assert!(!text.contains("9, 9"), "{text}");
        assert!(!text.contains("3, 3"), "{text}");
    }
}
