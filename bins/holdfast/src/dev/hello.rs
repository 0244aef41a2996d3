//! `holdfast dev serve-hello`: a service to try the mesh with.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::process::leave_session;
use super::state::own_program;

/// Names the node that a command was started on by `dev exec`.
pub const NODE_VARIABLE: &str = "HOLDFAST_DEV_NODE";
/// Largest accepted request head.
const REQUEST_LEN_MAX: u64 = 8 << 10;
/// How long a client may be silent.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);

/// Serve until it is killed; in the background, return once it listens.
pub fn run(port: u16, background: bool) -> anyhow::Result<ExitCode> {
    let node = std::env::var(NODE_VARIABLE).unwrap_or_else(|_| "this machine".to_owned());
    if background {
        return start_in_background(port);
    }
    let address = own_vip(&node).unwrap_or(Ipv4Addr::LOCALHOST);
    let listener = TcpListener::bind((address, port))
        .with_context(|| format!("cannot listen on {address}:{port}"))?;
    // Whoever waits for this line may be gone once it has been read.
    let _ = writeln!(io::stdout(), "listening on {address}:{port}");
    for client in listener.incoming() {
        // One client's failure is its own.
        let _ = client.and_then(|client| answer(client, &node));
    }
    Ok(ExitCode::SUCCESS)
}

/// `worker-2` has 127.50.0.2.
fn own_vip(node: &str) -> Option<Ipv4Addr> {
    let (_, ordinal) = node.rsplit_once('-')?;
    let octet = ordinal.parse().ok()?;
    Some(Ipv4Addr::new(127, 50, 0, octet))
}

fn start_in_background(port: u16) -> anyhow::Result<ExitCode> {
    let mut command = Command::new(own_program()?);
    command
        .args(["dev", "serve-hello", "--port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Not ours: whoever reads our output to its end must not wait for the service.
        .stderr(Stdio::piped());
    leave_session(&mut command);
    let mut child = command.spawn().context("cannot start in the background")?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    if line.is_empty() {
        let output = child.wait_with_output()?;
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("it does not listen: {}", why.trim());
    }
    crate::output::print(&line)?;
    Ok(ExitCode::SUCCESS)
}

fn answer(client: TcpStream, node: &str) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_LIMIT))?;
    client.set_write_timeout(Some(CLIENT_LIMIT))?;
    let mut head = BufReader::new(client.try_clone()?.take(REQUEST_LEN_MAX));
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = format!("hello from {node}\n");
    let mut client = client;
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}
