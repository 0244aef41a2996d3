//! The admin page: `/metrics`, `/healthz`, `/readyz`, `/status`, `/recorder`.

use std::rc::Rc;

use holdfast_core::status::{LinkState, Status};

use super::node::Node;
use super::status::NodeStatus;
use super::udp::UdpForwards;
use crate::clock::Clock;
use crate::http::{Method, Request, Response, StatusCode};
use crate::metrics::{self, Kind, Page};
use crate::net::Net;
use crate::signal::Signaling;

/// What the admin page looks at.
pub(super) struct Admin<N: Net, C> {
    pub(super) node: Rc<Node<C>>,
    pub(super) udp: Rc<UdpForwards<N>>,
    pub(super) signaling: Rc<Signaling>,
    pub(super) version: String,
    pub(super) udp_addr: std::net::SocketAddr,
}

impl<N: Net, C: Clock> Admin<N, C> {
    /// Answer one request.
    pub(super) fn answer(&self, request: &Request) -> Response {
        if request.method != Method::GET {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        match request.path.as_str() {
            "/healthz" => Response::text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/status" => match serde_json::to_vec(&self.status()) {
                Ok(json) => Response::json(StatusCode::OK, json),
                Err(error) => {
                    let text = format!("{error}\n");
                    Response::text(StatusCode::INTERNAL_SERVER_ERROR, text)
                }
            },
            "/metrics" => Response::new(StatusCode::OK, metrics::CONTENT_TYPE, self.metrics()),
            "/recorder" => Response::new(StatusCode::OK, "application/jsonl", self.recorder()),
            _ => Response::text(
                StatusCode::NOT_FOUND,
                "no such page: /healthz, /readyz, /status, /metrics, /recorder\n",
            ),
        }
    }

    /// Ready to be used: peers can find this node. The socket is bound before this page is.
    fn ready(&self) -> Response {
        let brokers = self.status().brokers;
        let ready = brokers.is_empty() || self.signaling.has_answer();
        let (status, reason) = match ready {
            true => (StatusCode::OK, None),
            false => (
                StatusCode::SERVICE_UNAVAILABLE,
                Some("no broker has answered yet"),
            ),
        };
        let json = serde_json::json!({ "ready": ready, "reason": reason, "brokers": brokers });
        Response::json(status, json.to_string())
    }

    fn recorder(&self) -> String {
        let mut lines = Vec::new();
        self.node.view(|_, mesh| mesh.dump(&mut lines));
        lines.iter().flat_map(|line| [line, "\n"]).collect()
    }

    pub(super) fn status(&self) -> NodeStatus {
        self.node.view(|now, mesh| NodeStatus {
            version: self.version.clone(),
            udp_addr: self.udp_addr,
            brokers: self.signaling.status(now.mono),
            clashes: self.node.clashes(),
            connections: self.node.connections(),
            mesh: mesh.status(now),
            sidecar: None,
        })
    }

    fn metrics(&self) -> String {
        let status = self.status();
        let mut page = Page::new();
        node_metrics(&mut page, &status);
        link_states(&mut page, &status.mesh);
        link_numbers(&mut page, &status.mesh);
        broker_metrics(&mut page, &status);
        self.driver_metrics(&mut page);
        page.finish()
    }

    fn driver_metrics(&self, page: &mut Page) {
        page.metric(
            "holdfast_udp_sockets_on_demand",
            Kind::Gauge,
            "UDP sockets that stand for a peer's port which is not forwarded.",
        )
        .sample(&[], self.udp.on_demand());
        for (name, help, value) in self.node.counters.list() {
            page.metric(&format!("holdfast_io_{name}_total"), Kind::Counter, help)
                .sample(&[], value);
        }
    }
}

fn node_metrics(page: &mut Page, status: &NodeStatus) {
    let mesh = &status.mesh;
    let id = mesh.id.as_str();
    page.metric("holdfast_info", Kind::Gauge, "The node; always 1.")
        .sample(&[("id", id), ("version", &status.version)], 1);
    page.metric(
        "holdfast_uptime_seconds",
        Kind::Gauge,
        "Time since the start.",
    )
    .sample(&[], mesh.uptime_ms as f64 / 1e3);
    page.metric(
        "holdfast_connections",
        Kind::Gauge,
        "Forwarded TCP connections open now.",
    )
    .sample(&[], status.connections);
    page.metric(
        "holdfast_clashes",
        Kind::Gauge,
        "Addresses that should be forwarded and cannot be bound.",
    )
    .sample(&[], status.clashes.len());
    page.metric(
        "holdfast_refused_total",
        Kind::Counter,
        "What was refused or dropped, by reason.",
    );
    for counter in &mesh.counters {
        page.sample(&[("reason", &counter.name)], counter.value);
    }
    page.metric(
        "holdfast_relay_ready",
        Kind::Gauge,
        "Whether a TURN allocation is usable.",
    );
    for relay in &mesh.relays {
        let labels = [
            ("server", relay.server.as_str()),
            ("transport", relay.transport.as_str()),
        ];
        page.sample(&labels, u8::from(relay.state == "ready"));
    }
}

fn link_states(page: &mut Page, mesh: &Status) {
    const STATES: [LinkState; 5] = [
        LinkState::Idle,
        LinkState::Signaling,
        LinkState::Connecting,
        LinkState::Up,
        LinkState::Down,
    ];
    page.metric(
        "holdfast_link_state",
        Kind::Gauge,
        "1 for the state that a link is in.",
    );
    for link in &mesh.links {
        for state in STATES {
            let labels = [("peer", link.peer.as_str()), ("state", state.as_str())];
            page.sample(&labels, u8::from(link.state == state));
        }
    }
    page.metric(
        "holdfast_link_path",
        Kind::Gauge,
        "1 for the class of the path that a link's traffic takes.",
    );
    for link in &mesh.links {
        if let Some(path) = link.selected() {
            let labels = [("peer", link.peer.as_str()), ("class", path.class.as_str())];
            page.sample(&labels, 1);
        }
    }
    page.metric(
        "holdfast_link_rtt_seconds",
        Kind::Gauge,
        "Round-trip time of a link.",
    );
    for link in &mesh.links {
        if let Some(rtt_us) = link.rtt_us {
            page.sample(&[("peer", link.peer.as_str())], rtt_us as f64 / 1e6);
        }
    }
}

fn link_numbers(page: &mut Page, mesh: &Status) {
    use holdfast_core::status::LinkStatus;
    type Number = fn(&LinkStatus) -> u64;
    let numbers: [(&str, Kind, &str, Number); 7] = [
        ("streams", Kind::Gauge, "TCP streams open now.", |l| {
            l.streams.into()
        }),
        (
            "mtu_bytes",
            Kind::Gauge,
            "Path MTU, in bytes of UDP payload.",
            |l| l.mtu.into(),
        ),
        (
            "tx_bytes_total",
            Kind::Counter,
            "UDP payload bytes sent.",
            |l| l.tx_bytes,
        ),
        (
            "rx_bytes_total",
            Kind::Counter,
            "UDP payload bytes received.",
            |l| l.rx_bytes,
        ),
        (
            "lost_packets_total",
            Kind::Counter,
            "Packets declared lost.",
            |l| l.lost_packets,
        ),
        (
            "path_changes_total",
            Kind::Counter,
            "Path changes in this session.",
            |l| l.path_changes.into(),
        ),
        (
            "sessions_total",
            Kind::Counter,
            "Sessions since the start.",
            |l| l.sessions.into(),
        ),
    ];
    for (name, kind, help, number) in numbers {
        page.metric(&format!("holdfast_link_{name}"), kind, help);
        for link in &mesh.links {
            page.sample(&[("peer", link.peer.as_str())], number(link));
        }
    }
}

fn broker_metrics(page: &mut Page, status: &NodeStatus) {
    use crate::signal::BrokerStatus;
    type Number = fn(&BrokerStatus) -> u64;
    let numbers: [(&str, Kind, &str, Number); 6] = [
        (
            "reachable",
            Kind::Gauge,
            "Whether the latest answer was a good one.",
            |b| b.reachable.into(),
        ),
        (
            "queued",
            Kind::Gauge,
            "Envelopes that wait for the broker.",
            |b| b.queued as u64,
        ),
        (
            "posted_total",
            Kind::Counter,
            "Envelopes that the broker took.",
            |b| b.posted,
        ),
        (
            "received_total",
            Kind::Counter,
            "Envelopes that it handed over.",
            |b| b.received,
        ),
        (
            "dropped_total",
            Kind::Counter,
            "Envelopes dropped because the broker handed over too many in a short time.",
            |b| b.dropped,
        ),
        (
            "failures_total",
            Kind::Counter,
            "Requests that failed.",
            |b| b.failures,
        ),
    ];
    for (name, kind, help, number) in numbers {
        page.metric(&format!("holdfast_broker_{name}"), kind, help);
        for broker in &status.brokers {
            page.sample(&[("broker", broker.url.as_str())], number(broker));
        }
    }
}
