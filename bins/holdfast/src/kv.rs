//! `holdfast kv`: the embedded key-value store.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use holdfast_io::clock::Clock;
use holdfast_io::net::{Listener, Net};
use holdfast_io::real::{RealClock, RealNet, RealSpawn, block_on, os_seed, raise_file_limit};
use holdfast_servers::kv::disk::Disk;
use holdfast_servers::kv::http::{KvOptions, serve_kv};
use holdfast_servers::kv::store::{Config, Store};

use crate::BadConfig;
use crate::cli::KvArgs;
use crate::config::files::read_secret_text;
use crate::{logging, signals};

/// The one file, in the folder of the data.
const FILE: &str = "kv.redb";

/// Run it until a signal.
pub fn run(args: KvArgs) -> anyhow::Result<ExitCode> {
    logging::start_from_environment();
    let options = options(&args)?;
    if let Err(error) = raise_file_limit() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let (disk, state) = open(&args.data)?;
    let seed = os_seed().context("the operating system gives no entropy")?;
    let store = Store::with_journal(Config::default(), seed, RealClock.now(), state, disk)?;
    block_on(async {
        let stop = signals::stop_on_signal()?;
        let listen = args.listen;
        let listener = RealNet.listen(listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, data = %args.data.display(), "the KV serves");
        serve_kv(listener, options, store, RealClock, RealSpawn, stop).await;
        tracing::info!("ended");
        Ok(ExitCode::SUCCESS)
    })?
}

fn options(args: &KvArgs) -> anyhow::Result<KvOptions> {
    let bad = |why: String| BadConfig(format!("--token-file: {why}"));
    let token = args.token_file.as_deref().map(read_secret_text).transpose();
    let token = token.map_err(|error| bad(error.to_string()))?;
    Ok(KvOptions {
        token: token.map(|token| token.to_string()),
        ..KvOptions::default()
    })
}

/// The folder is made, for its owner alone; what is in it may be secret.
fn open(folder: &Path) -> anyhow::Result<(Disk, holdfast_servers::kv::store::State)> {
    if !folder.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(Disk::open(&folder.join(FILE))?)
}
