//! A listener that lets no address, nor IPv6 network, have more than its share of connections.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use holdfast_io::net::{Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

type Shares = Rc<RefCell<BTreeMap<IpAddr, usize>>>;

/// Closes connections beyond the share of their source as soon as they are accepted.
pub(crate) struct PerSource<L> {
    listener: L,
    connections_max: usize,
    shares: Shares,
}

impl<L> PerSource<L> {
    pub(crate) fn new(listener: L, connections_max: usize) -> PerSource<L> {
        PerSource {
            listener,
            connections_max,
            shares: Shares::default(),
        }
    }

    fn take_share(&self, source: IpAddr) -> Option<Share> {
        let source = network_of(source);
        let mut shares = self.shares.borrow_mut();
        let count = shares.entry(source).or_insert(0);
        if *count >= self.connections_max {
            return None;
        }
        *count += 1;
        Some(Share {
            source,
            shares: self.shares.clone(),
        })
    }
}

impl<L: Listener> Listener for PerSource<L> {
    type Stream = Shared<L::Stream>;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    async fn accept(&self) -> io::Result<(Self::Stream, SocketAddr)> {
        loop {
            let (stream, source) = self.listener.accept().await?;
            if let Some(share) = self.take_share(source.ip()) {
                let _share = share;
                return Ok((Shared { stream, _share }, source));
            }
            tracing::debug!(%source, "closed a connection: too many from this address");
        }
    }
}

/// What one host can be told by: an IPv4 address, or the first 64 bits of an IPv6 address, as
/// the others are the host's own choice (RFC 4291 section 2.5.4).
fn network_of(source: IpAddr) -> IpAddr {
    const INTERFACE_BITS: u32 = 64;
    match source.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from(ip.to_bits() >> INTERFACE_BITS << INTERFACE_BITS).into(),
        v4 => v4,
    }
}

struct Share {
    source: IpAddr,
    shares: Shares,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.shares.borrow_mut();
        if let Some(count) = shares.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                shares.remove(&self.source);
            }
        }
    }
}

/// A connection that gives its share back when it is dropped.
pub(crate) struct Shared<S> {
    stream: S,
    _share: Share,
}

impl<S: Stream> Stream for Shared<S> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.stream.set_nodelay(on)
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        self.stream.reset_on_drop()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Shared<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Shared<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_told_by_its_network_and_a_mapped_address_is_ipv4() {
        let network = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:203.0.113.7"), network("203.0.113.7"));
        assert_ne!(network("203.0.113.7"), network("203.0.113.8"));
    }
}
