//! Applications: the two ends of a stream, and what they report.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::mesh::{Mesh, Read, ResetReason};
use holdfast_core::time::Now;
use holdfast_core::types::StreamId;
use holdfast_plan::traffic::{Check, Source};
use holdfast_plan::{NodeIndex, OpId, Service, Side, StreamReport};

/// Bytes that are made and offered at once.
const CHUNK: usize = 16 * 1024;
/// Bytes that an echo holds before it stops reading.
const ECHO_BUFFER: usize = 256 * 1024;
/// Bytes that are read at once.
const READ_MAX: usize = 64 * 1024;

/// An application's end of one stream.
#[derive(Debug)]
pub struct App {
    /// What is served at the other end, or here.
    pub service: Option<Service>,
    /// Whether this is the end that serves.
    pub incoming: bool,
    /// The node at the other end.
    pub peer: Option<NodeIndex>,
    /// Which operation this is the client of.
    pub op: Option<OpId>,
    source: Source,
    check: Check,
    /// Whether our half ends when everything was sent.
    finish: bool,
    echo: VecDeque<Bytes>,
    echo_len: usize,
    pending: Bytes,
    made: u64,
    /// Bytes that the mesh took.
    pub sent: u64,
    /// Bytes that arrived.
    pub received: u64,
    finished: bool,
    /// The other end closed its half and everything was read.
    pub read_finished: bool,
    /// How it broke.
    pub reset: Option<ResetReason>,
    /// How many tries this is.
    pub attempts: u32,
    opened_at: Duration,
    first_byte_at: Option<Duration>,
    last_byte_at: Duration,
    finished_at: Option<Duration>,
    gap_max: Option<(Duration, Duration)>,
}

impl App {
    /// A client that sends `source`, and then closes its half if `finish`.
    #[must_use]
    pub fn client(
        service: Option<Service>,
        source: Source,
        finish: bool,
        opened_at: Duration,
    ) -> App {
        App {
            check: Check::expecting(source),
            source,
            finish,
            ..App::serving(service, opened_at)
        }
    }

    /// The server's end of a stream to that service.
    #[must_use]
    pub fn server(service: Option<Service>, peer: Option<NodeIndex>, opened_at: Duration) -> App {
        App {
            incoming: true,
            peer,
            ..App::serving(service, opened_at)
        }
    }

    fn serving(service: Option<Service>, opened_at: Duration) -> App {
        App {
            service,
            incoming: false,
            peer: None,
            op: None,
            source: Source::new(OpId(0), 0),
            check: Check::new(),
            finish: false,
            echo: VecDeque::new(),
            echo_len: 0,
            pending: Bytes::new(),
            made: 0,
            sent: 0,
            received: 0,
            finished: false,
            read_finished: false,
            reset: None,
            attempts: 1,
            opened_at,
            first_byte_at: None,
            last_byte_at: opened_at,
            finished_at: None,
            gap_max: None,
        }
    }

    /// Read and write what is possible.
    pub fn pump(&mut self, mesh: &mut Mesh, now: Now, world: Duration, stream: StreamId) {
        let stopped = self.incoming && self.service == Some(Service::Stopped);
        loop {
            if self.reset.is_some() {
                return;
            }
            let before = (self.received, self.sent);
            if !stopped {
                self.read(mesh, now, world, stream);
            }
            self.write(mesh, now, stream);
            // Only an echo makes room for reading by writing.
            let echoed = self.incoming && self.service == Some(Service::Echo);
            if !echoed || before == (self.received, self.sent) {
                return;
            }
        }
    }

    /// Nothing more will happen to it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.reset.is_some() || (self.read_finished && (self.finished || !self.incoming))
    }

    /// Everything that should arrive here did.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match (self.incoming, self.service) {
            (true, _) => self.read_finished && self.check.is_complete(),
            (false, Some(Service::Echo)) => self.check.is_complete(),
            (false, _) => self.read_finished && self.finished && self.received == 0,
        }
    }

    /// The first byte that was not what it should be.
    #[must_use]
    pub const fn altered_at(&self) -> Option<u64> {
        self.check.altered_at()
    }

    /// What is known of it now. `broken` is how it ended when the mesh does not say.
    #[must_use]
    pub fn report(&self, broken: Option<&str>) -> StreamReport {
        StreamReport {
            side: if self.incoming {
                Side::Server
            } else {
                Side::Client
            },
            op: if self.incoming {
                self.check.op()
            } else {
                self.op
            },
            peer: self.peer,
            attempts: if self.incoming { 0 } else { self.attempts },
            opened_at: Some(self.opened_at),
            first_byte_at: self.first_byte_at,
            sent: self.sent,
            received: self.received,
            altered_at: self.altered_at(),
            finished_at: self.finished_at,
            complete: self.is_complete(),
            reset: match self.reset {
                Some(reason) => Some(format!("{reason:?}")),
                None => broken.map(str::to_owned),
            },
            gap_max: self.gap_max,
        }
    }

    fn read(&mut self, mesh: &mut Mesh, now: Now, world: Duration, stream: StreamId) {
        while !self.read_finished && self.echo_len < ECHO_BUFFER {
            match mesh.stream_read(now, stream, READ_MAX) {
                Ok(Read::Data(bytes)) => self.arrived(world, bytes),
                Ok(Read::Blocked) => return,
                Ok(Read::Finished) => {
                    self.read_finished = true;
                    self.finished_at = Some(world);
                    self.finish |= self.incoming;
                }
                Err(closed) => {
                    self.reset.get_or_insert(closed.reason);
                    return;
                }
            }
        }
    }

    fn arrived(&mut self, world: Duration, bytes: Bytes) {
        self.check.feed(&bytes);
        self.received += bytes.len() as u64;
        let gap = world.saturating_sub(self.last_byte_at);
        if self.first_byte_at.is_none() {
            self.first_byte_at = Some(world);
        } else if self.gap_max.is_none_or(|(longest, _)| gap > longest) {
            self.gap_max = Some((gap, self.last_byte_at));
        }
        self.last_byte_at = world;
        if self.incoming && self.service == Some(Service::Echo) {
            self.echo_len += bytes.len();
            self.echo.push_back(bytes);
        }
    }

    fn write(&mut self, mesh: &mut Mesh, now: Now, stream: StreamId) {
        loop {
            if self.pending.is_empty() {
                self.pending = self.next_chunk();
            }
            if self.pending.is_empty() {
                break;
            }
            match mesh.stream_write(now, stream, &mut [self.pending.clone()]) {
                Ok(written) => {
                    self.sent += written as u64;
                    drop(self.pending.split_to(written));
                    if self.incoming {
                        self.echo_len -= written;
                    }
                    // As real applications: to be told of room is what was promised.
                    if !self.pending.is_empty() {
                        return;
                    }
                }
                Err(closed) => {
                    self.reset.get_or_insert(closed.reason);
                    return;
                }
            }
        }
        if self.finish && !self.finished {
            self.finished = true;
            mesh.stream_finish(now, stream);
        }
    }

    fn next_chunk(&mut self) -> Bytes {
        if self.incoming {
            return self.echo.pop_front().unwrap_or_default();
        }
        let left = self.source.total() - self.made;
        if left == 0 {
            return Bytes::new();
        }
        let mut chunk = vec![0; left.min(CHUNK as u64) as usize];
        let len = self.source.read_at(self.made, &mut chunk);
        self.made += len as u64;
        chunk.truncate(len);
        chunk.into()
    }
}
