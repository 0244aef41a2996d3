//! How far it is, on a terminal's standard error.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is drawn again, per second: more is only flicker.
const DRAWS_PER_SECOND: u8 = 8;

/// A bar of seeds, with their speed; nothing is drawn unless standard error is a terminal.
pub fn seeds(total: u64, label: &str) -> ProgressBar {
    with_style(
        total,
        label,
        "{msg}  {bar:30} {pos}/{len} seeds  {per_sec}  {eta} left",
    )
}

/// A bar of seconds, for a search that has no number of seeds.
pub fn seconds(total: Duration, label: &str) -> ProgressBar {
    with_style(
        total.as_secs(),
        label,
        "{msg}  {bar:30} {elapsed} of {len} s  {prefix}",
    )
}

fn with_style(total: u64, label: &str, template: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let bar = ProgressBar::with_draw_target(Some(total), target);
    bar.set_style(style);
    bar.set_message(label.to_owned());
    bar
}
