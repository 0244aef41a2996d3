//! `holdfast dev serve-gateway`: the last step of a provider's TCP gateway, on the machine itself.
//! Consul's API listens on loopback alone; what the router publishes arrives at the node's own
//! address.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;

/// Most connections at one time: a few workers with a few calls each.
const CONNECTIONS_MAX: usize = 256;
/// How long the server may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Forward until it is killed.
pub fn run(listen: SocketAddr, to: SocketAddr) -> anyhow::Result<ExitCode> {
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    let open = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let open = open.clone();
        thread::spawn(move || {
            // One connection's failure is its own.
            let _ = forward(client, to);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn forward(client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&to, CONNECT_LIMIT)?;
    let (mut from_client, mut to_client) = (client.try_clone()?, client);
    let (mut from_server, mut to_server) = (server.try_clone()?, server);
    let up = thread::spawn(move || {
        let copied = io::copy(&mut from_client, &mut to_server);
        // The end of one direction is passed on.
        to_server.shutdown(Shutdown::Write).and(copied.map(drop))
    });
    let copied = io::copy(&mut from_server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Write);
    let _ = up.join();
    copied.map(drop)
}
