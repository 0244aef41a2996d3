//! The bytes that applications send, and how a receiver checks them.
//!
//! Every byte is a function of its operation and its place, so that a receiver needs no copy of
//! what was sent to notice that one was altered, lost, repeated, moved or mixed up with another
//! stream's. Nothing here knows a socket: every world uses the same two ends.

use crate::OpId;

/// Begins every stream and datagram.
const MAGIC: u32 = 0x4844_4641;
/// Bytes at the start of a stream that say which it is: magic, operation, total length.
pub const HEADER_LEN: usize = 16;
/// Bytes at the start of a datagram: magic, operation, sequence number, length.
pub const DATAGRAM_HEADER_LEN: usize = 16;

/// Writes the bytes of a stream from an offset behind its header on: words of eight.
fn fill(key: u64, offset: u64, out: &mut [u8]) {
    let word = |at: u64| mix(key ^ at).to_le_bytes();
    let begun = (offset % 8) as usize;
    let head = out.len().min((8 - begun) % 8);
    let (head, rest) = out.split_at_mut(head);
    head.copy_from_slice(&word(offset / 8)[begun..][..head.len()]);
    let first = offset.div_ceil(8);
    for (at, chunk) in (first..).zip(rest.chunks_mut(8)) {
        chunk.copy_from_slice(&word(at)[..chunk.len()]);
    }
}

/// SplitMix64's finalizer: every bit of the input changes half of the output.
fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn stream_key(op: OpId) -> u64 {
    mix(u64::from(op.0)) << 1
}

/// What a client sends over one stream.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    op: OpId,
    total: u64,
}

impl Source {
    /// A stream of `total` bytes, its header included.
    #[must_use]
    pub const fn new(op: OpId, total: u64) -> Source {
        Source { op, total }
    }

    /// Bytes in all.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Writes what belongs at `offset`; returns how much of `out` that is, 0 at the end.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> usize {
        let left = self.total.saturating_sub(offset);
        let len = usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
        let (mut at, mut out) = (offset, &mut out[..len]);
        if at < HEADER_LEN as u64 {
            let header = self.header();
            let rest = &header[at as usize..];
            let taken = rest.len().min(out.len());
            out[..taken].copy_from_slice(&rest[..taken]);
            out = &mut out[taken..];
            at += taken as u64;
        }
        fill(stream_key(self.op), at, out);
        len
    }

    fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&self.op.0.to_le_bytes());
        header[8..].copy_from_slice(&self.total.to_le_bytes());
        header
    }
}

/// A receiver's judgement of one stream, chunk by chunk.
#[derive(Clone, Debug, Default)]
pub struct Check {
    header: Vec<u8>,
    source: Option<Source>,
    received: u64,
    altered_at: Option<u64>,
}

impl Check {
    /// A receiver that learns from the header which stream it is.
    #[must_use]
    pub fn new() -> Check {
        Check::default()
    }

    /// A receiver that knows which stream it has to be: a client that reads an echo.
    #[must_use]
    pub fn expecting(source: Source) -> Check {
        Check {
            source: Some(source),
            ..Check::default()
        }
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.source.is_none() {
            let wanted = HEADER_LEN - self.header.len();
            let taken = wanted.min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            if self.header.len() < HEADER_LEN {
                return;
            }
            self.source = parse(&self.header);
            let header = std::mem::take(&mut self.header);
            self.compare(&header);
            return self.compare(&bytes[taken..]);
        }
        self.compare(bytes);
    }

    fn compare(&mut self, bytes: &[u8]) {
        let mut expected = [0; 4096];
        for chunk in bytes.chunks(expected.len()) {
            let known = self.source.map_or(0, |source| {
                source.read_at(self.received, &mut expected[..chunk.len()])
            });
            if self.altered_at.is_none() && expected[..known] != *chunk {
                let same = chunk.iter().zip(&expected[..known]);
                let same = same.take_while(|(a, b)| a == b).count();
                self.altered_at = Some(self.received + same as u64);
            }
            self.received += chunk.len() as u64;
        }
    }

    /// Which operation it belongs to, once the header is there and is one.
    #[must_use]
    pub fn op(&self) -> Option<OpId> {
        self.source.map(|source| source.op)
    }

    /// How long the stream has to be, once that is known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.source.map(|source| source.total)
    }

    /// Bytes so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received + self.header.len() as u64
    }

    /// The offset of the first byte that is not what was sent.
    #[must_use]
    pub const fn altered_at(&self) -> Option<u64> {
        self.altered_at
    }

    /// Whether every byte of the stream is there, and nothing else.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.altered_at.is_none() && self.total() == Some(self.received)
    }
}

fn parse(header: &[u8]) -> Option<Source> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (op, total) = rest.split_first_chunk::<4>()?;
    let total: [u8; 8] = total.try_into().ok()?;
    (u32::from_le_bytes(*magic) == MAGIC).then(|| Source {
        op: OpId(u32::from_le_bytes(*op)),
        total: u64::from_le_bytes(total),
    })
}

/// The datagram of an operation with that sequence number.
#[must_use]
pub fn datagram(op: OpId, sequence: u32, len_bytes: u32) -> Vec<u8> {
    let mut out = vec![0; (len_bytes as usize).max(DATAGRAM_HEADER_LEN)];
    let len = out.len() as u32;
    for (n, word) in [MAGIC, op.0, sequence, len].into_iter().enumerate() {
        out[4 * n..4 * n + 4].copy_from_slice(&word.to_le_bytes());
    }
    let key = stream_key(op) ^ (u64::from(sequence) << 32) ^ 1;
    fill(key, 0, &mut out[DATAGRAM_HEADER_LEN..]);
    out
}

/// Which operation and sequence number a datagram has; `None` when nobody sent it like that.
#[must_use]
pub fn check_datagram(bytes: &[u8]) -> Option<(OpId, u32)> {
    let mut words = [0; 4];
    for (n, word) in words.iter_mut().enumerate() {
        *word = u32::from_le_bytes(bytes.get(4 * n..4 * n + 4)?.try_into().ok()?);
    }
    let [_, op, sequence, _] = words;
    let op = OpId(op);
    let len = u32::try_from(bytes.len()).ok()?;
    (datagram(op, sequence, len) == bytes).then_some((op, sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Source = Source::new(OpId(7), 10_000);

    fn sent() -> Vec<u8> {
        let mut bytes = vec![0; 20_000];
        let len = SOURCE.read_at(0, &mut bytes);
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let whole = sent();
        assert_eq!(whole.len(), 10_000);
        let (mut parts, mut check) = (Vec::new(), Check::new());
        for len in (1..200).cycle() {
            let mut part = vec![0; len];
            let len = SOURCE.read_at(parts.len() as u64, &mut part);
            if len == 0 {
                break;
            }
            check.feed(&part[..len]);
            parts.extend_from_slice(&part[..len]);
        }
        assert_eq!(parts, whole);
        assert!(check.is_complete());
        assert_eq!(check.op(), Some(OpId(7)));
    }

    #[test]
    fn one_altered_byte_is_found_where_it_is() {
        for at in [0, 5, 15, 16, 4096, 9_999] {
            let mut bytes = sent();
            bytes[at] ^= 0x10;
            let mut check = Check::expecting(SOURCE);
            check.feed(&bytes);
            assert_eq!(check.altered_at(), Some(at as u64));
        }
    }

    #[test]
    fn two_bytes_that_changed_places_a_lost_one_and_one_too_many_are_found() {
        let mut swapped = sent();
        swapped.swap(5_000, 5_008);
        let mut lost = sent();
        lost.remove(5_000);
        let mut long = sent();
        long.push(1);
        for bytes in [swapped, lost, long] {
            let mut check = Check::new();
            check.feed(&bytes);
            assert!(check.altered_at().is_some());
        }
    }

    #[test]
    fn a_datagram_is_known_by_every_byte_of_it() {
        let bytes = datagram(OpId(3), 99, 500);
        assert_eq!(check_datagram(&bytes), Some((OpId(3), 99)));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_eq!(check_datagram(&other), None, "byte {at}");
        }
        assert_eq!(check_datagram(&bytes[..499]), None);
        assert_eq!(check_datagram(b""), None);
    }
}
