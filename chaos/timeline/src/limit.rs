//! What is left out when there is too much, and what is kept.
//!
//! A page has to open at once, whatever is in the trace. What is kept is what lies near to
//! something that one wants to see the surroundings of: a transition, a fault, an error.

use std::time::Duration;

use crate::collect::Packet;

/// Lines that are looked at: a minute of a busy world has some hundred thousand.
pub const LINES_MAX: u64 = 2_000_000;
/// Lanes: more do not fit a screen.
pub const LANES_MAX: usize = 40;
/// Ends of links: a full mesh of 32.
pub const LINKS_MAX: usize = 1_024;
/// Conversations, each with a bar at each end.
pub const FLOWS_MAX: usize = 4_000;
/// Messages with a mark of their own: some 26 bytes of page each.
pub const MESSAGES_MAX: usize = 100_000;
/// Other events.
pub const EVENTS_MAX: usize = 20_000;
/// Characters of one text.
const TEXT_LEN_MAX: usize = 300;

/// A text of a length that can be shown.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// As nanoseconds that a script's numbers can hold.
pub fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).map_or((1 << 53) - 1, |ns| ns.min((1 << 53) - 1))
}

/// Which of too many things are left out.
pub const FARTHEST: &str = "those farthest from any transition, fault, error or violation";
/// Which of too many things are left out.
pub const LATEST: &str = "the latest of them";

/// Say that something was left out, if it was.
pub fn note(notes: &mut Vec<String>, left: usize, what: &str, which: &str) {
    if left > 0 {
        notes.push(format!("{left} {what} are left out: {which}."));
    }
}

/// The `max` items of the lowest rank and then the nearest to a time of interest, in their order
/// and with their former positions; and how many are left out.
pub fn nearest<T>(
    items: Vec<T>,
    max: usize,
    interest: &[u64],
    rank: impl Fn(&T) -> (u64, u64),
) -> (Vec<(usize, T)>, usize) {
    let left = items.len().saturating_sub(max);
    let mut order: Vec<(u64, u64, usize)> = Vec::new();
    if left > 0 {
        order.extend(items.iter().enumerate().map(|(n, item)| {
            let (rank, t_ns) = rank(item);
            (rank, distance(interest, t_ns), n)
        }));
        order.sort_unstable();
        order.truncate(max);
        order.sort_unstable_by_key(|(_, _, n)| *n);
    }
    let mut wanted = order.into_iter().map(|(_, _, n)| n).peekable();
    let keep = |(n, _): &(usize, T)| left == 0 || wanted.next_if_eq(n).is_some();
    (items.into_iter().enumerate().filter(keep).collect(), left)
}

fn distance(interest: &[u64], t_ns: u64) -> u64 {
    let after = interest.partition_point(|at| *at < t_ns);
    let next = interest.get(after).map(|at| at - t_ns);
    let before = after.checked_sub(1).map(|n| t_ns - interest[n]);
    next.into_iter().chain(before).min().unwrap_or(t_ns)
}

/// Packets at their new positions, still pointing at each other.
pub fn renumber(packets: Vec<(usize, Packet)>) -> Vec<Packet> {
    let old: Vec<usize> = packets.iter().map(|(n, _)| *n).collect();
    let renumbered = packets.into_iter().map(|(_, mut packet)| {
        packet.arrived = packet.arrived.and_then(|n| old.binary_search(&n).ok());
        packet
    });
    renumbered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_to_something_interesting_is_kept_in_order() {
        let items: Vec<u64> = (0..100).collect();
        let (kept, left) = nearest(items, 6, &[10, 50], |t| (0, *t));
        let kept: Vec<u64> = kept.into_iter().map(|(_, t)| t).collect();
        assert_eq!(kept, [9, 10, 11, 49, 50, 51]);
        assert_eq!(left, 94);
    }

    #[test]
    fn a_lower_rank_goes_before_nearness() {
        let (kept, _) = nearest(vec![10, 99], 1, &[10], |t| (u64::from(*t == 10), *t));
        assert_eq!(kept, [(1, 99)]);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = cut(&"ö".repeat(1_000));
        assert_eq!(text.chars().count(), TEXT_LEN_MAX + 1);
        assert!(text.ends_with('…'));
    }
}
