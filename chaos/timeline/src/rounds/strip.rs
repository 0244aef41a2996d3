//! Many rounds in a line.

use std::fmt::Write as _;
use std::time::Duration;

use super::Figure;
use super::markup::seconds;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 18.0;
/// Room for half a dot at both ends.
const MARGIN: f64 = 5.0;
/// Most dots of a line: more are one band.
const DOTS_MAX: usize = 500;

fn x(time: Duration, scale: Duration) -> f64 {
    let whole = scale.as_secs_f64().max(f64::MIN_POSITIVE);
    MARGIN + (WIDTH - 2.0 * MARGIN) * (time.as_secs_f64() / whole).min(1.0)
}

/// A dot for each round, the median, and how sure it is.
pub fn of_figure(figure: &Figure, scale: Duration) -> String {
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    let middle = HEIGHT / 2.0;
    let (left, right) = (MARGIN, WIDTH - MARGIN);
    let _ = write!(
        svg,
        "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{middle}\" y2=\"{middle}\"/>"
    );
    if let Some((low, high)) = figure.p50_ci95 {
        let (low, high) = (x(low, scale), x(high, scale));
        let _ = write!(
            svg,
            "<rect class=\"ci\" x=\"{low:.1}\" width=\"{:.1}\" y=\"1\" height=\"16\"/>",
            (high - low).max(1.0)
        );
    }
    for time in figure.times.iter().take(DOTS_MAX) {
        let _ = write!(
            svg,
            "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{middle}\" r=\"3.2\"><title>{} s</title></circle>",
            x(*time, scale),
            seconds(*time)
        );
    }
    let at = x(figure.p50, scale);
    let _ = write!(
        svg,
        "<line class=\"median\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"1\" y2=\"17\"/></svg>"
    );
    svg
}

/// The parts of a recovery.
pub fn of_recovery(recovery: Option<[Duration; 3]>, scale: Duration) -> String {
    let Some(ends) = recovery else {
        return String::new();
    };
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    let parts = [
        ("wait", "blow to key free"),
        ("race", "key free to promoted"),
        ("write", "promoted to first write"),
    ];
    let mut from = Duration::ZERO;
    for ((class, words), end) in parts.into_iter().zip(ends) {
        let (left, right) = (x(from, scale), x(end, scale));
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{left:.1}\" width=\"{:.1}\" y=\"4\" height=\"10\">\
             <title>{words}: {} s</title></rect>",
            (right - left).max(0.6),
            seconds(end.saturating_sub(from))
        );
        from = end.max(from);
    }
    svg.push_str("</svg>");
    svg
}
