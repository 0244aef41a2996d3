//! Words and numbers as markup.

use std::time::Duration;

/// The longest text: a log line may be longer than anybody reads.
const TEXT_LEN_MAX: usize = 600;

/// As text, between tags or in an attribute, whatever it says.
pub fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars().take(TEXT_LEN_MAX) {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Seconds, with as many digits as matter.
pub fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    match s {
        s if s < 10.0 => format!("{s:.2}"),
        s => format!("{s:.1}"),
    }
}

/// Seconds after an instant, or before it.
pub fn since(at: Duration, origin: Duration) -> String {
    match at.checked_sub(origin) {
        Some(after) => format!("+{:.3}", after.as_secs_f64()),
        None => format!("−{:.3}", (origin - at).as_secs_f64()),
    }
}
