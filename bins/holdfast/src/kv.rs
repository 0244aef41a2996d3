//! `holdfast kv`: the embedded key-value store.

use std::process::ExitCode;

use crate::cli::KvArgs;

/// Run it until a signal.
pub fn run(_args: KvArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("in the making")
}
