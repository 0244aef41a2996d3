//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};

/// The media type of what [`Page`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a metric may fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives; its name should end in `_total`.
    Counter,
    /// It is what it is.
    Gauge,
}

/// A page of metrics under construction. Each metric is described once and then sampled.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    name: String,
}

impl Page {
    /// An empty page.
    pub fn new() -> Page {
        Page::default()
    }

    /// Begin a metric. What is no letter, digit or underscore in the name becomes one.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) -> &mut Page {
        self.name = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.trim().replace('\\', "\\\\").replace('\n', "\\n");
        let name = &self.name;
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// A sample of the metric begun last.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Page {
        self.text.push_str(&self.name);
        for (index, (key, label)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{key}=\"");
            escape(&mut self.text, label);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
        self
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }
}

fn escape(text: &mut String, label: &str) {
    for c in label.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_prometheus_reads_whatever_the_labels_hold() {
        let mut page = Page::new();
        page.metric("a_total", Kind::Counter, "One\nline of \\ help.")
            .sample(&[], 1)
            .sample(&[("peer", "w-1"), ("why", "a \"b\"\\\nc")], 2);
        page.metric("bad name", Kind::Gauge, "x").sample(&[], 0.5);
        assert_eq!(
            page.finish(),
            "# HELP a_total One\\nline of \\\\ help.\n# TYPE a_total counter\na_total 1\n\
             a_total{peer=\"w-1\",why=\"a \\\"b\\\"\\\\\\nc\"} 2\n\
             # HELP bad_name x\n# TYPE bad_name gauge\nbad_name 0.5\n"
        );
    }
}
