//! What one node has to say to another, as a whole, every time.
//!
//! Signaling sends state, not events: each message replaces the one before. A lost message
//! costs time until the next, a repeated one nothing, and a candidate cannot arrive before
//! the credentials that it belongs to.

use bytes::{Buf, BufMut};
use zeroize::Zeroizing;

use crate::types::Incarnation;

/// Most runs of a peer that one snapshot makes an offer to.
pub const OFFERS_MAX: usize = 3;
/// Most candidates of one node.
pub const CANDIDATES_MAX: usize = 12;
/// Longest candidate line, in bytes.
pub const CANDIDATE_LEN_MAX: usize = 160;
/// Longest ICE user fragment or password accepted (RFC 8839 section 5.4 allows 256).
const CREDENTIAL_LEN_MAX: usize = 64;

const GOODBYE: u8 = 1;
const ACCEPTED: u8 = 1;

/// A random value that proves its echo to be newer than itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Challenge(pub [u8; 16]);

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, ..] = self.0;
        write!(f, "Challenge({a:02x}{b:02x}..)")
    }
}

/// ICE credentials (RFC 8445 section 5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// The user fragment.
    pub ufrag: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for IceCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IceCredentials({}, ..)", self.ufrag)
    }
}

/// An offer to one run of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The run that it is for.
    pub to: Incarnation,
    /// The challenge that this run sent, echoed.
    pub echo: Challenge,
    /// Whether the sender has accepted this run as live.
    pub accepted: bool,
    /// The session between the two runs; the higher epoch wins.
    pub epoch: u32,
    /// How to address checks of that session to the sender.
    pub credentials: IceCredentials,
}

/// Everything that a node has to say to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// A value of the sender's own making, to be echoed.
    pub challenge: Challenge,
    /// The sender is stopping.
    pub goodbye: bool,
    /// Offers to the runs of the peer that the sender has lately heard of.
    pub offers: Vec<Offer>,
    /// The sender's candidates as RFC 8839 candidate lines.
    pub candidates: Vec<String>,
}

/// Bytes that are no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a signaling snapshot: {0}")]
pub struct SnapshotError(&'static str);

impl Snapshot {
    /// Encode. What exceeds a limit is left out: the sender keeps to them.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(1024));
        out.put_slice(&self.challenge.0);
        out.put_u8(if self.goodbye { GOODBYE } else { 0 });
        let offers = &self.offers[..self.offers.len().min(OFFERS_MAX)];
        out.put_u8(offers.len() as u8);
        for offer in offers {
            out.put_slice(&offer.to.0);
            out.put_slice(&offer.echo.0);
            out.put_u8(if offer.accepted { ACCEPTED } else { 0 });
            out.put_u32(offer.epoch);
            put_text(&mut out, &offer.credentials.ufrag);
            put_text(&mut out, &offer.credentials.password);
        }
        let candidates = &self.candidates[..self.candidates.len().min(CANDIDATES_MAX)];
        out.put_u8(candidates.len() as u8);
        for candidate in candidates {
            put_text(&mut out, candidate);
        }
        out
    }

    /// Decode. Bytes behind the last field belong to a later version and are ignored.
    pub fn decode(mut bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
        let bytes = &mut bytes;
        let challenge = Challenge(array(bytes)?);
        let goodbye = byte(bytes)? & GOODBYE != 0;
        let offers = count(bytes, OFFERS_MAX)?;
        let offers = (0..offers)
            .map(|_| offer(bytes))
            .collect::<Result<_, _>>()?;
        let candidates = count(bytes, CANDIDATES_MAX)?;
        let candidates = (0..candidates)
            .map(|_| text(bytes, CANDIDATE_LEN_MAX))
            .collect::<Result<_, _>>()?;
        Ok(Snapshot {
            challenge,
            goodbye,
            offers,
            candidates,
        })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u8::try_from(text.len()).expect("own texts are shorter than 256 bytes");
    out.put_u8(len);
    out.put_slice(text.as_bytes());
}

fn byte(bytes: &mut &[u8]) -> Result<u8, SnapshotError> {
    bytes.try_get_u8().map_err(|_| SnapshotError("too short"))
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], SnapshotError> {
    let mut out = [0; N];
    bytes
        .try_copy_to_slice(&mut out)
        .map_err(|_| SnapshotError("too short"))?;
    Ok(out)
}

fn count(bytes: &mut &[u8], most: usize) -> Result<usize, SnapshotError> {
    match usize::from(byte(bytes)?) {
        n if n <= most => Ok(n),
        _ => Err(SnapshotError("too many entries")),
    }
}

fn text(bytes: &mut &[u8], longest: usize) -> Result<String, SnapshotError> {
    let len = usize::from(byte(bytes)?);
    if len > longest {
        return Err(SnapshotError("text too long"));
    }
    let (text, rest) = bytes
        .split_at_checked(len)
        .ok_or(SnapshotError("too short"))?;
    *bytes = rest;
    if !text.iter().all(|b| (0x20..0x7f).contains(b)) {
        return Err(SnapshotError("text is not printable ASCII"));
    }
    Ok(String::from_utf8(text.to_vec()).expect("printable ASCII is UTF-8"))
}

fn offer(bytes: &mut &[u8]) -> Result<Offer, SnapshotError> {
    Ok(Offer {
        to: Incarnation(array(bytes)?),
        echo: Challenge(array(bytes)?),
        accepted: byte(bytes)? & ACCEPTED != 0,
        epoch: u32::from_be_bytes(array(bytes)?),
        credentials: IceCredentials {
            ufrag: text(bytes, CREDENTIAL_LEN_MAX)?,
            password: Zeroizing::new(text(bytes, CREDENTIAL_LEN_MAX)?),
        },
    })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use proptest::prelude::*;

    use super::*;

    fn example() -> Snapshot {
        Snapshot {
            challenge: Challenge([1; 16]),
            goodbye: false,
            offers: vec![Offer {
                to: Incarnation([2; 16]),
                echo: Challenge([3; 16]),
                accepted: true,
                epoch: 7,
                credentials: IceCredentials {
                    ufrag: "0001abcd".into(),
                    password: Zeroizing::new("a password of twenty-four".into()),
                },
            }],
            candidates: vec!["candidate:1 1 udp 2130706431 10.1.1.2 5000 typ host".into()],
        }
    }

    #[test]
    fn the_wire_format_is_frozen() {
        let hex: String = example()
            .encode()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        insta::assert_snapshot!(hex);
    }

    #[test]
    fn what_a_later_version_appends_is_ignored() {
        let mut bytes = example().encode();
        bytes.extend_from_slice(b"news from the future");
        assert_eq!(Snapshot::decode(&bytes).unwrap(), example());
    }

    #[test]
    fn the_largest_snapshot_fits_an_envelope() {
        let mut largest = example();
        let mut offer = largest.offers[0].clone();
        offer.credentials.ufrag = "u".repeat(CREDENTIAL_LEN_MAX);
        offer.credentials.password = Zeroizing::new("p".repeat(CREDENTIAL_LEN_MAX));
        largest.offers = vec![offer; OFFERS_MAX];
        largest.candidates = vec!["c".repeat(CANDIDATE_LEN_MAX); CANDIDATES_MAX];
        assert!(largest.encode().len() <= crate::signal::envelope::CONTENT_LEN_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Snapshot::decode(&bytes);
        }

        #[test]
        fn every_truncation_is_refused(cut in 0usize..120) {
            let bytes = example().encode();
            let cut = cut.min(bytes.len() - 1);
            prop_assert!(Snapshot::decode(&bytes[..cut]).is_err());
        }
    }
}
