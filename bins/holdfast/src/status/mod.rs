//! `holdfast status`: what a running node says of itself.

mod fetch;
mod member;
pub mod postgres;
mod view;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

pub use fetch::{FetchError, Page, fetch, get, readiness};
pub use view::path_in_use;

use crate::BadConfig;
use crate::cli::StatusArgs;
use crate::config;
use crate::config_command::chosen_file;
use crate::output;

/// Where a node serves its status when nothing else is said.
const ADMIN_DEFAULT: &str = "127.0.0.1:7070";
/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Clears the screen and moves to its corner (ECMA-48).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Run it.
pub fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let named = match args.admin {
        Some(url) => Some(url),
        None => configured_admin(args.config)?,
    };
    let admin = admin_address(named.as_deref().unwrap_or(ADMIN_DEFAULT))?;
    if args.healthy {
        return healthy(admin);
    }
    loop {
        let page = fetch(admin).map_err(|error| explain(admin, error))?;
        let text = match (&args.peer, args.json) {
            (peer, true) => json(&page, peer.as_deref())?,
            (None, false) => view::node(&page),
            (Some(peer), false) => view::peer(find(&page, peer)?),
        };
        if !args.watch {
            output::print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        let screen = match args.json {
            true => text,
            false => format!("{CLEAR}{text}"),
        };
        if !output::print(&screen)? {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

/// For whoever asks by exit code: nothing is printed if all is well.
fn healthy(admin: SocketAddr) -> anyhow::Result<ExitCode> {
    match readiness(admin).map_err(|error| explain(admin, error))? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(reason) => bail!("not ready: {reason}"),
    }
}

/// What the node's own configuration says, with the environment before the file, as the node
/// itself reads it.
fn configured_admin(file: Option<PathBuf>) -> anyhow::Result<Option<String>> {
    let set = std::env::var("HOLDFAST_ADMIN").ok();
    if let Some(set) = set.filter(|text| !text.is_empty()) {
        return Ok(Some(set));
    }
    let Some(file) = chosen_file(file) else {
        return Ok(None);
    };
    config::admin_in(&file).map_err(|problems| {
        let why = config::problem::render(&problems);
        BadConfig(format!(
            "no admin address from it (--admin gives one)\n{why}"
        ))
        .into()
    })
}

fn admin_address(text: &str) -> anyhow::Result<SocketAddr> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.trim_end_matches('/');
    let server = config::HostPort::parse(bare, None).with_context(|| {
        format!("{text:?} is no admin address: expected one such as http://{ADMIN_DEFAULT}")
    })?;
    let found = server
        .resolve()
        .with_context(|| format!("cannot resolve {server}"))?;
    found.first().copied().context("the name has no address")
}

fn explain(admin: SocketAddr, error: FetchError) -> anyhow::Error {
    match error {
        FetchError::Unreachable(why) => anyhow::anyhow!(
            "the node cannot be reached: {why}\n\
             is `holdfast mesh` or `holdfast sidecar` running? expected its admin address at http://{admin} \
             (another one: --admin URL, --config FILE, or HOLDFAST_ADMIN)"
        ),
        FetchError::Strange(why) => {
            anyhow::anyhow!("http://{admin}/status is not a node's status: {why}")
        }
    }
}

fn find<'a>(page: &'a Page, peer: &str) -> anyhow::Result<&'a holdfast_core::status::LinkStatus> {
    let node = page.node.as_ref().context("the mesh does not run yet")?;
    let links = &node.mesh.links;
    if let Some(link) = links.iter().find(|link| link.peer.as_str() == peer) {
        return Ok(link);
    }
    let names: Vec<&str> = links.iter().map(|link| link.peer.as_str()).collect();
    bail!(
        "{} has no peer {peer:?}; its peers: {}",
        node.mesh.id,
        names.join(", ")
    )
}

fn json(page: &Page, peer: Option<&str>) -> anyhow::Result<String> {
    match peer {
        None => Ok(format!("{}\n", page.raw.trim_end())),
        Some(peer) => {
            let link = find(page, peer)?;
            Ok(format!("{}\n", serde_json::to_string(link)?))
        }
    }
}
