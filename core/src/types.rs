//! The names of things: peers, virtual addresses, links, streams.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest accepted [`PeerId`], in bytes: it must fit a DNS label.
pub const PEER_ID_LEN_MAX: usize = 63;

/// The name of a node, unique in its cluster, for example `worker-3`.
///
/// 1 to 63 of `a-z`, `A-Z`, `0-9`, `-`, `_` and `.`; the first is a letter or digit.
/// The order of the names decides roles: of two peers the lexicographically smaller one is
/// ICE-controlling and the QUIC client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerId(Box<str>);

/// A [`PeerId`] that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "peer id {found:?} is not valid: expected 1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit"
)]
pub struct PeerIdError {
    found: String,
}

impl PeerId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let valid = (1..=PEER_ID_LEN_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if valid {
            Ok(PeerId(text.into()))
        } else {
            Err(PeerIdError {
                found: text.chars().take(80).collect(),
            })
        }
    }
}

impl TryFrom<String> for PeerId {
    type Error = PeerIdError;

    fn try_from(text: String) -> Result<Self, PeerIdError> {
        text.parse()
    }
}

impl From<PeerId> for String {
    fn from(id: PeerId) -> String {
        id.0.into()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The network that virtual addresses live in: 127.50.0.0/24, loopback on every Linux.
pub const VIP_PREFIX: [u8; 3] = [127, 50, 0];

/// A node's virtual address, 127.50.0.1 to 127.50.0.254, written as its last octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Vip(u8);

/// A number that is no [`Vip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vip {found} is out of range: expected 1 to 254, the last octet in 127.50.0.0/24")]
pub struct VipError {
    found: u16,
}

impl Vip {
    /// The virtual address with this last octet.
    pub fn new(octet: u16) -> Result<Vip, VipError> {
        match u8::try_from(octet) {
            Ok(octet @ 1..=254) => Ok(Vip(octet)),
            _ => Err(VipError { found: octet }),
        }
    }

    /// The last octet.
    pub fn octet(self) -> u8 {
        self.0
    }

    /// The address itself.
    pub fn addr(self) -> IpAddr {
        let [a, b, c] = VIP_PREFIX;
        IpAddr::V4(Ipv4Addr::new(a, b, c, self.0))
    }
}

impl TryFrom<u16> for Vip {
    type Error = VipError;

    fn try_from(octet: u16) -> Result<Vip, VipError> {
        Vip::new(octet)
    }
}

impl From<Vip> for u16 {
    fn from(vip: Vip) -> u16 {
        u16::from(vip.0)
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr())
    }
}

/// Which of a node's links: at first the index of the peer in the node's sorted peer list; peers
/// that a reload brings have later numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkId(pub u16);

impl LinkId {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One forwarded TCP connection on one link.
///
/// `session` counts the sessions of the link, so that an id that outlives its session is
/// refused and never means another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The link it runs on.
    pub link: LinkId,
    /// The session of that link.
    pub session: u32,
    /// The QUIC stream id (RFC 9000 section 2.1).
    pub quic: u64,
}

/// 128 random bits that name one run of one node: a restarted node has another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Incarnation {
    /// The first 32 bits: enough to tell runs apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_peer_id_is_a_dns_friendly_label() {
        assert_eq!("worker-3".parse::<PeerId>().unwrap().as_str(), "worker-3");
        for bad in ["", "-a", "a b", "a/b", "é", &"x".repeat(64)] {
            assert!(bad.parse::<PeerId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_vip_is_the_last_octet_of_127_50_0() {
        assert_eq!(Vip::new(4).unwrap().to_string(), "127.50.0.4");
        for bad in [0, 255, 256, 1000] {
            assert!(Vip::new(bad).is_err(), "{bad} must be refused");
        }
    }
}
