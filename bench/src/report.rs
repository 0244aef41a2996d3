//! Figures, and how they are shown.

use std::{
    fmt::Write as _,
    fs,
    io::{IsTerminal, Write as _},
    thread,
};

use serde::Serialize;

/// Samples of one quantity, in the order of the runs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// The value that the share `per_mille` of the samples does not exceed; 0 without samples.
    #[must_use]
    pub fn quantile(&self, per_mille: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * per_mille).div_ceil(1_000).max(1);
        sorted.get(rank - 1).copied().unwrap_or(0.0)
    }

    /// The middle; with an even count the mean of the two in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            length if length % 2 == 1 => sorted[length / 2],
            length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
        }
    }

    fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Which measurement, such as `goodput`.
    pub group: &'static str,
    /// What exactly.
    pub what: String,
    /// Of all its values.
    pub unit: &'static str,
    /// Through Holdfast, one per run.
    pub holdfast: Samples,
    /// Without, one per run; empty where there is nothing to compare with.
    pub baseline: Samples,
    /// What the baseline is, or another remark.
    pub note: String,
}

impl Figure {
    /// The middle of the ratios of each run to the baseline of the same run, which a machine
    /// that is sometimes busy moves less than it moves either.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let pairs = self.holdfast.0.iter().zip(&self.baseline.0);
        let ratios: Vec<f64> = pairs.map(|(ours, base)| ours / base).collect();
        (!ratios.is_empty()).then(|| Samples(ratios).median())
    }

    fn cells(&self) -> [String; 8] {
        let baseline = match self.baseline.0.is_empty() {
            true => "–".to_owned(),
            false => number(self.baseline.median()),
        };
        [
            self.what.clone(),
            self.unit.to_owned(),
            self.holdfast.0.len().to_string(),
            number(self.holdfast.median()),
            format!(
                "{}–{}",
                number(self.holdfast.min()),
                number(self.holdfast.max())
            ),
            baseline,
            self.ratio().map_or_else(|| "–".to_owned(), number),
            self.note.clone(),
        ]
    }
}

/// Three significant digits, and no more than three places.
fn number(value: f64) -> String {
    let places = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

/// What the figures were measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's default TCP congestion control.
    pub tcp_congestion: String,
    /// Load averages before the first and after the last measurement.
    pub load: [String; 2],
}

impl Machine {
    /// This machine, before the first measurement.
    #[must_use]
    pub fn look() -> Self {
        let kernel = |file: &str| {
            fs::read_to_string(format!("/proc/sys/{file}"))
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
        };
        Self {
            cores: thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel("kernel/osrelease"),
            tcp_congestion: kernel("net/ipv4/tcp_congestion_control"),
            load: [load(), String::new()],
        }
    }

    /// After the last measurement.
    pub fn finish(&mut self) {
        self.load[1] = load();
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// The figures, in the order of measurement.
    pub figures: Vec<Figure>,
}

impl Report {
    /// A table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        const HEAD: [&str; 8] = [
            "figure",
            "unit",
            "runs",
            "median",
            "min–max",
            "baseline",
            "ratio",
            "note",
        ];
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(self.figures.iter().map(Figure::cells));
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: [usize; 8] = std::array::from_fn(width);
        let mut out = String::new();
        for row in &rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Words to the left, numbers to the right.
                let _ = match column {
                    0 | 1 | 7 => write!(line, "{cell:<width$}  "),
                    _ => write!(line, "{cell:>width$}  "),
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let machine = &self.machine;
        let _ = writeln!(
            out,
            "{} cores, Linux {}, TCP {}, load {} before and {} after",
            machine.cores, machine.kernel, machine.tcp_congestion, machine.load[0], machine.load[1]
        );
        out
    }
}

/// A line on standard error that says what is being measured, if somebody watches.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
}

impl Progress {
    /// Silent where standard error is no terminal.
    #[must_use]
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Replaces the line.
    pub fn show(&self, text: &str) {
        if self.terminal {
            // A progress line that cannot be written is no reason to stop.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_ratios_of_pairs() {
        let figure = Figure {
            group: "test",
            what: String::new(),
            unit: "s",
            holdfast: Samples(vec![10.0, 2.0, 30.0]),
            baseline: Samples(vec![100.0, 4.0, 100.0]),
            note: String::new(),
        };
        assert_eq!(figure.ratio(), Some(0.3));
    }

    #[test]
    fn quantiles_are_samples_and_the_median_of_four_is_between_two() {
        let samples = Samples(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(samples.median(), 2.5);
        assert_eq!(samples.quantile(500), 2.0);
        assert_eq!(samples.quantile(990), 4.0);
        assert_eq!(Samples::default().median(), 0.0);
    }

    #[test]
    fn the_table_is_aligned_and_says_what_has_no_baseline() {
        let figure = |what: &str, baseline: Vec<f64>| Figure {
            group: "test",
            what: what.to_owned(),
            unit: "MB/s",
            holdfast: Samples(vec![123.4, 0.5]),
            baseline: Samples(baseline),
            note: String::new(),
        };
        let report = Report {
            machine: Machine::look(),
            figures: vec![
                figure("short", vec![]),
                figure("much longer", vec![1.0, 1.0]),
            ],
        };
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with('–'), "{table}");
        let column = |line: &str| {
            line.split("MB/s")
                .next()
                .map(str::chars)
                .map(Iterator::count)
        };
        assert_eq!(column(lines[1]), column(lines[2]));
    }
}
