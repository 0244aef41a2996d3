//! What is printed: tables in columns, times, colour for terminals, and a pipe that closed early.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement};

/// Print to standard output. That the reader went away (`| head`) is no failure.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Print a value as JSON.
pub fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    let mut json = serde_json::to_string_pretty(value)?;
    json.push('\n');
    Ok(print(&json)?)
}

/// Whether standard output is for people who want colour: a terminal, and no `NO_COLOR`
/// (no-color.org).
fn has_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && io::stdout().is_terminal()
}

/// How something is to be seen.
#[derive(Clone, Copy)]
pub enum Tone {
    Good,
    Bad,
}

/// In that tone, where there is colour.
pub fn toned(text: &str, tone: Tone) -> String {
    if !has_colour() {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => 32,
        Tone::Bad => 31,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// Rows in columns, two spaces apart, as wide as their content.
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with headings. Those that begin with `>` are of columns of numbers.
    pub fn with_headings(headings: &[&str]) -> Table {
        let mut table = comfy_table::Table::new();
        table
            .load_preset(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(headings.iter().map(|text| text.trim_start_matches('>')));
        for (heading, column) in headings.iter().zip(table.column_iter_mut()) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Table(table)
    }

    /// Add a row. Control characters are shown as `?`: a row is one line, whatever it holds.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| {
            let visible = cell.chars().map(|c| if c.is_control() { '?' } else { c });
            Cell::new(visible.collect::<String>())
        };
        self.0.add_row(cells.into_iter().map(clean));
    }

    /// As text, no line with spaces at its end.
    pub fn render(&self) -> String {
        let lines = self.0.lines();
        lines.map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A time of a run: `12.345s`.
pub fn at(time: Duration) -> String {
    format!("{:.3}s", time.as_secs_f64())
}

/// A length of time in the unit that a reader wants: `850ms`, `12.3s`, `3m 20s`, `2h 5m`.
pub fn length(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0 => format!("{}ms", time.as_millis()),
        1..60 => format!("{:.1}s", time.as_secs_f64()),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        _ => format!("{}h {}m", s / 3600, s % 3600 / 60),
    }
}

/// A number with as many digits as matter: `0.42`, `7.1`, `1,234`.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    match value {
        v if v < 1.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => count(v.round() as u64),
    }
}

/// A number in groups of three digits.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let mut table = Table::with_headings(&["NAME", ">SEEDS"]);
        table.row(["a".to_owned(), "7".to_owned()]);
        table.row(["longer\n".to_owned(), "1,000".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME     SEEDS\na            7\nlonger?  1,000\n"
        );
    }

    #[test]
    fn times_and_numbers_are_short() {
        let lengths = [850, 12_340, 200_000, 7_500_000].map(|ms| length(Duration::from_millis(ms)));
        assert_eq!(lengths, ["850ms", "12.3s", "3m 20s", "2h 5m"]);
        let numbers = [0.421, 7.12, 99.94, 1_234.4, f64::NAN].map(number);
        assert_eq!(numbers, ["0.42", "7.1", "99.9", "1,234", "-"]);
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
