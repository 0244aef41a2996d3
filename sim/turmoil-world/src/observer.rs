//! Somebody who looks at the status page of every node, as an operator's monitoring does.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_io::clock::Clock;
use holdfast_io::http::{Client, Endpoint, Method, StatusCode};
use holdfast_io::mesh::NodeStatus;
use holdfast_io::spawn::Spawn;
use holdfast_plan::NodeIndex;

use crate::clock::SimClock;
use crate::net::SimNet;
use crate::node::ADMIN;
use crate::shared::{NodeState, Shared};
use crate::spawn::SimSpawn;

/// How often the page is looked at.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait for it: it is on the same machine.
const LIMIT: Duration = Duration::from_secs(1);
/// The largest page that is read.
const PAGE_LEN_MAX: usize = 4 << 20;

/// Watch every node for ever.
pub fn watch(shared: &Rc<Shared>, spawn: &SimSpawn) {
    for node in shared.plan.topology.node_indices() {
        let net = shared.net(shared.node_host(node));
        let endpoint: Endpoint = format!("http://{ADMIN}").parse().expect("an address");
        let client = Client::new(net, shared.apps_clock(), spawn.clone(), endpoint);
        let task = watch_node(shared.clone(), node, client);
        spawn.spawn("observer", task).detach();
    }
}

async fn watch_node(
    shared: Rc<Shared>,
    node: NodeIndex,
    mut client: Client<SimNet, SimClock, SimSpawn>,
) {
    let clock = shared.apps_clock();
    let state = &shared.nodes[node.index()];
    loop {
        if state.running.get() {
            let request = client.request(Method::GET, "/status", Bytes::new(), PAGE_LEN_MAX, LIMIT);
            if let Ok((StatusCode::OK, page)) = request.await
                && state.running.get()
            {
                note(state, &page);
            }
        }
        clock.sleep(INTERVAL).await;
    }
}

fn note(state: &NodeState, page: &[u8]) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(page) else {
        return;
    };
    let queues = json.get("queues").and_then(|queues| queues.as_array());
    for queue in queues.into_iter().flatten() {
        let number = |key| queue.get(key).and_then(serde_json::Value::as_u64);
        let name = queue.get("name").and_then(|name| name.as_str());
        if let (Some(name), Some(len), Some(max)) = (name, number("len"), number("max")) {
            let mut queues = state.queues.borrow_mut();
            let peak = queues.entry(name.to_owned()).or_insert((0, max));
            *peak = (peak.0.max(len), max);
        }
    }
    if let Ok(status) = serde_json::from_value::<NodeStatus>(json) {
        *state.status.borrow_mut() = Some(status);
    }
}
