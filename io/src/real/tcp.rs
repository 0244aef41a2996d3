//! TCP of the operating system.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::set_int_option;
use crate::net::{Listener, Stream};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Longest time that sent bytes or probes may go unacknowledged (tcp(7), TCP_USER_TIMEOUT).
/// The system's own limit is a quarter of an hour.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Silence after which the other end is probed, and the pause between probes: a connection
/// on which only the other end has something to say is noticed to be dead as fast.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The operating system's listening socket.
#[derive(Debug)]
pub struct RealListener(TcpListener);

impl RealListener {
    pub(super) fn bind(addr: SocketAddr) -> io::Result<RealListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the connections of the run before (TIME_WAIT).
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(RealListener(TcpListener::from_std(socket.into())?))
    }
}

impl Listener for RealListener {
    type Stream = RealStream;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    async fn accept(&self) -> io::Result<(RealStream, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        Ok((RealStream(stream), from))
    }
}

/// The operating system's TCP connection.
#[derive(Debug)]
pub struct RealStream(TcpStream);

impl RealStream {
    pub(super) async fn connect(source: Option<IpAddr>, to: SocketAddr) -> io::Result<RealStream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if let Some(source) = source {
            // The port is chosen when the destination is known, so that many connections
            // from one address do not run out of ports.
            let no_port = libc::IP_BIND_ADDRESS_NO_PORT;
            let _ = set_int_option(&socket, libc::IPPROTO_IP, no_port, 1);
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        let socket = TcpSocket::from_std_stream(socket.into());
        Ok(RealStream(socket.connect(to).await?))
    }
}

impl Stream for RealStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }

    fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.0.set_nodelay(on)
    }

    fn give_up_on_silence(&self) -> io::Result<()> {
        let socket = SockRef::from(&self.0);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(SILENCE_MAX))
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        SockRef::from(&self.0).set_linger(Some(Duration::ZERO))
    }
}

impl AsyncRead for RealStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for RealStream {
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

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::real::block_on;
    use tokio::io::AsyncReadExt;

    #[test]
    fn a_connection_comes_from_the_address_it_was_told_to() {
        block_on(async {
            let listener = RealListener::bind("127.50.0.1:0".parse().unwrap()).unwrap();
            let source = "127.50.0.9".parse().unwrap();
            let to = listener.local_addr().unwrap();
            let (client, server) =
                tokio::join!(RealStream::connect(Some(source), to), listener.accept());
            assert_eq!(server.unwrap().1.ip(), source);
            assert_eq!(client.unwrap().peer_addr().unwrap(), to);
        })
        .unwrap();
    }

    #[test]
    fn a_connection_that_gives_up_on_silence_is_probed_and_has_a_limit() {
        block_on(async {
            let listener = RealListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let to = listener.local_addr().unwrap();
            let client = RealStream::connect(None, to).await.unwrap();
            client.give_up_on_silence().unwrap();
            let socket = SockRef::from(&client.0);
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE_MAX));
        })
        .unwrap();
    }

    #[test]
    fn a_reset_on_drop_is_seen_as_a_reset_and_a_plain_drop_as_an_end() {
        block_on(async {
            let listener = RealListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let to = listener.local_addr().unwrap();
            for reset in [false, true] {
                let (client, server) =
                    tokio::join!(RealStream::connect(None, to), listener.accept());
                let (mut client, (server, _)) = (client.unwrap(), server.unwrap());
                if reset {
                    server.reset_on_drop().unwrap();
                }
                drop(server);
                let read = client.read(&mut [0; 8]).await;
                match reset {
                    false => assert_eq!(read.unwrap(), 0),
                    true => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset),
                }
            }
        })
        .unwrap();
    }
}
