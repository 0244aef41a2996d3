//! Plans with slots: each instance is `holdfast sidecar` in a namespace of its own.
//!
//! Instances with a pin are coordinators, and run a Consul server each; its API is published on
//! their address outside, as by a provider's TCP gateway. The others are workers: they claim the
//! slots that nobody is pinned to at those gateways, and run a Consul agent that talks with the
//! servers through the mesh alone. An instance that the TEE knows asks a simulated guest agent;
//! the secrets of the cluster come from outside, since guest agents and key files derive different
//! ones.
//!
//! * `config` writes an instance's configuration.
//! * `watch` looks at an instance, `kv` at the entries in Consul.
//! * `record` makes of that what an observer may claim to know.
//! * `setup` builds what is there at the start, and `run` does what the plan says.

mod config;
mod kv;
mod record;
mod run;
mod setup;
mod watch;

use std::collections::BTreeSet;
use std::env;
use std::path::PathBuf;

use holdfast_plan::{Action, Identity, Instance, KvFault, Membership, NodeIndex, Place, Plan};

pub use run::Run;
pub(crate) use setup::only_these_secrets;
pub use watch::Watch;

/// Where Consul's API is.
const KV_PORT: u16 = 8500;
/// The cluster's name in the keys of slots.
const CLUSTER_NAME: &str = "lab";

/// What plays which part, by the plan.
#[derive(Clone, Copy, Debug)]
struct Cast<'p> {
    plan: &'p Plan,
    membership: &'p Membership,
}

impl<'p> Cast<'p> {
    /// `None` for a plan without slots.
    fn of(plan: &'p Plan) -> Option<Cast<'p>> {
        let membership = plan.membership.as_ref()?;
        Some(Cast { plan, membership })
    }

    fn instance(&self, node: NodeIndex) -> Instance {
        let known = self.membership.instances.get(node.index());
        known.copied().unwrap_or_default()
    }

    fn is_tee(&self, node: NodeIndex) -> bool {
        self.instance(node).identity == Identity::Tee
    }

    /// The nodes that run the KV, and their slots.
    fn coordinators(self) -> impl Iterator<Item = (NodeIndex, u16)> + 'p {
        let nodes = self.plan.topology.node_indices();
        nodes.filter_map(move |node| Some((node, self.instance(node).pinned?)))
    }

    /// The peer that owns a slot.
    fn peer_id(&self, slot: u16) -> String {
        match self.coordinators().any(|(_, pinned)| pinned == slot) {
            true => format!("coordinator-{slot}"),
            false => format!("worker-{slot}"),
        }
    }

    /// The slot of a peer.
    fn slot_of(peer: &str) -> Option<u16> {
        peer.rsplit_once('-')?.1.parse().ok()
    }
}

/// Why this world cannot play a plan with slots, beyond what plans know.
pub fn obstacle(plan: &Plan) -> Option<String> {
    let cast = Cast::of(plan)?;
    let mut places = BTreeSet::new();
    let shared = cast.coordinators().any(|(node, _)| {
        let place = plan.topology.node(node).place;
        matches!(place, Place::Behind(nat) if !places.insert(nat))
    });
    let action = plan.steps.iter().find_map(|step| match &step.action {
        Action::Traffic(_) => Some("workloads of instances"),
        Action::Strangers { .. } => Some("strangers at instances"),
        Action::Retire(_) => Some("retire"),
        Action::Kv(KvFault::Leader { .. }) => None,
        Action::Kv(_) => Some("a KV that is cut off or loses"),
        _ => None,
    });
    if cast.coordinators().next().is_none() {
        Some("slots without a pinned instance, which would run the KV".to_owned())
    } else if shared {
        Some("two coordinators behind one NAT, which publishes one port 8500".to_owned())
    } else if !cast.membership.mesh {
        Some("slots without meshes".to_owned())
    } else if cast.membership.drift_per_mille > holdfast_bootstrap::DRIFT_PER_MILLE {
        let most = holdfast_bootstrap::DRIFT_PER_MILLE;
        Some(format!("drift_per_mille beyond the program's, {most}"))
    } else {
        action.map(str::to_owned)
    }
}

/// Consul: `CONSUL_BIN`, or what `deploy/setup.sh test` has built.
///
/// # Errors
/// Where it was looked for.
pub fn consul() -> Result<PathBuf, String> {
    let given = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let program = match (given("CONSUL_BIN"), given("HOLDFAST_CACHE"), given("HOME")) {
        (Some(program), ..) => PathBuf::from(program),
        (None, Some(cache), _) => PathBuf::from(cache).join("tools/bin/consul"),
        (None, None, home) => {
            PathBuf::from(home.unwrap_or_default()).join(".cache/holdfast/tools/bin/consul")
        }
    };
    match program.is_file() {
        true => Ok(program),
        false => Err(format!(
            "there is no Consul at {}: run `deploy/setup.sh test`, or set CONSUL_BIN",
            program.display()
        )),
    }
}
