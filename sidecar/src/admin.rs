//! The admin page of the sidecar: there before the mesh is, and then the mesh's own with a
//! section more.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use holdfast_core::slots::Slots;
use holdfast_io::clock::Clock;
use holdfast_io::http::{Method, Request, Response, ServerLimits, StatusCode, Stop, serve};
use holdfast_io::mesh::Page;
use holdfast_io::metrics::{self, Kind};
use holdfast_io::net::Net;
use holdfast_io::real::{RealClock, RealNet, RealSpawn};
use holdfast_io::spawn::{Spawn, Task};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::consul_agent;
use crate::error::Error;
use crate::status::{ChildStatus, Shared, SidecarStatus, SlotEntry, name_of};

/// Where the mesh puts its own admin page.
pub(crate) type PageSender = watch::Sender<Option<Page>>;

/// What the admin page looks at.
#[derive(Clone)]
pub(crate) struct Admin {
    shared: Shared,
    version: String,
    slots: Rc<RefCell<Option<Rc<RefCell<Slots>>>>>,
    mesh: watch::Receiver<Option<Page>>,
}

impl Admin {
    pub(crate) fn new(shared: Shared, version: String) -> (Admin, PageSender) {
        let (page, mesh) = watch::channel(None);
        let admin = Admin {
            shared,
            version,
            slots: Rc::default(),
            mesh,
        };
        (admin, page)
    }

    /// From now on there is a claim to look at.
    pub(crate) fn show_slots(&self, slots: Rc<RefCell<Slots>>) {
        *self.slots.borrow_mut() = Some(slots);
    }

    /// Everything that the sidecar says of itself.
    fn status(&self) -> SidecarStatus {
        let mut status = self.shared.view(SidecarStatus::clone);
        match &*self.slots.borrow() {
            None if status.slot.slot.is_some() => status.slot.state = "pinned".to_owned(),
            None => {}
            Some(slots) => {
                let (slots, now) = (slots.borrow(), RealClock.now());
                status.slot.state = name_of(&slots.state());
                status.slot.slot = slots.owned(now);
                let views = slots.views(now).into_iter();
                status.slots = views
                    .map(|view| SlotEntry {
                        slot: view.slot,
                        owner: view.owner,
                        lease_ms: view.lease_ms,
                        problem: view.problem,
                    })
                    .collect();
                let own = status
                    .slots
                    .iter()
                    .find(|view| Some(view.slot) == status.slot.slot);
                status.slot.lease_left_ms = own.and_then(|view| view.lease_ms);
            }
        }
        let is_agent = |child: &&ChildStatus| child.name == consul_agent::NAME;
        let agent = status.children.iter().find(is_agent);
        let ready = agent.is_some_and(|agent| agent.state == "ready");
        if let Some(consul) = &mut status.consul {
            consul.ready = ready;
        }
        status.not_ready = status.obstacles();
        status
    }

    fn answer(&self, request: &Request) -> Response {
        if request.method != Method::GET {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        // Not held: the mesh may end meanwhile.
        let mesh = self.mesh.borrow().clone().map(|page| page(request));
        match request.path.as_str() {
            "/healthz" => Response::text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(mesh),
            "/status" => self.with_mesh(mesh),
            "/metrics" => self.metrics(mesh),
            _ => mesh.unwrap_or_else(|| {
                let text = "not found, or not before the mesh runs\n";
                Response::text(StatusCode::NOT_FOUND, text)
            }),
        }
    }

    fn ready(&self, mesh: Option<Response>) -> Response {
        let reasons = self.status().not_ready;
        let mesh = mesh.and_then(|page| serde_json::from_slice::<Value>(&page.body).ok());
        let status = match reasons.is_empty() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        let json = json!({
            "ready": reasons.is_empty(),
            "reason": (!reasons.is_empty()).then(|| reasons.join("; ")),
            "mesh": mesh,
        });
        Response::json(status, json.to_string())
    }

    fn with_mesh(&self, mesh: Option<Response>) -> Response {
        let mesh = mesh.and_then(|page| serde_json::from_slice::<Value>(&page.body).ok());
        let mut status = mesh.unwrap_or_else(|| json!({ "version": self.version }));
        status["sidecar"] = json!(self.status());
        Response::json(StatusCode::OK, status.to_string())
    }

    fn metrics(&self, mesh: Option<Response>) -> Response {
        let mut text = match mesh {
            Some(page) => String::from_utf8_lossy(&page.body).into_owned(),
            None => String::new(),
        };
        text.push_str(&sidecar_metrics(&self.status()));
        Response::new(StatusCode::OK, metrics::CONTENT_TYPE, text)
    }
}

fn sidecar_metrics(status: &SidecarStatus) -> String {
    let mut page = metrics::Page::new();
    let help = "Whether the sidecar has a slot and everything that it runs is ready.";
    page.metric("holdfast_sidecar_ready", Kind::Gauge, help)
        .sample(&[], u8::from(status.not_ready.is_empty()));
    if let Some(left) = status.slot.lease_left_ms {
        let help = "For how long the slot is owned without another renewal.";
        page.metric("holdfast_slot_lease_seconds", Kind::Gauge, help)
            .sample(&[], left as f64 / 1e3);
    }
    let help = "Whether a child is ready.";
    page.metric("holdfast_child_ready", Kind::Gauge, help);
    for child in &status.children {
        let ready = u8::from(child.state == "ready");
        page.sample(&[("child", &child.name)], ready);
    }
    let help = "How often a child was started again.";
    page.metric("holdfast_child_restarts_total", Kind::Counter, help);
    for child in &status.children {
        page.sample(&[("child", &child.name)], child.restarts);
    }
    page.finish()
}

/// Serve it until the task is dropped.
pub(crate) async fn serve_on(addr: SocketAddr, admin: Admin) -> Result<Task, Error> {
    let listening = RealNet.listen(addr).await;
    let listener = listening.map_err(|error| {
        Error::Failure(format!(
            "cannot serve the admin page on {addr}: {error}; choose another admin address"
        ))
    })?;
    Ok(RealSpawn.spawn("admin page", async move {
        let (_never, stop) = Stop::new();
        let limits = ServerLimits {
            connections_max: 64,
            body_len_max: 1024,
            ..ServerLimits::default()
        };
        let handler = move |request| {
            let admin = admin.clone();
            async move { admin.answer(&request) }
        };
        serve(listener, RealClock, RealSpawn, limits, stop, handler).await;
    }))
}
