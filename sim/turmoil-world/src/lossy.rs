//! A front of a broker that loses and repeats what is posted: a broker makes no promises.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::entropy::Entropy;
use holdfast_io::http::{
    Client, Endpoint, Method, Request, Response, ServerLimits, StatusCode, Stop, serve,
};
use holdfast_io::net::Listener;
use holdfast_io::signal_http::ANSWER_LEN_MAX;
use holdfast_net_model::{Draw, Ratio};

use crate::clock::SimClock;
use crate::net::SimNet;
use crate::shared::Shared;
use crate::spawn::SimSpawn;

/// Where the broker behind it listens.
pub const BEHIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7001);
/// Longest time for a request: a long poll, and some.
const LIMIT: Duration = Duration::from_secs(60);

struct Front {
    shared: Rc<Shared>,
    net: SimNet,
    clock: SimClock,
    spawn: SimSpawn,
    draws: RefCell<Drawn>,
}

struct Drawn(Entropy);

impl Draw for Drawn {
    fn next_u64(&mut self) -> u64 {
        self.0.u64()
    }
}

/// Serve at `listener` what the broker at [`BEHIND`] serves, but for what is lost.
pub async fn serve_front<L: Listener>(
    listener: L,
    shared: Rc<Shared>,
    (net, clock, spawn): (SimNet, SimClock, SimSpawn),
    entropy: Entropy,
) {
    let front = Rc::new(Front {
        shared,
        net,
        clock: clock.clone(),
        spawn: spawn.clone(),
        draws: RefCell::new(Drawn(entropy)),
    });
    let (_never, stop) = Stop::new();
    let limits = ServerLimits {
        connections_max: 4096,
        body_len_max: 64 << 10,
        idle: LIMIT,
        request: LIMIT,
        ..ServerLimits::default()
    };
    let handler = move |request| {
        let front = front.clone();
        async move { front.pass(request).await }
    };
    serve(listener, clock, spawn, limits, stop, handler).await;
}

impl Front {
    async fn pass(&self, request: Request) -> Response {
        let (lose, repeat) = self.shared.broker_loss.get();
        if request.method == Method::POST {
            if self.draws(lose) {
                return Response::empty(StatusCode::NO_CONTENT);
            }
            if self.draws(repeat) {
                self.forward(&request).await;
            }
        }
        self.forward(&request).await
    }

    fn draws(&self, ratio: Ratio) -> bool {
        self.draws.borrow_mut().chance(ratio)
    }

    async fn forward(&self, request: &Request) -> Response {
        let endpoint: Endpoint = format!("http://{BEHIND}").parse().expect("an address");
        let (net, clock) = (self.net.clone(), self.clock.clone());
        let mut client = Client::new(net, clock, self.spawn.clone(), endpoint);
        let path = match &request.query {
            Some(query) => format!("{}?{query}", request.path),
            None => request.path.clone(),
        };
        let body: Bytes = request.body.clone();
        let method = request.method.clone();
        match client
            .request(method, &path, body, ANSWER_LEN_MAX, LIMIT)
            .await
        {
            Ok((StatusCode::NO_CONTENT, _)) => Response::empty(StatusCode::NO_CONTENT),
            Ok((status, body)) => Response::json(status, body),
            Err(_) => Response::empty(StatusCode::BAD_GATEWAY),
        }
    }
}
