//! `holdfast slots`: who owns which, as the KV says.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_bootstrap::identity;
use holdfast_core::kv::{Condition, Consistency, Entry, Request, Response, WAIT_MAX, Wait};
use holdfast_core::slots::{LEASE_MAX, LEASE_MIN, Slot};
use holdfast_io::kv::Kv;
use holdfast_io::real::block_on;
use holdfast_sidecar::SidecarStatus;
use serde_json::{Value, json};

use crate::EXIT_BAD_CONFIG;
use crate::cli::{SlotsArgs, SlotsCommand};
use crate::config::{self, Member, Purpose, Settings, problem};
use crate::config_command::chosen_file;
use crate::member::kv;
use crate::output::{self, Table, age};
use crate::status::fetch;

/// By how much a lease is stretched before its owner counts as gone: far more than clocks differ.
const PATIENCE: (u32, u32) = (103, 100);
/// How often the time that is left is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Run it.
pub fn run(args: SlotsArgs) -> anyhow::Result<ExitCode> {
    let file = chosen_file(args.config);
    let outcome = config::load(file.as_deref(), &config::environment(), Purpose::Check);
    let Some((member, settings)) = outcome.member.zip(outcome.settings) else {
        eprint!("{}", problem::render(&outcome.problems));
        if !problem::any_error(&outcome.problems) {
            eprintln!("error: this is the configuration of a plain node, which has no slots");
        }
        return Ok(ExitCode::from(EXIT_BAD_CONFIG));
    };
    let store = kv(&member)?.context("there is no KV to ask: set `kv.addresses`")?;
    block_on(async {
        match args.command {
            None => show(&member, &settings, store, args.json).await,
            Some(SlotsCommand::Release { slot, force }) => {
                release(&member, store, slot, force).await
            }
        }
    })?
}

/// What an entry says.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    /// Who owns it, as far as that can be read.
    owner: Option<String>,
    /// For how long after a renewal.
    lease: Option<Duration>,
    /// How often it was renewed.
    beat: Option<u64>,
}

impl Holder {
    /// Read a value that anybody may have written: our JSON, or the reference's instance id.
    fn of(entry: &Entry) -> Holder {
        let json: Option<Value> = serde_json::from_slice(&entry.value).ok();
        let ours = json.filter(|json| json["holdfast"] == 1);
        if let Some(ours) = ours {
            let lease = ours["lease_ms"].as_u64().map(Duration::from_millis);
            return Holder {
                owner: ours["instance"].as_str().map(str::to_owned),
                lease: lease.map(|lease| lease.clamp(LEASE_MIN, LEASE_MAX)),
                beat: ours["beat"].as_u64(),
            };
        }
        let text = std::str::from_utf8(&entry.value).ok().map(str::trim);
        let word = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        Holder {
            owner: text
                .filter(word)
                .filter(|text| !text.starts_with(['{', '[', '"']))
                .map(str::to_owned),
            lease: None,
            beat: None,
        }
    }
}

/// A slot of the cluster.
struct Row {
    slot: Slot,
    peer: Option<String>,
    holder: Option<Holder>,
    left_ms: Option<u64>,
}

async fn show(
    member: &Member,
    settings: &Settings,
    store: Rc<dyn Kv>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let entries = entries(&prefix(member), store).await?;
    let admin = settings.admin;
    // The sidecar knows for how long a lease still counts, which no single look can tell.
    let asked = std::thread::spawn(move || fetch(admin)).join();
    let sidecar = asked
        .ok()
        .and_then(Result::ok)
        .and_then(|page| page.sidecar);
    let rows = rows(member, &entries, sidecar.as_ref());
    output::print(&match json {
        true => format!("{:#}\n", in_json(&rows)),
        false => table(&rows),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn prefix(member: &Member) -> String {
    format!("cluster/{}/slots/", member.cluster)
}

async fn entries(prefix: &str, store: Rc<dyn Kv>) -> anyhow::Result<BTreeMap<String, Entry>> {
    match store.call(Request::list(prefix)).await? {
        Response::Entries { entries, .. } => Ok(entries
            .into_iter()
            .map(|entry| (entry.key[prefix.len()..].to_owned(), entry))
            .collect()),
        other => bail!("the KV answers a list with {other:?}"),
    }
}

/// The slots of all peers, and entries that belong to none.
fn rows(
    member: &Member,
    entries: &BTreeMap<String, Entry>,
    sidecar: Option<&SidecarStatus>,
) -> Vec<Row> {
    let mut peers: BTreeMap<Slot, Option<String>> = BTreeMap::new();
    for peer in &member.peers {
        if let Some((_, slot)) = identity::split(&peer.id) {
            peers.insert(slot, Some(peer.id.to_string()));
        }
    }
    for slot in entries.keys().filter_map(|name| name.parse().ok()) {
        peers.entry(slot).or_default();
    }
    let left = |slot: Slot| {
        let mut seen = sidecar.iter().flat_map(|status| &status.slots);
        seen.find(|entry| entry.slot == slot)?.lease_ms
    };
    let row = |(slot, peer): (Slot, Option<String>)| Row {
        slot,
        peer,
        holder: entries.get(&slot.to_string()).map(Holder::of),
        left_ms: left(slot),
    };
    peers.into_iter().map(row).collect()
}

fn table(rows: &[Row]) -> String {
    let headings = ["SLOT", "PEER", "OWNER", "LEASE", "LEFT", "RENEWALS"];
    let mut table = Table::with_headings(&headings);
    let dash = || "-".to_owned();
    let span = |span: Duration| age(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    for row in rows {
        let holder = row.holder.as_ref();
        table.row([
            row.slot.to_string(),
            row.peer.clone().unwrap_or_else(|| "no peer".to_owned()),
            match holder.map(|holder| &holder.owner) {
                None => "free".to_owned(),
                Some(None) => "unreadable".to_owned(),
                Some(Some(owner)) => owner.clone(),
            },
            match holder {
                None | Some(Holder { owner: None, .. }) => dash(),
                Some(holder) => holder.lease.map_or_else(|| "for ever".to_owned(), span),
            },
            row.left_ms.map_or_else(dash, age),
            holder
                .and_then(|holder| holder.beat)
                .map_or_else(dash, |beat| beat.to_string()),
        ]);
    }
    table.render()
}

fn in_json(rows: &[Row]) -> Value {
    let one = |row: &Row| {
        let holder = row.holder.as_ref();
        json!({
            "slot": row.slot,
            "peer": row.peer,
            "free": row.holder.is_none(),
            "owner": holder.and_then(|holder| holder.owner.clone()),
            "lease_ms": holder.and_then(|h| h.lease).map(|lease| lease.as_millis()),
            "left_ms": row.left_ms,
            "renewals": holder.and_then(|holder| holder.beat),
        })
    };
    rows.iter().map(one).collect()
}

/// Delete a slot's entry, once nobody can rightly believe that it owns the slot.
async fn release(
    member: &Member,
    store: Rc<dyn Kv>,
    slot: Slot,
    force: bool,
) -> anyhow::Result<ExitCode> {
    let key = format!("{}{slot}", prefix(member));
    let read = store.call(Request::get(&key)).await?;
    let Response::Entry { index, entry } = read else {
        bail!("the KV answers a read with {read:?}");
    };
    let Some(entry) = entry else {
        output::print(&format!("slot {slot} is free already\n"))?;
        return Ok(ExitCode::SUCCESS);
    };
    if !force {
        wait_for_silence(&*store, &entry, index, slot).await?;
    }
    let condition = Condition::Unchanged(entry.modify_index);
    match store.call(Request::Delete { key, condition }).await? {
        Response::Done(true) => {
            output::print(&format!("slot {slot} is free\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("slot {slot} was renewed or taken just now: nothing was changed"),
    }
}

/// An owner who lives renews its entry within its lease. See `docs/membership.md`, invariant 1.
async fn wait_for_silence(
    store: &dyn Kv,
    entry: &Entry,
    index: u64,
    slot: Slot,
) -> anyhow::Result<()> {
    let holder = Holder::of(entry);
    let owner = holder
        .owner
        .unwrap_or_else(|| "nobody that can be read".to_owned());
    let Some(lease) = holder.lease else {
        bail!("slot {slot} is owned by {owner}, without a lease: `--force` releases it");
    };
    let (times, of) = PATIENCE;
    let silence = lease * times / of;
    let started = Instant::now();
    while let Some(left) = silence.checked_sub(started.elapsed()) {
        if std::io::stderr().is_terminal() {
            let seconds = left.as_secs();
            // A terminal that cannot be written to shows no progress.
            let _ = write!(
                std::io::stderr(),
                "\rwaiting whether {owner} is silent: {seconds} s "
            );
        }
        let request = Request::Get {
            key: entry.key.clone(),
            consistency: Consistency::Consistent,
            wait: Some(Wait {
                after: index,
                at_most: left.min(TELL_EVERY).min(WAIT_MAX),
            }),
        };
        let now = match store.call(request).await? {
            Response::Entry { entry, .. } => entry,
            other => bail!("the KV answers a read with {other:?}"),
        };
        if now.as_ref().map(|entry| entry.modify_index) != Some(entry.modify_index) {
            bail!("slot {slot} is alive: {owner} renewed it, or gave it up, just now");
        }
    }
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &'static str) -> Entry {
        Entry {
            key: "cluster/c/slots/1".to_owned(),
            value: value.as_bytes().into(),
            create_index: 1,
            modify_index: 2,
            lock_index: 0,
            session: None,
        }
    }

    #[test]
    fn slots_are_shown_with_owners_of_every_format() {
        let values = [
            r#"{"holdfast":1,"instance":"5f0c9c2e","run":"00","beat":17,"lease_ms":600000}"#,
            "an-instance-of-the-reference",
            "{\"what\":1}",
        ];
        let row = |(slot, value): (usize, Option<&&'static str>)| Row {
            slot: u16::try_from(slot).unwrap_or_default(),
            peer: (slot != 4).then(|| format!("worker-{slot}")),
            holder: value.map(|value| Holder::of(&entry(value))),
            left_ms: (slot == 1).then_some(540_000),
        };
        let values = values.iter().map(Some).chain([None]);
        let rows: Vec<Row> = values.enumerate().map(|(at, v)| row((at + 1, v))).collect();
        insta::assert_snapshot!(table(&rows));
        insta::assert_snapshot!("slots_as_json", format!("{:#}", in_json(&rows)));
    }
}
