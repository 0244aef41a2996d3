//! Patroni's own client for Consul, against this server.

use std::path::PathBuf;
use std::process::Command;

use super::*;

/// A Python that has `patroni[consul]`.
const PYTHON: &str = "HOLDFAST_PATRONI_PYTHON";
/// Where `deploy/setup.sh` puts what every user may run.
const OPT: &str = "HOLDFAST_OPT";

fn python() -> Option<PathBuf> {
    if let Some(python) = std::env::var_os(PYTHON) {
        return Some(python.into());
    }
    let opt = std::env::var_os(OPT).unwrap_or_else(|| "/opt/holdfast".into());
    let python = PathBuf::from(opt).join("patroni/bin/python");
    python.exists().then_some(python)
}

#[test]
fn patroni_leads_follows_and_fails_over_on_it() {
    let Some(python) = python() else {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !ci,
            "no Python with patroni[consul]: set {PYTHON} or run deploy/setup.sh"
        );
        eprintln!("skipped: no Python with patroni[consul] ({PYTHON}, {OPT})");
        return;
    };
    let server = Running::start();
    let output = Command::new(&python)
        .args([
            "-c",
            include_str!("drive_patroni.py"),
            &server.addr.to_string(),
        ])
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("all steps passed"), "{said}\n{complained}");
}
