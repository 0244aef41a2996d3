//! The application's side: bulk data, round trips and first bytes over plain TCP sockets.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use holdfast_lab::{Lab, process::wait_for_value};

/// Bytes per call: large enough that the calls do not matter.
const CHUNK_BYTES: usize = 256 << 10;
/// How long a connection may take to reach the listener.
const ACCEPT_BOUND: Duration = Duration::from_secs(20);
/// How long a transfer may make no progress: TCP at 20 % loss backs off for many seconds.
const SILENCE_BOUND: Duration = Duration::from_secs(60);
/// How often a blocked sender looks whether it is still wanted.
const SENDER_LOOKS_EVERY: Duration = Duration::from_millis(500);
/// How often a first byte is asked for anew: the resolution of those figures.
const PROBE_EVERY: Duration = Duration::from_millis(5);
/// How long one question for a first byte waits before it is given up; others overtake it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// When a transfer ends, whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// After this time, counted at the receiver from its first byte.
    pub time: Duration,
    /// After so many bytes.
    pub bytes: u64,
}

/// What arrived.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Bytes, without the first read.
    pub bytes: u64,
    /// From the end of the first read to that of the last.
    pub elapsed: Duration,
}

impl Transfer {
    /// 10⁶ bytes per second.
    #[must_use]
    pub fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64()
    }
}

/// How a bulk connection is made.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// The node that connects and sends.
    pub from: &'a str,
    /// Where to.
    pub to: SocketAddr,
    /// The sending kernel's congestion control; its default if `None`.
    pub congestion: Option<&'a str>,
}

/// Sends until the limit is reached; the clock runs at the receiver, which counts only what has
/// arrived, so that no buffer on the way is mistaken for throughput.
///
/// # Errors
/// If the connection fails or stalls.
pub fn bulk(
    lab: &Lab,
    route: Route<'_>,
    listener: &TcpListener,
    limit: Limit,
) -> anyhow::Result<Transfer> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(lab, route, limit.bytes, &stop));
        let received = receive(listener, limit);
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().expect("the sender has nothing to panic over");
        match (received, sent) {
            (Ok(transfer), _) => Ok(transfer),
            // Whoever could not connect knows best why nothing arrived.
            (Err(_), Err(error)) => Err(error),
            (Err(error), Ok(())) => Err(error),
        }
    })
}

fn send(lab: &Lab, route: Route<'_>, bytes: u64, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut stream = lab
        .run_in(route.from, || TcpStream::connect(route.to))?
        .with_context(|| format!("cannot connect to {}", route.to))?;
    if let Some(name) = route.congestion {
        set_congestion(&stream, name)?;
    }
    stream.set_write_timeout(Some(SENDER_LOOKS_EVERY))?;
    let chunk = vec![0x5a; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let length = left.min(CHUNK_BYTES as u64) as usize;
        match stream.write(&chunk[..length]) {
            Ok(written) => left -= written as u64,
            Err(error) if is_timeout(&error) => {}
            // The receiver leaves when its time is over.
            Err(_) => break,
        }
    }
    if left == 0 {
        stream.shutdown(Shutdown::Write)?;
        // Keeps the connection until the receiver has everything.
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn receive(listener: &TcpListener, limit: Limit) -> anyhow::Result<Transfer> {
    let mut stream = accept(listener)?;
    stream.set_read_timeout(Some(SILENCE_BOUND))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let first = stream.read(&mut buffer).context("nothing arrived")?;
    if first == 0 {
        bail!("the connection was closed before its first byte");
    }
    let started = Instant::now();
    let mut bytes = 0;
    let mut elapsed = Duration::ZERO;
    while bytes + (first as u64) < limit.bytes && elapsed < limit.time {
        let left = limit.time.saturating_sub(elapsed);
        // Silence at the end of the time counts, or a stalled transfer would look fast.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => bytes += length as u64,
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).context("the transfer broke"),
        }
        elapsed = started.elapsed();
    }
    Ok(Transfer { bytes, elapsed })
}

fn accept(listener: &TcpListener) -> anyhow::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let stream = wait_for_value("a connection", ACCEPT_BOUND, || {
        listener.accept().ok().map(|(stream, _)| stream)
    })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

fn set_congestion(stream: &TcpStream, name: &str) -> anyhow::Result<()> {
    let length = libc::socklen_t::try_from(name.len())?;
    // SAFETY: the descriptor is open, and pointer and length describe `name`.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            length,
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        bail!("the kernel refuses congestion control {name:?}: {error}");
    }
    Ok(())
}

/// Answers every connection with what it sends, until dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
}

impl Echo {
    /// Serves on `listener`.
    ///
    /// # Errors
    /// If the listener cannot be made non-blocking.
    pub fn serve(listener: TcpListener) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let wanted = Arc::clone(&stop);
        listener.set_nonblocking(true)?;
        thread::spawn(move || {
            while !wanted.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(thread::spawn(move || answer(stream))),
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Ok(Self { stop })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// The times of `count` round trips of `size` bytes over one connection, after a few that
/// warm it up.
///
/// # Errors
/// If the connection fails.
pub fn round_trips(
    lab: &Lab,
    from: &str,
    to: SocketAddr,
    size: usize,
    count: usize,
) -> anyhow::Result<Vec<Duration>> {
    const WARM_UP: usize = 50;
    let mut stream = lab.run_in(from, || TcpStream::connect(to))??;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_BOUND))?;
    let (message, mut answer) = (vec![0x5a; size], vec![0; size]);
    let mut times = Vec::with_capacity(count);
    for turn in 0..WARM_UP + count {
        let started = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        if turn >= WARM_UP {
            times.push(started.elapsed());
        }
    }
    Ok(times)
}

/// How long after `since` a byte first comes back from the echo at `to`, over a connection that
/// was opened after `since`.
///
/// Connections are opened one after the other without waiting for their fate: what holds an early
/// one does not hide when a later one works.
///
/// # Errors
/// If none comes back within `bound`.
pub fn first_byte(
    lab: &Lab,
    from: &str,
    to: SocketAddr,
    since: Instant,
    bound: Duration,
) -> anyhow::Result<Duration> {
    lab.run_in(from, || {
        let (sender, answers) = mpsc::channel();
        let deadline = since + bound;
        while Instant::now() < deadline {
            let sender = sender.clone();
            // A thread starts in the namespace of the one that starts it.
            thread::spawn(move || {
                if ask(to).is_ok() {
                    // Nobody listens any more if another was first.
                    let _ = sender.send(Instant::now());
                }
            });
            if let Ok(answered) = answers.recv_timeout(PROBE_EVERY) {
                return Ok(answered - since);
            }
        }
        bail!("no byte from {to} within {} s", bound.as_secs())
    })?
}

fn ask(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"?")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)
}
