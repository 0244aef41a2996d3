//! Small servers and clients, and content that shows any byte that is lost, doubled or moved.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use holdfast_lab::process::wait_for_value;
use ring::digest::{self, Context, SHA256};

use crate::world::{BOUND, World, accept, limit, vip};

/// One block of content, bytes.
const BLOCK_LEN: usize = 64 << 10;
/// A transfer that takes longer has stopped.
const TRANSFER_BOUND: Duration = Duration::from_secs(60);
/// One attempt to get an answer while a link comes back.
const ATTEMPT_BOUND: Duration = Duration::from_millis(250);
/// How long a connection of the echo service may be silent.
const ECHO_SILENCE_MAX: Duration = Duration::from_secs(2);
/// The question to an echo service.
const QUESTION: &[u8; 16] = b"is anybody there";

/// An endless sequence of bytes without a period that could hide a shift (xorshift64).
pub struct Content(u64);

impl Content {
    pub fn new(seed: u64) -> Content {
        // Zero would stay zero.
        Content(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.fill(&mut out);
        out
    }
}

/// Read to the end; the SHA-256 of it and its length.
pub fn hash_all(stream: &mut impl Read) -> io::Result<(Vec<u8>, u64)> {
    let (mut context, mut len) = (Context::new(&SHA256), 0);
    let mut block = vec![0; BLOCK_LEN];
    loop {
        match stream.read(&mut block)? {
            0 => return Ok((context.finish().as_ref().to_vec(), len)),
            n => {
                context.update(&block[..n]);
                len += n as u64;
            }
        }
    }
}

/// The SHA-256 of some bytes.
pub fn hash(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&SHA256, bytes).as_ref().to_vec()
}

/// Send content from one node to another over one connection, end it with a half-close, and
/// compare the hash with the one that comes back. Returns how long all of that took.
pub fn transfer(world: &World, from: u8, to: u8, port: u16, len: usize) -> Duration {
    let listener = world.listen(to, vip(to), port);
    let server = thread::spawn(move || {
        let (mut stream, _) = accept(&listener, BOUND);
        limit(&stream, TRANSFER_BOUND).unwrap();
        let (hash, len) = hash_all(&mut stream).unwrap();
        stream.write_all(&hash).unwrap();
        len
    });
    let mut stream = world.connect(from, to, port).unwrap();
    limit(&stream, TRANSFER_BOUND).unwrap();
    let started = Instant::now();
    let sent = send(&mut stream, from.into(), len);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let took = started.elapsed();
    assert_eq!(server.join().unwrap(), len as u64);
    assert_eq!(answer, sent, "the hash of what arrived");
    took
}

/// Send that much content; its hash.
fn send(stream: &mut TcpStream, seed: u64, len: usize) -> Vec<u8> {
    let mut content = Content::new(seed);
    let mut context = Context::new(&SHA256);
    let mut block = vec![0; BLOCK_LEN];
    let mut left = len;
    while left > 0 {
        let n = left.min(BLOCK_LEN);
        content.fill(&mut block[..n]);
        context.update(&block[..n]);
        stream.write_all(&block[..n]).unwrap();
        left -= n;
    }
    context.finish().as_ref().to_vec()
}

/// A service on a node that sends back what it gets.
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// On the virtual address of the node itself.
    pub fn start(world: &World, node: u8, port: u16) -> Echo {
        Echo::on(world.listen(node, vip(node), port))
    }

    /// The same, but connections may be silent for as long as a test waits.
    pub fn patient(world: &World, node: u8, port: u16) -> Echo {
        Echo::serve(world.listen(node, vip(node), port), BOUND)
    }

    pub fn on(listener: TcpListener) -> Echo {
        Echo::serve(listener, ECHO_SILENCE_MAX)
    }

    fn serve(listener: TcpListener, silence_max: Duration) -> Echo {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        listener.set_nonblocking(true).unwrap();
        let serve = move || {
            while let Some(stream) = next(&listener, &stopped) {
                thread::spawn(move || echo(stream, silence_max));
            }
        };
        let thread = Some(thread::spawn(serve));
        Echo { stop, thread }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The next connection, `None` once the service is to stop.
fn next(listener: &TcpListener, stopped: &AtomicBool) -> Option<TcpStream> {
    // A service lives as long as its test, which has bounds of its own.
    wait_for_value("a connection or the end", Duration::MAX, || {
        match stopped.load(Ordering::Relaxed) {
            true => Some(None),
            false => listener.accept().ok().map(|(stream, _)| Some(stream)),
        }
    })
    .ok()
    .flatten()
}

/// Until the client has no more, goes, or is silent for long: all of them end the connection.
fn echo(mut stream: TcpStream, silence_max: Duration) {
    let mut block = [0; 4096];
    let _ = stream.set_nonblocking(false);
    let _ = limit(&stream, silence_max);
    while let Ok(n) = stream.read(&mut block) {
        if n == 0 || stream.write_all(&block[..n]).is_err() {
            return;
        }
    }
}

/// Ask an echo service once.
pub fn ask(world: &World, from: u8, to: u8, port: u16, bound: Duration) -> io::Result<()> {
    let mut stream = world.connect(from, to, port)?;
    limit(&stream, bound)?;
    stream.write_all(QUESTION)?;
    let mut answer = [0; QUESTION.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, QUESTION);
    Ok(())
}

/// Ask an echo service until it answers.
pub fn ask_until(world: &World, from: u8, to: u8, port: u16, bound: Duration) {
    let what = format!("node-{from} gets an answer from node-{to}");
    let attempt = || ask(world, from, to, port, ATTEMPT_BOUND).ok();
    wait_for_value(&what, bound, attempt).unwrap();
}

/// A connection is reset: while the client still connects, or after it.
pub fn expect_reset(world: &World, from: u8, to: u8, port: u16) {
    let outcome = world
        .connect(from, to, port)
        .and_then(|mut stream| stream.read(&mut [0]));
    let kind = outcome.as_ref().map_err(io::Error::kind);
    assert_eq!(kind, Err(io::ErrorKind::ConnectionReset), "{outcome:?}");
}

/// Datagrams of these sizes reach another node and its answers come back, intact, each with
/// the other's virtual address and port as source.
pub fn exchange_datagrams(world: &World, from: u8, to: u8, port: u16, sizes: &[usize]) {
    let server = world.udp(to, vip(to), port);
    let client = world.udp(from, vip(from), 0);
    let own = client.local_addr().unwrap();
    let service = SocketAddr::from((vip(to), port));
    let mut content = Content::new(u64::from(from) << 8 | u64::from(to));
    let mut buffer = vec![0; 1 << 16];
    for size in sizes {
        let (question, answer) = (content.bytes(*size), content.bytes(*size));
        client.send_to(&question, service).unwrap();
        let received = server.recv_from(&mut buffer);
        let (len, source) = received.unwrap_or_else(|e| panic!("{size} bytes to {service}: {e}"));
        assert_eq!(source, own, "the source of {size} bytes");
        assert!(buffer[..len] == question, "{size} bytes differ: {len} came");
        server.send_to(&answer, source).unwrap();
        let received = client.recv_from(&mut buffer);
        let (len, source) = received.unwrap_or_else(|e| panic!("{size} bytes to {own}: {e}"));
        assert_eq!(source, service, "the source of an answer of {size} bytes");
        assert!(buffer[..len] == answer, "{size} bytes differ: {len} came");
    }
}
