//! Several nodes in one process: each sees virtual and loopback addresses of its own.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

use holdfast_io::net::{DatagramEvent, DatagramSocket, Net};
use holdfast_io::real::{RealBatch, RealDatagram, RealListener, RealNet, RealStream};

/// Wait until no other process runs these tests: their addresses are fixed.
pub fn alone() {
    static LOCK: OnceLock<File> = OnceLock::new();
    LOCK.get_or_init(|| {
        let path = std::env::temp_dir().join("holdfast-io-tests.lock");
        let file = File::options().create(true).append(true).open(path);
        let file = file.expect("the temporary folder can be written to");
        file.lock().expect("a local file can be locked");
        file
    });
}

/// The real network as node number `n` would see it in a network namespace of its own:
/// 127.50.0.x is really 127.(100 + n).0.x, 127.0.0.1 is 127.(100 + n).1.1, and the public
/// 203.0.113.x (TEST-NET-3, RFC 5737) is 127.(100 + n).2.x.
#[derive(Clone, Copy, Debug)]
pub struct SplitNet {
    /// The node's number.
    pub n: u8,
    /// The address of its only interface.
    pub interface: Ipv4Addr,
}

impl SplitNet {
    /// The real address behind one that the node uses.
    pub fn real(&self, addr: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.real_ip(addr.ip()), addr.port())
    }

    fn real_ip(&self, ip: IpAddr) -> IpAddr {
        let own = 100 + self.n;
        match ip {
            IpAddr::V4(v4) => match v4.octets() {
                [127, 50, 0, x] => [127, own, 0, x].into(),
                [127, 0, 0, 1] => [127, own, 1, 1].into(),
                [203, 0, 113, x] => [127, own, 2, x].into(),
                _ => ip,
            },
            IpAddr::V6(_) => ip,
        }
    }

    fn seen(&self, addr: SocketAddr) -> SocketAddr {
        let own = 100 + self.n;
        let ip = match addr.ip() {
            IpAddr::V4(v4) => match v4.octets() {
                [127, o, 0, x] if o == own => [127, 50, 0, x].into(),
                [127, o, 1, 1] if o == own => [127, 0, 0, 1].into(),
                [127, o, 2, x] if o == own => [203, 0, 113, x].into(),
                _ => addr.ip(),
            },
            IpAddr::V6(_) => addr.ip(),
        };
        SocketAddr::new(ip, addr.port())
    }
}

impl Net for SplitNet {
    type Batch = RealBatch;
    type Datagram = SplitDatagram;
    type Listener = RealListener;
    type Stream = RealStream;

    async fn bind_batch(&self, addr: SocketAddr) -> io::Result<RealBatch> {
        RealNet.bind_batch(addr).await
    }

    async fn bind_datagram(&self, addr: SocketAddr) -> io::Result<SplitDatagram> {
        Ok(SplitDatagram {
            socket: RealNet.bind_datagram(self.real(addr)).await?,
            net: *self,
        })
    }

    async fn listen(&self, addr: SocketAddr) -> io::Result<RealListener> {
        RealNet.listen(self.real(addr)).await
    }

    async fn connect(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<RealStream> {
        let source = source.map(|ip| self.real_ip(ip));
        RealNet.connect(source, self.real(to)).await
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        RealNet.resolve(host, port).await
    }

    fn local_addresses(&self) -> io::Result<Vec<IpAddr>> {
        Ok(vec![self.interface.into()])
    }
}

/// A plain UDP socket of a [`SplitNet`].
pub struct SplitDatagram {
    socket: RealDatagram,
    net: SplitNet,
}

impl DatagramSocket for SplitDatagram {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr().map(|addr| self.net.seen(addr))
    }

    async fn recv(&self, buf: &mut [u8]) -> io::Result<DatagramEvent> {
        Ok(match self.socket.recv(buf).await? {
            DatagramEvent::Data { len, from } => DatagramEvent::Data {
                len,
                from: self.net.seen(from),
            },
            DatagramEvent::Refused { to } => DatagramEvent::Refused {
                to: self.net.seen(to),
            },
        })
    }

    fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.try_send_to(bytes, self.net.real(to))
    }

    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(bytes, self.net.real(to)).await
    }
}
