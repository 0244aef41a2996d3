//! TCP between hosts: turmoil's, with what it lacks. A connection whose path is dead is
//! silent, as in reality, and breaks after a while if its owner asked for that.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::host::Host;
use crate::shared::Shared;

/// Silence after which a connection breaks if its owner asked for it: what the real adapter
/// tells the kernel.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What the world knows of one end of a connection.
#[derive(Debug)]
pub struct WireState {
    peer: IpAddr,
    /// The host's address when the connection was made, by its number.
    generation: u32,
    gives_up: Cell<bool>,
    broken: Cell<bool>,
    wakers: RefCell<[Option<Waker>; 2]>,
}

const READER: usize = 0;
const WRITER: usize = 1;

impl WireState {
    /// Break if the owner gives up on silence.
    fn give_up(&self) {
        if !self.gives_up.get() || self.broken.replace(true) {
            return;
        }
        for waker in self.wakers.borrow_mut().iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }
}

/// The TCP connections of one host.
#[derive(Default, Debug)]
pub struct Wires {
    states: RefCell<Vec<Weak<WireState>>>,
    generation: Cell<u32>,
    moved_at: Cell<Duration>,
}

impl Wires {
    /// The host has another address: what it has is cut off.
    pub fn moved(&self, now: Duration) {
        self.generation.set(self.generation.get() + 1);
        self.moved_at.set(now);
    }

    /// Break what has been silent for too long. `silent_since` tells for how long no packet
    /// has passed between this host and another.
    pub fn tend(&self, now: Duration, silent_since: impl Fn(IpAddr) -> Option<Duration>) {
        let long = |since: Duration| now >= since + SILENCE_MAX;
        self.states.borrow_mut().retain(|state| {
            let Some(state) = state.upgrade() else {
                return false;
            };
            let cut_off = state.generation != self.generation.get();
            if cut_off && long(self.moved_at.get()) || silent_since(state.peer).is_some_and(long) {
                state.give_up();
            }
            true
        });
    }

    fn add(&self, peer: IpAddr) -> Rc<WireState> {
        let state = Rc::new(WireState {
            peer,
            generation: self.generation.get(),
            gives_up: Cell::new(false),
            broken: Cell::new(false),
            wakers: RefCell::default(),
        });
        self.states.borrow_mut().push(Rc::downgrade(&state));
        state
    }
}

/// A listening socket for other hosts.
pub struct WireListener {
    addr: SocketAddr,
    listener: TcpListener,
    host: Rc<Host>,
}

impl WireListener {
    /// Listen on a port.
    pub async fn bind(_: &Rc<Shared>, host: &Rc<Host>, addr: SocketAddr) -> io::Result<Self> {
        if !addr.ip().is_unspecified() && addr.ip() != host.address() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port());
        let listener = TcpListener::bind(any).await?;
        let port = listener.local_addr()?.port();
        Ok(WireListener {
            addr: SocketAddr::new(addr.ip(), port),
            listener,
            host: host.clone(),
        })
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection and where it came from.
    pub async fn accept(&self) -> io::Result<(WireStream, SocketAddr)> {
        let (tcp, from) = self.listener.accept().await?;
        let local = SocketAddr::new(self.host.address(), self.addr.port());
        Ok((WireStream::new(&self.host, tcp, [local, from]), from))
    }
}

/// A connection with another host.
pub struct WireStream {
    tcp: TcpStream,
    pair: [SocketAddr; 2],
    host: Rc<Host>,
    state: Rc<WireState>,
    shut: bool,
}

impl WireStream {
    /// Connect to another host.
    pub async fn connect(_: &Rc<Shared>, host: &Rc<Host>, to: SocketAddr) -> io::Result<Self> {
        let tcp = TcpStream::connect(to).await?;
        let port = tcp.local_addr()?.port();
        let local = SocketAddr::new(host.address(), port);
        Ok(WireStream::new(host, tcp, [local, to]))
    }

    fn new(host: &Rc<Host>, tcp: TcpStream, pair: [SocketAddr; 2]) -> WireStream {
        WireStream {
            tcp,
            pair,
            host: host.clone(),
            state: host.wires.add(pair[1].ip()),
            shut: false,
        }
    }

    /// This end, by the address that the host had when it connected.
    pub fn local_addr(&self) -> SocketAddr {
        self.pair[0]
    }

    /// The other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.pair[1]
    }

    /// Break when nothing has passed for [`SILENCE_MAX`].
    pub fn give_up_on_silence(&self) {
        self.state.gives_up.set(true);
    }

    /// Pending for as long as the host's address is another than the connection's.
    fn poll_path(&self, cx: &Context<'_>, which: usize) -> Poll<io::Result<()>> {
        if self.state.broken.get() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.state.wakers.borrow_mut()[which] = Some(cx.waker().clone());
        match self.state.generation == self.host.wires.generation.get() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl AsyncRead for WireStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_path(cx, READER))?;
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_path(cx, WRITER))?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_path(cx, WRITER))?;
        // turmoil refuses a second one, the kernel does not mind.
        if std::mem::replace(&mut self.shut, true) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
