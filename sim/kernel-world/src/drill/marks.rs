//! A round's timeline, made of everything that was seen, on one clock.

use std::time::Duration;

use holdfast_plan::drill::{Blow, Mark, Point, Rejoin, Round};
use holdfast_workload::{Outcome, Write};

use super::ground::member_of;
use super::logs::Line;
use super::whole::Scene;

/// How long a line of a log is that is quoted.
const QUOTED_LEN_MAX: usize = 120;

/// What the round itself knows, in the cluster's time.
#[derive(Debug, Default)]
pub struct Story {
    /// When it began.
    pub base: Duration,
    /// Who led.
    pub leader: Option<usize>,
    /// The blow.
    pub fault: Option<Duration>,
    /// To whom.
    pub struck: Vec<usize>,
    /// When all was mended.
    pub healed: Option<Duration>,
    /// Since when all was whole.
    pub whole: Option<Duration>,
    /// What every member's logs say.
    pub lines: Vec<Vec<Line>>,
}

impl Story {
    /// It began then.
    pub fn new(base: Duration) -> Story {
        Story {
            base,
            ..Story::default()
        }
    }

    /// The first line of a member, since that time, that has one of those words.
    fn line(&self, member: usize, since: Duration, words: &[&str]) -> Option<&Line> {
        let mut lines = self.lines.get(member)?.iter();
        lines.find(|line| line.at >= since && words.iter().any(|word| line.text.contains(word)))
    }
}

/// What members say when they notice.
const NOTICED: [&str; 8] = [
    "could not receive data from WAL stream",
    "replication terminated by primary server",
    "could not connect to the primary server",
    "Primary crashed. Failing over",
    "Postgresql is not running",
    "Error communicating with DCS",
    "a server is down",
    "connection to server",
];

/// Completes a round with what was seen.
pub fn tell<'a>(scene: &'a Scene<'a>, story: &'a Story, round: &mut Round) {
    let after = scene.leader();
    let members = scene.ground.members();
    round.leader_after = after.map(|member| members[member].name.clone());
    let timeline = after.and_then(|member| scene.board.now(member));
    round.timelines.1 = timeline.map_or(0, |said| said.timeline);
    let Some(fault) = story.fault else {
        return;
    };
    let changed = after.is_some() && after != story.leader;
    let mut marks = Marks {
        scene,
        story,
        fault,
        marks: Vec::new(),
    };
    marks.add(fault, Point::Fault, None, "the drill");
    marks.writes(&round.history.writes, changed);
    marks.detected();
    marks.keys();
    if let Some(member) = after.filter(|_| round.timelines.0 != round.timelines.1) {
        marks.promoted(member);
    }
    if let Some(member) = after.filter(|_| changed) {
        marks.switched(member);
    }
    if let Some(at) = story.healed {
        marks.add(at, Point::Healed, None, "the drill");
    }
    if let Some(at) = story.whole {
        marks.add(at, Point::Whole, None, "Patroni's REST API and the KV");
    }
    marks.old_back(changed);
    round.marks = marks.marks;
    round.marks.sort_by_key(|mark| (mark.at, mark.point));
    round.rejoins = story
        .struck
        .iter()
        .filter(|member| {
            scene
                .board
                .now(**member)
                .is_some_and(|said| said.is_streaming())
        })
        .filter_map(|member| {
            Some((
                members[*member].name.clone(),
                rejoin(story, fault, *member)?,
            ))
        })
        .collect();
    round.two_primaries_ms = two_wrote(&round.history.writes);
    let both = two_led(scene, story).as_millis();
    round.two_led_ms = u64::try_from(both).unwrap_or(u64::MAX);
    if both > 0 {
        let told = format!("two members were out of recovery for {both} ms");
        round.notes.push(told);
    }
}

struct Marks<'a> {
    scene: &'a Scene<'a>,
    story: &'a Story,
    fault: Duration,
    marks: Vec<Mark>,
}

impl Marks<'_> {
    fn add(&mut self, at: Duration, point: Point, member: Option<usize>, source: &str) {
        let members = self.scene.ground.members();
        self.marks.push(Mark {
            at: at.saturating_sub(self.story.base),
            point,
            member: member.map(|member| members[member].name.clone()),
            source: source.chars().take(QUOTED_LEN_MAX).collect(),
        });
    }

    /// The gap of the writers. Their history begins with the round.
    fn writes(&mut self, writes: &[Write], changed: bool) {
        let fault = self.fault - self.story.base;
        let (last, first) = gap(writes, fault, changed);
        for (write, at, point) in [
            (last, last.map(|write| write.asked), Point::LastAcknowledged),
            (
                first,
                first.map(|write| write.ended),
                Point::FirstAcknowledged,
            ),
        ] {
            if let Some((write, at)) = write.zip(at) {
                let member = member_of(self.scene.ground.members(), &write.member);
                let server = write.server.as_deref().unwrap_or("a server");
                let source = format!("a writer at {}, {server}", write.member);
                self.add(at + self.story.base, point, member, &source);
            }
        }
    }

    /// The first line that says so, of a member that was not struck: its PostgreSQL, its Patroni,
    /// or its endpoints' checks of health. What the drill itself sees is no detection.
    fn detected(&mut self) {
        let mut found: Option<(Duration, usize, String)> = None;
        for member in 0..self.scene.ground.members().len() {
            if self.story.struck.contains(&member) {
                continue;
            }
            if let Some(line) = self.story.line(member, self.fault, &NOTICED)
                && found.as_ref().is_none_or(|best| line.at < best.0)
            {
                found = Some((line.at, member, line.text.clone()));
            }
        }
        if let Some((at, member, source)) = found {
            self.add(at, Point::Detected, Some(member), &source);
        }
    }

    fn keys(&mut self) {
        let before = self.story.leader;
        let members = self.scene.ground.members();
        let changes = self.scene.board.changes(self.fault);
        let leader = changes.iter().filter(|change| change.key == "leader");
        let holders = leader.map(|change| {
            let holder = change
                .value
                .as_deref()
                .and_then(|name| member_of(members, name));
            (change.at, holder)
        });
        let mut is_free = false;
        for (at, holder) in holders {
            if holder.is_none() || holder != before {
                if !is_free {
                    is_free = true;
                    self.add(at, Point::KeyFree, before, "the KV");
                }
                if holder.is_some() {
                    self.add(at, Point::KeyTaken, holder, "the KV");
                    return;
                }
            }
        }
    }

    fn promoted(&mut self, member: usize) {
        let words = ["archive recovery complete", "selected new timeline ID"];
        if let Some(line) = self.story.line(member, self.fault, &words) {
            let (at, text) = (line.at, line.text.clone());
            self.add(at, Point::Promoted, Some(member), &text);
        }
    }

    /// Where there are endpoints, their sidecars say it.
    fn switched(&mut self, leader: usize) {
        let name = self.scene.ground.members()[leader].name.clone();
        let mut found: Option<(Duration, usize, String)> = None;
        for (member, lines) in self.story.lines.iter().enumerate() {
            let said = lines.iter().find(|line| {
                let text = &line.text;
                let is_new = text.contains("another server leads");
                line.at >= self.fault && is_new && text.contains(&format!("\"to\":\"{name}\""))
            });
            if let Some(line) = said
                && found.as_ref().is_none_or(|best| line.at < best.0)
            {
                found = Some((line.at, member, line.text.clone()));
            }
        }
        if let Some((at, member, text)) = found {
            self.add(at, Point::Switched, Some(member), &text);
        }
    }

    fn old_back(&mut self, changed: bool) {
        let is_wiped = matches!(self.scene.drill.blow, Blow::Wipe { .. });
        let wiped = self.story.struck.first().copied().filter(|_| is_wiped);
        let Some(old) = self.story.leader.filter(|_| changed).or(wiped) else {
            return;
        };
        // Until its end is seen, a wiped one still says that it streams.
        let since = match self.story.healed {
            Some(healed) if is_wiped => healed,
            _ => self.fault,
        };
        let samples = self.scene.board.samples(old, since);
        let back = samples.iter().find(|sample| {
            sample
                .said
                .as_ref()
                .is_some_and(super::sight::Said::is_streaming)
        });
        if let Some(sample) = back {
            self.add(
                sample.told,
                Point::OldBack,
                Some(old),
                "GET /patroni says streaming",
            );
        }
    }
}

/// The last write before a gap and the first after it. With another leader, by the server that
/// took them; else by when they were asked for.
fn gap(writes: &[Write], fault: Duration, changed: bool) -> (Option<&Write>, Option<&Write>) {
    let done = || {
        writes
            .iter()
            .filter(|write| write.outcome == Outcome::Acknowledged)
    };
    let before = done()
        .filter(|write| write.asked < fault)
        .max_by_key(|write| write.asked);
    let old = before.and_then(|write| write.server.as_ref());
    if !changed || old.is_none() {
        let first = done().filter(|write| write.asked >= fault);
        return (before, first.min_by_key(|write| write.ended));
    }
    let last = done().filter(|write| write.server.as_ref() == old);
    let first = done().filter(|write| write.server.as_ref() != old && write.ended > fault);
    (
        last.max_by_key(|write| write.asked),
        first.min_by_key(|write| write.ended),
    )
}

/// For how long, at most, writes were acknowledged by two servers.
fn two_wrote(writes: &[Write]) -> u64 {
    let mut spans: Vec<(&str, Duration, Duration)> = Vec::new();
    for write in writes
        .iter()
        .filter(|write| write.outcome == Outcome::Acknowledged)
    {
        let Some(server) = write.server.as_deref() else {
            continue;
        };
        match spans.iter_mut().find(|(known, ..)| *known == server) {
            Some((_, first, last)) => {
                *first = (*first).min(write.ended);
                *last = (*last).max(write.ended);
            }
            None => spans.push((server, write.ended, write.ended)),
        }
    }
    let mut longest = Duration::ZERO;
    for (index, (_, first, last)) in spans.iter().enumerate() {
        for (_, other_first, other_last) in &spans[index + 1..] {
            let both = (*last)
                .min(*other_last)
                .saturating_sub(*first.max(other_first));
            longest = longest.max(both);
        }
    }
    u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
}

/// For how long two members said that they are out of recovery: the least that is proven.
fn two_led(scene: &Scene<'_>, story: &Story) -> Duration {
    let spans = |member: usize| {
        let mut spans: Vec<(Duration, Duration)> = Vec::new();
        let mut open = false;
        for sample in scene.board.samples(member, story.base) {
            let leads = sample
                .said
                .as_ref()
                .is_some_and(super::sight::Said::is_primary);
            match (leads, open, spans.last_mut()) {
                (true, true, Some(last)) => last.1 = sample.asked,
                (true, ..) => spans.push((sample.told, sample.told)),
                (false, ..) => {}
            }
            open = leads;
        }
        spans
    };
    let all: Vec<_> = (0..scene.ground.members().len()).map(spans).collect();
    let mut sum = Duration::ZERO;
    for (index, own) in all.iter().enumerate() {
        for other in all[index + 1..].iter().flatten() {
            for span in own {
                sum += span.1.min(other.1).saturating_sub(span.0.max(other.0));
            }
        }
    }
    sum
}

/// How a member came back, by its logs; `None` when they do not say.
fn rejoin(story: &Story, fault: Duration, member: usize) -> Option<Rejoin> {
    let copied = ["replica has been created using", "bootstrapped from leader"];
    let rewound = [
        "running pg_rewind from",
        "pg_rewind exit code=0",
        "pg_rewind: Done!",
    ];
    let replayed = [
        "redo starts at",
        "entering standby mode",
        "started streaming WAL from primary",
    ];
    let kinds = [
        (Rejoin::Copy, copied.as_slice()),
        (Rejoin::Rewind, rewound.as_slice()),
        (Rejoin::Replay, replayed.as_slice()),
    ];
    // A copy and a rewind end in a replay.
    let said = |words: &[&str]| story.line(member, fault, words).is_some();
    let mut kinds = kinds.into_iter();
    kinds.find_map(|(kind, words)| said(words).then_some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(asked: u64, ended: u64, server: &str) -> Write {
        Write {
            id: asked,
            member: "worker-4".to_owned(),
            asked: Duration::from_millis(asked),
            ended: Duration::from_millis(ended),
            outcome: Outcome::Acknowledged,
            server: Some(server.to_owned()),
            error: None,
        }
    }

    #[test]
    fn a_gap_ends_with_the_new_leaders_first_write() {
        let writes = [
            write(1, 2, "a 1"),
            write(5, 9, "a 1"),
            write(20, 30, "b 2"),
            write(21, 25, "b 2"),
        ];
        let (last, first) = gap(&writes, Duration::from_millis(6), true);
        assert_eq!(last.map(|write| write.id), Some(5));
        assert_eq!(first.map(|write| write.id), Some(21));
    }

    #[test]
    fn without_a_new_leader_a_gap_ends_with_what_was_asked_for_after_the_blow() {
        let writes = [write(1, 2, "a 1"), write(5, 9, "a 1"), write(8, 10, "a 1")];
        let (last, first) = gap(&writes, Duration::from_millis(7), false);
        assert_eq!(last.map(|write| write.id), Some(5));
        assert_eq!(first.map(|write| write.id), Some(8));
    }

    #[test]
    fn a_member_came_back_as_its_log_says_after_the_blow_or_nobody_knows_how() {
        let line = |at: u64, text: &str| Line {
            at: Duration::from_secs(at),
            text: text.to_owned(),
        };
        let came = |lines: &[Line]| {
            let story = Story {
                lines: vec![lines.to_vec()],
                ..Story::default()
            };
            rejoin(&story, Duration::from_secs(5), 0)
        };
        let replays = line(7, "LOG:  entering standby mode");
        let before = line(4, "LOG:  entering standby mode");
        assert_eq!(came(&[before, line(6, "no action")]), None);
        assert_eq!(came(std::slice::from_ref(&replays)), Some(Rejoin::Replay));
        let rewinds = line(6, "running pg_rewind from worker-5");
        assert_eq!(came(&[rewinds, replays.clone()]), Some(Rejoin::Rewind));
        let copies = line(6, "replica has been created using basebackup");
        assert_eq!(came(&[copies, replays]), Some(Rejoin::Copy));
    }

    #[test]
    fn two_servers_that_acknowledge_in_turns_are_two_primaries() {
        let one = [write(1, 2, "a 1"), write(5, 9, "a 1"), write(20, 30, "b 2")];
        assert_eq!(two_wrote(&one), 0);
        let two = [
            write(1, 2, "a 1"),
            write(5, 40, "a 1"),
            write(20, 30, "b 2"),
        ];
        assert_eq!(two_wrote(&two), 0);
        let both = [
            write(1, 2, "a 1"),
            write(5, 40, "a 1"),
            write(20, 30, "b 2"),
            write(40, 50, "b 2"),
        ];
        assert_eq!(two_wrote(&both), 10);
    }
}
