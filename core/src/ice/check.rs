//! Connectivity checks (RFC 8445 section 7.2) as bytes: Binding requests and their answers.
//!
//! Most of what two idle nodes say to each other are checks of paths that are known to work.
//! Everything about them that stays the same in a session is made once.

use std::net::{IpAddr, SocketAddr};

use bytes::BufMut;
use crc::{CRC_32_ISO_HDLC, Crc, Table};
use ring::hmac;

use crate::signal::snapshot::IceCredentials;

/// The id of a STUN transaction.
pub type TransactionId = [u8; 12];

const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_ANSWER: [u8; 2] = [0x01, 0x01];
const MAGIC_COOKIE: u32 = 0x2112_a442;
const HEADER_LEN: usize = 20;
const ATTRIBUTE_LEN: usize = 4;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;

const INTEGRITY_LEN: usize = 20;
/// What MESSAGE-INTEGRITY and FINGERPRINT add to a message.
const TRAILER_LEN: usize = ATTRIBUTE_LEN + INTEGRITY_LEN + FINGERPRINT_LEN;
const FINGERPRINT_LEN: usize = ATTRIBUTE_LEN + 4;
/// RFC 8489 section 14.7: sets a STUN message's checksum apart from others.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// Longest part of a message that is authenticated here: its attributes are two names of at
/// most 64 bytes and a few numbers. A longer message is the agent's business.
const SIGNED_LEN_MAX: usize = 256;

/// A peer-reflexive host candidate's priority (RFC 8445 section 5.1.2.1), should the peer learn
/// a candidate from a check of ours.
const CHECK_PRIORITY: u32 = (110 << 24) | (0xffff << 8) | 255;

static CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);

/// Makes and recognises the checks of one session.
pub struct Checks {
    /// Signs what we answer, and what the peer asks.
    own: hmac::Key,
    /// Signs what we ask, and what the peer answers.
    peer: hmac::Key,
    /// The user name that the peer's requests have.
    username: Vec<u8>,
    /// A request of ours up to its integrity, without its transaction.
    request: Vec<u8>,
}

impl Checks {
    /// Checks between these two ends.
    pub fn new(
        own: &IceCredentials,
        peer: &IceCredentials,
        controlling: bool,
        tie_breaker: u64,
    ) -> Checks {
        let key = |credentials: &IceCredentials| {
            let password = credentials.password.as_bytes();
            hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password)
        };
        let username = |to: &IceCredentials, from: &IceCredentials| {
            [to.ufrag.as_bytes(), b":", from.ufrag.as_bytes()].concat()
        };
        let mut request = header(BINDING_REQUEST, [0; 12]);
        let asked = username(peer, own);
        put_attribute(&mut request, USERNAME, &asked);
        request.resize(request.len().next_multiple_of(4), 0);
        let role = match controlling {
            true => ICE_CONTROLLING,
            false => ICE_CONTROLLED,
        };
        put_attribute(&mut request, role, &tie_breaker.to_be_bytes());
        put_attribute(&mut request, PRIORITY, &CHECK_PRIORITY.to_be_bytes());
        Checks {
            own: key(own),
            peer: key(peer),
            username: username(own, peer),
            request,
        }
    }

    /// A request of ours.
    pub fn request(&self, id: TransactionId) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.request.len() + TRAILER_LEN);
        out.extend_from_slice(&self.request);
        out[8..HEADER_LEN].copy_from_slice(&id);
        sign(&self.peer, &mut out);
        out
    }

    /// The answer to a request of the peer's that came from this address.
    pub fn answer(&self, id: TransactionId, from: SocketAddr) -> Vec<u8> {
        let mut out = header(BINDING_ANSWER, id);
        // RFC 8489 section 14.2.
        let port = from.port() ^ (MAGIC_COOKIE >> 16) as u16;
        match from.ip() {
            IpAddr::V4(ip) => {
                out.put_u16(XOR_MAPPED_ADDRESS);
                out.put_u16(8);
                out.put_u16(1);
                out.put_u16(port);
                out.put_u32(u32::from(ip) ^ MAGIC_COOKIE);
            }
            IpAddr::V6(ip) => {
                let mut mask = [0; 16];
                mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
                mask[4..].copy_from_slice(&id);
                out.put_u16(XOR_MAPPED_ADDRESS);
                out.put_u16(20);
                out.put_u16(2);
                out.put_u16(port);
                out.put_u128(u128::from(ip) ^ u128::from_be_bytes(mask));
            }
        }
        sign(&self.own, &mut out);
        out
    }

    /// The transaction of a genuine request of the peer's.
    pub fn genuine_request(&self, data: &[u8]) -> Option<TransactionId> {
        let message = Message::read(data, BINDING_REQUEST)?;
        let named = message.username == Some(&self.username[..]);
        (named && message.is_signed_by(&self.own)).then_some(message.id)
    }

    /// Whether this is a genuine answer of the peer's to a request of ours.
    pub fn is_genuine_answer(&self, data: &[u8]) -> bool {
        Message::read(data, BINDING_ANSWER)
            .is_some_and(|message| message.mapped && message.is_signed_by(&self.peer))
    }
}

/// Whether a message is a Binding request.
pub fn is_request(data: &[u8]) -> bool {
    data.starts_with(&BINDING_REQUEST)
}

/// Whether a message is an answer to one.
pub fn is_answer(data: &[u8]) -> bool {
    data.starts_with(&BINDING_ANSWER)
}

fn header(kind: [u8; 2], id: TransactionId) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.put_slice(&kind);
    out.put_u16(0);
    out.put_u32(MAGIC_COOKIE);
    out.put_slice(&id);
    out
}

fn put_attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.put_u16(kind);
    out.put_u16(u16::try_from(value.len()).expect("names and numbers are short"));
    out.put_slice(value);
}

fn set_len(out: &mut [u8], len: usize) {
    let len = u16::try_from(len - HEADER_LEN).expect("checks are short");
    out[2..4].copy_from_slice(&len.to_be_bytes());
}

/// Append MESSAGE-INTEGRITY and FINGERPRINT (RFC 8489 sections 14.5 and 14.7), each over what
/// comes before it with a length that counts itself.
fn sign(key: &hmac::Key, out: &mut Vec<u8>) {
    let signed = out.len();
    set_len(out, signed + ATTRIBUTE_LEN + INTEGRITY_LEN);
    let tag = hmac::sign(key, out);
    put_attribute(out, MESSAGE_INTEGRITY, tag.as_ref());
    set_len(out, signed + TRAILER_LEN);
    let checksum = CRC32.checksum(out) ^ FINGERPRINT_XOR;
    put_attribute(out, FINGERPRINT, &checksum.to_be_bytes());
}

/// What of a message matters here.
struct Message<'a> {
    id: TransactionId,
    username: Option<&'a [u8]>,
    /// Whether it holds a mapped address.
    mapped: bool,
    /// Everything before its integrity.
    signed: &'a [u8],
    integrity: &'a [u8],
}

impl<'a> Message<'a> {
    /// Read a message of this kind; attributes behind the integrity are not looked at.
    fn read(data: &'a [u8], kind: [u8; 2]) -> Option<Message<'a>> {
        let (header, attributes) = data.split_first_chunk::<HEADER_LEN>()?;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if !header.starts_with(&kind) || len != attributes.len() {
            return None;
        }
        let mut username = None;
        let mut mapped = false;
        let mut rest = attributes;
        while let Some((head, body)) = rest.split_first_chunk::<ATTRIBUTE_LEN>() {
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let value = body.get(..len)?;
            match kind {
                MESSAGE_INTEGRITY => {
                    return Some(Message {
                        id: data[8..HEADER_LEN].try_into().expect("12 bytes"),
                        username,
                        mapped,
                        signed: &data[..data.len() - rest.len()],
                        integrity: value,
                    });
                }
                USERNAME => username = Some(value),
                XOR_MAPPED_ADDRESS => mapped = true,
                _ => {}
            }
            rest = body.get(len.next_multiple_of(4)..)?;
        }
        None
    }

    fn is_signed_by(&self, key: &hmac::Key) -> bool {
        let mut copy = [0; SIGNED_LEN_MAX];
        let Some(copy) = copy.get_mut(..self.signed.len()) else {
            return false;
        };
        copy.copy_from_slice(self.signed);
        set_len(copy, self.signed.len() + ATTRIBUTE_LEN + INTEGRITY_LEN);
        hmac::verify(key, copy, self.integrity).is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use ::is::stun::StunMessage;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    fn credentials(name: &str) -> IceCredentials {
        IceCredentials {
            ufrag: format!("0001{name}"),
            password: Zeroizing::new(format!("the password of {name}")),
        }
    }

    /// Both ends of one session.
    fn ends() -> (Checks, Checks) {
        let (a, b) = (credentials("a"), credentials("bob"));
        (Checks::new(&a, &b, true, 7), Checks::new(&b, &a, false, 8))
    }

    fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
        hmac::sign(&key, &parts.concat())
            .as_ref()
            .try_into()
            .unwrap()
    }

    #[test]
    fn a_check_is_byte_for_byte_what_the_agent_would_send() {
        for (controlling, tie_breaker) in [(true, 7), (false, u64::MAX)] {
            let (a, b) = (credentials("a"), credentials("bob"));
            let ours = Checks::new(&a, &b, controlling, tie_breaker).request([9; 12]);
            let id = StunMessage::parse(&ours).unwrap().trans_id();
            let username = format!("{}:{}", b.ufrag, a.ufrag);
            let (role, priority) = (controlling, CHECK_PRIORITY);
            let theirs =
                StunMessage::binding_request(&username, id, role, tie_breaker, priority, false);
            let mut bytes = vec![0; 256];
            let password = Some(b.password.as_bytes());
            let len = theirs.to_bytes(password, &mut bytes, hmac_sha1).unwrap();
            assert_eq!(ours, bytes[..len]);
        }
    }

    #[test]
    fn an_answer_is_byte_for_byte_what_the_agent_would_send() {
        let (a, _) = ends();
        for from in ["192.0.2.1:5000", "[2001:db8::7]:65535"] {
            let from: SocketAddr = from.parse().unwrap();
            let ours = a.answer([3; 12], from);
            let id = StunMessage::parse(&ours).unwrap().trans_id();
            let password = credentials("a").password;
            let mut bytes = vec![0; 256];
            let len = StunMessage::binding_reply(id, from)
                .to_bytes(Some(password.as_bytes()), &mut bytes, hmac_sha1)
                .unwrap();
            assert_eq!(ours, bytes[..len]);
        }
    }

    #[test]
    fn only_the_peers_checks_of_this_session_are_genuine() {
        let (a, b) = ends();
        let request = a.request([1; 12]);
        assert_eq!(b.genuine_request(&request), Some([1; 12]));
        assert_eq!(a.genuine_request(&request), None, "our own");
        let answer = b.answer([1; 12], "192.0.2.1:5000".parse().unwrap());
        assert!(a.is_genuine_answer(&answer));
        assert!(!b.is_genuine_answer(&answer), "our own");
        let other = Checks::new(&credentials("eve"), &credentials("bob"), true, 7);
        assert_eq!(b.genuine_request(&other.request([1; 12])), None);
    }

    #[test]
    fn a_check_with_any_signed_bit_flipped_is_not_genuine() {
        let (a, b) = ends();
        let request = a.request([1; 12]);
        for bit in 0..(request.len() - FINGERPRINT_LEN) * 8 {
            let mut forged = request.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(b.genuine_request(&forged), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_are_never_genuine(
            kind in any::<bool>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let (a, _) = ends();
            let mut message = header(if kind { BINDING_REQUEST } else { BINDING_ANSWER }, [0; 12]);
            message.extend_from_slice(&bytes);
            set_len(&mut message, HEADER_LEN + bytes.len());
            prop_assert!(a.genuine_request(&message).is_none());
            prop_assert!(!a.is_genuine_answer(&message));
            prop_assert!(a.genuine_request(&bytes).is_none());
        }
    }
}
