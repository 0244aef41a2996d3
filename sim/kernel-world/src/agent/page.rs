//! A node's admin pages.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use holdfast_core::status::LinkStatus;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Context, Seen};

/// Where a node's admin pages are, in its own namespace.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
/// A page that takes longer comes from a node that stands still.
const PAGE_LIMIT: Duration = Duration::from_secs(1);
/// A flight recorder is longer.
const RECORDER_LIMIT: Duration = Duration::from_secs(10);
/// The longest page that is read, bytes: more than the records of [`crate::map`] need.
const PAGE_LEN_MAX: u64 = 128 << 20;

/// What of `/status` matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct Page {
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Where its UDP socket is bound.
    pub udp_addr: SocketAddr,
    /// Its links.
    pub links: Vec<LinkStatus>,
    /// Its queues.
    #[serde(default)]
    pub queues: Vec<Queue>,
}

/// How full a queue is.
#[derive(Clone, Debug, Deserialize)]
pub struct Queue {
    /// Which.
    pub name: String,
    /// What is in it.
    pub len: u64,
    /// Its bound.
    pub max: u64,
}

/// Tell the status of the node, if it answers.
pub async fn look(cx: &Context) {
    if let Some(page) = status().await {
        cx.port.set(Some(page.udp_addr.port()));
        cx.tell(Seen::Page(cx.now(), Box::new(page)));
    }
}

/// Tell the content of the node's flight recorder, if it answers.
pub async fn recorder(cx: &Context) {
    let Some(page) = status().await else { return };
    let age = Duration::from_millis(page.uptime_ms);
    let started = cx.now().saturating_sub(age);
    if let Ok(Ok(text)) = timeout(RECORDER_LIMIT, get("/recorder")).await {
        let lines = text.lines().map(str::to_owned).collect();
        cx.tell(Seen::Recorder(started, lines));
    }
}

async fn status() -> Option<Page> {
    let text = timeout(PAGE_LIMIT, get("/status")).await.ok()?.ok()?;
    serde_json::from_str(&text).ok()
}

async fn get(path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(ADMIN).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: node\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream
        .take(PAGE_LEN_MAX)
        .read_to_string(&mut answer)
        .await?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
