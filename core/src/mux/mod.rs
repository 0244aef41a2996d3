//! Many streams and datagrams over one QUIC connection.
//!
//! Each TCP connection is one bidirectional stream, so that half-close, reset and
//! back-pressure are QUIC's own. Unread bytes stay in QUIC: a stream's window is the most
//! that a stopped reader can hold, and the connection's window is streams × window, so that
//! any number of stopped readers leaves the next one its full credit.

mod udp;
pub mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quinn_proto::{Connection, Dir, StreamId as QuicId, VarInt};

use crate::config::{AllowRule, Limits};
use crate::mesh::{OpenError, Read, ResetReason, StreamClosed};
use crate::quic::{
    FinishError, ReadError, SendDatagramError, StreamEvent, UNI_STREAMS_MAX, WriteError,
};
pub use udp::{FLOWS_MAX, Flows};
use wire::{Frame, WireError};

/// Largest UDP payload over IPv4: 65,535 less the IP and UDP headers.
pub const DATAGRAM_LEN_MAX: usize = 65_507;
/// Largest unidirectional stream that is kept: a datagram, its header and its extension.
const UNI_LEN_MAX: usize = DATAGRAM_LEN_MAX + wire::LARGE_HEADER_LEN + 255;

/// What happened on the connection.
#[derive(Debug)]
pub enum MuxEvent {
    /// A peer's stream to an allowed port.
    Incoming {
        /// The stream.
        id: u64,
        /// The port.
        port: u16,
    },
    /// There is something to read.
    Readable(u64),
    /// There is room to write, or nobody reads any more.
    Writable(u64),
    /// The peer gave the stream up.
    Broken(u64, ResetReason),
    /// A control frame.
    Frame(Frame),
    /// A UDP datagram.
    Datagram {
        /// The peer's port.
        source: u16,
        /// Our port.
        port: u16,
        /// What it carries.
        payload: Bytes,
    },
    /// The peer was refused something; the name of the counter and what it was.
    Refused(&'static str, String),
}

/// A stream in use.
#[derive(Debug)]
enum Stream {
    /// The peer opened it; its header is not whole yet.
    Header(Vec<u8>),
    /// Between two applications.
    Open(Open),
}

#[derive(Debug, Default)]
struct Open {
    /// What is left of our header.
    header: Bytes,
    /// Our half closes once the header has left.
    closing: bool,
    /// We closed our half.
    finishing: bool,
    /// We closed our half, and the peer has all of it, or does not want it.
    finished: bool,
    /// The peer closed its half and everything was read.
    read_finished: bool,
}

/// The streams of one session.
pub struct Mux {
    allow: Arc<[AllowRule]>,
    streams: BTreeMap<u64, Stream>,
    unis: BTreeMap<u64, Vec<u8>>,
    control: Option<QuicId>,
    control_unsent: Vec<u8>,
    events: VecDeque<MuxEvent>,
    /// Bytes of datagrams that wait in QUIC's send buffer.
    datagrams_unsent: usize,
    /// How many of them it takes.
    datagrams_unsent_max: usize,
    /// Datagrams that did not fit into the send buffer or any stream.
    pub datagrams_dropped: u64,
}

fn quic(id: u64) -> QuicId {
    VarInt::from_u64(id)
        .expect("made from a stream id before")
        .into()
}

fn number(id: QuicId) -> u64 {
    VarInt::from(id).into_inner()
}

impl Mux {
    /// No streams yet; QUIC keeps at most so many bytes of datagrams to send.
    pub fn new(allow: Arc<[AllowRule]>, datagrams_unsent_max: usize) -> Mux {
        Mux {
            allow,
            streams: BTreeMap::new(),
            unis: BTreeMap::new(),
            control: None,
            control_unsent: Vec::new(),
            events: VecDeque::new(),
            datagrams_unsent: 0,
            datagrams_unsent_max,
            datagrams_dropped: 0,
        }
    }

    /// How many streams are open.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// What can fill, and how full it is.
    pub fn queues(&self, limits: &Limits, push: &mut impl FnMut(&str, usize, usize)) {
        // As many of ours as of the peer's, whose limit is its own.
        let streams_max = 2 * limits.streams_per_link as usize;
        push("streams", self.streams.len(), streams_max);
        let unis_max = UNI_STREAMS_MAX as usize;
        push("large_datagrams", self.unis.len(), unis_max);
        let (unsent, max) = (self.datagrams_unsent, self.datagrams_unsent_max);
        push("datagrams_unsent_bytes", unsent, max);
        let frames = self.control_unsent.len();
        push("control_unsent_bytes", frames, 2 * wire::FRAME_LEN_MAX);
    }

    /// QUIC has made packets: note what is left to send.
    pub fn packets_left(&mut self, connection: &mut Connection) {
        if self.datagrams_unsent > 0 {
            self.note_unsent(connection);
        }
    }

    fn note_unsent(&mut self, connection: &mut Connection) {
        let room = connection.datagrams().send_buffer_space();
        self.datagrams_unsent = self.datagrams_unsent_max.saturating_sub(room);
    }

    /// Streams that the peer opens from now on meet these rules.
    pub fn set_allow(&mut self, allow: Arc<[AllowRule]>) {
        self.allow = allow;
    }

    /// The streams that an application knows of.
    pub fn open_streams(&self) -> impl Iterator<Item = u64> {
        self.streams
            .iter()
            .filter(|(_, stream)| matches!(stream, Stream::Open(_)))
            .map(|(id, _)| *id)
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<MuxEvent> {
        self.events.pop_front()
    }

    /// Say something on the control stream.
    pub fn send_frame(&mut self, connection: &mut Connection, frame: &Frame) {
        if self.control.is_none() {
            self.control = connection.streams().open(Dir::Uni);
            self.control_unsent.push(wire::STREAM_CONTROL);
        }
        // A peer that does not read its control stream for so long is beyond frames.
        if self.control_unsent.len() <= wire::FRAME_LEN_MAX {
            frame.encode(&mut self.control_unsent);
        }
        self.flush_control(connection);
    }

    fn flush_control(&mut self, connection: &mut Connection) {
        let Some(id) = self.control else {
            return;
        };
        while !self.control_unsent.is_empty()
            && let Ok(written) = connection.send_stream(id).write(&self.control_unsent)
        {
            self.control_unsent.drain(..written);
        }
    }

    /// QUIC reports something of a stream.
    pub fn handle_event(&mut self, connection: &mut Connection, event: StreamEvent) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(id) = connection.streams().accept(dir) {
                    match dir {
                        Dir::Bi => {
                            self.streams.insert(number(id), Stream::Header(Vec::new()));
                            self.read_header(connection, id);
                        }
                        Dir::Uni => {
                            self.unis.insert(number(id), Vec::new());
                            self.read_uni(connection, id);
                        }
                    }
                }
            }
            StreamEvent::Readable { id } if id.dir() == Dir::Uni => self.read_uni(connection, id),
            StreamEvent::Readable { id } => match self.streams.get(&number(id)) {
                Some(Stream::Header(_)) => self.read_header(connection, id),
                Some(Stream::Open(_)) => self.readable(connection, id),
                None => {}
            },
            StreamEvent::Stopped { id, error_code } if self.is_finishing(id) => {
                // Nobody writes any more who would notice.
                let _ = connection.send_stream(id).reset(error_code);
                self.sent_everything(id);
            }
            StreamEvent::Writable { id } | StreamEvent::Stopped { id, .. } => {
                if Some(id) == self.control {
                    self.flush_control(connection);
                } else if let Some(Stream::Open(open)) = self.streams.get_mut(&number(id)) {
                    let _ = flush_header(connection, id, open);
                    if open.closing {
                        self.finish(connection, number(id));
                    }
                    mark!("stream/writable-again");
                    self.events.push_back(MuxEvent::Writable(number(id)));
                }
            }
            StreamEvent::Finished { id } => self.sent_everything(id),
            StreamEvent::Available { .. } => {}
        }
    }

    /// A reset counts at once, as in TCP: the application may be too slow to read up to it.
    fn readable(&mut self, connection: &mut Connection, id: QuicId) {
        let event = match connection.recv_stream(id).received_reset() {
            Ok(Some(code)) => {
                mark!("stream/reset-by-peer");
                self.streams.remove(&number(id));
                // Our half may have ended by itself.
                let _ = connection.send_stream(id).reset(code);
                MuxEvent::Broken(number(id), reason_of(code))
            }
            _ => MuxEvent::Readable(number(id)),
        };
        self.events.push_back(event);
    }

    /// Whether we closed our half and the peer has yet to take all of it.
    fn is_finishing(&self, id: QuicId) -> bool {
        matches!(
            self.streams.get(&number(id)),
            Some(Stream::Open(open)) if open.finishing || open.closing
        )
    }

    fn sent_everything(&mut self, id: QuicId) {
        if let Some(Stream::Open(open)) = self.streams.get_mut(&number(id)) {
            open.finished = true;
            self.forget_if_done(number(id));
        }
    }

    /// QUIC has datagrams.
    pub fn read_datagrams(&mut self, connection: &mut Connection) {
        while let Some(bytes) = connection.datagrams().recv() {
            match wire::parse_datagram(bytes) {
                Ok(Some((source, port, payload))) => self.events.push_back(MuxEvent::Datagram {
                    source,
                    port,
                    payload,
                }),
                Ok(None) => {}
                Err(error) => self.refuse("datagram_malformed", error),
            }
        }
    }

    fn refuse(&mut self, counter: &'static str, error: WireError) {
        let detail = error.to_string();
        self.events.push_back(MuxEvent::Refused(counter, detail));
    }

    fn read_header(&mut self, connection: &mut Connection, id: QuicId) {
        let Some(Stream::Header(header)) = self.streams.get_mut(&number(id)) else {
            return;
        };
        loop {
            match wire::parse_tcp_header(header) {
                Err(error) => {
                    self.refuse("stream_header_malformed", error);
                    self.reset(connection, number(id), ResetReason::BadHeader);
                    return;
                }
                Ok(Some(port)) => {
                    self.admit(connection, id, port);
                    return;
                }
                Ok(None) => {}
            }
            match read_some(connection, id, wire::tcp_header_missing(header)) {
                Ok(Read::Data(bytes)) => header.extend_from_slice(&bytes),
                Ok(Read::Blocked) => return,
                Ok(Read::Finished) | Err(_) => {
                    self.refuse("stream_header_malformed", WireError("ended too soon"));
                    self.reset(connection, number(id), ResetReason::BadHeader);
                    return;
                }
            }
        }
    }

    /// The receiving side decides which ports may be reached.
    fn admit(&mut self, connection: &mut Connection, id: QuicId, port: u16) {
        let allowed = self.allow.iter().any(|rule| rule.port == port);
        if !allowed && !planted!(SkipAllowlist) {
            mark!("stream/not-allowed");
            let what = format!("TCP port {port} is not on the allowlist");
            let refused = MuxEvent::Refused("port_not_allowed", what);
            self.events.push_back(refused);
            self.reset(connection, number(id), ResetReason::NotAllowed);
            return;
        }
        let id = number(id);
        self.streams.insert(id, Stream::Open(Open::default()));
        self.events.push_back(MuxEvent::Incoming { id, port });
        self.events.push_back(MuxEvent::Readable(id));
    }

    fn read_uni(&mut self, connection: &mut Connection, id: QuicId) {
        loop {
            let Some(buffer) = self.unis.get_mut(&number(id)) else {
                return;
            };
            match read_some(connection, id, UNI_LEN_MAX + 1 - buffer.len()) {
                Ok(Read::Data(bytes)) => {
                    buffer.extend_from_slice(&bytes);
                    if let Err(error) = self.check_uni(number(id)) {
                        self.refuse("stream_malformed", error);
                        self.unis.remove(&number(id));
                        let code = code_of(ResetReason::BadHeader);
                        let _ = connection.recv_stream(id).stop(code);
                        return;
                    }
                }
                Ok(Read::Blocked) => return,
                Ok(Read::Finished) => {
                    let whole = self.unis.remove(&number(id)).unwrap_or_default();
                    if whole.first() == Some(&wire::STREAM_DATAGRAM) {
                        self.large_datagram(whole);
                    }
                    return;
                }
                Err(_) => {
                    self.unis.remove(&number(id));
                    return;
                }
            }
        }
    }

    /// Look at what a unidirectional stream holds so far.
    fn check_uni(&mut self, id: u64) -> Result<(), WireError> {
        let buffer = self.unis.get_mut(&id).expect("checked by the caller");
        match buffer.first() {
            Some(&wire::STREAM_CONTROL) => {
                // The kind stays in front, to recognise the stream by.
                let mut frames = buffer.split_off(1);
                while let Some(frame) = Frame::decode(&mut frames)? {
                    self.events.push_back(MuxEvent::Frame(frame));
                }
                let buffer = self.unis.get_mut(&id).expect("checked by the caller");
                buffer.append(&mut frames);
                Ok(())
            }
            Some(&wire::STREAM_DATAGRAM) if buffer.len() <= UNI_LEN_MAX => Ok(()),
            Some(&wire::STREAM_DATAGRAM) => Err(WireError("datagram too large")),
            Some(_) => Err(WireError("unknown stream kind")),
            None => Ok(()),
        }
    }

    fn large_datagram(&mut self, whole: Vec<u8>) {
        match wire::parse_large(whole.into()) {
            Ok((source, port, payload)) => self.events.push_back(MuxEvent::Datagram {
                source,
                port,
                payload,
            }),
            Err(error) => self.refuse("datagram_malformed", error),
        }
    }

    /// Open a stream to the peer's port.
    pub fn open(&mut self, connection: &mut Connection, port: u16) -> Result<u64, OpenError> {
        let opened = connection.streams().open(Dir::Bi);
        let id = opened.ok_or(OpenError::TooManyStreams)?;
        let mut open = Open {
            header: Bytes::copy_from_slice(&wire::tcp_header(port)),
            ..Open::default()
        };
        let _ = flush_header(connection, id, &mut open);
        self.streams.insert(number(id), Stream::Open(open));
        Ok(number(id))
    }

    fn get(&mut self, id: u64) -> Result<&mut Open, StreamClosed> {
        match self.streams.get_mut(&id) {
            Some(Stream::Open(open)) => Ok(open),
            _ => Err(StreamClosed {
                reason: ResetReason::LinkDown,
            }),
        }
    }

    /// Take bytes from the front of `chunks`; returns how many. When it is not all of them, an event
    /// tells of room for more. An error ends the stream in both directions.
    pub fn write(
        &mut self,
        connection: &mut Connection,
        id: u64,
        chunks: &mut [Bytes],
    ) -> Result<usize, StreamClosed> {
        let open = self.get(id)?;
        let written = match flush_header(connection, quic(id), open) {
            Ok(()) if !open.header.is_empty() => Ok(0),
            Ok(()) => write_chunks(connection, id, chunks),
            Err(error) => Err(error),
        };
        let reason = match written {
            Ok(written) => return Ok(written),
            Err(WriteError::Blocked) => {
                mark!("stream/blocked");
                return Ok(0);
            }
            Err(WriteError::Stopped(code)) => reason_of(code),
            Err(WriteError::ClosedStream) => ResetReason::Reset,
        };
        self.reset(connection, id, reason);
        Err(StreamClosed { reason })
    }

    /// The next bytes, at most `max`.
    pub fn read(
        &mut self,
        connection: &mut Connection,
        id: u64,
        max: usize,
    ) -> Result<Read, StreamClosed> {
        let open = self.get(id)?;
        if open.read_finished {
            return Ok(Read::Finished);
        }
        let mut read = read_some(connection, quic(id), max);
        if planted!(EarlyFinish, 64) && matches!(read, Ok(Read::Blocked)) {
            read = Ok(Read::Finished);
        }
        if planted!(ReorderStreamBytes, 64)
            && let Ok(Read::Data(bytes)) = &mut read
        {
            let half = bytes.len() / 2;
            *bytes = [&bytes[half..], &bytes[..half]].concat().into();
        }
        match &read {
            Ok(Read::Finished) => {
                open.read_finished = true;
                self.forget_if_done(id);
            }
            Ok(_) => {}
            // A stream that broke is given up in both directions, or its credit is lost.
            Err(closed) => self.reset(connection, id, closed.reason),
        }
        read
    }

    /// Close our half: what was written before arrives first.
    pub fn finish(&mut self, connection: &mut Connection, id: u64) {
        let Ok(open) = self.get(id) else {
            return;
        };
        let _ = flush_header(connection, quic(id), open);
        open.closing = !open.header.is_empty();
        if open.closing {
            return;
        }
        match connection.send_stream(quic(id)).finish() {
            // `StreamEvent::Finished` follows when everything has arrived.
            Ok(()) => open.finishing = true,
            Err(FinishError::Stopped(_) | FinishError::ClosedStream) => {
                open.finished = true;
                self.forget_if_done(id);
            }
        }
    }

    fn forget_if_done(&mut self, id: u64) {
        if let Ok(open) = self.get(id)
            && open.finished
            && open.read_finished
        {
            mark!("stream/finished");
            self.streams.remove(&id);
        }
    }

    /// Give a stream up in both directions.
    pub fn reset(&mut self, connection: &mut Connection, id: u64, reason: ResetReason) {
        if self.streams.remove(&id).is_some() {
            if reason == ResetReason::Refused {
                mark!("stream/refused");
            }
            let code = code_of(reason);
            // One half may have ended by itself.
            let _ = connection.send_stream(quic(id)).reset(code);
            let _ = connection.recv_stream(quic(id)).stop(code);
        }
    }

    /// Send a UDP datagram: in a packet when it fits, else as a stream of its own.
    pub fn send_datagram(
        &mut self,
        connection: &mut Connection,
        source: u16,
        port: u16,
        payload: &[u8],
    ) {
        let fits = connection
            .datagrams()
            .max_size()
            .is_some_and(|max| payload.len() + wire::DATAGRAM_HEADER_LEN <= max);
        if fits {
            let bytes = wire::datagram(source, port, payload);
            if connection.datagrams().send_buffer_space() < bytes.len() {
                mark!("datagram/dropped");
                // QUIC makes room by dropping the oldest.
                self.datagrams_dropped += 1;
            }
            match connection.datagrams().send(bytes, true) {
                Ok(()) => {}
                Err(
                    SendDatagramError::TooLarge
                    | SendDatagramError::Blocked(_)
                    | SendDatagramError::Disabled
                    | SendDatagramError::UnsupportedByPeer,
                ) => self.datagrams_dropped += 1,
            }
            self.note_unsent(connection);
        } else if send_large(connection, source, port, payload) {
            mark!("datagram/as-stream");
        } else {
            mark!("datagram/dropped");
            self.datagrams_dropped += 1;
        }
    }
}

fn write_chunks(
    connection: &mut Connection,
    id: u64,
    chunks: &mut [Bytes],
) -> Result<usize, WriteError> {
    let mut stream = connection.send_stream(quic(id));
    // Without bytes to write, QUIC would not say that nobody reads them.
    if let Ok(Some(code)) = stream.stopped() {
        return Err(WriteError::Stopped(code));
    }
    let mut written = 0;
    // Until it takes no more: QUIC tells of new room only to a stream that it has refused, and a
    // part that just fits what all streams may hold is no refusal.
    while written == 0 || chunks.iter().any(|chunk| !chunk.is_empty()) {
        match stream.write_chunks(chunks) {
            Ok(taken) if taken.bytes == 0 => break,
            Ok(taken) => written += taken.bytes,
            Err(WriteError::Blocked) if written > 0 => {
                mark!("stream/blocked");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

fn send_large(connection: &mut Connection, source: u16, port: u16, payload: &[u8]) -> bool {
    if payload.len() > DATAGRAM_LEN_MAX {
        return false;
    }
    let Some(id) = connection.streams().open(Dir::Uni) else {
        return false;
    };
    let whole = [&wire::large_header(source, port)[..], payload].concat();
    let mut stream = connection.send_stream(id);
    let sent = stream.write(&whole) == Ok(whole.len()) && stream.finish().is_ok();
    if !sent {
        // A datagram is sent at once and as a whole, or not at all.
        let _ = stream.reset(code_of(ResetReason::Limit));
    }
    sent
}

fn flush_header(
    connection: &mut Connection,
    id: QuicId,
    open: &mut Open,
) -> Result<(), WriteError> {
    while !open.header.is_empty() {
        match connection.send_stream(id).write(&open.header) {
            Ok(written) => drop(open.header.split_to(written)),
            Err(WriteError::Blocked) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_some(connection: &mut Connection, id: QuicId, max: usize) -> Result<Read, StreamClosed> {
    let closed = StreamClosed {
        reason: ResetReason::Reset,
    };
    let mut stream = connection.recv_stream(id);
    let mut chunks = stream.read(true).map_err(|_| closed)?;
    let read = match chunks.next(max) {
        Ok(Some(chunk)) => Ok(Read::Data(chunk.bytes)),
        Ok(None) => Ok(Read::Finished),
        Err(ReadError::Blocked) => Ok(Read::Blocked),
        Err(ReadError::Reset(code)) => Err(StreamClosed {
            reason: reason_of(code),
        }),
    };
    // Whether there is a window to announce shows at the next `poll_transmit`.
    let _ = chunks.finalize();
    read
}

/// The QUIC application error code of a reason. Frozen.
pub fn code_of(reason: ResetReason) -> VarInt {
    VarInt::from_u32(match reason {
        ResetReason::Reset => 1,
        ResetReason::Refused => 2,
        ResetReason::NotAllowed => 3,
        ResetReason::Limit => 4,
        ResetReason::BadHeader => 5,
        ResetReason::LinkDown => 6,
    })
}

fn reason_of(code: VarInt) -> ResetReason {
    match code.into_inner() {
        2 => ResetReason::Refused,
        3 => ResetReason::NotAllowed,
        4 => ResetReason::Limit,
        5 => ResetReason::BadHeader,
        6 => ResetReason::LinkDown,
        _ => ResetReason::Reset,
    }
}
