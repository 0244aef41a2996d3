//! Names of servers: host and port, broker URLs, TURN URIs.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use holdfast_core::config::TurnTransport;

/// Longest host name (RFC 1035 section 2.3.4).
const HOST_LEN_MAX: usize = 253;
/// STUN's and TURN's port (RFC 8489 section 18.5, RFC 8656 section 22).
pub const STUN_PORT: u16 = 3478;

/// A host, which may be a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

impl HostPort {
    /// Read `host`, `host:port` or `[v6]:port`; the port may be left out if there is a default.
    pub fn parse(text: &str, default_port: Option<u16>) -> Option<HostPort> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                match rest {
                    "" => (host, None),
                    rest => (host, Some(rest.strip_prefix(':')?)),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => default_port?,
        };
        let valid = (port != 0) && (text.starts_with('[') || is_host(host));
        valid.then(|| HostPort {
            host: host.to_owned(),
            port,
        })
    }

    /// Its addresses. Blocks on the system's resolver when the host is a name.
    pub fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let found: Vec<_> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        match found.is_empty() {
            true => Err(std::io::Error::other("the name has no address")),
            false => Ok(found),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let dotted_digits = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.len() <= HOST_LEN_MAX
        && host.trim_end_matches('.').split('.').all(label)
        && (!dotted_digits || host.parse::<IpAddr>().is_ok())
}

/// A broker's address: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl(pub HostPort);

/// Why a text is no [`BrokerUrl`] or [`TurnUrl`].
pub struct UrlError {
    /// What would have been right.
    pub expected: &'static str,
    /// What to do.
    pub help: Option<&'static str>,
}

const BROKER_EXPECTED: &str = "a URL such as http://203.0.113.10:7000";

impl FromStr for BrokerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<BrokerUrl, UrlError> {
        let error = |help| UrlError {
            expected: BROKER_EXPECTED,
            help,
        };
        if text.starts_with("https://") {
            return Err(error(Some(
                "brokers are reached by plain http: all that passes them is sealed and signed",
            )));
        }
        let rest = text.strip_prefix("http://").ok_or(error(None))?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(error(Some(
                "no user, path or query: only the host and the port",
            )));
        }
        HostPort::parse(authority, Some(80))
            .map(BrokerUrl)
            .ok_or(error(None))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// A TURN URI (RFC 7065): `turn:host[:port][?transport=udp|tcp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnUrl {
    /// Where the server is.
    pub server: HostPort,
    /// How to talk to it.
    pub transport: TurnTransport,
}

const TURN_EXPECTED: &str = "a URI such as turn:203.0.113.10:3478?transport=udp";

impl FromStr for TurnUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<TurnUrl, UrlError> {
        let error = |help| UrlError {
            expected: TURN_EXPECTED,
            help,
        };
        if text.starts_with("turns:") {
            return Err(error(Some(
                "turns (TLS) is not supported; what a relay sees is encrypted in any case",
            )));
        }
        let rest = text.strip_prefix("turn:").ok_or(error(None))?;
        let (authority, transport) = match rest.split_once('?') {
            None => (rest, TurnTransport::Udp),
            Some((authority, "transport=udp")) => (authority, TurnTransport::Udp),
            Some((authority, "transport=tcp")) => (authority, TurnTransport::Tcp),
            Some(_) => return Err(error(Some("the transport is udp or tcp"))),
        };
        let server = HostPort::parse(authority, Some(STUN_PORT)).ok_or(error(None))?;
        Ok(TurnUrl { server, transport })
    }
}

impl fmt::Display for TurnUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            TurnTransport::Udp => "udp",
            TurnTransport::Tcp => "tcp",
        };
        write!(f, "turn:{}?transport={transport}", self.server)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn hosts_and_ports_are_read_as_people_write_them() {
        for (text, shown) in [
            ("example.net:80", "example.net:80"),
            ("10.0.0.1:3478", "10.0.0.1:3478"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
            ("plain", "plain:3478"),
        ] {
            let parsed = HostPort::parse(text, Some(STUN_PORT)).unwrap();
            assert_eq!(parsed.to_string(), shown);
        }
        for bad in [
            "", ":1", "a:0", "a:65536", "a:+1", "a b:1", "[::1", "[x]:1", "1.2.3:4", "::1", "a:",
        ] {
            assert!(HostPort::parse(bad, None).is_none(), "{bad:?} is refused");
        }
    }

    #[test]
    fn a_turn_uri_without_transport_means_udp() {
        let url: TurnUrl = "turn:turn.example.net".parse().ok().unwrap();
        assert_eq!(url.to_string(), "turn:turn.example.net:3478?transport=udp");
        for bad in ["turns:a", "turn:", "turn:a?transport=sctp", "http://a"] {
            assert!(bad.parse::<TurnUrl>().is_err(), "{bad:?} is refused");
        }
    }

    #[test]
    fn a_broker_url_has_a_host_and_nothing_else() {
        let url: BrokerUrl = "http://b.example.net/".parse().ok().unwrap();
        assert_eq!(url.to_string(), "http://b.example.net:80");
        for bad in ["b:80", "https://b", "http://u@b", "http://b/x", "http://"] {
            assert!(bad.parse::<BrokerUrl>().is_err(), "{bad:?} is refused");
        }
    }
}
