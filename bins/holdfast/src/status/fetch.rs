//! Asking a node for its status.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_io::http::{Client, Endpoint, Method, StatusCode};
use holdfast_io::mesh::NodeStatus;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};

/// How long a node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Largest accepted status: 253 links with 64 pairs of 400 bytes each.
const STATUS_LEN_MAX: usize = 8 << 20;

/// A node's `/status`.
#[derive(Clone, Debug)]
pub struct Page {
    /// As it came.
    pub raw: String,
    /// What it says.
    pub status: NodeStatus,
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody answers.
    #[error("{0}")]
    Unreachable(String),
    /// Something else answers.
    #[error("{0}")]
    Strange(String),
}

/// Ask the node whose admin address this is, in the network namespace of this thread.
pub fn fetch(admin: SocketAddr) -> Result<Page, FetchError> {
    let unreachable = |error: &dyn std::error::Error| FetchError::Unreachable(error.to_string());
    let endpoint: Endpoint = format!("http://{admin}")
        .parse()
        .map_err(|error| unreachable(&error))?;
    let answer = block_on(async {
        let mut client = Client::new(RealNet, RealClock, RealSpawn, endpoint);
        client
            .request(
                Method::GET,
                "/status",
                Default::default(),
                STATUS_LEN_MAX,
                ANSWER_LIMIT,
            )
            .await
    });
    let (status, body) = answer
        .map_err(|error| unreachable(&error))?
        .map_err(|error| unreachable(&error))?;
    if status != StatusCode::OK {
        return Err(FetchError::Strange(format!("it answers {status}")));
    }
    parse(&body)
}

/// Read the body of an answer.
pub fn parse(body: &[u8]) -> Result<Page, FetchError> {
    let strange = |error: serde_json::Error| FetchError::Strange(error.to_string());
    Ok(Page {
        raw: String::from_utf8_lossy(body).into_owned(),
        status: serde_json::from_slice(body).map_err(strange)?,
    })
}
