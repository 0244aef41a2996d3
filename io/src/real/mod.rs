//! The operating system: the only place that starts runtimes, reads clocks, opens sockets
//! and writes files.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is the place that the rules keep everything else away from"
)]

mod batch;
mod datagram;
mod dump;
mod interfaces;
mod runtime;
mod tcp;

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

pub use batch::RealBatch;
pub use datagram::RealDatagram;
pub use dump::{DumpDir, DumpOnError};
pub use interfaces::{LoopbackError, local_addresses, loopback_up};
pub use runtime::{RealClock, RealSpawn, block_on, os_seed, raise_file_limit};
pub use tcp::{RealListener, RealStream};

use crate::net::Net;

/// The sockets of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealNet;

impl Net for RealNet {
    type Batch = RealBatch;
    type Datagram = RealDatagram;
    type Listener = RealListener;
    type Stream = RealStream;

    async fn bind_batch(&self, addr: SocketAddr) -> io::Result<RealBatch> {
        RealBatch::bind(addr)
    }

    async fn bind_datagram(&self, addr: SocketAddr) -> io::Result<RealDatagram> {
        RealDatagram::bind(addr)
    }

    async fn listen(&self, addr: SocketAddr) -> io::Result<RealListener> {
        RealListener::bind(addr)
    }

    async fn connect(&self, source: Option<IpAddr>, to: SocketAddr) -> io::Result<RealStream> {
        RealStream::connect(source, to).await
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }

    fn local_addresses(&self) -> io::Result<Vec<IpAddr>> {
        local_addresses()
    }
}

/// Set a socket option that is an integer (setsockopt(2)).
fn set_int_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the pointer and the size describe `value`, the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
