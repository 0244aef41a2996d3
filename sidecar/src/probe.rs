//! Whether a child does what it is there for.

use std::time::Duration;

use bytes::Bytes;
use holdfast_io::clock::{Clock, timeout};
use holdfast_io::http::{Client, Endpoint, Method, StatusCode};
use holdfast_io::net::Net;
use holdfast_io::spawn::Spawn;

use crate::options::Ready;

/// Longest time for one look.
const LIMIT: Duration = Duration::from_secs(2);
/// Largest answer that is read, bytes: a Consul agent tells its whole configuration.
const ANSWER_LEN_MAX: usize = 256 << 10;

/// Look once. The error says what was found instead, for people.
pub(crate) async fn look<N: Net, C: Clock, S: Spawn>(
    ready: &Ready,
    (net, clock, spawn): (&N, &C, &S),
) -> Result<(), String> {
    let world = || (net.clone(), clock.clone(), spawn.clone());
    match ready {
        Ready::AtOnce => Ok(()),
        Ready::Tcp(at) => {
            let connecting = timeout(clock, LIMIT, connect(net, at)).await;
            connecting.map_err(|error| error.to_string())?
        }
        Ready::Http { endpoint, path } => get(world(), endpoint, path).await.map(|_| ()),
        Ready::ConsulAgent(at) => {
            // With ACLs the agent tells nothing about itself without a token: an answer as well.
            let about = fetch(world(), at, "/v1/agent/self").await?.0;
            if !about.is_success() && about != StatusCode::FORBIDDEN {
                return Err(format!("{at} answers {about}"));
            }
            leader(world(), at).await.map(|_| ())
        }
    }
}

/// Who leads the servers, as the agent there knows.
async fn leader<N: Net, C: Clock, S: Spawn>(
    world: (N, C, S),
    at: &Endpoint,
) -> Result<String, String> {
    let body = get(world, at, "/v1/status/leader").await?;
    match serde_json::from_slice::<String>(&body) {
        Ok(leader) if !leader.is_empty() => Ok(leader),
        Ok(_) => Err("it knows no leader".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

async fn connect<N: Net>(net: &N, at: &Endpoint) -> Result<(), String> {
    let found = net.resolve(at.host(), at.port()).await;
    let mut last = "the name has no address".to_owned();
    for addr in found.map_err(|error| error.to_string())? {
        match net.connect(None, addr).await {
            Ok(_) => return Ok(()),
            Err(error) => last = format!("{addr}: {error}"),
        }
    }
    Err(last)
}

async fn get<N: Net, C: Clock, S: Spawn>(
    world: (N, C, S),
    endpoint: &Endpoint,
    path: &str,
) -> Result<Bytes, String> {
    let (status, body) = fetch(world, endpoint, path).await?;
    match status.is_success() {
        true => Ok(body),
        false => Err(format!("{endpoint}{path} answers {status}")),
    }
}

async fn fetch<N: Net, C: Clock, S: Spawn>(
    (net, clock, spawn): (N, C, S),
    endpoint: &Endpoint,
    path: &str,
) -> Result<(StatusCode, Bytes), String> {
    let mut client = Client::new(net, clock, spawn, endpoint.clone());
    let asked = client.request(Method::GET, path, Bytes::new(), ANSWER_LEN_MAX, LIMIT);
    asked.await.map_err(|error| error.to_string())
}
