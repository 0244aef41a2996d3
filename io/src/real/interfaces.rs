//! Addresses of the machine's interfaces, and the loopback interface.

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Most addresses that are looked at: a machine with more has them for other purposes.
const ADDRESSES_MAX: usize = 64;

/// The unicast addresses of interfaces that are up and running, without loopback and without
/// link-local IPv6; sorted, each once.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` receives a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: the list is valid until it is freed, after the loop.
        let entry = unsafe { &*next };
        // SAFETY: the address, when there is one, belongs to the entry.
        found.extend(unsafe { usable_address(entry) });
        next = entry.ifa_next;
    }
    // SAFETY: made by getifaddrs and freed once.
    unsafe { libc::freeifaddrs(list) };
    found.sort();
    found.dedup();
    found.truncate(ADDRESSES_MAX);
    Ok(found)
}

/// # Safety
///
/// `ifa_addr` must be null or point to a socket address of the size that its family has.
unsafe fn usable_address(entry: &libc::ifaddrs) -> Option<IpAddr> {
    let up = entry.ifa_flags & libc::IFF_UP as u32 != 0;
    let running = entry.ifa_flags & libc::IFF_RUNNING as u32 != 0;
    let loopback = entry.ifa_flags & libc::IFF_LOOPBACK as u32 != 0;
    if !up || !running || loopback || entry.ifa_addr.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller vouches for it.
    let ip: IpAddr = match c_int::from(unsafe { (*entry.ifa_addr).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in.
            let addr: libc::sockaddr_in =
                unsafe { std::ptr::read_unaligned(entry.ifa_addr.cast()) };
            Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr)).into()
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6.
            let addr: libc::sockaddr_in6 =
                unsafe { std::ptr::read_unaligned(entry.ifa_addr.cast()) };
            Ipv6Addr::from(addr.sin6_addr.s6_addr).into()
        }
        _ => return None,
    };
    is_usable(ip).then_some(ip)
}

fn is_usable(ip: IpAddr) -> bool {
    let plain = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
    plain
        && match ip {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        }
}

/// The loopback interface is down and cannot be brought up.
#[derive(Debug, thiserror::Error)]
#[error(
    "the loopback interface is down and cannot be brought up ({0}): run `ip link set lo up`, or give the capability CAP_NET_ADMIN"
)]
pub struct LoopbackError(#[source] pub io::Error);

/// Bring `lo` up when it is down, as it is in a fresh network namespace: the virtual
/// addresses live there.
pub fn loopback_up() -> Result<(), LoopbackError> {
    set_loopback_up().map_err(LoopbackError)
}

fn set_loopback_up() -> io::Result<()> {
    // SAFETY: plain system call; the result is checked before it becomes an OwnedFd.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    ioctl(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    let up = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCGIFFLAGS fills this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if flags & up != 0 {
        return Ok(());
    }
    request.ifr_ifru.ifru_flags = flags | up;
    ioctl(&socket, libc::SIOCSIFFLAGS, &mut request)
}

fn ioctl(socket: &OwnedFd, name: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: both requests used here take an ifreq, and it outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), name, std::ptr::from_mut(request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn local_addresses_are_sorted_and_never_loopback_or_link_local() {
        let found = local_addresses().unwrap();
        assert!(found.is_sorted(), "{found:?}");
        assert!(found.iter().all(|ip| is_usable(*ip)), "{found:?}");
    }

    #[test]
    fn a_loopback_interface_that_is_up_stays_so_without_a_privilege() {
        loopback_up().unwrap();
    }
}
