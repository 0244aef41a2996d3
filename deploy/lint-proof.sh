#!/usr/bin/env bash
# Proves that clippy rejects what would make a run impossible to replay: a throw-away crate
# with one forbidden thing per line, under the lints and clippy.toml of each crate below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/env.sh
. deploy/env.sh

root=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Each line of the sample that must be reported ends with this mark.
MARK='// forbidden'

make_sample() {
  mkdir -p "$scratch/src" "$scratch"/{rand,getrandom}/src
  {
    printf '[package]\nname = "sample"\nversion = "0.0.0"\nedition = "2024"\n[lints]\nworkspace = true\n'
    printf '[dependencies]\nrand = { path = "rand" }\ngetrandom = { path = "getrandom" }\n[workspace]\n'
    # The project's own lints, not a copy that may grow old.
    awk '/^\[/ { wanted = /^\[workspace\.lints\./ } wanted' "$root/Cargo.toml"
  } >"$scratch/Cargo.toml"
  # Stand-ins with the names of the real crates, so that the proof needs no download.
  local crate
  for crate in rand getrandom; do
    printf '[package]\nname = "%s"\nversion = "0.0.0"\nedition = "2024"\n' "$crate" >"$scratch/$crate/Cargo.toml"
  done
  echo 'pub fn rng() {} pub fn random<T: Default>() -> T { T::default() }' >"$scratch/rand/src/lib.rs"
  echo 'pub fn fill(_: &mut [u8]) {}' >"$scratch/getrandom/src/lib.rs"
  cat >"$scratch/src/lib.rs" <<RUST
//! Everything that a deterministic crate must not do.
#![allow(dead_code)]
fn monotonic_clock() -> std::time::Instant { std::time::Instant::now() } $MARK
fn elapsed(since: std::time::Instant) -> std::time::Duration { since.elapsed() } $MARK
fn wall_clock() -> std::time::SystemTime { std::time::SystemTime::now() } $MARK
fn wall_elapsed(since: std::time::SystemTime) -> bool { since.elapsed().is_ok() } $MARK
fn thread() { std::thread::spawn(|| {}); } $MARK
fn scoped() { std::thread::scope(|_| {}); } $MARK
fn sleep(time: std::time::Duration) { std::thread::sleep(time); } $MARK
fn environment() -> bool { std::env::var("HOME").is_ok() } $MARK
fn read() -> bool { std::fs::read("/etc/hostname").is_ok() } $MARK
fn write() -> bool { std::fs::write("x", "y").is_ok() } $MARK
fn file(_: &std::fs::File) {} $MARK
fn program() -> bool { std::process::Command::new("true").spawn().is_ok() } $MARK
fn table(_: &std::collections::HashMap<u8, u8>) {} $MARK
fn set(_: &std::collections::HashSet<u8>) {} $MARK
fn udp(_: &std::net::UdpSocket) {} $MARK
fn tcp(_: &std::net::TcpStream) {} $MARK
fn listener(_: &std::net::TcpListener) {} $MARK
fn hash() -> std::hash::RandomState { std::hash::RandomState::new() } $MARK
fn generator() { rand::rng(); } $MARK
fn random() -> u8 { rand::random() } $MARK
fn entropy(buffer: &mut [u8]) { getrandom::fill(buffer); } $MARK
type Table = std::collections::HashMap<u8, u8>; $MARK
fn order(table: &Table) -> u8 {
    let mut last = 0;
    for key in table.keys() { last = *key; } $MARK
    last
}
fn permitted(table: &std::collections::BTreeMap<u8, u8>) -> Option<u8> { table.keys().last().copied() }
RUST
}

# prove CRATE: every marked line is reported under the crate's clippy.toml, and no other.
prove() {
  local crate=$1 expected found
  [ -f "$crate/clippy.toml" ] || { echo "lint-proof: $crate/clippy.toml is missing"; return 1; }
  cp "$crate/clippy.toml" "$scratch/clippy.toml"
  # Clippy does not look at a crate again when only its configuration has changed.
  rm -rf "$scratch/target"
  (cd "$scratch" && RUSTUP_TOOLCHAIN="${toolchain:-}" CARGO_TARGET_DIR=$scratch/target \
    cargo clippy --offline --quiet --message-format=short -- -D warnings) >"$scratch/said" 2>&1 || true
  expected=$(grep -n "$MARK\$" "$scratch/src/lib.rs" | cut -d: -f1 | sort -n)
  found=$(sed -n 's/^src\/lib\.rs:\([0-9]*\):.*\(disallowed\|iteration\).*/\1/p' "$scratch/said" | sort -nu)
  if [ "$expected" != "$found" ]; then
    echo "lint-proof: $crate: lines where clippy and the sample disagree (< expected, > reported):"
    diff <(echo "$expected") <(echo "$found") || true
    cat "$scratch/said"
    return 1
  fi
  grep -q '^workspace = true' <(sed -n '/^\[lints\]/,/^\[/p' "$crate/Cargo.toml") ||
    { echo "lint-proof: $crate/Cargo.toml does not take the workspace's lints"; return 1; }
  echo "lint-proof: $crate: all $(wc -l <<<"$expected") forbidden lines are rejected"
}

# The sample lies outside this folder, where rustup would choose another version.
toolchain=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
make_sample
failed=0
for crate in core sim/net-model sim/plan sim/kv-model sim/patroni-model sim/core-world chaos chaos/timeline; do prove "$crate" || failed=1; done
exit $failed
