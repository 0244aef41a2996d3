//! One self-contained page that shows what happened in a run.
//!
//! Lines of a trace go in, as a world's journal or a node's flight recorder writes them; one HTML
//! file comes out that needs nothing else: no network, no library, no server. Lanes per node hold
//! its links, its applications' streams and its datagrams, faults lie over all lanes, and a table
//! below follows what is shown.
//!
//! ```
//! let line = r#"{"t_ns":1500,"node":"a","kind":"deadline","why":"ice"}"#;
//! let page = holdfast_timeline::Page { title: "quiet-mesh".into(), ..Default::default() };
//! let html = page.render([line])?;
//! assert!(html.starts_with("<!doctype html>"));
//! # Ok::<(), holdfast_timeline::PageError>(())
//! ```
//!
//! What is in a trace may have come from anybody who could send a datagram to a node: nothing of
//! it is ever markup or script. It is embedded as JSON without a single `<`, shown as text only,
//! and the page's policy lets no other script run than its own.
//!
//! * `line`: what a line may be.
//! * `collect`: from lines to lanes, links, flows, messages and events.
//! * `arrows`: which datagram arrived where.
//! * `limit`: what is left out when there is too much, and what is kept.
//! * `embed`: the page around it.
//! * [`rounds`]: the page of a drill, which is not a trace: many rounds of the same disaster.

mod arrows;
mod collect;
mod embed;
mod limit;
mod line;
mod page;
pub mod rounds;

pub use limit::{EVENTS_MAX, FLOWS_MAX, LANES_MAX, LINES_MAX, LINKS_MAX, MESSAGES_MAX};
pub use line::{LINE_LEN_MAX, PageError};
pub use page::{Gap, Operation, Page, from_recorded};
