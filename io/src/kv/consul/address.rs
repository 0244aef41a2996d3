//! Where a server is.

use std::fmt;
use std::str::FromStr;

use crate::http::{Endpoint, EndpointError};

/// `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Whether to use TLS.
    pub tls: bool,
    /// Host and port.
    pub endpoint: Endpoint,
}

/// A text that is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no server address: expected http://host:port or https://host:port")]
pub struct AddressError {
    found: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let error = || AddressError {
            found: text.chars().take(80).collect(),
        };
        let (tls, endpoint): (_, Result<Endpoint, EndpointError>) =
            match text.strip_prefix("https://") {
                // An endpoint without a port would get that of plain HTTP.
                Some(rest) if !has_port(rest) => return Err(error()),
                Some(rest) => (true, format!("http://{rest}").parse()),
                None => (false, text.parse()),
            };
        let endpoint = endpoint.map_err(|_| error())?;
        Ok(Address { tls, endpoint })
    }
}

fn has_port(rest: &str) -> bool {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    rest.rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.endpoint.to_string();
        match (self.tls, plain.strip_prefix("http://")) {
            (true, Some(rest)) => write!(f, "https://{rest}"),
            _ => f.write_str(&plain),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn an_address_says_whether_to_use_tls() {
        for (text, tls) in [
            ("http://a:8500", false),
            ("https://a:8501", true),
            ("https://[::1]:8501", true),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.tls, tls, "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "a:1",
            "https://",
            "https://a",
            "https://a:",
            "https://[::1]",
            "https://http://a:1",
            "https://a:1/x",
            "ftp://a:1",
            "https://a:65536",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?} must be refused");
        }
    }
}
