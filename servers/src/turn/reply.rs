//! Answers to requests, and the headers put before relayed datagrams.

use std::net::{IpAddr, SocketAddr};

use stun_types::attribute::{ErrorCode, Fingerprint, Nonce, Realm, UnknownAttributes};
use stun_types::message::{
    IntegrityAlgorithm, IntegrityKey, MAGIC_COOKIE, Message, MessageClass, MessageHeader,
    MessageType, MessageWriteVec, Method, TransactionId,
};
use stun_types::prelude::{AttributeStaticType, AttributeWrite, MessageWrite, MessageWriteExt};

use super::frame::CHANNEL_HEADER_LEN;

/// Room for an answer: the largest has an address, two strings and an integrity check.
const ANSWER_LEN_TYPICAL: usize = 192;
/// Most unknown attributes named in an answer, so that it is not larger than the request.
const UNKNOWN_ATTRIBUTES_MAX: usize = 8;

/// What an answer repeats of its request.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) transaction: TransactionId,
    pub(super) fingerprint: bool,
}

impl Asked {
    pub(super) fn of(msg: &Message<'_>) -> Asked {
        Asked {
            method: msg.method(),
            transaction: msg.transaction_id(),
            fingerprint: msg.raw_attribute(Fingerprint::TYPE).is_some(),
        }
    }

    /// A success response, signed when there is a key.
    pub(super) fn success(
        &self,
        key: Option<&IntegrityKey>,
        attributes: &[&dyn AttributeWrite],
    ) -> Vec<u8> {
        self.build(MessageClass::Success, key, attributes)
    }

    /// An error response, signed when there is a key.
    pub(super) fn error(&self, key: Option<&IntegrityKey>, code: u16) -> Vec<u8> {
        self.build(MessageClass::Error, key, &[&error_code(code)])
    }

    /// An error response that asks for credentials.
    pub(super) fn challenge(&self, code: u16, realm: &str, nonce: &str) -> Vec<u8> {
        let realm = Realm::new(realm).expect("the length was checked with the configuration");
        let nonce = Nonce::new(nonce).expect("our nonces are short");
        self.build(
            MessageClass::Error,
            None,
            &[&error_code(code), &realm, &nonce],
        )
    }

    /// The error response for attributes that must be understood and are not.
    pub(super) fn unknown(
        &self,
        key: Option<&IntegrityKey>,
        unknown: &[stun_types::attribute::AttributeType],
    ) -> Vec<u8> {
        let named = &unknown[..unknown.len().min(UNKNOWN_ATTRIBUTES_MAX)];
        let code = error_code(ErrorCode::UNKNOWN_ATTRIBUTE);
        self.build(
            MessageClass::Error,
            key,
            &[&code, &UnknownAttributes::new(named)],
        )
    }

    fn build(
        &self,
        class: MessageClass,
        key: Option<&IntegrityKey>,
        attributes: &[&dyn AttributeWrite],
    ) -> Vec<u8> {
        const ONCE: &str = "an answer has each attribute once, the integrity check last";
        let kind = MessageType::from_class_method(class, self.method);
        let write = MessageWriteVec::with_capacity(ANSWER_LEN_TYPICAL);
        let mut answer = Message::builder(kind, self.transaction, write);
        for attribute in attributes {
            answer.add_attribute(*attribute).expect(ONCE);
        }
        if let Some(key) = key {
            answer
                .add_message_integrity_with_key(key, IntegrityAlgorithm::Sha1)
                .expect(ONCE);
        }
        if self.fingerprint {
            answer.add_fingerprint().expect(ONCE);
        }
        answer.finish()
    }
}

fn error_code(code: u16) -> ErrorCode {
    ErrorCode::builder(code)
        .build()
        .expect("the codes used here are in the range of the protocol")
}

/// The longest header put before a relayed datagram, in bytes: a Data indication
/// (RFC 8656 section 11.6) with an IPv6 peer.
pub const HEADROOM: usize = MessageHeader::LENGTH + 24 + 4;
/// The most padding put behind a relayed datagram, in bytes.
pub const TAILROOM: usize = 3;

/// Put ChannelData's header before the payload at `HEADROOM..HEADROOM + len`.
///
/// `padded` rounds the message up to four bytes, as a stream needs it.
pub(super) fn channel_data(buf: &mut [u8], len: usize, number: u16, padded: bool) -> &[u8] {
    let start = HEADROOM - CHANNEL_HEADER_LEN;
    let mut end = HEADROOM + len;
    buf[start..start + 2].copy_from_slice(&number.to_be_bytes());
    buf[start + 2..HEADROOM].copy_from_slice(&(len as u16).to_be_bytes());
    if padded {
        let full = start + (CHANNEL_HEADER_LEN + len).next_multiple_of(4);
        buf[end..full].fill(0);
        end = full;
    }
    &buf[start..end]
}

/// Put a Data indication's header before the payload at `HEADROOM..HEADROOM + len`.
pub(super) fn data_indication(
    buf: &mut [u8],
    len: usize,
    transaction: u128,
    peer: SocketAddr,
) -> &[u8] {
    const DATA_INDICATION: u16 = 0x0017;
    const XOR_PEER_ADDRESS: u16 = 0x0012;
    const DATA: u16 = 0x0013;
    let transaction = transaction.to_be_bytes();
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction[4..]);
    let (family, mut ip) = match peer.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    ip.iter_mut()
        .zip(mask)
        .for_each(|(byte, mask)| *byte ^= mask);
    let port = peer.port() ^ u16::from_be_bytes([mask[0], mask[1]]);

    let start = HEADROOM - (MessageHeader::LENGTH + 4 + 4 + ip.len() + 4);
    let end = HEADROOM + len.next_multiple_of(4);
    let body = end - start - MessageHeader::LENGTH;
    let mut header = Vec::with_capacity(HEADROOM);
    header.extend_from_slice(&DATA_INDICATION.to_be_bytes());
    header.extend_from_slice(&(body as u16).to_be_bytes());
    header.extend_from_slice(&mask);
    header.extend_from_slice(&XOR_PEER_ADDRESS.to_be_bytes());
    header.extend_from_slice(&(4 + ip.len() as u16).to_be_bytes());
    header.extend_from_slice(&[0, family]);
    header.extend_from_slice(&port.to_be_bytes());
    header.extend_from_slice(&ip);
    header.extend_from_slice(&DATA.to_be_bytes());
    header.extend_from_slice(&(len as u16).to_be_bytes());
    buf[start..HEADROOM].copy_from_slice(&header);
    buf[HEADROOM + len..end].fill(0);
    &buf[start..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use turn_types::attribute::{Data, XorPeerAddress};

    #[test]
    fn a_data_indication_reads_as_another_implementation_writes_it() {
        for peer in ["192.0.2.7:4242", "[2001:db8::7]:4242"] {
            let peer: SocketAddr = peer.parse().unwrap();
            let mut buf = vec![0xff; HEADROOM + 5 + TAILROOM];
            buf[HEADROOM..HEADROOM + 5].copy_from_slice(b"hello");
            let transaction = 0x0102_0304_0506_0708_090a_0b0c_u128;
            let written = data_indication(&mut buf, 5, transaction, peer);
            let msg = Message::from_bytes(written).unwrap();
            let id = msg.transaction_id();
            assert_eq!(u128::from(id), transaction);
            assert_eq!(msg.attribute::<XorPeerAddress>().unwrap().addr(id), peer);
            assert_eq!(msg.attribute::<Data>().unwrap().data(), b"hello");
        }
    }

    #[test]
    fn channel_data_is_padded_for_streams_only() {
        let mut buf = vec![0xff; HEADROOM + 5 + TAILROOM];
        assert_eq!(channel_data(&mut buf, 5, 0x4001, false).len(), 9);
        let padded = channel_data(&mut buf, 5, 0x4001, true);
        assert_eq!(
            padded,
            [0x40, 1, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]
        );
    }
}
