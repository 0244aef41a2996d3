//! Slots: one live owner each, taken no earlier than they may be and no later than they should.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_core::status::LinkState;
use holdfast_plan::{Action, Membership, NodeIndex, SlotEntry, SlotOwner, SlotSeen};

use super::{Case, FailureClass, Violation};

const OWNERS: (FailureClass, &str) = (FailureClass::Correctness, "owners");
const LEASES: (FailureClass, &str) = (FailureClass::Correctness, "leases");
const ENTRIES: (FailureClass, &str) = (FailureClass::Correctness, "entries");
const REJOIN: (FailureClass, &str) = (FailureClass::Correctness, "rejoin");
const CLAIMS: (FailureClass, &str) = (FailureClass::Liveness, "claims");

const MESH: (FailureClass, &str) = (FailureClass::Liveness, "mesh");
const LOSSES: (FailureClass, &str) = (FailureClass::Liveness, "losses");

/// A part of a million.
const MILLION: u128 = 1_000_000;

/// A span in which a node was the live owner of a slot.
#[derive(Clone, Copy, Debug)]
struct Live {
    node: NodeIndex,
    slot: u16,
    from: Duration,
    until: Duration,
}

fn lives(case: &Case<'_>) -> Vec<Live> {
    let live = |entry: &SlotEntry| match &entry.what {
        SlotSeen::SlotLive {
            slot, from, until, ..
        } => Some(Live {
            node: entry.node?,
            slot: *slot,
            from: *from,
            until: *until,
        }),
        _ => None,
    };
    let mut lives: Vec<Live> = case.journal.slots.iter().filter_map(live).collect();
    lives.sort_by_key(|live| (live.slot, live.from, live.until));
    lives
}

/// Never are two nodes live owners of one slot.
pub(super) fn owners(case: &Case<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut latest: BTreeMap<u16, Live> = BTreeMap::new();
    for live in lives(case) {
        let other = latest.get(&live.slot).copied();
        if let Some(other) = other.filter(|other| live.from < other.until.min(live.until)) {
            let detail = format!(
                "slot {}: {} was live until {:?}, and {} from {:?} on",
                live.slot,
                case.name(other.node),
                other.until,
                case.name(live.node),
                live.from
            );
            violations.push(Violation::new(OWNERS, live.from, Some(live.node), detail));
        }
        if other.is_none_or(|other| other.until < live.until) {
            latest.insert(live.slot, live);
        }
    }
    violations
}

/// One entry of the KV at a time, and since when.
struct Known<'a> {
    owner: Option<&'a SlotOwner>,
    at: Duration,
}

/// Nobody takes another one's slot before its lease is over, by whatever clock.
pub(super) fn leases(case: &Case<'_>) -> Vec<Violation> {
    let Some(membership) = &case.plan.membership else {
        return Vec::new();
    };
    let mut violations = Vec::new();
    let mut known: BTreeMap<&str, Known<'_>> = BTreeMap::new();
    for entry in &case.journal.slots {
        let SlotSeen::SlotEntry { key, owner, .. } = &entry.what else {
            continue;
        };
        let now = Known {
            owner: owner.as_ref(),
            at: entry.at,
        };
        let before = known.insert(key, now);
        let Some((was, since)) = before.and_then(|b| Some((b.owner?, b.at))) else {
            continue;
        };
        let Some(is) = owner.as_ref().filter(|is| is.instance != was.instance) else {
            continue;
        };
        let lease = Duration::from_millis(was.lease_ms);
        let least = seen_unchanged(case, membership, lease, entry.node);
        let held = entry.at.saturating_sub(since);
        if held < least {
            let detail = format!(
                "{key}: {} took it from {} after {held:?}, which may be live for {least:?}",
                is.instance, was.instance
            );
            violations.push(Violation::new(LEASES, entry.at, entry.node, detail));
        }
    }
    violations
}

/// How long somebody has to have seen an entry unchanged, by a true clock: what its own clock
/// makes of `lease · (1+ρ)/(1−ρ)`.
fn seen_unchanged(
    case: &Case<'_>,
    membership: &Membership,
    lease: Duration,
    taker: Option<NodeIndex>,
) -> Duration {
    let drift = u128::from(membership.drift_per_mille);
    let (slow, fast) = (1_000 - drift.min(999), 1_000 + drift);
    let rate = taker.map_or(0, |node| case.plan.topology.node(node).clock.drift_ppm);
    let rate = (MILLION as i128 + i128::from(rate)).max(1) as u128;
    let nanos = lease.as_nanos() * fast * MILLION / (slow * rate);
    // One that is rounded is no violation.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).saturating_sub(ROUNDED)
}

/// What divisions of times may lose.
const ROUNDED: Duration = Duration::from_micros(1);

/// Every entry was written by somebody, in the name of an instance that it was.
pub(super) fn entries(case: &Case<'_>) -> Vec<Violation> {
    let mut identities: BTreeMap<NodeIndex, BTreeSet<&str>> = BTreeMap::new();
    for entry in &case.journal.slots {
        if let (SlotSeen::Identity { instance, .. }, Some(node)) = (&entry.what, entry.node) {
            identities.entry(node).or_default().insert(instance);
        }
    }
    let mut violations = Vec::new();
    for entry in &case.journal.slots {
        let SlotSeen::SlotEntry {
            key,
            slot,
            owner,
            is_gone,
            ..
        } = &entry.what
        else {
            continue;
        };
        let known = |slot: &u16| {
            let membership = case.plan.membership.as_ref();
            membership.is_some_and(|membership| membership.slots.contains(slot))
        };
        let is_own = |owner: &SlotOwner| {
            let own = entry.node.and_then(|node| identities.get(&node));
            own.is_some_and(|own| own.contains(owner.instance.as_str()))
        };
        let what = match (entry.node, owner) {
            (None, _) => "nobody wrote it",
            _ if slot.as_ref().is_none_or(|slot| !known(slot)) => "there is no such slot",
            (Some(_), None) if *is_gone => continue,
            (Some(_), None) => "it says nothing of an owner",
            (Some(_), Some(owner)) if !is_own(owner) => {
                "it names an instance that the writer is not"
            }
            (Some(_), Some(_)) => continue,
        };
        let detail = format!("{key}: {what}");
        violations.push(Violation::new(ENTRIES, entry.at, entry.node, detail));
    }
    violations
}

/// An instance that comes back gets its own slot, as long as nobody else took it.
pub(super) fn rejoin(case: &Case<'_>) -> Vec<Violation> {
    let mut entries: BTreeMap<u16, Vec<Known<'_>>> = BTreeMap::new();
    for entry in &case.journal.slots {
        if let SlotSeen::SlotEntry {
            slot: Some(slot),
            owner,
            ..
        } = &entry.what
        {
            entries.entry(*slot).or_default().push(Known {
                owner: owner.as_ref(),
                at: entry.at,
            });
        }
    }
    let mut last: BTreeMap<&str, u16> = BTreeMap::new();
    // When the run that is there began to look.
    let mut begun: BTreeMap<NodeIndex, Duration> = BTreeMap::new();
    let mut violations = Vec::new();
    for entry in &case.journal.slots {
        let Some(node) = entry.node else { continue };
        match &entry.what {
            SlotSeen::Identity { .. } => drop(begun.insert(node, entry.at)),
            SlotSeen::SlotOwned { slot, instance, .. } => {
                let own = last.insert(instance, *slot);
                let Some(own) = own.filter(|own| own != slot) else {
                    continue;
                };
                let since = begun.get(&node).copied().unwrap_or_default();
                let mine = |slot: u16| is_own_since(entries.get(&slot), instance, since, entry.at);
                // Two entries of its own: a request of an earlier run came late.
                if mine(own) && !had_before(entries.get(slot), instance, since) {
                    let detail = format!("{instance} took slot {slot}, and {own} was its own");
                    violations.push(Violation::new(REJOIN, entry.at, Some(node), detail));
                }
            }
            _ => {}
        }
    }
    violations
}

/// Whether an entry was the instance's all that time.
fn is_own_since(
    changes: Option<&Vec<Known<'_>>>,
    instance: &str,
    since: Duration,
    until: Duration,
) -> bool {
    let changes = changes.map_or(&[] as &[Known<'_>], Vec::as_slice);
    let is_own = |known: &Known<'_>| known.owner.is_some_and(|o| o.instance == instance);
    let before = changes.iter().rfind(|known| known.at <= since);
    let mut meanwhile = changes.iter().filter(|k| k.at > since && k.at <= until);
    before.is_some_and(is_own) && meanwhile.all(is_own)
}

/// Whether an entry was the instance's when its run began.
fn had_before(changes: Option<&Vec<Known<'_>>>, instance: &str, since: Duration) -> bool {
    is_own_since(changes, instance, since, since)
}

/// Soon after the last fault every instance that runs owns a slot, or every slot has an owner.
pub(super) fn claims(case: &Case<'_>) -> Vec<Violation> {
    let Some(membership) = &case.plan.membership else {
        return Vec::new();
    };
    let runs = running(case);
    let lives = lives(case);
    let ended_at = case.journal.ended_at;
    let last_start = case.plan.steps.iter().filter_map(|step| {
        let is_start = matches!(step.action, Action::Start(_));
        is_start.then_some(step.at)
    });
    let healed = last_start
        .max()
        .unwrap_or_default()
        .max(case.plan.healed_at);
    let due = (healed + case.converge_within).min(ended_at);
    let owner_at = |node: NodeIndex, at: Duration| {
        let owns = |live: &&Live| live.node == node && live.from <= at && at <= live.until;
        lives.iter().rfind(owns).map(|live| live.slot)
    };
    let mut violations = Vec::new();
    for at in [due, ended_at] {
        let owned = runs.iter().map(|node| (*node, owner_at(*node, at)));
        let without: Vec<NodeIndex> = owned
            .clone()
            .filter(|(_, slot)| slot.is_none())
            .map(|(node, _)| node)
            .collect();
        let slots: BTreeSet<u16> = owned.filter_map(|(_, slot)| slot).collect();
        let expected = runs.len().min(membership.slots.len());
        if slots.len() < expected {
            let first = without.first().copied();
            let who: Vec<&str> = without.iter().take(5).map(|n| case.name(*n)).collect();
            let detail = format!(
                "{} of {expected} slots are owned {:?} after the last fault; without one: {}",
                slots.len(),
                at.saturating_sub(healed),
                who.join(", ")
            );
            violations.push(Violation::new(CLAIMS, at, first, detail));
            break;
        }
    }
    violations
}

/// At the end the owners are linked with each other.
pub(super) fn mesh(case: &Case<'_>) -> Vec<Violation> {
    if !case.plan.membership.as_ref().is_some_and(|m| m.mesh) {
        return Vec::new();
    }
    let ended_at = case.journal.ended_at;
    let lives = lives(case);
    let owners: Vec<&Live> = lives.iter().filter(|live| live.until >= ended_at).collect();
    let links = case
        .journal
        .slots
        .iter()
        .filter_map(|entry| match &entry.what {
            SlotSeen::SlotLink { slot, state } => Some(((entry.node?, *slot), *state)),
            _ => None,
        });
    let links: BTreeMap<(NodeIndex, u16), LinkState> = links.collect();
    let mut violations = Vec::new();
    for (one, other) in owners
        .iter()
        .flat_map(|a| owners.iter().map(move |b| (a, b)))
    {
        let state = links.get(&(one.node, other.slot)).copied();
        if one.slot != other.slot && state != Some(LinkState::Up) {
            let (a, b) = (case.name(one.node), case.name(other.node));
            let state = state.map_or("not there", LinkState::as_str);
            let detail = format!(
                "{a} > {b}, who owns slot {}, is {state} at the end",
                other.slot
            );
            violations.push(Violation::new(MESH, ended_at, Some(one.node), detail));
        }
    }
    violations
}

/// No more slots were lost than the scenario allows.
pub(super) fn losses(case: &Case<'_>) -> Vec<Violation> {
    let Some(max) = case.expect.losses_max else {
        return Vec::new();
    };
    let lost = case
        .journal
        .slots
        .iter()
        .filter_map(|entry| match &entry.what {
            SlotSeen::SlotLost { slot, why } => Some((entry, slot, why)),
            _ => None,
        });
    let beyond = lost.skip(max as usize).map(|(entry, slot, why)| {
        let detail = format!("slot {slot} was lost, where {max} may be: {why}");
        Violation::new(LOSSES, entry.at, entry.node, detail)
    });
    beyond.collect()
}

/// Nodes that run when all steps have happened.
fn running(case: &Case<'_>) -> Vec<NodeIndex> {
    let mut runs = BTreeSet::new();
    for step in &case.plan.steps {
        match step.action {
            Action::Start(node) => drop(runs.insert(node)),
            Action::Stop(node)
            | Action::Crash(node)
            | Action::Wipe(node)
            | Action::Retire(node) => drop(runs.remove(&node)),
            _ => {}
        }
    }
    runs.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Stage;
    use super::*;
    use holdfast_plan::Instance;

    const SECOND: Duration = Duration::from_secs(1);

    fn stage() -> Stage {
        let mut stage = Stage::new();
        stage.plan.membership = Some(Membership {
            slots: vec![1, 2],
            lease: SECOND * 10,
            drift_per_mille: 10,
            instances: vec![Instance::default(); 2],
            mesh: false,
        });
        for (node, instance) in [(0, "x"), (1, "y")] {
            let instance = instance.to_owned();
            stage.slot(
                0,
                Some(node),
                SlotSeen::Identity {
                    instance,
                    is_new: true,
                },
            );
        }
        stage
    }

    fn live(slot: u16, instance: &str, from_s: u64, until_s: u64) -> SlotSeen {
        SlotSeen::SlotLive {
            slot,
            instance: instance.to_owned(),
            from: SECOND * from_s as u32,
            until: SECOND * until_s as u32,
        }
    }

    fn entry(slot: u16, instance: Option<&str>) -> SlotSeen {
        SlotSeen::SlotEntry {
            key: format!("cluster/sim/slots/{slot}"),
            slot: Some(slot),
            index: 1,
            owner: instance.map(|instance| SlotOwner {
                instance: instance.to_owned(),
                run: "r".to_owned(),
                lease_ms: 10_000,
            }),
            is_gone: instance.is_none(),
        }
    }

    fn owned(slot: u16, instance: &str) -> SlotSeen {
        SlotSeen::SlotOwned {
            slot,
            instance: instance.to_owned(),
            rejoined: false,
            tries: 1,
        }
    }

    #[test]
    fn two_live_owners_of_one_slot_are_seen_and_one_after_the_other_is_none() {
        let mut stage = stage();
        stage.slot(20, Some(0), live(1, "x", 1, 20));
        stage.slot(30, Some(1), live(2, "y", 1, 20));
        stage.slot(30, Some(1), live(1, "y", 20, 30));
        assert_eq!(stage.judged(owners), [""; 0]);
        stage.slot(31, Some(1), live(1, "y", 19, 31));
        let seen = stage.judged(owners);
        assert_eq!(seen[0], "slot 1: a was live until 20s, and b from 19s on");
    }

    #[test]
    fn a_short_overlap_behind_a_long_one_is_seen() {
        let mut stage = stage();
        stage.slot(90, Some(0), live(1, "x", 0, 90));
        stage.slot(90, Some(1), live(1, "y", 10, 11));
        stage.slot(90, Some(1), live(1, "y", 50, 51));
        assert_eq!(stage.judged(owners).len(), 2);
    }

    #[test]
    fn a_slot_that_is_taken_before_its_lease_is_over_is_seen() {
        let mut early = stage();
        early.slot(1, Some(0), entry(1, Some("x")));
        early.slot(11, Some(1), entry(1, Some("y")));
        let seen = early.judged(leases);
        assert_eq!(seen.len(), 1);
        assert!(seen[0].contains("y took it from x after 10s, which may be live for 10.2"));
        let mut later = stage();
        later.slot(1, Some(0), entry(1, Some("x")));
        later.slot(12, Some(1), entry(1, Some("y")));
        // Of itself, or of nobody, at any time.
        later.slot(13, Some(1), entry(1, Some("y")));
        later.slot(14, Some(1), entry(1, None));
        later.slot(15, Some(0), entry(1, Some("x")));
        assert_eq!(later.judged(leases), [""; 0]);
    }

    #[test]
    fn a_fast_clock_makes_the_wait_shorter_and_a_slow_one_longer() {
        for (drift_ppm, is_early) in [(10_000, false), (-10_000, true)] {
            let mut stage = stage();
            stage.plan.topology.nodes[1].clock.drift_ppm = drift_ppm;
            stage.slot(1_000, Some(0), entry(1, Some("x")));
            let taken = Duration::from_millis(1_010_150);
            stage.slot_at(taken, Some(1), entry(1, Some("y")));
            assert_eq!(!stage.judged(leases).is_empty(), is_early);
        }
    }

    #[test]
    fn entries_of_nobody_of_no_slot_and_in_the_name_of_another_are_seen() {
        let mut stage = stage();
        stage.slot(1, Some(0), entry(1, Some("x")));
        stage.slot(2, Some(0), entry(1, None));
        assert_eq!(stage.judged(entries), [""; 0]);
        stage.slot(3, None, entry(1, None));
        stage.slot(4, Some(0), entry(9, Some("x")));
        stage.slot(5, Some(0), entry(2, Some("y")));
        assert_eq!(stage.judged(entries).len(), 3);
    }

    #[test]
    fn an_instance_that_comes_back_and_takes_another_slot_is_seen_unless_its_own_was_taken() {
        let mut stage = stage();
        let back = || SlotSeen::Identity {
            instance: "x".to_owned(),
            is_new: false,
        };
        stage.slot(1, Some(0), entry(1, Some("x")));
        stage.slot(1, Some(0), owned(1, "x"));
        stage.slot(5, Some(0), back());
        stage.slot(6, Some(0), entry(2, Some("x")));
        stage.slot(6, Some(0), owned(2, "x"));
        assert_eq!(stage.judged(rejoin), ["x took slot 2, and 1 was its own"]);
        let mut taken = Stage {
            journal: holdfast_plan::Journal::default(),
            ..stage
        };
        taken.slot(1, Some(0), entry(1, Some("x")));
        taken.slot(1, Some(0), owned(1, "x"));
        taken.slot(4, Some(1), entry(1, Some("y")));
        taken.slot(5, Some(0), back());
        taken.slot(6, Some(0), entry(2, Some("x")));
        taken.slot(6, Some(0), owned(2, "x"));
        assert_eq!(taken.judged(rejoin), [""; 0]);
    }

    #[test]
    fn two_owners_without_a_link_at_the_end_are_seen() {
        let mut stage = stage();
        stage.journal.ended_at = SECOND * 30;
        stage.slot(30, Some(0), live(1, "x", 1, 30));
        stage.slot(30, Some(1), live(2, "y", 1, 30));
        assert_eq!(stage.judged(mesh), [""; 0]);
        if let Some(membership) = &mut stage.plan.membership {
            membership.mesh = true;
        }
        let link = |slot, state| SlotSeen::SlotLink { slot, state };
        stage.slot(30, Some(0), link(2, LinkState::Up));
        stage.slot(30, Some(1), link(1, LinkState::Connecting));
        assert_eq!(
            stage.judged(mesh),
            ["b > a, who owns slot 1, is connecting at the end"]
        );
        stage.slot(30, Some(1), link(1, LinkState::Up));
        assert_eq!(stage.judged(mesh), [""; 0]);
    }

    #[test]
    fn a_loss_too_many_is_seen() {
        let mut stage = stage();
        let why = "the lease is over".to_owned();
        stage.slot(3, Some(0), SlotSeen::SlotLost { slot: 1, why });
        assert_eq!(stage.judged(losses), [""; 0]);
        stage.expect.losses_max = Some(1);
        assert_eq!(stage.judged(losses), [""; 0]);
        stage.expect.losses_max = Some(0);
        let seen = stage.judged(losses);
        assert_eq!(seen, ["slot 1 was lost, where 0 may be: the lease is over"]);
    }

    #[test]
    fn an_instance_without_a_slot_at_the_end_is_seen_and_one_too_many_is_none() {
        let mut stage = stage();
        stage.step(Action::Start(NodeIndex(0)));
        stage.step(Action::Start(NodeIndex(1)));
        stage.journal.ended_at = SECOND * 30;
        stage.slot(30, Some(0), live(1, "x", 1, 30));
        let seen = stage.judged(claims);
        assert_eq!(
            seen,
            ["1 of 2 slots are owned 10s after the last fault; without one: b"]
        );
        stage.slot(30, Some(1), live(2, "y", 1, 30));
        assert_eq!(stage.judged(claims), [""; 0]);
        if let Some(membership) = &mut stage.plan.membership {
            membership.slots = vec![1];
        }
        stage.journal.slots.pop();
        assert_eq!(stage.judged(claims), [""; 0]);
    }
}
