//! One round, lane by lane.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::markup::{seconds, since, text};
use super::{Lane, PointView, RoundView, WriteState};

const WIDTH: f64 = 1180.0;
/// Room for the names of lanes.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 16.0;
const LANE: f64 = 24.0;
const LANE_GAP: f64 = 5.0;
const RULER: f64 = 20.0;
/// One row of names of points.
const NAME_ROW: f64 = 14.0;
/// Rows of names of points: further ones are in the table below.
const NAME_ROWS_MAX: usize = 7;
/// About the width of a letter.
const LETTER: f64 = 6.7;
/// What is shown before the blow, and after the end.
const BEFORE: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(2);
/// Parts of a lane of writers: what happened in one is drawn as one bar.
const BINS: usize = 170;
/// Distances of ticks, seconds.
const STEPS: [f64; 12] = [
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
];
/// Pixels between two ticks at least.
const TICK_MIN: f64 = 64.0;

struct Frame {
    from: f64,
    to: f64,
    fault: f64,
}

impl Frame {
    fn of(round: &RoundView) -> Frame {
        let fault = round.fault.unwrap_or_default();
        let last = |lane: &Lane| {
            let bars = lane.bars.iter().map(|(_, to, _)| *to);
            bars.chain(lane.writes.iter().map(|(at, _)| *at)).max()
        };
        let of_points = round.points.iter().map(|point| point.at).max();
        let of_lanes = round.lanes.iter().filter_map(last).max();
        // What is after the last point is more of the same.
        let to = match of_points {
            Some(last) if last > fault => of_lanes.map_or(last, |end| end.min(last + AFTER)),
            _ => of_lanes.unwrap_or(fault),
        };
        let from = fault.saturating_sub(BEFORE).as_secs_f64();
        Frame {
            from,
            to: to.as_secs_f64().max(from + 0.5),
            fault: fault.as_secs_f64(),
        }
    }

    fn x(&self, at: f64) -> f64 {
        let part = (at - self.from) / (self.to - self.from);
        LEFT + (WIDTH - LEFT - RIGHT) * part.clamp(0.0, 1.0)
    }

    fn at(&self, at: Duration) -> f64 {
        self.x(at.as_secs_f64())
    }

    fn has(&self, at: Duration) -> bool {
        (self.from..=self.to).contains(&at.as_secs_f64())
    }
}

/// A round as a picture.
pub fn of(round: &RoundView) -> String {
    let frame = Frame::of(round);
    let names = Names::of(round, &frame);
    let top = names.rows as f64 * NAME_ROW + 6.0;
    let lanes = round.lanes.len() as f64 * (LANE + LANE_GAP);
    let height = top + lanes + RULER;
    let bottom = top + lanes;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    for n in 0..round.lanes.len() {
        let y = top + n as f64 * (LANE + LANE_GAP);
        let width = WIDTH - LEFT - RIGHT;
        let _ = write!(
            svg,
            "<rect class=\"lane\" x=\"{LEFT}\" y=\"{y}\" width=\"{width}\" height=\"{LANE}\"/>"
        );
    }
    svg.push_str(&ruler(&frame, top, bottom));
    for (n, lane) in round.lanes.iter().enumerate() {
        let y = top + n as f64 * (LANE + LANE_GAP);
        svg.push_str(&lane_at(lane, &frame, y));
    }
    svg.push_str(&gap(round, &frame, top, bottom));
    svg.push_str(&names.draw(bottom));
    svg.push_str("</svg>");
    svg
}

fn ruler(frame: &Frame, top: f64, bottom: f64) -> String {
    let wide = |step: &&f64| frame.x(frame.from + **step) - LEFT >= TICK_MIN;
    let step = STEPS.iter().find(wide).copied().unwrap_or(600.0);
    let mut svg = String::new();
    let first = ((frame.from - frame.fault) / step).ceil() as i64;
    let last = ((frame.to - frame.fault) / step).floor() as i64;
    for n in first..=last {
        let after = n as f64 * step;
        let x = frame.x(frame.fault + after);
        let label = match n {
            0 => "0 s".to_owned(),
            _ if step < 1.0 => format!("{after:+.1}"),
            _ => format!("{after:+.0}"),
        };
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>\
             <text class=\"soft\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 13.0
        );
    }
    svg
}

fn lane_at(lane: &Lane, frame: &Frame, y: f64) -> String {
    let middle = y + LANE / 2.0 + 4.0;
    let mut svg = format!(
        "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
        LEFT - 8.0,
        text(&lane.name)
    );
    for (from, to, state) in &lane.bars {
        let (left, right) = (frame.at(*from), frame.at(*to));
        if right <= left && !frame.has(*from) {
            continue;
        }
        let width = (right - left).max(1.0);
        let (class, words) = (state.class(), state.words());
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\" \
             rx=\"2\"><title>{words} for {} s</title></rect>",
            y + 3.0,
            LANE - 6.0,
            seconds(to.saturating_sub(*from)),
        );
        if width > words.len() as f64 * LETTER + 8.0 {
            let _ = write!(
                svg,
                "<text class=\"on\" x=\"{:.1}\" y=\"{middle}\">{words}</text>",
                left + 5.0
            );
        }
    }
    svg.push_str(&writes(lane, frame, y));
    svg
}

/// A bar for each part of the lane: as high as there were writes, the worst on top.
fn writes(lane: &Lane, frame: &Frame, y: f64) -> String {
    let mut bins: BTreeMap<usize, BTreeMap<WriteState, usize>> = BTreeMap::new();
    let part = (frame.to - frame.from) / BINS as f64;
    for (at, state) in lane.writes.iter().filter(|(at, _)| frame.has(*at)) {
        let bin = ((at.as_secs_f64() - frame.from) / part) as usize;
        *bins
            .entry(bin.min(BINS - 1))
            .or_default()
            .entry(*state)
            .or_default() += 1;
    }
    let most = bins.values().map(|bin| bin.values().sum::<usize>()).max();
    let most = most.unwrap_or(1) as f64;
    let mut svg = String::new();
    for (n, bin) in bins {
        let left = frame.x(frame.from + n as f64 * part);
        let width = frame.x(frame.from + (n + 1) as f64 * part) - left;
        let mut bottom = y + LANE - 1.0;
        for (state, count) in bin {
            // One lost row must be seen beside a thousand others.
            let height = ((LANE - 2.0) * count as f64 / most)
                .max(3.0)
                .min(bottom - y);
            bottom -= height;
            let class = state.class();
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{bottom:.1}\" width=\"{:.1}\" \
                 height=\"{height:.1}\"><title>{count} {class}</title></rect>",
                (width - 0.4).max(0.6)
            );
        }
    }
    svg
}

fn gap(round: &RoundView, frame: &Frame, top: f64, bottom: f64) -> String {
    let Some((from, to)) = round.gap else {
        return String::new();
    };
    let (left, right) = (frame.at(from), frame.at(to));
    let width = (right - left).max(1.0);
    let mut svg = format!(
        "<rect class=\"gap\" x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
        bottom - top
    );
    let label = format!("no write for {} s", seconds(to.saturating_sub(from)));
    if width > label.len() as f64 * LETTER {
        let y = bottom - LANE_GAP - LANE / 2.0;
        let _ = write!(
            svg,
            "<text class=\"gap-text\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            left + width / 2.0,
            y + 4.0
        );
    }
    svg
}

/// The names of points, in rows so that none covers another.
struct Names<'a> {
    placed: Vec<(f64, Option<usize>, &'a PointView)>,
    rows: usize,
    fault: Duration,
}

impl<'a> Names<'a> {
    fn of(round: &'a RoundView, frame: &Frame) -> Names<'a> {
        let fault = round.fault.unwrap_or_default();
        let mut ends = [f64::MIN; NAME_ROWS_MAX];
        let mut placed = Vec::new();
        for point in round.points.iter().filter(|point| frame.has(point.at)) {
            let x = frame.at(point.at);
            let width = width(&label(point, fault));
            let left = x.min(WIDTH - width);
            let row = ends.iter().position(|end| *end < left);
            if let Some(row) = row {
                ends[row] = left + width;
            }
            placed.push((x, row, point));
        }
        let rows = placed.iter().filter_map(|(_, row, _)| *row).max();
        Names {
            rows: rows.map_or(0, |row| row + 1),
            placed,
            fault,
        }
    }

    fn draw(&self, bottom: f64) -> String {
        let mut svg = String::new();
        for (x, row, point) in &self.placed {
            let class = match point.name.as_str() {
                "fault" => "fault",
                "first acknowledged" => "first",
                _ => "",
            };
            // The first row is the lowest.
            let row = row.map(|row| (self.rows - row) as f64 * NAME_ROW);
            let y = row.unwrap_or(self.rows as f64 * NAME_ROW);
            let _ = write!(
                svg,
                "<line class=\"point {class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" \
                 y2=\"{bottom}\"/>",
                y - 8.0
            );
            if row.is_some() {
                let words = label(point, self.fault);
                let left = x.min(WIDTH - width(&words)) + 3.0;
                let source = text(&point.source);
                let words = text(&words);
                let _ = write!(
                    svg,
                    "<text class=\"{class}\" x=\"{left:.1}\" y=\"{y:.1}\">{words}<title>{source}\
                     </title></text>"
                );
            }
        }
        svg
    }
}

/// About how wide a name is, with room beside it.
fn width(words: &str) -> f64 {
    (words.chars().count() + 2) as f64 * LETTER
}

fn label(point: &PointView, fault: Duration) -> String {
    format!("{} {}", point.name, since(point.at, fault))
}
