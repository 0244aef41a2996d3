//! What is shown to people.

use std::time::Instant;

use super::super::entry::Holder;
use super::super::table::Seen;
use super::super::{Slot, SlotView};
use super::Slots;

impl Slots {
    pub(super) fn view(&self, slot: Slot, now: Instant) -> SlotView {
        let seen = self.table.get(slot);
        let owner = seen.and_then(|seen| seen.holder.instance());
        let over = seen.and_then(|seen| seen.over_at(self.config.drift_per_mille));
        let mut view = SlotView {
            slot,
            owner: owner.map(str::to_owned),
            lease_ms: over.map(|over| millis(over, now)),
            problem: None,
        };
        if let Some(Seen {
            holder: Holder::Strange { problem },
            ..
        }) = seen
        {
            view.problem = Some(problem.clone());
        }
        match &self.hold {
            Some(hold) if hold.slot == slot => self.own_view(&mut view, now),
            Some(_) if self.is_own(slot) => {
                view.problem = Some("a second entry of this instance".into());
            }
            _ => {}
        }
        view
    }

    pub(super) fn own_view(&self, view: &mut SlotView, now: Instant) {
        let own = &self.config.instance;
        if let Some(other) = view.owner.take_if(|owner| owner != own) {
            view.problem = Some(format!("pinned here, and instance {other} has claimed it"));
        }
        view.owner = Some(own.clone());
        view.lease_ms = self.lease_over_at().map(|over| millis(over, now));
    }
}

fn millis(until: Instant, now: Instant) -> u64 {
    let left = until.saturating_duration_since(now).as_millis();
    u64::try_from(left).unwrap_or(u64::MAX)
}
