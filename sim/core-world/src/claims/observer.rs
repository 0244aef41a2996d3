//! What an observer outside of the system sees: who is live when, and what the KV holds.

use holdfast_plan::membership::owns_for;
use holdfast_plan::{NodeIndex, SlotOwner, SlotSeen};

use super::{Claims, Live, Part, Scene};

impl Claims {
    pub(super) fn note<T: Copy + Ord>(
        &self,
        scene: &mut Scene<'_, T>,
        node: usize,
        what: SlotSeen,
    ) {
        let name = self.members[node].name.as_str();
        let index = NodeIndex(node as u16);
        scene
            .journal
            .note_slot(scene.now, Some((index, name)), what);
    }

    /// Who is live, and until when by its own clock if nothing else happens.
    pub(super) fn observe<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>, node: usize) {
        let now = scene.at(node);
        let Some(run) = &mut self.members[node].run else {
            return;
        };
        let Part::Claim(slots) = &run.part else {
            return;
        };
        let owned = slots.owned(now);
        let until = owned
            .and_then(|_| owns_for(slots, now, self.membership.lease))
            .map(|lasts| {
                let local = scene.local(node) + lasts;
                scene.clocks[node].world(local)
            });
        if let Some(live) = &mut run.live
            && Some(live.slot) == owned
            && live.until.is_none_or(|until| scene.now <= until)
        {
            live.until = until;
            return;
        }
        let over = run.live.take();
        run.live = owned.map(|slot| Live {
            slot,
            from: scene.now,
            until,
        });
        let instance = run.instance.clone();
        self.close(scene, node, over, &instance);
    }

    pub(super) fn close<T: Copy + Ord>(
        &self,
        scene: &mut Scene<'_, T>,
        node: usize,
        live: Option<Live>,
        instance: &str,
    ) {
        let Some(Live { slot, from, until }) = live else {
            return;
        };
        let what = SlotSeen::SlotLive {
            slot,
            instance: instance.to_owned(),
            from,
            until: until.map_or(scene.now, |until| until.min(scene.now)),
        };
        self.note(scene, node, what);
    }

    /// The run is over: who was live until now.
    pub fn finish<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>) {
        for node in 0..self.members.len() {
            let run = self.members[node].run.as_mut();
            let Some((live, instance)) = run.map(|run| (run.live.take(), run.instance.clone()))
            else {
                continue;
            };
            self.close(scene, node, live, &instance);
        }
        self.tell_changes(scene);
    }

    pub(super) fn tell_changes<T: Copy + Ord>(&mut self, scene: &mut Scene<'_, T>) {
        let prefix = self.config(0, "any").prefix();
        let history = self.kv.history();
        for change in &history[self.told..] {
            let by = change.by.map(|(client, _)| client as usize);
            let named = by.and_then(|n| Some((NodeIndex(n as u16), self.members.get(n)?)));
            let ordinal = change
                .key
                .strip_prefix(&prefix)
                .and_then(|o| o.parse().ok());
            let after = change.after.as_ref();
            let what = SlotSeen::SlotEntry {
                key: change.key.clone(),
                slot: ordinal,
                index: change.index,
                owner: after.and_then(|entry| SlotOwner::of_entry(&entry.value)),
                is_gone: after.is_none(),
            };
            let at = scene.clock.local_of(change.at.mono);
            let named = named.map(|(index, member)| (index, member.name.as_str()));
            scene.journal.note_slot(at, named, what);
        }
        self.told = history.len();
    }
}
