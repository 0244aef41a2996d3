//! The flight recorder: a bounded ring of what went in and out of a node.
//!
//! The same records make a simulator's trace. They hold addresses, lengths and names, never
//! content: no key, no credential and no application byte can leak through a dump.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use serde::Serialize;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A datagram arrived.
    Rx {
        /// Its source.
        from: SocketAddr,
        /// Its length.
        len: usize,
        /// Its content's hash, when traces are compared.
        hash: u64,
    },
    /// Datagrams left.
    Tx {
        /// The destination.
        to: SocketAddr,
        /// Bytes in all.
        len: usize,
        /// Bytes of each but the last.
        segment: usize,
        /// Their content's hash, when traces are compared.
        hash: u64,
    },
    /// An input outside the hot path.
    Input {
        /// What it was.
        what: String,
    },
    /// A deadline was due.
    Deadline {
        /// Which.
        why: &'static str,
    },
    /// An output outside the hot path.
    Output {
        /// What it was.
        what: String,
    },
}

#[derive(Serialize)]
struct Line {
    t_ns: u64,
    #[serde(flatten)]
    record: Record,
}

/// A record as it is kept: text that is made often is made when somebody reads it.
#[derive(Clone, Debug)]
enum Kept {
    Whole(Record),
    Udp { to: SocketAddr, len: usize },
}

impl Kept {
    fn into_record(self) -> Record {
        match self {
            Kept::Whole(record) => record,
            Kept::Udp { to, len } => Record::Output {
                what: format!("udp to {to} {len} bytes"),
            },
        }
    }
}

/// The latest records of a node.
#[derive(Debug)]
pub struct Recorder {
    origin: Instant,
    records: VecDeque<(Instant, Kept)>,
    len_max: usize,
    hashing: bool,
    dropped: u64,
}

impl Recorder {
    /// A recorder that keeps the latest `len_max` records.
    pub fn new(origin: Instant, len_max: usize) -> Recorder {
        Recorder {
            origin,
            records: VecDeque::new(),
            len_max,
            hashing: false,
            dropped: 0,
        }
    }

    /// Also hash what datagrams contain, so that two traces can be compared byte for byte.
    pub fn hash_content(&mut self) {
        self.hashing = true;
    }

    /// The hash of a datagram's content, or 0 when that is off.
    pub fn hash(&self, content: &[u8]) -> u64 {
        if self.hashing { hash(content) } else { 0 }
    }

    /// Something happened.
    pub fn record(&mut self, at: Instant, record: Record) {
        self.keep(at, Kept::Whole(record));
    }

    /// A datagram of so many bytes is to be delivered.
    pub fn record_udp(&mut self, at: Instant, to: SocketAddr, len: usize) {
        self.keep(at, Kept::Udp { to, len });
    }

    fn keep(&mut self, at: Instant, record: Kept) {
        if self.len_max == 0 {
            return;
        }
        if self.records.len() >= self.len_max {
            self.records.pop_front();
            self.dropped += 1;
        }
        self.records.push_back((at, record));
    }

    /// Every record, oldest first: its time in nanoseconds since the start, and itself.
    pub fn records(&self) -> impl Iterator<Item = (u64, Record)> {
        self.records.iter().map(|(at, record)| {
            let t = at.saturating_duration_since(self.origin).as_nanos();
            (t as u64, record.clone().into_record())
        })
    }

    /// Take every record out, oldest first: its time in nanoseconds since the start, and itself.
    pub fn drain(&mut self) -> impl Iterator<Item = (u64, Record)> {
        let origin = self.origin;
        self.records.drain(..).map(move |(at, record)| {
            let t = at.saturating_duration_since(origin).as_nanos();
            (t as u64, record.into_record())
        })
    }

    /// Every record as a line of JSON, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.records()
            .map(|(t_ns, record)| {
                serde_json::to_string(&Line { t_ns, record })
                    .expect("numbers, addresses and text are always JSON")
            })
            .collect()
    }
}

/// A 64-bit hash for comparing traces: not for keys, and not against malice.
fn hash(content: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = content.len() as u64;
    for chunk in content.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(K);
    }
    state ^ (state >> 32)
}
