//! The page of a drill: how long what took over all its rounds, and each round over time.
//!
//! Nothing of it is a script: it is drawn here, once. Words come from logs and clients, and are
//! text wherever they stand.
//!
//! * `picture`: one round, lane by lane. `strip`: many rounds in a line.

mod markup;
mod picture;
mod strip;

use std::fmt::Write as _;
use std::time::Duration;

use markup::{seconds, text};

const TEMPLATE: &str = include_str!("../../assets/rounds.html");
const STYLE: [&str; 2] = [
    include_str!("../../assets/page.css"),
    include_str!("../../assets/rounds.css"),
];
/// Most rounds that are drawn; the table has as many, the figures are of all.
pub const ROUNDS_MAX: usize = 300;

/// A drill.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundsPage {
    /// What was played.
    pub title: String,
    /// Which world, how many rounds, and the like.
    pub subtitle: String,
    /// The command that plays it again.
    pub replay: Option<String>,
    /// Whether everything held, and that in words.
    pub verdict: (bool, String),
    /// How long what took.
    pub figures: Vec<Figure>,
    /// Each round.
    pub rounds: Vec<RoundView>,
}

/// How long something took, over all rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure {
    /// What.
    pub name: String,
    /// Whether it is what everybody asks for.
    pub is_main: bool,
    /// In each round that had it.
    pub times: Vec<Duration>,
    /// The median,
    pub p50: Duration,
    /// the ends of its 95 % confidence interval,
    pub p50_ci95: Option<(Duration, Duration)>,
    /// and the longest.
    pub worst: Duration,
    /// What is known of it elsewhere.
    pub reference: String,
}

/// A round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundView {
    /// Its seed.
    pub seed: u64,
    /// When within Patroni's loop the blow came, parts in a thousand.
    pub phase: u32,
    /// When the blow came, since the round began.
    pub fault: Option<Duration>,
    /// The lanes.
    pub lanes: Vec<Lane>,
    /// Moments, ascending.
    pub points: Vec<PointView>,
    /// The time around the blow without an acknowledged write.
    pub gap: Option<(Duration, Duration)>,
    /// The end of three parts of the time to recover: key free, promoted, first write.
    pub recovery: Option<[Duration; 3]>,
    /// Acknowledged writes, and of them those that were lost.
    pub acknowledged: u64,
    /// Acknowledged and not there.
    pub lost: u64,
    /// What should not have been.
    pub violations: Vec<String>,
    /// What puts it outside of the claim.
    pub outside: Vec<String>,
    /// What else is worth a word.
    pub notes: Vec<String>,
}

/// A lane of a round: a member, or the writers at one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lane {
    /// Whose.
    pub name: String,
    /// What it was, from when to when.
    pub bars: Vec<(Duration, Duration, State)>,
    /// When writes were over, and how.
    pub writes: Vec<(Duration, WriteState)>,
}

/// What a member was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It led.
    Leader,
    /// It had the key, and was not promoted yet.
    Taking,
    /// It was a replica.
    Replica,
    /// It was struck, and not mended.
    Struck,
    /// It was mended, and not a replica yet.
    Rejoining,
}

impl State {
    const ALL: [State; 5] = [
        State::Leader,
        State::Taking,
        State::Replica,
        State::Struck,
        State::Rejoining,
    ];

    const fn class(self) -> &'static str {
        match self {
            State::Leader => "leader",
            State::Taking => "taking",
            State::Replica => "replica",
            State::Struck => "struck",
            State::Rejoining => "rejoining",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            State::Leader => "leads",
            State::Taking => "has the key",
            State::Replica => "replica",
            State::Struck => "struck",
            State::Rejoining => "coming back",
        }
    }
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteState {
    /// It happened.
    Acknowledged,
    /// It did not.
    Failed,
    /// It may have.
    Unknown,
    /// It was acknowledged, and is not there.
    Lost,
}

impl WriteState {
    const ALL: [WriteState; 4] = [
        WriteState::Acknowledged,
        WriteState::Failed,
        WriteState::Unknown,
        WriteState::Lost,
    ];

    const fn class(self) -> &'static str {
        match self {
            WriteState::Acknowledged => "acknowledged",
            WriteState::Failed => "failed",
            WriteState::Unknown => "unknown",
            WriteState::Lost => "lost",
        }
    }
}

/// A moment of a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PointView {
    /// When, since the round began.
    pub at: Duration,
    /// What it is called.
    pub name: String,
    /// Of which member.
    pub member: Option<String>,
    /// Who says so.
    pub source: String,
}

impl RoundsPage {
    /// The page as one HTML document.
    #[must_use]
    pub fn render(&self) -> String {
        let replay = self.replay.as_ref().map(|line| {
            let line = text(line);
            format!("<p id=\"replay\"><code>{line}</code></p>")
        });
        let (held, words) = &self.verdict;
        let class = if *held { "held" } else { "violated" };
        let verdict = format!("<span class=\"verdict {class}\">{}</span>", text(words));
        let fill = |name: &str| match name {
            "title" => text(&self.title),
            "style" => STYLE.concat(),
            "verdict" => verdict.clone(),
            "subtitle" => text(&self.subtitle),
            "replay" => replay.clone().unwrap_or_default(),
            "body" => self.body(),
            other => unreachable!("the template has no {other}"),
        };
        // One pass, so that nothing that is put in is searched for places again.
        let mut html = String::new();
        let mut rest = TEMPLATE;
        while let Some((before, from_name)) = rest.split_once("{{") {
            let (name, after) = from_name
                .split_once("}}")
                .expect("the template is well-formed");
            html.push_str(before);
            html.push_str(&fill(name));
            rest = after;
        }
        html.push_str(rest);
        html
    }

    fn body(&self) -> String {
        let mut html = self.figures();
        html.push_str(&self.table());
        html.push_str("<h2>Each round over time</h2>\n");
        html.push_str(&key());
        let drawn = &self.rounds[..self.rounds.len().min(ROUNDS_MAX)];
        // One is open from the beginning: the first that failed.
        let open = drawn.iter().position(|round| !round.violations.is_empty());
        let open = open.unwrap_or(0);
        for (n, round) in drawn.iter().enumerate() {
            html.push_str(&round.details(n == open));
        }
        html
    }

    fn figures(&self) -> String {
        let longest = self.figures.iter().map(|figure| figure.worst).max();
        let scale = longest.unwrap_or_default();
        let mut rows = String::new();
        for figure in &self.figures {
            let ci = figure.p50_ci95.map_or_else(String::new, |(low, high)| {
                format!("{} – {}", seconds(low), seconds(high))
            });
            let class = if figure.is_main {
                " class=\"main\""
            } else {
                ""
            };
            let _ = writeln!(
                rows,
                "<tr{class}><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n soft\">{ci}</td><td class=\"n\">{}</td>\
                 <td class=\"soft\">{}</td><td class=\"strip\">{}</td></tr>",
                text(&figure.name),
                figure.times.len(),
                seconds(figure.p50),
                seconds(figure.worst),
                text(&figure.reference),
                strip::of_figure(figure, scale),
            );
        }
        format!(
            "<h2>How long what took</h2>\n<table><thead><tr><th>from – to</th>\
             <th class=\"n\">rounds</th><th class=\"n\">p50, s</th><th class=\"n\">95 % of it</th>\
             <th class=\"n\">worst, s</th><th>elsewhere</th><th>each round, 0 to {} s</th></tr></thead>\
             <tbody>\n{rows}</tbody></table>\n",
            seconds(scale)
        )
    }

    fn table(&self) -> String {
        let ends = self.rounds.iter().filter_map(|round| round.recovery);
        let scale = ends.map(|[_, _, end]| end).max().unwrap_or_default();
        let mut rows = String::new();
        for round in self.rounds.iter().take(ROUNDS_MAX) {
            let length = round.gap.map(|(from, to)| seconds(to.saturating_sub(from)));
            let (class, word) = match (round.violations.is_empty(), round.outside.is_empty()) {
                (false, _) => (" class=\"bad\"", "FAILED"),
                (true, false) => ("", "outside of the claim"),
                (true, true) => ("", "held"),
            };
            let lost = if round.lost > 0 { "n bad" } else { "n" };
            let _ = writeln!(
                rows,
                "<tr><td class=\"n\"><a href=\"#round-{0}\">{0}</a></td><td class=\"n\">{1} ‰</td>\
                 <td class=\"strip\">{2}</td><td class=\"n\">{3}</td><td class=\"n\">{4}</td>\
                 <td class=\"{lost}\">{5}</td><td{class}>{word}</td></tr>",
                round.seed,
                round.phase,
                strip::of_recovery(round.recovery, scale),
                length.unwrap_or_else(|| "–".to_owned()),
                round.acknowledged,
                round.lost,
            );
        }
        let left_out = match self.rounds.len().saturating_sub(ROUNDS_MAX) {
            0 => String::new(),
            n => format!("<p class=\"soft\">{n} more rounds are in the figures only.</p>\n"),
        };
        format!(
            "<h2>Rounds</h2>\n<p class=\"key\"><span><i class=\"wait\"></i>blow to key free</span>\
             <span><i class=\"race\"></i>to promoted</span>\
             <span><i class=\"write\"></i>to first write</span></p>\n\
             <table><thead><tr><th class=\"n\">seed</th><th class=\"n\">phase</th>\
             <th>recovery, 0 to {} s</th><th class=\"n\">write gap, s</th>\
             <th class=\"n\">acknowledged</th><th class=\"n\">lost</th><th></th></tr></thead><tbody>\n\
             {rows}</tbody></table>\n{left_out}",
            seconds(scale)
        )
    }
}

fn key() -> String {
    let state = |state: State| {
        format!(
            "<span><i class=\"{}\"></i>{}</span>",
            state.class(),
            state.words()
        )
    };
    let write =
        |state: WriteState| format!("<span><i class=\"{0}\"></i>write {0}</span>", state.class());
    let states: String = State::ALL.into_iter().map(state).collect();
    let writes: String = WriteState::ALL.into_iter().map(write).collect();
    format!("<p class=\"key\">{states}{writes}</p>\n")
}

impl RoundView {
    fn details(&self, is_open: bool) -> String {
        let open = if is_open { " open" } else { "" };
        let gap = self.gap.map(|(from, to)| {
            let gap = seconds(to.saturating_sub(from));
            format!("no write for {gap} s, ")
        });
        let mut words = String::new();
        let lists = [
            ("bad", &self.violations),
            ("outside", &self.outside),
            ("note", &self.notes),
        ];
        for (class, list) in lists {
            for line in list {
                let _ = writeln!(words, "<li class=\"{class}\">{}</li>", text(line));
            }
        }
        format!(
            "<details class=\"round\" id=\"round-{0}\"{open}><summary><b>seed {0}</b>{1}{2} of {3} \
             acknowledged writes lost</summary>\n<ul class=\"words\">{words}</ul>\n\
             <div class=\"box\">{4}</div>\n{5}</details>\n",
            self.seed,
            gap.unwrap_or_default(),
            self.lost,
            self.acknowledged,
            picture::of(self),
            self.points(),
        )
    }

    fn points(&self) -> String {
        let fault = self.fault.unwrap_or_default();
        let mut rows = String::new();
        for point in &self.points {
            let _ = writeln!(
                rows,
                "<tr><td class=\"n\">{}</td><td>{}</td><td>{}</td><td class=\"soft\">{}</td></tr>",
                markup::since(point.at, fault),
                text(&point.name),
                text(point.member.as_deref().unwrap_or_default()),
                text(&point.source),
            );
        }
        format!(
            "<table><thead><tr><th class=\"n\">since the blow, s</th><th>what</th><th>who</th>\
             <th>says</th></tr></thead><tbody>\n{rows}</tbody></table>\n"
        )
    }
}
