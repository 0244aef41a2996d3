//! A plain UDP socket that also hears of closed ports.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::set_int_option;
use crate::net::{DatagramEvent, DatagramSocket};

/// Kernel buffer of each direction: a burst of sixteen datagrams of the largest size.
const SOCKET_BUFFER_LEN: usize = 1 << 20;
/// Pause before a full send buffer is tried again. Readiness cannot be waited for: a closed
/// port once met leaves it set for ever.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Most stale errors that one send steps over: each belongs to an earlier datagram.
const STALE_ERRORS_MAX: usize = 16;

/// The operating system's UDP socket for single datagrams.
#[derive(Debug)]
pub struct RealDatagram(UdpSocket);

impl RealDatagram {
    pub(super) fn bind(addr: SocketAddr) -> io::Result<RealDatagram> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        // Smaller buffers only drop earlier.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_LEN);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_LEN);
        report_errors(&socket, addr.is_ipv6())?;
        Ok(RealDatagram(UdpSocket::from_std(socket.into())?))
    }

    fn recv_now(&self, buf: &mut [u8]) -> io::Result<DatagramEvent> {
        let socket = socket2::SockRef::from(&self.0);
        loop {
            match socket.recv_from(as_uninit(buf)) {
                Ok((len, from)) => {
                    if let Some(from) = from.as_socket() {
                        return Ok(DatagramEvent::Data { len, from });
                    }
                }
                Err(error) if is_of_an_earlier_datagram(&error) => {
                    if let Some(to) = next_refused(self.0.as_raw_fd())? {
                        return Ok(DatagramEvent::Refused { to });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl DatagramSocket for RealDatagram {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    async fn recv(&self, buf: &mut [u8]) -> io::Result<DatagramEvent> {
        let interest = Interest::READABLE.add(Interest::ERROR);
        self.0.async_io(interest, || self.recv_now(buf)).await
    }

    fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let socket = socket2::SockRef::from(&self.0);
        let to = to.into();
        let mut tries = 0;
        loop {
            match socket.send_to(bytes, &to) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Reported once and cleared; the error queue still names the datagram.
                Err(error) if is_of_an_earlier_datagram(&error) && tries < STALE_ERRORS_MAX => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        loop {
            match self.try_send_to(bytes, to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                result => return result,
            }
        }
    }
}

/// `recv_from` of socket2 asks for possibly uninitialised bytes and only ever writes to them.
fn as_uninit(buf: &mut [u8]) -> &mut [std::mem::MaybeUninit<u8>] {
    // SAFETY: same layout; socket2 promises not to de-initialise ("writes to the buffer only
    // what was received").
    unsafe { &mut *(std::ptr::from_mut(buf) as *mut [std::mem::MaybeUninit<u8>]) }
}

fn is_of_an_earlier_datagram(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPROTO)
    )
}

/// Queue errors that ICMP brings, with the datagram's destination (ip(7), IP_RECVERR).
fn report_errors(socket: &Socket, v6: bool) -> io::Result<()> {
    let (level, name) = match v6 {
        false => (libc::IPPROTO_IP, libc::IP_RECVERR),
        true => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    set_int_option(socket, level, name, 1)
}

/// Take one entry out of the error queue: where the datagram was going, if it met a closed
/// port. `Ok(None)` for any other entry, and when the queue is empty.
fn next_refused(fd: RawFd) -> io::Result<Option<SocketAddr>> {
    let mut control = [0u64; 64];
    // SAFETY: an all-zero sockaddr_storage and msghdr are valid.
    let (mut name, mut header): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of_val(&name) as libc::socklen_t;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: the header points to live buffers of the sizes it names; no payload is asked for.
    let got = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_ERRQUEUE) };
    if got < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
    }
    Ok(refused_errno(&header).then(|| socket_addr(&name)).flatten())
}

fn refused_errno(header: &libc::msghdr) -> bool {
    // SAFETY: the kernel filled the control buffer that the header describes; the macros
    // stay within it, and the data of an IP_RECVERR message is a sock_extended_err.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let kind = ((*message).cmsg_level, (*message).cmsg_type);
            let of_errors = kind == (libc::IPPROTO_IP, libc::IP_RECVERR)
                || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
            if of_errors {
                let error: libc::sock_extended_err =
                    std::ptr::read_unaligned(libc::CMSG_DATA(message).cast());
                return error.ee_errno == libc::ECONNREFUSED as u32;
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    false
}

fn socket_addr(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in.
            let v4: &libc::sockaddr_in = unsafe { &*std::ptr::from_ref(name).cast() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6.
            let v6: &libc::sockaddr_in6 = unsafe { &*std::ptr::from_ref(name).cast() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::from((ip, u16::from_be(v6.sin6_port))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::net::UDP_PAYLOAD_MAX;
    use crate::real::block_on;

    fn bind(addr: &str) -> RealDatagram {
        RealDatagram::bind(addr.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_datagram_of_the_largest_size_and_an_empty_one_keep_their_boundaries() {
        block_on(async {
            let (a, b) = (bind("127.0.0.1:0"), bind("127.0.0.2:0"));
            let to = b.local_addr().unwrap();
            let large: Vec<u8> = (0..UDP_PAYLOAD_MAX).map(|i| i as u8).collect();
            a.send_to(&large, to).await.unwrap();
            a.send_to(b"", to).await.unwrap();
            let mut buf = vec![0; UDP_PAYLOAD_MAX];
            let from = a.local_addr().unwrap();
            let len = UDP_PAYLOAD_MAX;
            assert_eq!(
                b.recv(&mut buf).await.unwrap(),
                DatagramEvent::Data { len, from }
            );
            assert_eq!(buf, large);
            let len = 0;
            assert_eq!(
                b.recv(&mut buf).await.unwrap(),
                DatagramEvent::Data { len, from }
            );
        })
        .unwrap();
    }

    #[test]
    fn every_closed_port_is_reported_and_data_still_flows() {
        block_on(async {
            let (a, open) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
            let closed: Vec<SocketAddr> = (0..2)
                .map(|_| bind("127.0.0.3:0").local_addr().unwrap())
                .collect();
            for to in &closed {
                a.send_to(b"x", *to).await.unwrap();
            }
            open.send_to(b"data", a.local_addr().unwrap())
                .await
                .unwrap();
            let mut buf = [0; 64];
            let mut events = Vec::new();
            while events.len() < 3 {
                events.push(a.recv(&mut buf).await.unwrap());
            }
            for to in closed {
                assert!(
                    events.contains(&DatagramEvent::Refused { to }),
                    "{events:?}"
                );
            }
            let from = open.local_addr().unwrap();
            assert!(
                events.contains(&DatagramEvent::Data { len: 4, from }),
                "{events:?}"
            );
            a.send_to(b"still", from).await.unwrap();
            let from = a.local_addr().unwrap();
            assert_eq!(
                open.recv(&mut buf).await.unwrap(),
                DatagramEvent::Data { len: 5, from }
            );
        })
        .unwrap();
    }

    #[test]
    fn a_refusal_wakes_a_receiver_that_waits_already() {
        block_on(async {
            let a = std::rc::Rc::new(bind("127.0.0.1:0"));
            let to = bind("127.0.0.3:0").local_addr().unwrap();
            let waiting = a.clone();
            let task = tokio::task::spawn_local(async move {
                let mut buf = [0; 64];
                waiting.recv(&mut buf).await.unwrap()
            });
            tokio::task::yield_now().await;
            a.send_to(b"x", to).await.unwrap();
            assert_eq!(task.await.unwrap(), DatagramEvent::Refused { to });
        })
        .unwrap();
    }
}
