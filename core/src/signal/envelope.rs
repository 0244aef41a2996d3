//! The sealed and signed envelope that brokers carry.
//!
//! ```text
//! 0    magic "HFS1"                        4
//! 4    sender's Ed25519 key               32
//! 36   receiver's Ed25519 key             32
//! 68   sender's incarnation               16
//! 84   sequence within it, big endian      8
//! 92   expiry, Unix seconds, big endian    8
//! 100  ephemeral X25519 key               32
//! 132  ChaCha20-Poly1305 ciphertext and tag
//! end  Ed25519 signature over all before  64
//! ```
//!
//! The ephemeral key is fresh for every envelope, so it is the nonce too: the AEAD key
//! derives from it and is used once. Anyone can check the signature, which lets a broker
//! refuse forgeries; only the receiver can read the content, since a readable ICE password
//! would let a broker move a running path.

use std::time::Duration;

use bytes::{Buf, BufMut};
use ring::{aead, hkdf};
use x25519_dalek::{PublicKey as X25519Key, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::identity::{Identity, PublicKey};
use crate::rendezvous::ENVELOPE_LEN_MAX;
use crate::types::Incarnation;

const MAGIC: &[u8; 4] = b"HFS1";
const HEADER_LEN: usize = 132;
const TAG_LEN: usize = 16;
const SIGNATURE_LEN: usize = 64;

/// Most bytes that an envelope can carry.
pub const CONTENT_LEN_MAX: usize = ENVELOPE_LEN_MAX - HEADER_LEN - TAG_LEN - SIGNATURE_LEN;

/// How far ahead a sender sets the expiry. Replays are caught by challenges and sequence
/// numbers; the expiry only bounds how long a broker's hoard is worth anything, so it is
/// generous: two nodes whose clocks are hours apart still meet.
pub const LIFETIME: Duration = Duration::from_secs(4 * 3600);

/// An envelope that is not for us, not genuine or too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not an envelope at all.
    #[error("not an envelope")]
    Malformed,
    /// The signature is not the sender's.
    #[error("the signature is not the sender's")]
    Forged,
    /// It is addressed to somebody else.
    #[error("addressed to somebody else")]
    NotForUs,
    /// It has expired by this node's clock.
    #[error("expired")]
    Expired,
    /// The seal does not open.
    #[error("the seal does not open")]
    Sealed,
}

/// What an envelope shows on its outside, its signature checked.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// Who made it.
    pub sender: PublicKey,
    /// Who can open it.
    pub receiver: PublicKey,
    /// Which run of the sender made it.
    pub incarnation: Incarnation,
    /// Its number within that run.
    pub sequence: u64,
    /// Until when it counts.
    pub expiry: Duration,
    ephemeral: [u8; 32],
    header: &'a [u8],
    ciphertext: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// The key that made an envelope, if one can believe it: nothing is checked.
    pub fn claimed_sender(bytes: &[u8]) -> Option<&[u8; 32]> {
        bytes.strip_prefix(MAGIC)?.first_chunk()
    }

    /// Read an envelope and check its signature.
    pub fn parse(bytes: &'a [u8]) -> Result<Envelope<'a>, EnvelopeError> {
        let shortest = HEADER_LEN + TAG_LEN + SIGNATURE_LEN;
        if !(shortest..=ENVELOPE_LEN_MAX).contains(&bytes.len()) || !bytes.starts_with(MAGIC) {
            return Err(EnvelopeError::Malformed);
        }
        let (signed, signature) = bytes.split_at(bytes.len() - SIGNATURE_LEN);
        let (header, ciphertext) = signed.split_at(HEADER_LEN);
        let mut rest = &header[MAGIC.len()..];
        let mut key = || -> Result<PublicKey, EnvelopeError> {
            let mut out = [0; 32];
            rest.copy_to_slice(&mut out);
            PublicKey::from_bytes(out).map_err(|_| EnvelopeError::Malformed)
        };
        let (sender, receiver) = (key()?, key()?);
        let mut incarnation = [0; 16];
        rest.copy_to_slice(&mut incarnation);
        let envelope = Envelope {
            sender,
            receiver,
            incarnation: Incarnation(incarnation),
            sequence: rest.get_u64(),
            expiry: Duration::from_secs(rest.get_u64()),
            ephemeral: rest.try_into().expect("the header's last 32 bytes"),
            header,
            ciphertext,
        };
        let signature = signature.try_into().expect("split at 64 bytes");
        if !sender.verify(signed, signature) && !planted!(TrustUnsigned) {
            return Err(EnvelopeError::Forged);
        }
        Ok(envelope)
    }

    /// Open an envelope that is for `us`.
    pub fn open(&self, us: &Identity, unix: Duration) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
        if self.receiver != us.public() {
            return Err(EnvelopeError::NotForUs);
        }
        if self.expiry < unix {
            return Err(EnvelopeError::Expired);
        }
        let shared = us
            .to_x25519()
            .diffie_hellman(&X25519Key::from(self.ephemeral));
        let key = aead_key(&shared, self.header);
        let mut content = Zeroizing::new(self.ciphertext.to_vec());
        let opened = key
            .open_in_place(nonce(), aead::Aad::from(self.header), &mut content)
            .map_err(|_| EnvelopeError::Sealed)?
            .len();
        content.truncate(opened);
        Ok(content)
    }
}

/// Seal and sign `content`, which is at most [`CONTENT_LEN_MAX`] bytes.
pub fn seal(
    us: &Identity,
    receiver: PublicKey,
    incarnation: Incarnation,
    sequence: u64,
    unix: Duration,
    content: &[u8],
    entropy: &mut Entropy,
) -> Vec<u8> {
    let mut out = seal_from(
        us.public(),
        receiver,
        incarnation,
        sequence,
        unix,
        content,
        entropy,
    );
    let signature = us.sign(&out);
    out.put_slice(&signature);
    out
}

/// An envelope up to its signature.
pub(crate) fn seal_from(
    sender: PublicKey,
    receiver: PublicKey,
    incarnation: Incarnation,
    sequence: u64,
    unix: Duration,
    content: &[u8],
    entropy: &mut Entropy,
) -> Vec<u8> {
    assert!(
        content.len() <= CONTENT_LEN_MAX,
        "content has its own limits"
    );
    let ephemeral = StaticSecret::from(entropy.bytes::<32>());
    let mut out = Vec::with_capacity(HEADER_LEN + content.len() + TAG_LEN + SIGNATURE_LEN);
    out.put_slice(MAGIC);
    out.put_slice(sender.as_bytes());
    out.put_slice(receiver.as_bytes());
    out.put_slice(&incarnation.0);
    out.put_u64(sequence);
    out.put_u64(unix.saturating_add(LIFETIME).as_secs());
    out.put_slice(X25519Key::from(&ephemeral).as_bytes());
    debug_assert_eq!(out.len(), HEADER_LEN);

    let shared = ephemeral.diffie_hellman(&receiver.to_x25519());
    let key = aead_key(&shared, &out);
    let mut sealed = Zeroizing::new(content.to_vec());
    key.seal_in_place_append_tag(nonce(), aead::Aad::from(&out), &mut *sealed)
        .expect("a few kilobytes are within the cipher's limit");
    out.put_slice(&sealed);
    out
}

/// The one-time key: HKDF of the shared secret, bound to the whole header.
fn aead_key(shared: &SharedSecret, header: &[u8]) -> aead::LessSafeKey {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"holdfast/1 signal");
    let prk = salt.extract(shared.as_bytes());
    let info = [header];
    let okm = prk
        .expand(&info, &aead::CHACHA20_POLY1305)
        .expect("one key is within HKDF's limit");
    aead::LessSafeKey::new(aead::UnboundKey::from(okm))
}

/// The key is used once, so its nonce is fixed.
fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use proptest::prelude::*;

    use super::*;
    use crate::entropy::Seed;

    fn sealed(content: &[u8]) -> (Identity, Vec<u8>) {
        let (a, b) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let mut entropy = Seed::new([3; 32]).rng();
        let unix = Duration::from_secs(1_000_000);
        let bytes = seal(
            &a,
            b.public(),
            Incarnation([4; 16]),
            5,
            unix,
            content,
            &mut entropy,
        );
        (b, bytes)
    }

    #[test]
    fn only_the_receiver_opens_an_envelope() {
        let (b, bytes) = sealed(b"hello");
        let envelope = Envelope::parse(&bytes).unwrap();
        let unix = Duration::from_secs(1_000_000);
        assert_eq!(envelope.open(&b, unix).unwrap().as_slice(), b"hello");
        let other = Identity::from_seed([9; 32]);
        assert_eq!(
            envelope.open(&other, unix).unwrap_err(),
            EnvelopeError::NotForUs
        );
        assert!(
            !bytes.windows(5).any(|w| w == b"hello"),
            "content is readable"
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (_, bytes) = sealed(b"hello");
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::parse(&forged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_envelope_expires_by_the_receivers_clock() {
        let (b, bytes) = sealed(b"hello");
        let late = Duration::from_secs(1_000_000) + LIFETIME + Duration::from_secs(1);
        let envelope = Envelope::parse(&bytes).unwrap();
        assert_eq!(envelope.open(&b, late).unwrap_err(), EnvelopeError::Expired);
    }

    #[test]
    fn the_wire_format_is_frozen() {
        let (_, bytes) = sealed(b"hello");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        insta::assert_snapshot!(hex);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend_from_slice(&bytes);
            prop_assert!(Envelope::parse(&bytes).is_err());
            prop_assert!(Envelope::parse(&with_magic).is_err());
        }
    }
}
