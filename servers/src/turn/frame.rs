//! Where one message ends in a TCP byte stream (RFC 8656 section 12.5).

use stun_types::message::{MAGIC_COOKIE, MessageHeader};

/// Longest frame in a TCP stream, in bytes: what the 16-bit lengths allow, with padding.
/// A read buffer of this size always holds one.
pub const FRAME_LEN_MAX: usize = MessageHeader::LENGTH + 65_536;
/// ChannelData's header: channel number and length.
pub(super) const CHANNEL_HEADER_LEN: usize = 4;

/// What a buffer starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Not yet a whole message.
    Incomplete,
    /// A STUN message of this many bytes.
    Stun(usize),
    /// ChannelData of `len` bytes with its header, `padded` bytes with what follows it.
    Channel { len: usize, padded: usize },
    /// Neither: the stream cannot be resynchronised.
    Malformed,
}

/// Find the first frame of a stream.
pub(super) fn first_frame(stream: &[u8]) -> Frame {
    let Some(header) = stream.first_chunk::<CHANNEL_HEADER_LEN>() else {
        return Frame::Incomplete;
    };
    let body = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let (frame, len) = match header[0] >> 6 {
        0b00 if body.is_multiple_of(4) => {
            let len = MessageHeader::LENGTH + body;
            (Frame::Stun(len), len)
        }
        0b01 => {
            let len = CHANNEL_HEADER_LEN + body;
            let padded = len.next_multiple_of(4);
            (Frame::Channel { len, padded }, padded)
        }
        _ => return Frame::Malformed,
    };
    let cookie = stream.get(4..8);
    let stun = matches!(frame, Frame::Stun(_));
    if stun && cookie.is_some_and(|cookie| cookie != MAGIC_COOKIE.to_be_bytes()) {
        return Frame::Malformed;
    }
    if stream.len() < len {
        return Frame::Incomplete;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_in_a_stream_is_padded_to_four_bytes() {
        let stream = [0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        assert_eq!(first_frame(&stream[..11]), Frame::Incomplete);
        assert_eq!(first_frame(&stream), Frame::Channel { len: 9, padded: 12 });
    }

    #[test]
    fn a_stream_of_something_else_is_recognised_early() {
        assert_eq!(first_frame(&[0x16, 3, 1, 2]), Frame::Malformed);
        assert_eq!(first_frame(&[0, 1, 0, 0, 1, 2, 3, 4]), Frame::Malformed);
        assert_eq!(first_frame(&[0x80; 4]), Frame::Malformed);
    }
}
