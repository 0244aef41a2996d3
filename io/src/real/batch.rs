//! The UDP socket of the hot path, on `quinn-udp`: segmentation offload both ways, ECN, and
//! the destination address of what arrives.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::set_int_option;
use crate::net::{BatchSocket, Received, Transmit, UDP_PAYLOAD_MAX};

/// Kernel buffer of each direction. The default of 208 KiB drops packets in bursts.
const SOCKET_BUFFER_LEN: usize = 4 << 20;
/// Messages per system call. With receive offload each carries up to 64 KiB.
const SLOTS: usize = 8;
/// Room that a message must find: what receive offload may put together.
const MESSAGE_LEN_MAX: usize = 65_535;
/// Size of a receive buffer: a few messages fit before it has to be taken back or replaced.
const SLOT_LEN: usize = 4 * (MESSAGE_LEN_MAX + 1);
/// First pause before segmentation is tried again after the kernel refused a batch; doubled
/// each time.
const GSO_RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest such pause.
const GSO_RETRY_MAX: Duration = Duration::from_secs(300);

/// The operating system's UDP socket for batches.
pub struct RealBatch {
    socket: UdpSocket,
    state: UdpSocketState,
    v6: bool,
    slots: Vec<BytesMut>,
    gso: Gso,
}

/// Whether the kernel segments. `quinn-udp` gives up for ever at the first EINVAL, which may
/// also come of a source address that has just been removed from its interface.
struct Gso {
    supported: bool,
    retry_at: Option<Instant>,
    pause: Duration,
}

impl RealBatch {
    pub(super) fn bind(addr: SocketAddr) -> io::Result<RealBatch> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.ip() == IpAddr::from([0u16; 8]) {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        grow_buffers(&socket);
        let socket = UdpSocket::from_std(socket.into())?;
        let state = set_up(&socket)?;
        let supported = state.max_gso_segments() > 1;
        Ok(RealBatch {
            v6: addr.is_ipv6(),
            slots: (0..SLOTS).map(|_| BytesMut::new()).collect(),
            socket,
            state,
            gso: Gso {
                supported,
                retry_at: None,
                pause: GSO_RETRY_FIRST,
            },
        })
    }

    fn recv(&mut self, out: &mut Vec<(Received, BytesMut)>) -> io::Result<()> {
        for slot in &mut self.slots {
            refill(slot);
        }
        let mut metas = [RecvMeta::default(); SLOTS];
        let (socket, state) = (&self.socket, &self.state);
        let mut slots = self.slots.iter_mut();
        let mut bufs: [IoSliceMut<'_>; SLOTS] = std::array::from_fn(|_| {
            let slot = slots.next().expect("as many slots as buffers");
            IoSliceMut::new(&mut slot[..MESSAGE_LEN_MAX])
        });
        let count = socket.try_io(Interest::READABLE, || {
            state.recv(socket.into(), &mut bufs, &mut metas)
        })?;
        for (slot, meta) in self.slots.iter_mut().zip(&metas[..count]) {
            split(slot, meta, out);
        }
        Ok(())
    }

    /// Try segmentation again some time after the kernel refused it.
    fn revive_gso(&mut self) {
        if !self.gso.supported || self.state.max_gso_segments() > 1 {
            return;
        }
        let now = Instant::now();
        match self.gso.retry_at {
            None => {
                self.gso.retry_at = Some(now + self.gso.pause);
                self.gso.pause = (self.gso.pause * 2).min(GSO_RETRY_MAX);
            }
            Some(at) if at <= now => {
                self.gso.retry_at = None;
                if let Ok(state) = set_up(&self.socket) {
                    self.state = state;
                }
            }
            Some(_) => {}
        }
    }
}

impl BatchSocket for RealBatch {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr().map(canonical)
    }

    fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<(Received, BytesMut)>,
    ) -> Poll<io::Result<()>> {
        let before = out.len();
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            match self.recv(out) {
                Ok(()) if out.len() > before => return Poll::Ready(Ok(())),
                // Nothing, which is no error either.
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn try_send(&mut self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        let segments = transmit.segment_size.filter(|size| *size < bytes.len());
        if bytes.len() > UDP_PAYLOAD_MAX || segments == Some(0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.revive_gso();
        let (socket, state) = (&self.socket, &self.state);
        let send = |contents: &[u8], segment_size| {
            let transmit = quinn_udp::Transmit {
                destination: to_family(transmit.to, self.v6),
                ecn: EcnCodepoint::from_bits(transmit.ecn),
                contents,
                segment_size,
                src_ip: transmit.src.map(|ip| ip_to_family(ip, self.v6)),
            };
            socket.try_io(Interest::WRITABLE, || {
                state.try_send(socket.into(), &transmit)
            })
        };
        match segments {
            // A batch that was made before the kernel refused to segment.
            Some(size) if state.max_gso_segments() == 1 => send_singly(bytes, size, send),
            _ => send(bytes, segments),
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_send_ready(cx)
    }
}

/// `quinn-udp` asks for timestamps and then has no room for the ECN bits of a message that
/// receive offload put together: nobody here reads timestamps.
fn set_up(socket: &UdpSocket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    set_int_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0)?;
    Ok(state)
}

/// Send segment by segment. When the buffer fills up on the way, the rest is lost as on any
/// full link: what has gone cannot be taken back.
fn send_singly(
    bytes: &[u8],
    size: usize,
    send: impl Fn(&[u8], Option<usize>) -> io::Result<()>,
) -> io::Result<()> {
    for (index, segment) in bytes.chunks(size).enumerate() {
        match send(segment, None) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && index > 0 => return Ok(()),
            result => result?,
        }
    }
    Ok(())
}

/// Make sure that a message fits, with bytes that are initialised. The allocation is taken
/// back when nobody holds a datagram of it any more, else replaced.
fn refill(slot: &mut BytesMut) {
    if slot.len() < MESSAGE_LEN_MAX {
        slot.clear();
        slot.reserve(SLOT_LEN);
        slot.resize(SLOT_LEN, 0);
    }
}

/// Take a message out of its slot, one entry per datagram.
fn split(slot: &mut BytesMut, meta: &RecvMeta, out: &mut Vec<(Received, BytesMut)>) {
    let mut data = slot.split_to(meta.len.min(slot.len()));
    let received = Received {
        from: canonical(meta.addr),
        to: meta.dst_ip.map(|ip| ip.to_canonical()),
        ecn: meta.ecn.map_or(0, |ecn| ecn as u8),
    };
    let stride = meta.stride.max(1);
    while data.len() > stride {
        out.push((received, data.split_to(stride)));
    }
    // Also when it is empty: a datagram without payload is one.
    out.push((received, data));
}

fn grow_buffers(socket: &Socket) {
    let sock = SockRef::from(socket);
    // Forcing needs a privilege and passes the system's limit; the plain call does not.
    let len = SOCKET_BUFFER_LEN as libc::c_int;
    if set_int_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, len).is_err() {
        let _ = sock.set_recv_buffer_size(SOCKET_BUFFER_LEN);
    }
    if set_int_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, len).is_err() {
        let _ = sock.set_send_buffer_size(SOCKET_BUFFER_LEN);
    }
    // The kernel doubles what it was asked for, to account for its own overhead.
    for (what, got, limit) in [
        ("receive", sock.recv_buffer_size(), "net.core.rmem_max"),
        ("send", sock.send_buffer_size(), "net.core.wmem_max"),
    ] {
        let got = got.unwrap_or(0) / 2;
        if got < SOCKET_BUFFER_LEN {
            tracing::warn!(
                got_bytes = got,
                wanted_bytes = SOCKET_BUFFER_LEN,
                "the UDP {what} buffer is small: bursts will be dropped; raise {limit}"
            );
        }
    }
}

/// A socket for both families shows IPv4 addresses as mapped ones; nobody else should.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn to_family(addr: SocketAddr, v6: bool) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) if v6 => {
            SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
        }
        _ => addr,
    }
}

fn ip_to_family(ip: IpAddr, v6: bool) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v6 => v4.to_ipv6_mapped().into(),
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::real::block_on;
    use std::future::poll_fn;

    fn bind(addr: &str) -> RealBatch {
        RealBatch::bind(addr.parse().unwrap()).unwrap()
    }

    fn transmit(to: SocketAddr, len: usize, segment_size: Option<usize>) -> Transmit {
        Transmit {
            to,
            src: None,
            len,
            segment_size,
            ecn: 2,
        }
    }

    async fn send(socket: &mut RealBatch, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        poll_fn(|cx| socket.poll_writable(cx)).await?;
        socket.try_send(transmit, bytes)
    }

    async fn recv(socket: &mut RealBatch, count: usize) -> Vec<(Received, BytesMut)> {
        let mut out = Vec::new();
        while out.len() < count {
            poll_fn(|cx| socket.poll_recv(cx, &mut out)).await.unwrap();
        }
        out
    }

    #[test]
    fn a_segmented_batch_arrives_as_its_datagrams_in_order_with_their_metadata() {
        block_on(async {
            let (mut a, mut b) = (bind("127.0.0.2:0"), bind("0.0.0.0:0"));
            let to = SocketAddr::new("127.0.0.3".parse().unwrap(), b.local_addr().unwrap().port());
            let bytes: Vec<u8> = (0..20 * 1200 + 7).map(|i| (i / 1200) as u8).collect();
            send(&mut a, &transmit(to, bytes.len(), Some(1200)), &bytes)
                .await
                .unwrap();
            let got = recv(&mut b, 21).await;
            assert_eq!(got.len(), 21);
            for (index, (meta, data)) in got.iter().enumerate() {
                assert_eq!(data.len(), if index < 20 { 1200 } else { 7 });
                assert!(data.iter().all(|byte| usize::from(*byte) == index));
                assert_eq!(meta.from, a.local_addr().unwrap());
                assert_eq!(meta.to, Some(to.ip()));
                assert_eq!(meta.ecn, 2);
            }
        })
        .unwrap();
    }

    #[test]
    fn an_empty_datagram_is_received_like_any_other() {
        block_on(async {
            let (mut a, mut b) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
            let to = b.local_addr().unwrap();
            send(&mut a, &transmit(to, 0, None), b"").await.unwrap();
            send(&mut a, &transmit(to, 1, None), b"x").await.unwrap();
            let lens: Vec<usize> = recv(&mut b, 2).await.iter().map(|(_, d)| d.len()).collect();
            assert_eq!(lens, [0, 1]);
        })
        .unwrap();
    }

    #[test]
    fn a_batch_beyond_the_largest_udp_payload_is_refused_instead_of_lost() {
        block_on(async {
            let mut a = bind("127.0.0.1:0");
            let to = a.local_addr().unwrap();
            let bytes = vec![0; UDP_PAYLOAD_MAX + 1];
            let error = send(&mut a, &transmit(to, bytes.len(), Some(1200)), &bytes).await;
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            let bytes = &bytes[..UDP_PAYLOAD_MAX];
            send(&mut a, &transmit(to, bytes.len(), Some(1452)), bytes)
                .await
                .unwrap();
            assert_eq!(recv(&mut a, 46).await.len(), 46);
        })
        .unwrap();
    }

    #[test]
    fn segmentation_comes_back_after_a_source_address_vanished() {
        block_on(async {
            let mut a = bind("0.0.0.0:0");
            let to = SocketAddr::from(([127, 0, 0, 1], a.local_addr().unwrap().port()));
            let bytes = vec![0; 2400];
            let gone = Transmit {
                // Refused with the same error as an address that vanished (of IPv6).
                src: Some("224.0.0.1".parse().unwrap()),
                ..transmit(to, bytes.len(), Some(1200))
            };
            let _ = send(&mut a, &gone, &bytes).await;
            assert_eq!(a.max_gso_segments(), 1, "the trap that this is about");
            a.gso.pause = Duration::ZERO;
            for _ in 0..3 {
                send(&mut a, &transmit(to, bytes.len(), Some(1200)), &bytes)
                    .await
                    .unwrap();
            }
            assert!(a.max_gso_segments() > 1);
        })
        .unwrap();
    }

    #[test]
    fn a_socket_for_both_families_speaks_of_ipv4_addresses_as_such() {
        block_on(async {
            let Ok(mut both) = RealBatch::bind("[::]:0".parse().unwrap()) else {
                eprintln!("NOT CHECKED: this system has no IPv6");
                return;
            };
            let mut v4 = bind("127.0.0.1:0");
            let to = v4.local_addr().unwrap();
            send(&mut both, &transmit(to, 2, None), b"hi")
                .await
                .unwrap();
            let (meta, data) = recv(&mut v4, 1).await.remove(0);
            assert_eq!(&data[..], b"hi");
            send(&mut v4, &transmit(meta.from, 2, None), b"yo")
                .await
                .unwrap();
            let (meta, data) = recv(&mut both, 1).await.remove(0);
            assert_eq!((meta.from, &data[..]), (to, &b"yo"[..]));
            assert_eq!(meta.to, Some(to.ip()));
        })
        .unwrap();
    }
}
