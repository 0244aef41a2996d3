//! A socket in the file system as a [`Net`], so that whatever speaks HTTP over TCP speaks it
//! over the socket too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use holdfast_io::net::{Listener, Net, Stream};
use holdfast_io::real::{RealBatch, RealDatagram};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What stands for the address of either end: these sockets have none.
const NO_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The one socket at a path: every connection goes there, whatever the address says.
#[derive(Clone, Debug)]
pub struct UnixNet {
    path: PathBuf,
}

impl UnixNet {
    /// The socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> UnixNet {
        UnixNet { path: path.into() }
    }
}

/// What is at `path`, when that is no socket; `None` for a socket, or nothing that can be seen.
pub(crate) fn what_is(path: &Path) -> Option<&'static str> {
    let kind = std::fs::metadata(path).ok()?.file_type();
    if kind.is_socket() {
        None
    } else if kind.is_dir() {
        // What a container's engine makes of a mount whose source does not exist.
        Some("a folder")
    } else if kind.is_file() {
        Some("a regular file")
    } else {
        Some("no socket")
    }
}

fn unsupported<T>() -> io::Result<T> {
    let why = "a socket in the file system has no datagrams";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

impl Net for UnixNet {
    type Batch = RealBatch;
    type Datagram = RealDatagram;
    type Listener = UnixListener;
    type Stream = UnixStream;

    async fn bind_batch(&self, _: SocketAddr) -> io::Result<RealBatch> {
        unsupported()
    }

    async fn bind_datagram(&self, _: SocketAddr) -> io::Result<RealDatagram> {
        unsupported()
    }

    async fn listen(&self, _: SocketAddr) -> io::Result<UnixListener> {
        tokio::net::UnixListener::bind(&self.path).map(UnixListener)
    }

    async fn connect(&self, _: Option<IpAddr>, _: SocketAddr) -> io::Result<UnixStream> {
        let connecting = tokio::net::UnixStream::connect(&self.path).await;
        connecting.map(UnixStream)
    }

    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![NO_ADDR])
    }

    fn local_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }
}

/// A listening socket in the file system.
#[derive(Debug)]
pub struct UnixListener(tokio::net::UnixListener);

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(NO_ADDR)
    }

    async fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let (stream, _) = self.0.accept().await?;
        Ok((UnixStream(stream), NO_ADDR))
    }
}

/// A connection to a socket in the file system.
#[derive(Debug)]
pub struct UnixStream(tokio::net::UnixStream);

impl Stream for UnixStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(NO_ADDR)
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(NO_ADDR)
    }

    fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for UnixStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for UnixStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
