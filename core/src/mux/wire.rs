//! The bytes on a link's streams and datagrams. Frozen: `tests` below hold them to the letter.
//!
//! ```text
//! bidirectional stream   kind 0x01 TCP | port u16 | extension length u8 | extension | bytes
//! unidirectional stream  kind 0x10 control | frames: type u8 | length u16 | payload
//!                        kind 0x11 large datagram | source port u16 | port u16
//!                                                 | extension length u8 | extension | payload
//! QUIC datagram          kind 0x01 UDP | source port u16 | port u16 | payload
//! ```
//!
//! Numbers are big endian. Unknown frame types, extensions and datagram kinds are ignored;
//! an unknown stream kind is refused, because nobody would read it.

use bytes::{Buf, BufMut, Bytes};

/// A TCP connection.
pub const STREAM_TCP: u8 = 0x01;
/// The control stream, one in each direction.
pub const STREAM_CONTROL: u8 = 0x10;
/// A datagram that does not fit a packet.
pub const STREAM_DATAGRAM: u8 = 0x11;
/// A UDP datagram.
pub const DATAGRAM_UDP: u8 = 0x01;

/// Length of a TCP stream's header without its extension.
pub const TCP_HEADER_LEN: usize = 4;
/// Length of a datagram's header.
pub const DATAGRAM_HEADER_LEN: usize = 5;
/// Length of a large datagram's header without its extension.
pub const LARGE_HEADER_LEN: usize = 6;
/// Length of a control frame's header.
const FRAME_HEADER_LEN: usize = 3;
/// Longest control frame that is read; a longer one is a violation.
pub const FRAME_LEN_MAX: usize = 1024;

const FRAME_HELLO: u8 = 1;
const FRAME_PATH_DEAD: u8 = 2;
const FRAME_GOODBYE: u8 = 3;

/// What is said on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first frame: which session this connection is of. The server's proves to the
    /// client that its key was accepted.
    Hello {
        /// The sender's incarnation.
        own: [u8; 16],
        /// The receiver's.
        peer: [u8; 16],
        /// The epoch.
        epoch: u32,
    },
    /// The sender has left its path for dead: check yours.
    PathDead,
    /// The sender is stopping: it opens and accepts no more streams.
    Goodbye,
    /// Something from a later version.
    Unknown(u8),
}

impl Frame {
    /// Append this frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello { own, peer, epoch } => {
                out.put_u8(FRAME_HELLO);
                out.put_u16(36);
                out.put_slice(own);
                out.put_slice(peer);
                out.put_u32(*epoch);
            }
            Frame::PathDead => {
                out.put_u8(FRAME_PATH_DEAD);
                out.put_u16(0);
            }
            Frame::Goodbye => {
                out.put_u8(FRAME_GOODBYE);
                out.put_u16(0);
            }
            Frame::Unknown(kind) => {
                out.put_u8(*kind);
                out.put_u16(0);
            }
        }
    }

    /// Take the first whole frame off `bytes`. `Ok(None)`: more bytes are needed.
    pub fn decode(bytes: &mut Vec<u8>) -> Result<Option<Frame>, WireError> {
        let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_LEN>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([header[1], header[2]]));
        if len > FRAME_LEN_MAX {
            return Err(WireError("control frame too long"));
        }
        let Some(mut payload) = rest.get(..len) else {
            return Ok(None);
        };
        let frame = match header[0] {
            FRAME_HELLO if len >= 36 => {
                let (mut own, mut peer) = ([0; 16], [0; 16]);
                payload.copy_to_slice(&mut own);
                payload.copy_to_slice(&mut peer);
                let epoch = payload.get_u32();
                Frame::Hello { own, peer, epoch }
            }
            FRAME_HELLO => return Err(WireError("hello too short")),
            FRAME_PATH_DEAD => Frame::PathDead,
            FRAME_GOODBYE => Frame::Goodbye,
            kind => Frame::Unknown(kind),
        };
        bytes.drain(..FRAME_HEADER_LEN + len);
        Ok(Some(frame))
    }
}

/// Bytes that break the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub &'static str);

/// The header of a TCP stream.
pub fn tcp_header(port: u16) -> [u8; TCP_HEADER_LEN] {
    let [high, low] = port.to_be_bytes();
    [STREAM_TCP, high, low, 0]
}

/// Read a TCP stream's header once it is whole: the port. `Ok(None)`: more bytes are needed,
/// as many as [`tcp_header_missing`] says.
pub fn parse_tcp_header(bytes: &[u8]) -> Result<Option<u16>, WireError> {
    match bytes {
        [kind, ..] if *kind != STREAM_TCP => Err(WireError("unknown stream kind")),
        [_, high, low, ..] if tcp_header_missing(bytes) == 0 => {
            match u16::from_be_bytes([*high, *low]) {
                0 => Err(WireError("port 0")),
                port => Ok(Some(port)),
            }
        }
        _ => Ok(None),
    }
}

/// How many bytes of the header are still to come, as far as is known.
pub fn tcp_header_missing(bytes: &[u8]) -> usize {
    let extension = bytes
        .get(TCP_HEADER_LEN - 1)
        .map_or(0, |len| usize::from(*len));
    (TCP_HEADER_LEN + extension).saturating_sub(bytes.len())
}

/// A UDP datagram as a QUIC datagram.
pub fn datagram(source: u16, port: u16, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(DATAGRAM_HEADER_LEN + payload.len());
    out.put_u8(DATAGRAM_UDP);
    out.put_u16(source);
    out.put_u16(port);
    out.put_slice(payload);
    out.into()
}

/// The header of a UDP datagram as a stream of its own, its kind included.
pub fn large_header(source: u16, port: u16) -> [u8; LARGE_HEADER_LEN] {
    let ([a, b], [c, d]) = (source.to_be_bytes(), port.to_be_bytes());
    [STREAM_DATAGRAM, a, b, c, d, 0]
}

/// Read a QUIC datagram: source port, port, payload. `Ok(None)`: a kind of a later version.
pub fn parse_datagram(mut bytes: Bytes) -> Result<Option<(u16, u16, Bytes)>, WireError> {
    match bytes.first() {
        Some(&DATAGRAM_UDP) if bytes.len() >= DATAGRAM_HEADER_LEN => {
            bytes.advance(1);
            let (source, port) = (bytes.get_u16(), bytes.get_u16());
            Ok(Some((source, port, bytes)))
        }
        Some(&DATAGRAM_UDP) | None => Err(WireError("datagram too short")),
        Some(_) => Ok(None),
    }
}

/// Read a whole large datagram, its kind included.
pub fn parse_large(bytes: Bytes) -> Result<(u16, u16, Bytes), WireError> {
    let mut rest = bytes;
    if rest.len() < LARGE_HEADER_LEN {
        return Err(WireError("large datagram too short"));
    }
    rest.advance(1);
    let (source, port) = (rest.get_u16(), rest.get_u16());
    let extension = usize::from(rest.get_u8());
    if rest.len() < extension {
        return Err(WireError("large datagram too short"));
    }
    rest.advance(extension);
    Ok((source, port, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wire_format_is_frozen() {
        assert_eq!(tcp_header(5432), [0x01, 0x15, 0x38, 0x00]);
        assert_eq!(large_header(5353, 53), [0x11, 0x14, 0xe9, 0x00, 0x35, 0x00]);
        assert_eq!(
            &datagram(5353, 53, b"hi")[..],
            [0x01, 0x14, 0xe9, 0x00, 0x35, b'h', b'i']
        );
        let mut out = Vec::new();
        let (own, peer, epoch) = ([0xaa; 16], [0xbb; 16], 7);
        Frame::Hello { own, peer, epoch }.encode(&mut out);
        Frame::PathDead.encode(&mut out);
        Frame::Goodbye.encode(&mut out);
        let expected = [
            &[1, 0, 36][..],
            &[0xaa; 16],
            &[0xbb; 16],
            &[0, 0, 0, 7],
            &[2, 0, 0],
            &[3, 0, 0],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn extensions_and_frames_of_a_later_version_are_skipped() {
        assert_eq!(parse_tcp_header(&[1, 0, 80, 2, 9]), Ok(None));
        assert_eq!(parse_tcp_header(&[1, 0, 80, 2, 9, 9]), Ok(Some(80)));
        let large = Bytes::from_static(&[0x11, 0, 1, 0, 2, 1, 0xff, b'x']);
        assert_eq!(parse_large(large), Ok((1, 2, Bytes::from_static(b"x"))));
        let mut frames = vec![200, 0, 1, 42, 2, 0, 0];
        assert_eq!(Frame::decode(&mut frames), Ok(Some(Frame::Unknown(200))));
        assert_eq!(Frame::decode(&mut frames), Ok(Some(Frame::PathDead)));
        assert_eq!(parse_datagram(Bytes::from_static(&[77, 1])), Ok(None));
    }

    #[test]
    fn headers_that_cannot_be_right_are_refused() {
        assert!(parse_tcp_header(&[2]).is_err());
        assert!(parse_tcp_header(&[1, 0, 0, 0]).is_err(), "port 0");
        assert!(Frame::decode(&mut vec![1, 0, 3, 1, 2, 3]).is_err());
        assert!(Frame::decode(&mut vec![9, 0xff, 0xff]).is_err());
        assert!(parse_datagram(Bytes::from_static(&[1, 0])).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse_tcp_header(&bytes);
            let _ = parse_datagram(bytes.clone().into());
            let _ = parse_large(bytes.clone().into());
            let mut frames = bytes;
            while let Ok(Some(_)) = Frame::decode(&mut frames) {}
        }
    }
}
