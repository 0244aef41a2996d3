//! Slots, and what claims them.

use std::time::Duration;

use holdfast_core::slots::Config;
use holdfast_plan::WorldKind;

use super::{Checker, NODES_MAX};
use crate::scenario::format::File;
use crate::scenario::membership;
use crate::scenario::problem::Finding;

/// Counts of nodes, looked at before there are as many.
pub(in crate::scenario) fn counts(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut nodes = 0;
    for (n, node) in file.node.iter().enumerate() {
        nodes += usize::from(node.count.unwrap_or(1));
        if node.count.is_some_and(|count| count > 1) && node.address.is_some() {
            let message = "one address for all of them, expected none or a `count` of 1";
            findings.push(Finding::new(format!("node[{n}].address"), message));
        }
        if node.count.is_some_and(|count| count > 1) && node.ordinal.is_some() {
            let message = "one slot for all of them, expected none or a `count` of 1";
            findings.push(Finding::new(format!("node[{n}].ordinal"), message));
        }
    }
    if nodes > NODES_MAX {
        let message = format!("{nodes} in all, expected at most {NODES_MAX}");
        findings.push(Finding::new("node", message));
    }
    findings
}

impl Checker<'_> {
    pub(super) fn membership(&mut self) {
        let file = self.file;
        let Some(membership) = membership(file) else {
            if file.expect.losses_max.is_some() {
                let message = "is for slots, and there is no [membership]";
                self.wrong("expect.losses_max", message);
            }
            let of_instances = |node: &crate::scenario::format::Node| {
                node.identity.is_some() || node.ordinal.is_some()
            };
            if let Some(n) = file.node.iter().position(of_instances) {
                let message = "`identity` and `ordinal` are for scenarios with [membership]";
                self.wrong(format!("node[{n}]"), message);
            }
            return;
        };
        if membership.mesh && file.worlds.contains(&WorldKind::Turmoil) {
            let message = "the turmoil world, among `worlds`, has no mesh of instances, \
                           expected mesh = false";
            self.wrong("membership", message);
        }
        for (key, is_empty) in [
            ("workload", file.workload.is_empty()),
            ("expect.link", file.expect.link.is_empty()),
        ] {
            if !is_empty {
                self.wrong(
                    key,
                    "an instance is a peer only as long as it owns a slot, expected none",
                );
            }
        }
        if membership.mesh && membership.slots.len() > NODES_MAX {
            let message = format!("with a mesh, expected at most {NODES_MAX} or mesh = false");
            self.wrong("membership.slots", message);
        }
        let config = Config {
            cluster: "sim".to_owned(),
            instance: "i".to_owned(),
            slots: membership.slots.clone(),
            pinned: None,
            lease: membership.lease,
            drift_per_mille: membership.drift_per_mille,
        };
        if let Err(error) = config.check() {
            self.wrong("membership", error.to_string());
        }
        let allowed = i64::from(membership.drift_per_mille) * 1_000;
        let given = file.membership.as_ref().and_then(|m| m.clocks_ppm);
        if given.is_some_and(|ppm| i64::from(ppm) > allowed) {
            let message = format!("more than nodes take into account, {allowed} with this drift");
            self.wrong("membership.clocks_ppm", message);
        }
        let mut pins: Vec<u16> = Vec::new();
        for (n, node) in file.node.iter().enumerate() {
            let drift = i64::from(node.clock.drift_ppm.unwrap_or(0));
            if drift.abs() > allowed {
                let message =
                    format!("more than nodes take into account, {allowed} with this drift");
                self.wrong(format!("node[{n}].clock"), message);
            }
            if node.cluster.is_some() {
                self.wrong(format!("node[{n}].cluster"), "an intruder claims no slot");
            }
            let Some(ordinal) = node.ordinal else {
                continue;
            };
            let key = format!("node[{n}].ordinal");
            if !membership.slots.contains(&ordinal) {
                let last = membership.slots.len();
                self.wrong(&key, format!("found {ordinal}, expected 1 to {last}"));
            }
            if pins.contains(&ordinal) {
                self.wrong(&key, format!("slot {ordinal} is pinned already"));
            }
            pins.push(ordinal);
        }
        self.time_for_a_lease(membership.lease);
    }

    /// Whoever lost its identity waits for its own old lease.
    fn time_for_a_lease(&mut self, lease: Duration) {
        let within = self.scenario.converge_within();
        if within < lease {
            let message = format!(
                "{within:?} are less than a lease of {lease:?}: a slot that was lost is not free \
                 before it is over"
            );
            self.wrong("expect.converge_within", message);
        }
    }

    /// Faults of the mesh have no meaning without one, and those of claims none with it.
    pub(super) fn role(&mut self, key: &str, what: &str, of_membership: Option<bool>) {
        let membership = self.file.membership.as_ref();
        let has_mesh = membership.is_none_or(|m| m.mesh.unwrap_or(true));
        match (of_membership, membership.is_some()) {
            (Some(true), false) => {
                let message = format!("{what} needs [membership]");
                self.wrong(key, message);
            }
            (Some(false), true) if !has_mesh => {
                let message = format!("{what} is of the mesh, and mesh = false");
                self.wrong(key, message);
            }
            _ => {}
        }
    }
}
