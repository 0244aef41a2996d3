//! `holdfast dev psql`.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::{client_node, libpq, of, primary};
use crate::dev::state::Mesh;

/// Become psql, on a node, at the primary's endpoint.
pub fn psql(mesh: &Mesh, node: Option<&str>, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let program = of(mesh)?.bin_dir.join("psql");
    let node = client_node(mesh, node)?;
    let error = mesh
        .lab
        .command(&node, &program)?
        .args(arguments)
        .envs(libpq(mesh, &node, primary())?)
        .exec();
    if error.kind() == io::ErrorKind::NotFound {
        bail!(
            "psql is not at {}: `make setup` puts it in place",
            program.display()
        );
    }
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
