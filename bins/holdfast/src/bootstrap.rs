//! `holdfast bootstrap`: who this machine is, its secrets and its slot, once.

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context;
use holdfast_bootstrap::Prepared;
use holdfast_core::slots::{Event, Obstacle, Slot, Slots};
use holdfast_io::clock::Clock;
use holdfast_io::real::{RealClock, block_on, os_seed};
use holdfast_sidecar::Error;
use holdfast_sidecar::claim::run_slots;
use tokio::sync::mpsc;

use crate::cli::ConfigFile;
use crate::config::Member;
use crate::config::member::Strict;
use crate::config_command::{chosen_file, load_member};
use crate::member::{bootstrap_options, explain, keep_secrets_off_disks, kv, prepare};
use crate::{logging, output, signals};

/// Run it. A second run changes nothing.
pub fn run(args: ConfigFile) -> anyhow::Result<ExitCode> {
    let (member, settings) = match load_member(chosen_file(args.config).as_deref(), Strict::No) {
        Ok(both) => both,
        Err(code) => return Ok(code),
    };
    logging::start(&settings.log, settings.log_format, None);
    keep_secrets_off_disks();
    block_on(async {
        let mut stop = signals::stop_on_signal()?;
        tokio::select! {
            done = bootstrap(&member) => done,
            () = stop.wait() => anyhow::bail!("ended before this machine had a name"),
        }
    })?
}

async fn bootstrap(member: &Member) -> anyhow::Result<ExitCode> {
    let options = bootstrap_options(member)?;
    let _lock = match holdfast_sidecar::lock(&member.state_dir) {
        Ok(lock) => lock,
        // A claim of our own would take the slot from the one who has it.
        Err(error) => return running_member(member).ok_or(error.into()),
    };
    let prepared = prepare(member, &options).await?;
    let slot = claim(member, &prepared).await?;
    let done = holdfast_bootstrap::finish(&options, prepared, slot).map_err(explain)?;
    output::print(&format!("{} {}\n", done.peer_id, done.info.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The sidecar runs, and has done all this: what it has written.
fn running_member(member: &Member) -> Option<ExitCode> {
    let path = member.run_dir.join("info.json");
    let text = std::fs::read_to_string(&path).ok()?;
    let info: serde_json::Value = serde_json::from_str(&text).ok()?;
    let (role, ordinal) = (info["role"].as_str()?, info["ordinal"].as_u64()?);
    output::print(&format!("{role}-{ordinal} {}\n", path.display())).ok()?;
    Some(ExitCode::SUCCESS)
}

/// Claim a slot. It stays ours for its lease, and longer as soon as the sidecar renews it.
async fn claim(member: &Member, prepared: &Prepared) -> anyhow::Result<Slot> {
    if let Some(pinned) = member.pinned {
        // Live at once, with or without a KV; the sidecar claims its entry.
        return Ok(pinned);
    }
    let kv = kv(member)?.context("a machine without an ordinal needs `kv.addresses`")?;
    let seed = os_seed().context("the operating system gives no entropy")?;
    let config = prepared.slots_config(&member.cluster, member.lease);
    let slots = Slots::new(config, seed.fork("slots"), RealClock.now())
        .map_err(|error| Error::Config(error.to_string()))?;
    let (sender, mut events) = mpsc::unbounded_channel();
    let (_open, commands) = mpsc::channel(1);
    let told = move |event| {
        // Without a receiver nobody waits for a slot.
        let _ = sender.send(event);
    };
    let claim = run_slots(Rc::new(RefCell::new(slots)), kv, RealClock, told, commands);
    tokio::pin!(claim);
    let started = RealClock.now().mono;
    let mut why = "the KV has not answered".to_owned();
    loop {
        let patience = async {
            match member.patience.is_zero() {
                true => std::future::pending().await,
                false => RealClock.sleep_until(started + member.patience).await,
            }
        };
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            () = &mut claim => continue,
            () = patience => {
                let patience_s = member.patience.as_secs();
                return Err(Error::NoSlot { patience_s, why }.into());
            }
        };
        match event.context("the claim has ended")? {
            Event::Owned { slot, .. } => return Ok(slot),
            Event::Waiting(Obstacle::Forbidden(what)) => return Err(Error::KvRefused(what).into()),
            Event::Waiting(obstacle) => {
                tracing::warn!(%obstacle, "no slot yet");
                why = obstacle.to_string();
            }
            Event::Lost { slot, why } => return Err(Error::SlotLost { slot, why }.into()),
            Event::Retired { .. } => anyhow::bail!("the slot was given back"),
        }
    }
}
