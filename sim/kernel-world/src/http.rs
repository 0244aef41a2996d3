//! Questions over HTTP, asked from the namespace that the thread is in.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest answer that is read, bytes: a status page of 64 nodes is shorter.
const ANSWER_LEN_MAX: u64 = 16 << 20;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status, RFC 9110 section 15.
    pub status: u16,
    head: String,
    /// The content.
    pub body: String,
}

impl Answer {
    /// A number in a field of the head.
    pub fn number(&self, field: &str) -> Option<u64> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| name.eq_ignore_ascii_case(field))?;
        value.trim().parse().ok()
    }
}

/// Ask, with one limit for all of it.
pub fn get(at: SocketAddr, path: &str, limit: Duration) -> io::Result<Answer> {
    ask(
        at,
        &Request {
            method: "GET",
            path,
            login: None,
            body: "",
        },
        limit,
    )
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// RFC 9110 section 9.
    pub method: &'a str,
    /// With what follows the question mark.
    pub path: &'a str,
    /// A name and a password, RFC 7617.
    pub login: Option<(&'a str, &'a str)>,
    /// The content, JSON.
    pub body: &'a str,
}

/// Ask, with one limit for all of it.
pub fn ask(at: SocketAddr, request: &Request<'_>, limit: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + limit;
    let mut stream = TcpStream::connect_timeout(&at, limit)?;
    let Request {
        method, path, body, ..
    } = request;
    let mut text = format!("{method} {path} HTTP/1.0\r\nHost: {at}\r\n");
    if let Some((name, password)) = request.login {
        let login = STANDARD.encode(format!("{name}:{password}"));
        text.push_str(&format!("Authorization: Basic {login}\r\n"));
    }
    if !body.is_empty() {
        let len = body.len();
        text.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {len}\r\n"
        ));
    }
    text.push_str("\r\n");
    text.push_str(body);
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return parse(&answer),
            len => answer.extend_from_slice(&chunk[..len]),
        }
        if answer.len() as u64 > ANSWER_LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

fn parse(answer: &[u8]) -> io::Result<Answer> {
    let text = String::from_utf8_lossy(answer);
    let parts = text.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(Answer {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    });
    parts.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
