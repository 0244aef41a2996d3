//! A simulator of dstack's guest agent, with scripted faults: what [`crate::tee::Dstack`] talks
//! to in tests, in this process ([`Agent::start`], [`serve`]) or in its own
//! (`agent-simulator`, feature `testing`).
//!
//! Keys derive from the root and the application's id alone, so they are the same on every
//! instance of an application, as with the real one. Quotes vouch for nothing.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an agent of its own in a test is a thread, like the real one is a process"
)]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::http::{self, Request, Response, ServerLimits, StatusCode, Stop};
use holdfast_io::net::{Listener, Net, Stream};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on};
use holdfast_io::spawn::Spawn;
use ring::hkdf;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hex;
use crate::real::UnixNet;
use crate::tee::AgentEndpoint;

/// Something that goes wrong with one call; each is used once, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed without an answer: `cut`.
    Cut,
    /// Bytes that are no HTTP: `garbage`.
    Garbage,
    /// The answer takes this long: `slow:<milliseconds>`.
    Slow(Duration),
    /// The answer has this status: `<status>`.
    Status(u16),
    /// JSON with other fields: `shape`.
    Shape,
    /// Far too much: `huge`.
    Huge,
    /// Exactly this body: only in tests.
    Body(String),
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let wrong = || {
            format!("{text:?}: expected cut, garbage, slow:<milliseconds>, a status, shape or huge")
        };
        match text {
            "cut" => Ok(Fault::Cut),
            "garbage" => Ok(Fault::Garbage),
            "shape" => Ok(Fault::Shape),
            "huge" => Ok(Fault::Huge),
            _ => match text.strip_prefix("slow:") {
                Some(ms) => {
                    let ms = ms.parse().map_err(|_| wrong())?;
                    Ok(Fault::Slow(Duration::from_millis(ms)))
                }
                None => {
                    let status = text.parse().ok();
                    let status = status.filter(|status| (200..=599).contains(status));
                    status.map(Fault::Status).ok_or_else(wrong)
                }
            },
        }
    }
}

/// What an agent says of its machine, and what goes wrong.
#[derive(Clone, Debug)]
pub struct Script {
    /// What the machine runs, hexadecimal digits.
    pub app_id: String,
    /// The machine, hexadecimal digits; empty with dstack's `no_instance_id`.
    pub instance_id: String,
    /// The digest of what it runs, hexadecimal digits.
    pub compose_hash: String,
    /// What all keys of all applications derive from.
    pub root: [u8; 32],
    /// What goes wrong with the first calls.
    pub faults: VecDeque<Fault>,
}

impl Script {
    /// Machine number `instance` of application number `app`, without faults.
    #[must_use]
    pub fn new(app: u8, instance: u8) -> Script {
        Script {
            app_id: hex::encode(&[app; 20]).as_str().to_owned(),
            instance_id: hex::encode(&[instance; 20]).as_str().to_owned(),
            compose_hash: hex::encode(&[app; 32]).as_str().to_owned(),
            root: [0x5a; 32],
            faults: VecDeque::new(),
        }
    }

    /// With these faults.
    #[must_use]
    pub fn with_faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Script {
        self.faults = faults.into_iter().collect();
        self
    }
}

struct State {
    script: Script,
    calls: Vec<String>,
}

/// State that the serving thread and the test share.
#[derive(Clone)]
struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn new(script: Script) -> Shared {
        let calls = Vec::new();
        Shared(Arc::new(Mutex::new(State { script, calls })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with the lock")
    }

    /// The next fault, if `is` says that it is one for here.
    fn fault(&self, is: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let faults = &mut self.lock().script.faults;
        let fits = faults.front().is_some_and(is);
        fits.then(|| faults.pop_front()).flatten()
    }
}

/// A running agent. It stops when this is dropped.
pub struct Agent {
    endpoint: AgentEndpoint,
    shared: Shared,
    stop: tokio::sync::watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    /// An agent on a thread of its own, listening when this returns. A socket that nobody
    /// listens on is replaced; port 0 is the system's choice.
    pub fn start(endpoint: &AgentEndpoint, script: Script) -> io::Result<Agent> {
        let shared = Shared::new(script);
        let (stop, stopped) = Stop::new();
        let (ready, is_ready) = mpsc::channel();
        let (at, state) = (endpoint.clone(), shared.clone());
        let thread = std::thread::spawn(move || {
            let failed = ready.clone();
            let served = block_on(run(at, state, stopped, ready));
            if let Err(error) = served.and_then(|result| result) {
                // Nobody waits any more when it listened before.
                let _ = failed.send(Err(error));
            }
        });
        let gone = |_| io::Error::other("the agent's thread ended");
        let endpoint = is_ready.recv().map_err(gone)??;
        Ok(Agent {
            endpoint,
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn endpoint(&self) -> &AgentEndpoint {
        &self.endpoint
    }

    /// The paths of the calls that came, those with a fault below HTTP excepted.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.shared.lock().calls.clone()
    }

    /// Faults that are still to come.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.shared.lock().script.faults.len()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket that refuses: it is there, and nobody listens.
pub fn refuse(path: &Path) -> io::Result<()> {
    std::os::unix::net::UnixListener::bind(path).map(drop)
}

async fn run(
    endpoint: AgentEndpoint,
    shared: Shared,
    stop: Stop,
    ready: mpsc::Sender<io::Result<AgentEndpoint>>,
) -> io::Result<()> {
    match endpoint {
        AgentEndpoint::Unix(path) => {
            if std::os::unix::net::UnixStream::connect(&path).is_err() {
                // Nothing there is as good as what is left of an agent that ended.
                let _ = std::fs::remove_file(&path);
            }
            let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
            let listener = UnixNet::new(&path).listen(anywhere).await?;
            let _ = ready.send(Ok(AgentEndpoint::Unix(path)));
            serve_shared(shared, listener, RealClock, RealSpawn, stop).await;
        }
        AgentEndpoint::Http(server) => {
            let addrs = RealNet.resolve(server.host(), server.port()).await?;
            let addr = addrs.first().ok_or(io::ErrorKind::NotFound)?;
            let listener = RealNet.listen(*addr).await?;
            let at = format!("http://{}", listener.local_addr()?);
            let at = at.parse().map_err(io::Error::other)?;
            let _ = ready.send(Ok(AgentEndpoint::Http(at)));
            serve_shared(shared, listener, RealClock, RealSpawn, stop).await;
        }
    }
    Ok(())
}

/// Be an agent on any listener, for example on that of a simulated host, until `stop`.
pub async fn serve<L: Listener, C: Clock, S: Spawn>(
    script: Script,
    listener: L,
    clock: C,
    spawn: S,
    stop: Stop,
) {
    serve_shared(Shared::new(script), listener, clock, spawn, stop).await;
}

async fn serve_shared<L: Listener, C: Clock, S: Spawn>(
    shared: Shared,
    listener: L,
    clock: C,
    spawn: S,
    stop: Stop,
) {
    let limits = ServerLimits {
        drain: Duration::from_millis(100),
        ..ServerLimits::default()
    };
    let listener = Faulty {
        listener,
        shared: shared.clone(),
    };
    let sleeper = clock.clone();
    http::serve(listener, clock, spawn, limits, stop, move |request| {
        answer(shared.clone(), sleeper.clone(), request)
    })
    .await;
}

/// Deals with the connections that a fault below HTTP is for, and passes the others on.
struct Faulty<L> {
    listener: L,
    shared: Shared,
}

impl<L: Listener> Listener for Faulty<L> {
    type Stream = L::Stream;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    async fn accept(&self) -> io::Result<(L::Stream, SocketAddr)> {
        loop {
            let (mut stream, from) = self.listener.accept().await?;
            match self
                .shared
                .fault(|f| matches!(f, Fault::Cut | Fault::Garbage))
            {
                None => return Ok((stream, from)),
                Some(Fault::Garbage) => babble(&mut stream).await,
                Some(_) => {}
            }
        }
    }
}

/// Bytes that are no HTTP, after the request and until the client has had enough: closing early
/// would be another fault, [`Fault::Cut`].
async fn babble<S: Stream>(stream: &mut S) {
    let mut request = [0; 4096];
    // A client that is gone already needs no garbage.
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(b"\x16\x03\x01 no HTTP\r\n\r\n").await;
    while stream.read(&mut request).await.is_ok_and(|len| len > 0) {}
}

async fn answer<C: Clock>(shared: Shared, clock: C, request: Request) -> Response {
    shared.lock().calls.push(request.path.clone());
    let response = respond(&shared.lock().script, &request);
    match shared.fault(|_| true) {
        None => response,
        Some(Fault::Slow(time)) => {
            clock.sleep(time).await;
            response
        }
        Some(Fault::Status(status)) => {
            let status = StatusCode::from_u16(status).expect("checked where it was read");
            failure(status, "as the script says")
        }
        Some(Fault::Shape) => Response::json(StatusCode::OK, r#"{"hello":["world"]}"#),
        Some(Fault::Huge) => Response::json(StatusCode::OK, vec![b' '; 8 << 20]),
        Some(Fault::Body(body)) => Response::json(StatusCode::OK, body),
        // Another connection was faster than this one: its fault is used up here.
        Some(Fault::Cut | Fault::Garbage) => failure(StatusCode::INTERNAL_SERVER_ERROR, "cut"),
    }
}

fn failure(status: StatusCode, why: &str) -> Response {
    Response::json(status, json!({"error": why}).to_string())
}

/// What the real agent answers: anything that it does not understand is a 400.
fn respond(script: &Script, request: &Request) -> Response {
    let content_type = request.headers.get("content-type");
    let is_json = content_type.is_some_and(|value| value.as_bytes() == b"application/json");
    if !is_json {
        return failure(
            StatusCode::BAD_REQUEST,
            "failed to decode a protobuf message",
        );
    }
    let answer = match request.path.as_str() {
        "/Info" => Ok(info(script)),
        "/GetKey" => key(script, &request.body),
        "/GetQuote" => quote(&request.body),
        path => Err(format!("Service not found: {path}")),
    };
    match answer {
        Ok(answer) => Response::json(StatusCode::OK, answer.to_string()),
        Err(why) => failure(StatusCode::BAD_REQUEST, &why),
    }
}

fn info(script: &Script) -> serde_json::Value {
    json!({
        "app_id": script.app_id,
        "instance_id": script.instance_id,
        "app_cert": "",
        "tcb_info": "{}",
        "app_name": "simulated",
        "device_id": "",
        "mr_aggregated": "",
        "os_image_hash": "",
        "key_provider_info": "",
        "compose_hash": script.compose_hash,
        "vm_config": "",
    })
}

#[derive(Deserialize)]
#[serde(default)]
struct KeyRequest {
    path: String,
    algorithm: String,
}

impl Default for KeyRequest {
    fn default() -> KeyRequest {
        KeyRequest {
            path: String::new(),
            algorithm: "secp256k1".to_owned(),
        }
    }
}

fn key(script: &Script, body: &[u8]) -> Result<serde_json::Value, String> {
    let request: KeyRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if !matches!(
        request.algorithm.as_str(),
        "" | "secp256k1" | "k256" | "ed25519"
    ) {
        return Err("Unsupported algorithm".to_owned());
    }
    let mut key = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, script.app_id.as_bytes())
        .extract(&script.root)
        .expand(&[request.path.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("one hash block is always available");
    Ok(json!({"key": *hex::encode(&key), "signature_chain": ["00", "00"]}))
}

#[derive(Deserialize)]
struct QuoteRequest {
    report_data: String,
}

fn quote(body: &[u8]) -> Result<serde_json::Value, String> {
    let request: QuoteRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let mut data = vec![0; request.report_data.len() / 2];
    let valid = hex::decode(&request.report_data, &mut data).is_some() && data.len() <= 64;
    if !valid {
        return Err("Report data is too long".to_owned());
    }
    data.resize(64, 0);
    let quote = [b"simulated quote".as_slice(), &data].concat();
    Ok(json!({
        "quote": *hex::encode(&quote),
        "event_log": "[]",
        "report_data": *hex::encode(&data),
        "vm_config": "{}",
    }))
}
