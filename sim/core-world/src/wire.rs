//! How nodes and brokers talk over a connection: length, kind, content.
//!
//! It stands for the HTTP of the real ones (`holdfast_io::signal_http`): the same requests, one
//! at a time on each connection, each answered once.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_core::identity::PublicKey;
use holdfast_core::rendezvous::{Cursor, Refusal};

/// Longest message: as many envelopes as a mailbox holds.
const LEN_MAX: usize = 4 << 20;

/// What a node asks of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Put an envelope into its mailbox.
    Post(Bytes),
    /// Wait for what is newer than a cursor.
    Poll {
        /// Whose mailbox.
        mailbox: PublicKey,
        /// The cursor of the previous answer.
        after: Option<Cursor>,
        /// How long to wait.
        wait: Duration,
    },
}

/// What a broker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The envelope was taken.
    Posted,
    /// What there is.
    Messages(Cursor, Vec<Bytes>),
    /// It was refused.
    Refused {
        /// Trying again would be of no use.
        is_final: bool,
    },
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Answer {
        Answer::Refused {
            is_final: refusal == Refusal::Malformed,
        }
    }
}

/// Nobody of ours sent that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Take a whole message from the front of what has arrived.
///
/// # Errors
/// When it is longer than any message.
fn frame(buf: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(len) = buf.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*len) as usize;
    if len > LEN_MAX {
        return Err(Malformed);
    }
    if buf.len() < 4 + len {
        return Ok(None);
    }
    buf.advance(4);
    Ok(Some(buf.split_to(len).freeze()))
}

fn framed(kind: u8, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u32(0);
    out.put_u8(kind);
    write(&mut out);
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    out.freeze()
}

impl Request {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Request::Post(envelope) => framed(0, |out| out.put_slice(envelope)),
            Request::Poll {
                mailbox,
                after,
                wait,
            } => framed(1, |out| {
                out.put_slice(mailbox.as_bytes());
                out.put_u32(wait.as_millis() as u32);
                if let Some(cursor) = after {
                    out.put_u64(cursor.run);
                    out.put_u64(cursor.seq);
                }
            }),
        }
    }

    /// The next request, once it is whole.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Request>, Malformed> {
        let Some(mut body) = frame(buf)? else {
            return Ok(None);
        };
        let kind = body.try_get_u8().map_err(|_| Malformed)?;
        match kind {
            0 => Ok(Some(Request::Post(body))),
            1 if body.len() >= 36 => {
                let key = body.split_to(32);
                let key: [u8; 32] = key[..].try_into().map_err(|_| Malformed)?;
                let wait = Duration::from_millis(body.get_u32().into());
                let after = (body.len() >= 16).then(|| Cursor {
                    run: body.get_u64(),
                    seq: body.get_u64(),
                });
                Ok(Some(Request::Poll {
                    mailbox: PublicKey::from_bytes(key).map_err(|_| Malformed)?,
                    after,
                    wait,
                }))
            }
            _ => Err(Malformed),
        }
    }
}

impl Answer {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Answer::Posted => framed(0, |_| {}),
            Answer::Messages(cursor, envelopes) => framed(1, |out| {
                out.put_u64(cursor.run);
                out.put_u64(cursor.seq);
                for envelope in envelopes {
                    out.put_u32(envelope.len() as u32);
                    out.put_slice(envelope);
                }
            }),
            Answer::Refused { is_final } => framed(2, |out| out.put_u8(u8::from(*is_final))),
        }
    }

    /// The next answer, once it is whole.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Answer>, Malformed> {
        let Some(mut body) = frame(buf)? else {
            return Ok(None);
        };
        let kind = body.try_get_u8().map_err(|_| Malformed)?;
        match kind {
            0 => Ok(Some(Answer::Posted)),
            1 if body.len() >= 16 => {
                let cursor = Cursor {
                    run: body.get_u64(),
                    seq: body.get_u64(),
                };
                let mut envelopes = Vec::new();
                while !body.is_empty() {
                    let len = body.try_get_u32().map_err(|_| Malformed)? as usize;
                    if len > body.len() {
                        return Err(Malformed);
                    }
                    envelopes.push(body.split_to(len));
                }
                Ok(Some(Answer::Messages(cursor, envelopes)))
            }
            2 => Ok(Some(Answer::Refused {
                is_final: body.first() == Some(&1),
            })),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::identity::Identity;

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        let mailbox = Identity::from_seed([3; 32]).public();
        let cursor = Cursor { run: 7, seq: 9 };
        let poll = |after| Request::Poll {
            mailbox,
            after,
            wait: Duration::from_secs(25),
        };
        let requests = [
            Request::Post(Bytes::from_static(b"sealed")),
            poll(None),
            poll(Some(cursor)),
        ];
        let (mut buf, mut seen) = (BytesMut::new(), Vec::new());
        for byte in requests.iter().flat_map(Request::encode) {
            buf.put_u8(byte);
            seen.extend(Request::decode(&mut buf).expect("ours"));
        }
        assert_eq!(seen, requests);
        let envelopes = vec![Bytes::from_static(b"one"), Bytes::new()];
        let answers = [
            Answer::Posted,
            Answer::Messages(cursor, envelopes),
            Answer::Refused { is_final: true },
        ];
        let mut seen = Vec::new();
        for byte in answers.iter().flat_map(Answer::encode) {
            buf.put_u8(byte);
            seen.extend(Answer::decode(&mut buf).expect("ours"));
        }
        assert_eq!(seen, answers);
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        for bytes in [
            &[255; 9][..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 2, 1, 1],
            &[0, 0, 0, 1, 9],
        ] {
            assert!(Request::decode(&mut bytes.into()).is_err(), "{bytes:?}");
            assert!(Answer::decode(&mut bytes.into()).is_err(), "{bytes:?}");
        }
    }
}
