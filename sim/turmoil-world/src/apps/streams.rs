//! Programs that talk over streams.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::net::{Listener, Net};
use holdfast_io::spawn::Spawn;
use holdfast_plan::traffic::{Check, Source};
use holdfast_plan::{NodeIndex, Op, OpId, Service, Side, StreamReport, What};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Apps, vip_addr};
use crate::net::SimStream;
use crate::shared::Shared;

/// Bytes that a program reads or writes at once.
const CHUNK_LEN: usize = 16 << 10;
/// Pause of a client before it tries again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Pause of a service whose address is taken, for example by an intruder's forwards.
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// Ends of streams that are in use.
#[derive(Default)]
pub struct OpenStreams(
    RefCell<BTreeMap<u64, (NodeIndex, Rc<End>)>>,
    std::cell::Cell<u64>,
);

impl OpenStreams {
    fn add(&self, node: NodeIndex, end: &Rc<End>) -> u64 {
        let key = self.1.get();
        self.1.set(key + 1);
        self.0.borrow_mut().insert(key, (node, end.clone()));
        key
    }

    fn done(&self, shared: &Shared, key: u64) {
        if let Some((node, end)) = self.0.borrow_mut().remove(&key) {
            shared.note(Some(node), What::Stream(end.report()));
        }
    }

    /// The run is over.
    pub fn finish(&self, shared: &Shared) {
        for (node, end) in self.0.take().into_values() {
            shared.note(Some(node), What::Stream(end.report()));
        }
    }
}

/// What one end of one stream has seen.
struct End {
    report: RefCell<StreamReport>,
    check: RefCell<Check>,
    last_byte_at: std::cell::Cell<Option<Duration>>,
}

impl End {
    fn new(side: Side, op: Option<OpId>, peer: Option<NodeIndex>, check: Check) -> Rc<End> {
        Rc::new(End {
            report: RefCell::new(StreamReport {
                side,
                op,
                peer,
                attempts: 0,
                opened_at: None,
                first_byte_at: None,
                sent: 0,
                received: 0,
                altered_at: None,
                finished_at: None,
                complete: false,
                reset: None,
                gap_max: None,
            }),
            check: RefCell::new(check),
            last_byte_at: std::cell::Cell::new(None),
        })
    }

    fn report(&self) -> StreamReport {
        self.report.borrow().clone()
    }

    fn received(&self, now: Duration, bytes: &[u8]) {
        let mut report = self.report.borrow_mut();
        let mut check = self.check.borrow_mut();
        check.feed(bytes);
        report.received += bytes.len() as u64;
        report.altered_at = check.altered_at();
        report.op = report.op.or(check.op());
        // A server is told of an end as well, a client only waits for the last byte.
        report.complete = report.side == Side::Client && check.is_complete();
        report.first_byte_at.get_or_insert(now);
        if let Some(before) = self.last_byte_at.replace(Some(now)) {
            let gap = now.saturating_sub(before);
            if report.gap_max.is_none_or(|(longest, _)| gap > longest) {
                report.gap_max = Some((gap, before));
            }
        }
    }

    fn sent(&self, len: usize) {
        self.report.borrow_mut().sent += len as u64;
    }

    fn finished(&self, now: Duration) {
        let mut report = self.report.borrow_mut();
        report.finished_at = Some(now);
        if report.side == Side::Server {
            report.complete = self.check.borrow().is_complete();
        }
    }

    fn broken(&self, error: &io::Error) {
        self.report
            .borrow_mut()
            .reset
            .get_or_insert_with(|| error.to_string());
    }
}

impl Apps {
    /// A client, until it has everything or its patience ends.
    pub(super) async fn talk(&self, op: &Op, bytes: u64, patience: Duration) {
        let give_up_at = self.now() + patience;
        let source = Source::new(op.id, bytes);
        let to = vip_addr(op.to.vip(), op.service.port());
        let mut attempts = 0;
        loop {
            attempts += 1;
            let end = End::new(
                Side::Client,
                Some(op.id),
                Some(op.to),
                Check::expecting(source),
            );
            end.report.borrow_mut().attempts = attempts;
            let key = self.streams.add(op.from, &end);
            let tried = self.try_once(op, source, to, &end).await;
            if let Err(error) = &tried {
                end.broken(error);
            }
            let done = tried.is_ok() || end.report.borrow().complete;
            if done || self.now() >= give_up_at {
                return self.streams.done(&self.shared, key);
            }
            // Until the next try this one is the last.
            self.pause(RETRY_PAUSE).await;
            self.streams.0.borrow_mut().remove(&key);
        }
    }

    async fn try_once(&self, op: &Op, source: Source, to: SocketAddr, end: &End) -> io::Result<()> {
        let stream = self.net(op.from).connect(None, to).await?;
        end.report.borrow_mut().opened_at = Some(self.now());
        let (mut read, mut write) = tokio::io::split(stream);
        let sending = async {
            let mut chunk = vec![0; CHUNK_LEN];
            let mut offset = 0;
            loop {
                let len = source.read_at(offset, &mut chunk);
                if len == 0 {
                    break;
                }
                let written = write.write(&chunk[..len]).await?;
                offset += written as u64;
                end.sent(written);
            }
            write.shutdown().await
        };
        let reading = self.read_to_end(&mut read, end);
        // The first error ends both.
        tokio::try_join!(sending, reading)?;
        if op.service != Service::Echo {
            let mut report = end.report.borrow_mut();
            report.complete = report.received == 0;
        }
        Ok(())
    }

    async fn read_to_end(&self, read: &mut (impl AsyncRead + Unpin), end: &End) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_LEN];
        loop {
            let len = read.read(&mut chunk).await?;
            if len == 0 {
                end.finished(self.now());
                return Ok(());
            }
            end.received(self.now(), &chunk[..len]);
        }
    }

    /// Accept for ever.
    pub(super) async fn serve_streams(&self, node: NodeIndex, service: Service, addr: SocketAddr) {
        let net = self.net(node);
        let listener = loop {
            match net.listen(addr).await {
                Ok(listener) => break listener,
                Err(_) => self.pause(BIND_PAUSE).await,
            }
        };
        while let Ok((stream, from)) = listener.accept().await {
            let own = self.clone();
            let task = async move { own.answer(node, service, (stream, from)).await };
            self.spawn.spawn("stream server", task).detach();
        }
    }

    async fn answer(&self, node: NodeIndex, service: Service, accepted: (SimStream, SocketAddr)) {
        let (stream, from) = accepted;
        let end = End::new(Side::Server, None, self.node_at(from), Check::new());
        end.report.borrow_mut().opened_at = Some(self.now());
        let key = self.streams.add(node, &end);
        if service == Service::Stopped {
            pending::<()>().await;
        }
        let (mut read, mut write) = tokio::io::split(stream);
        let served = match service {
            Service::Echo => self.echo(&mut read, &mut write, &end).await,
            _ => self.read_to_end(&mut read, &end).await,
        };
        let closed = match served {
            Ok(()) => write.shutdown().await,
            Err(error) => Err(error),
        };
        if let Err(error) = closed {
            end.broken(&error);
        }
        self.streams.done(&self.shared, key);
    }

    async fn echo(
        &self,
        read: &mut (impl AsyncRead + Unpin),
        write: &mut (impl AsyncWrite + Unpin),
        end: &End,
    ) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_LEN];
        loop {
            let len = read.read(&mut chunk).await?;
            if len == 0 {
                end.finished(self.now());
                return Ok(());
            }
            end.received(self.now(), &chunk[..len]);
            write.write_all(&chunk[..len]).await?;
            end.sent(len);
        }
    }
}
