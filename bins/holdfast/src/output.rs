//! What is printed: aligned tables, durations, and a pipe that closed early.

use std::io::{self, Write};

/// Whether `NO_COLOR` (no-color.org) leaves room for colour.
pub fn colour_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Print to standard output. False when the reader went away (`| head`), which is no failure.
pub fn print(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Plain text in columns, two spaces apart, as wide as their content.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a line of headings.
    pub fn with_headings(headings: &[&str]) -> Table {
        let mut table = Table::default();
        table.row(headings.iter().map(|heading| (*heading).to_owned()));
        table
    }

    /// Add a row. Control characters are shown as `?`: a row is one line, whatever a peer
    /// calls itself.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| {
            cell.chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect()
        };
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// The table as text, each line with its line break.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Milliseconds in the unit that a reader wants: `850ms`, `12s`, `3m 20s`, `2h 5m`, `4d 1h`.
pub fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Bytes in the unit that a reader wants, powers of 1024 as PostgreSQL has them: `0 B`, `5 MB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} kB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MB", bytes >> 20),
        _ => format!("{}.{} GB", bytes >> 30, (bytes >> 20 & 1023) * 10 / 1024),
    }
}

/// Microseconds as milliseconds with as many digits as matter: `0.42ms`, `20.1ms`.
pub fn rtt(us: u64) -> String {
    let (ms, rest) = (us / 1000, us % 1000);
    match ms {
        0..10 => format!("{ms}.{:02}ms", rest / 10),
        10..100 => format!("{ms}.{}ms", rest / 100),
        _ => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let mut table = Table::with_headings(&["PEER", "STATE"]);
        table.row(["a".to_owned(), "up".to_owned()]);
        table.row(["longer\n".to_owned(), "down".to_owned()]);
        assert_eq!(
            table.render(),
            "PEER     STATE\na        up\nlonger?  down\n"
        );
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 1023, 1024, 5 << 20, 3 << 29].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1 kB", "5 MB", "1.5 GB"]);
    }

    #[test]
    fn times_are_short() {
        let ages = [850, 12_000, 200_000, 7_500_000, 350_000_000].map(age);
        assert_eq!(ages, ["850ms", "12s", "3m 20s", "2h 5m", "4d 1h"]);
        assert_eq!(
            [420, 20_130, 160_000].map(rtt),
            ["0.42ms", "20.1ms", "160ms"]
        );
    }
}
