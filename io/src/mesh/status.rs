//! What a running node says of itself: core's status and what only the driver knows.

use std::net::SocketAddr;

use holdfast_core::status::Status;
use serde::{Deserialize, Serialize};

use crate::signal::BrokerStatus;

/// The JSON of `/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The program's version.
    pub version: String,
    /// Where the node's UDP socket is bound.
    pub udp_addr: SocketAddr,
    /// The brokers, in the order of the configuration.
    pub brokers: Vec<BrokerStatus>,
    /// Addresses that should be forwarded and cannot be bound.
    pub clashes: Vec<Clash>,
    /// Forwarded TCP connections open now, on all links.
    pub connections: usize,
    /// The machine's own status.
    #[serde(flatten)]
    pub mesh: Status,
    /// What the sidecar says of itself, when the node runs inside one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<serde_json::Value>,
}

/// An address that should be forwarded and cannot be bound. Tried again each second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clash {
    /// The address.
    pub addr: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Why.
    pub error: String,
}

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// In lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}
