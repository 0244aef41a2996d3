//! What is wrong with the KV: its process is gone, or nodes do not reach it.

use std::time::Duration;

use holdfast_plan::{KvFault, NodeIndex};

use crate::shared::ServerState;

/// Everything that is wrong with it.
pub struct Outage {
    /// It starts again then.
    starts_at: Option<Duration>,
    /// Nobody reaches it until then.
    away_until: Duration,
    /// By node: it does not reach it.
    cut: Vec<bool>,
    /// By node: its packets to and from it are held.
    held: Vec<bool>,
}

impl Outage {
    /// Nothing is wrong, in a world of so many nodes.
    pub fn new(nodes: usize) -> Outage {
        Outage {
            starts_at: None,
            away_until: Duration::ZERO,
            cut: vec![false; nodes],
            held: vec![false; nodes],
        }
    }

    /// Something goes wrong, or no longer does.
    pub fn disturb(&mut self, now: Duration, server: &ServerState, fault: KvFault) {
        match fault {
            KvFault::Leader { after } => {
                self.starts_at = self.starts_at.max(Some(now + after));
                set_kv(server, false);
            }
            KvFault::Away { lasts } => self.away_until = self.away_until.max(now + lasts),
            KvFault::Cut { node, on } => self.cut[node.index()] = on,
            // Refused before the run, as plans with it are.
            KvFault::Loss { .. } => {}
        }
    }

    /// The KV comes back when it is time. Returns the nodes whose packets have to be held from now
    /// on, or no longer: TCP stands still, and what was sent arrives when it goes on, however late.
    pub fn tend(&mut self, now: Duration, server: &ServerState) -> Vec<(NodeIndex, bool)> {
        if self.starts_at.is_some_and(|at| at <= now) {
            self.starts_at = None;
            set_kv(server, true);
        }
        let mut changes = Vec::new();
        for (n, held) in self.held.iter_mut().enumerate() {
            let hold = self.cut[n] || now < self.away_until;
            if std::mem::replace(held, hold) != hold {
                changes.push((NodeIndex(n as u16), hold));
            }
        }
        changes
    }

    /// Whether a node's packets to and from it are held.
    pub fn holds(&self, node: NodeIndex) -> bool {
        self.held[node.index()]
    }
}

fn set_kv(server: &ServerState, up: bool) {
    server.kv.set(up);
    server.changed.notify_one();
}
