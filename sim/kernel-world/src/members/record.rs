//! What an observer may claim to know of the claims.
//!
//! An instance is live as the owner of a slot from the moment at which it says so until its lease
//! is over by its own clock, or until it ends. Between two looks nobody knows what it does; so a
//! span that is told is one in which it was live for sure, and two that overlap are a mistake of
//! the system, not of the observer. A page of an instance that was asked for at `t` and says that
//! `l` of the lease are left proves that it is live until `t + l` at the least, if its process is
//! there so long and its log tells of no loss.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_plan::{NodeIndex, SlotSeen};

use super::kv::Change;
use super::watch::{Said, Sight};

/// Something to note: when, where, what.
pub type Note = (Duration, Option<NodeIndex>, SlotSeen);

/// How the process of an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was killed: it was there until then.
    Killed(Duration),
    /// By itself, or as asked; nobody knows when it stopped to act.
    Left,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Record {
    lives: BTreeMap<(NodeIndex, u32), Life>,
    changes: Vec<Change>,
}

/// One run of an instance's process.
#[derive(Debug, Default)]
struct Life {
    identity: Option<(Duration, String)>,
    waiting: Vec<(Duration, String)>,
    owned: Option<Owned>,
    lost: Option<(Duration, u16, String)>,
    /// The last page that says that a slot is owned: which, and when it was asked for.
    seen: Option<(u16, Duration)>,
    /// Until when pages prove that it is; `None` without an end.
    proven: Option<Duration>,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
struct Owned {
    at: Duration,
    slot: u16,
    rejoined: bool,
}

impl Record {
    fn life(&mut self, node: NodeIndex, life: u32) -> &mut Life {
        self.lives.entry((node, life)).or_default()
    }

    /// A page was read.
    pub fn page(&mut self, node: NodeIndex, life: u32, sight: &Sight) {
        let life = self.life(node, life);
        let sidecar = &sight.page.sidecar;
        if let (None, Some(instance)) = (&life.identity, &sidecar.instance) {
            life.identity = Some((sight.told_at, instance.clone()));
        }
        let Some(slot) = sidecar.slot.slot else {
            return;
        };
        let left = sidecar.slot.lease_left_ms.map(Duration::from_millis);
        let until = left.map(|left| sight.asked_at + left);
        life.proven = match (until, life.proven, life.seen) {
            (Some(a), Some(b), Some((known, _))) if known == slot => Some(a.max(b)),
            _ => until,
        };
        life.seen = Some((slot, sight.asked_at));
    }

    /// A line was read.
    pub fn said(&mut self, node: NodeIndex, life: u32, at: Duration, said: Said) {
        let life = self.life(node, life);
        match said {
            Said::Owned { slot, rejoined } => {
                // A pinned one says it again when the KV knows it too.
                let owned = Owned { at, slot, rejoined };
                life.owned.get_or_insert(owned);
            }
            Said::Lost { slot, why } => life.lost = Some((at, slot, why)),
            Said::Waiting(why) => life.waiting.push((at, why)),
            Said::Error(_) => {}
        }
    }

    /// A process ended.
    pub fn ended(&mut self, node: NodeIndex, life: u32, end: End) {
        self.life(node, life).end = Some(end);
    }

    /// An entry changed.
    pub fn changed(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// All of it, when the run ended at that time.
    pub fn notes(self, ended_at: Duration) -> Vec<Note> {
        let mut notes = Vec::new();
        let mut identities: BTreeMap<String, NodeIndex> = BTreeMap::new();
        let mut latest: BTreeMap<NodeIndex, String> = BTreeMap::new();
        for ((node, _), life) in &self.lives {
            let Some((_, instance)) = &life.identity else {
                continue;
            };
            let before = latest.insert(*node, instance.clone());
            let is_new = before.as_ref() != Some(instance);
            identities.insert(instance.clone(), *node);
            let seen = life.notes(instance, is_new, ended_at);
            notes.extend(seen.into_iter().map(|(at, what)| (at, Some(*node), what)));
        }
        for change in self.changes {
            // Who deleted an entry says nothing; the owner may.
            let by = change.owner.as_ref().or(change.before.as_ref());
            let node = by
                .and_then(|owner| identities.get(&owner.instance))
                .copied();
            let what = SlotSeen::SlotEntry {
                key: change.key,
                slot: change.slot,
                index: change.index,
                owner: change.owner,
                is_gone: change.is_gone,
            };
            notes.push((change.at, node, what));
        }
        notes
    }
}

impl Life {
    fn notes(&self, instance: &str, is_new: bool, ended_at: Duration) -> Vec<(Duration, SlotSeen)> {
        let instance = instance.to_owned();
        let mut notes = Vec::new();
        if let Some((at, _)) = &self.identity {
            // A page comes later than a line that was written before it.
            let at = self.owned.map_or(*at, |owned| owned.at.min(*at));
            let instance = instance.clone();
            notes.push((at, SlotSeen::Identity { instance, is_new }));
        }
        let waiting = self.waiting.iter().cloned();
        notes.extend(waiting.map(|(at, why)| (at, SlotSeen::SlotWaiting { why })));
        if let Some(Owned { at, slot, rejoined }) = self.owned {
            let until = self.live_until(slot, ended_at).max(at);
            let owned = SlotSeen::SlotOwned {
                slot,
                instance: instance.clone(),
                rejoined,
                // Only those that succeeded are seen from outside.
                tries: 1,
            };
            notes.push((at, owned));
            let live = SlotSeen::SlotLive {
                slot,
                instance,
                from: at,
                until,
            };
            notes.push((until, live));
        }
        if let Some((at, slot, why)) = &self.lost {
            let (slot, why) = (*slot, why.clone());
            notes.push((*at, SlotSeen::SlotLost { slot, why }));
        }
        notes
    }

    /// Until when it was live for sure.
    fn live_until(&self, slot: u16, ended_at: Duration) -> Duration {
        let Some((_, seen_at)) = self.seen.filter(|(seen, _)| *seen == slot) else {
            return Duration::ZERO;
        };
        let was_there = match (&self.lost, self.end) {
            (None, None) => ended_at,
            (None, Some(End::Killed(at))) => at,
            (Some(_), _) | (_, Some(End::Left)) => seen_at,
        };
        self.proven
            .map_or(was_there, |proven| proven.min(was_there))
    }
}

#[cfg(test)]
mod tests {
    use super::super::watch::{Page, Sidecar, Slot};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NODE: NodeIndex = NodeIndex(0);

    fn sight(asked_s: u32, slot: Option<u16>, left_s: Option<u64>) -> Sight {
        Sight {
            asked_at: SECOND * asked_s,
            told_at: SECOND * (asked_s + 1),
            page: Box::new(Page {
                links: Vec::new(),
                sidecar: Sidecar {
                    instance: Some("i".to_owned()),
                    slot: Slot {
                        slot,
                        lease_left_ms: left_s.map(|left| left * 1_000),
                    },
                    children: Vec::new(),
                    not_ready: Vec::new(),
                },
            }),
        }
    }

    /// From when to when it was live, told at 100 s.
    fn live(change: impl FnOnce(&mut Record)) -> Option<(u64, u64)> {
        let mut record = Record::default();
        let owned = Said::Owned {
            slot: 4,
            rejoined: false,
        };
        record.said(NODE, 1, SECOND * 2, owned);
        change(&mut record);
        let notes = record.notes(SECOND * 100);
        notes.into_iter().find_map(|(_, _, what)| match what {
            SlotSeen::SlotLive { from, until, .. } => Some((from.as_secs(), until.as_secs())),
            _ => None,
        })
    }

    #[test]
    fn an_owner_is_live_as_long_as_its_last_page_proves() {
        let proven = live(|record| {
            record.page(NODE, 1, &sight(3, Some(4), Some(10)));
            record.page(NODE, 1, &sight(8, Some(4), Some(9)));
        });
        assert_eq!(proven, Some((2, 17)));
    }

    #[test]
    fn a_killed_owner_is_live_until_it_was_killed_or_its_lease_is_over() {
        let killed = |at_s| {
            live(move |record| {
                record.page(NODE, 1, &sight(3, Some(4), Some(10)));
                record.ended(NODE, 1, End::Killed(SECOND * at_s));
            })
        };
        assert_eq!(killed(7), Some((2, 7)));
        assert_eq!(killed(20), Some((2, 13)));
    }

    #[test]
    fn of_an_owner_that_lost_its_slot_or_ended_by_itself_only_what_was_seen_is_told() {
        let lost = live(|record| {
            record.page(NODE, 1, &sight(3, Some(4), Some(10)));
            let why = String::new();
            record.said(NODE, 1, SECOND * 9, Said::Lost { slot: 4, why });
        });
        let left = live(|record| {
            record.page(NODE, 1, &sight(3, Some(4), Some(10)));
            record.ended(NODE, 1, End::Left);
        });
        assert_eq!((lost, left), (Some((2, 3)), Some((2, 3))));
    }

    #[test]
    fn a_pinned_owner_is_live_without_an_end() {
        let pinned = live(|record| record.page(NODE, 1, &sight(3, Some(4), None)));
        assert_eq!(pinned, Some((2, 100)));
    }

    #[test]
    fn a_second_run_of_the_same_instance_is_none_that_is_new() {
        let mut record = Record::default();
        for life in 1..=2 {
            record.page(NODE, life, &sight(3 * life, None, None));
        }
        let notes = record.notes(SECOND * 100).into_iter();
        let new = notes.filter_map(|(_, _, what)| match what {
            SlotSeen::Identity { is_new, .. } => Some(is_new),
            _ => None,
        });
        assert_eq!(new.collect::<Vec<_>>(), [true, false]);
    }
}
