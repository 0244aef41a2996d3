//! What a larger process, the sidecar, has of a node that runs inside it.

use std::rc::Rc;

use holdfast_core::mesh::Input;
use tokio::sync::{mpsc, watch};

use super::Context;
use super::admin::Admin;
use crate::clock::Clock;
use crate::http::{Request, Response};
use crate::net::Net;
use crate::spawn::{Spawn, Task};

/// Answers requests to the node's admin page.
pub type Page = Rc<dyn Fn(&Request) -> Response>;

/// A say in a node while it runs.
#[derive(Default)]
pub struct MeshHooks {
    /// Told the admin page when the node runs, and `None` when it has ended: for a process that
    /// serves more than the node on one address, before it has a node.
    pub page: Option<watch::Sender<Option<Page>>>,
    /// What the machine is told from outside, such as other peers after a reload.
    pub inputs: Option<mpsc::Receiver<Input>>,
}

/// An admin page that was handed out: taken back when dropped.
pub(super) struct Shown(watch::Sender<Option<Page>>);

impl Shown {
    pub(super) fn new<N: Net, C: Clock>(
        page: watch::Sender<Option<Page>>,
        admin: Rc<Admin<N, C>>,
    ) -> Shown {
        page.send_replace(Some(Rc::new(move |request| admin.answer(request))));
        Shown(page)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// Hand inputs to the machine as they come.
pub(super) fn spawn_inputs<N: Net, C: Clock, S: Spawn>(
    cx: &Context<N, C, S>,
    mut inputs: mpsc::Receiver<Input>,
) -> Task {
    let node = cx.node.clone();
    cx.spawn.spawn("mesh inputs", async move {
        while let Some(input) = inputs.recv().await {
            node.handle(input);
        }
    })
}
