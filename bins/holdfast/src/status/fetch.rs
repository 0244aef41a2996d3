//! Asking a node for its status.

use std::net::SocketAddr;
use std::time::Duration;

use holdfast_io::http::{Client, Endpoint, Method, StatusCode};
use holdfast_io::mesh::NodeStatus;
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_sidecar::SidecarStatus;

/// How long a node may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Largest accepted status: 253 links with 64 pairs of 400 bytes each.
const STATUS_LEN_MAX: usize = 8 << 20;

/// A node's `/status`.
#[derive(Clone, Debug)]
pub struct Page {
    /// As it came.
    pub raw: String,
    /// What the mesh says, once it runs.
    pub node: Option<NodeStatus>,
    /// What the sidecar says, where the node runs inside one.
    pub sidecar: Option<SidecarStatus>,
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
    match get(admin, "/status")? {
        (StatusCode::OK, body) => parse(&body),
        (status, _) => Err(FetchError::Strange(format!("it answers {status}"))),
    }
}

/// Whether the node is ready, and why not.
pub fn readiness(admin: SocketAddr) -> Result<Result<(), String>, FetchError> {
    let (status, body) = get(admin, "/readyz")?;
    let json = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let reason = json.and_then(|json| Some(json.get("reason")?.as_str()?.to_owned()));
    match status {
        StatusCode::OK => Ok(Ok(())),
        StatusCode::SERVICE_UNAVAILABLE => {
            Ok(Err(reason.unwrap_or_else(|| {
                String::from_utf8_lossy(&body).trim().to_owned()
            })))
        }
        status => Err(FetchError::Strange(format!("/readyz answers {status}"))),
    }
}

/// Ask an HTTP server, in the network namespace of this thread: the status and the body.
pub fn get(admin: SocketAddr, path: &str) -> Result<(StatusCode, Vec<u8>), FetchError> {
    let unreachable = |error: &dyn std::error::Error| FetchError::Unreachable(error.to_string());
    let endpoint: Endpoint = format!("http://{admin}")
        .parse()
        .map_err(|error| unreachable(&error))?;
    let answer = block_on(async {
        let mut client = Client::new(RealNet, RealClock, RealSpawn, endpoint);
        client
            .request(
                Method::GET,
                path,
                Default::default(),
                STATUS_LEN_MAX,
                ANSWER_LIMIT,
            )
            .await
    });
    let (status, body) = answer
        .map_err(|error| unreachable(&error))?
        .map_err(|error| unreachable(&error))?;
    Ok((status, body.to_vec()))
}

/// Read the body of an answer.
pub fn parse(body: &[u8]) -> Result<Page, FetchError> {
    let strange = |error: serde_json::Error| FetchError::Strange(error.to_string());
    let whole: Whole = serde_json::from_slice(body).map_err(strange)?;
    let node = match (&whole.id, &whole.sidecar) {
        // The sidecar answers before there is a mesh.
        (None, Some(_)) => None,
        _ => Some(serde_json::from_slice(body).map_err(strange)?),
    };
    Ok(Page {
        raw: String::from_utf8_lossy(body).into_owned(),
        node,
        sidecar: whole.sidecar,
    })
}

/// What tells whose status it is.
#[derive(serde::Deserialize)]
struct Whole {
    id: Option<String>,
    sidecar: Option<SidecarStatus>,
}
