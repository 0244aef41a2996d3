//! How far `dev up` is: one line for each step, which on a terminal is written anew as it goes.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// A step that is under way.
pub struct Step {
    name: &'static str,
    started: Instant,
    shown: String,
}

impl Step {
    /// Begin.
    pub fn begin(name: &'static str) -> Step {
        let step = Step {
            name,
            started: Instant::now(),
            shown: String::new(),
        };
        step.draw("");
        step
    }

    /// Say how far it is.
    pub fn show(&mut self, how_far: String) {
        if how_far != self.shown {
            self.shown = how_far;
            self.draw(&self.shown);
        }
    }

    fn draw(&self, how_far: &str) {
        let mut err = std::io::stderr();
        if err.is_terminal() {
            // A terminal that cannot be written to shows no progress.
            let _ = write!(err, "\r\x1b[K  {:8}  {how_far}", self.name);
            let _ = err.flush();
        }
    }

    /// It is over, well or not.
    pub fn end(self) {
        let seconds = self.started.elapsed().as_secs_f32();
        let mut err = std::io::stderr();
        let begin = if err.is_terminal() { "\r\x1b[K" } else { "" };
        let (name, shown) = (self.name, &self.shown);
        // As above.
        let _ = writeln!(err, "{begin}  {name:8}  {shown:28}  {seconds:5.1} s");
    }
}
