#!/usr/bin/env bash
# Runs the checks of `make test`, all of them or those named, and ends with a table.
#
#   check.sh [STAGE...]    STAGE: format lint determinism build test core turmoil kernel fuzz doc dependencies advisories demo
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/env.sh
. deploy/env.sh

STAGES=(format lint determinism build test core turmoil kernel fuzz doc dependencies advisories demo)
# Long enough to fetch the advisories, short enough to notice that they cannot be reached.
ADVISORIES_BOUND_S=60
# What a stage returns if it could not look; only `advisories` may in CI.
NOT_CHECKED=77
# Of what a failed stage said, shown once more at the end: at most, and of each test.
WHY_LINES=40
WHY_LINES_EACH=9

stage_format() { cargo fmt --all --check; }
stage_lint() { cargo clippy --workspace --all-targets --locked -- -D warnings; }
stage_determinism() { deploy/lint-proof.sh; }
# First the programs as they ship, by themselves: built together with the worlds, `holdfast` would
# get what only simulations use. The kernel world runs them. Then everything, tests too.
stage_build() {
  local target=${CARGO_TARGET_DIR:-target} wanted='holdfast-core feature "simulation"'
  if cargo tree --locked -p holdfast -e features | grep -F "$wanted"; then
    echo "build: the shipped binary has what only simulations may have"
    return 1
  fi
  cargo tree --locked -p holdfast-chaos -e features | grep -qF "$wanted" ||
    { echo "build: not even simulations have it: this check looks for the wrong name"; return 1; }
  cargo build --locked -p holdfast -p holdfast-wire || return 1
  mkdir -p "$target/shipped"
  cp "$target"/debug/holdfast "$target"/debug/holdfast-wire "$target/shipped/" || return 1
  cargo test --workspace --locked --no-run
}
stage_test() {
  cargo test --workspace --exclude holdfast-scenarios --locked --no-fail-fast || return 1
  # Under CI=true they fail instead.
  [ -x "${CONSUL_BIN:-$HOLDFAST_CACHE/tools/bin/consul}" ] ||
    echo "test: NO CONSUL: the contract of the key-value store was not checked against it"
  [ "$(id -u)" = 0 ] || echo "test: NOT ROOT: the tests that need network namespaces were skipped"
}
# All scenarios, each with its budget of seeds; then what only the sum of them shows.
stage_core() { cargo test -p holdfast-scenarios --test worlds --locked -- core/; }
stage_turmoil() { cargo test -p holdfast-scenarios --test worlds --locked -- turmoil/; }
# Five scenarios, and what else needs a real kernel.
stage_kernel() {
  # Runs that were killed leave namespaces behind. Says what it removes; a failure to is no
  # failure of the tests.
  local shipped=${CARGO_TARGET_DIR:-target}/shipped
  [ -x "$shipped/holdfast" ] || stage_build || return 1
  shipped=$(realpath "$shipped")
  [ "$(id -u)" != 0 ] || "$shipped/holdfast" dev sweep || true
  local -x HOLDFAST_BIN=$shipped/holdfast
  cargo test -p holdfast-scenarios --locked --test kernel || return 1
  cargo test -p holdfast-scenarios --test worlds --locked -- kernel/ || return 1
  [ "$(id -u)" = 0 ] || { echo "kernel: NOT ROOT: the tests on kernel NATs were skipped"; return $NOT_CHECKED; }
}
# That the fuzz targets still compile; nothing is fuzzed. They are a workspace of their own. The
# fuzzer itself, which is C++, is left out: checking links nothing.
stage_fuzz() {
  CUSTOM_LIBFUZZER_PATH=/nonexistent/libfuzzer.a \
    cargo check --manifest-path fuzz/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" --locked
}
stage_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked; }
stage_dependencies() { cargo deny --locked check --hide-inclusion-graph bans licenses sources; }
stage_advisories() {
  local said
  if ! said=$(timeout "$ADVISORIES_BOUND_S" cargo deny --locked fetch db 2>&1); then
    echo "$said" | tail -n 3
    echo "advisories: NOT CHECKED: their database cannot be reached from here"
    return $NOT_CHECKED
  fi
  cargo deny --locked check --disable-fetch advisories
}
# The other command of the README, as a newcomer runs it.
stage_demo() {
  if [ "$(id -u)" != 0 ]; then
    echo "demo: NOT ROOT: it needs network namespaces"
    [ "${CI:-}" = true ] && return 1
    return $NOT_CHECKED
  fi
  # A mesh of its own: the one that a user has up stays as it is.
  local -x HOLDFAST_DEV_PREFIX=hfci
  deploy/demo.sh down >/dev/null 2>&1 || true
  make --no-print-directory demo
  local verdict=$?
  deploy/demo.sh down || verdict=1
  return $verdict
}

[ $# -gt 0 ] || set -- "${STAGES[@]}"
for stage; do
  [[ " ${STAGES[*]} " == *" $stage "* ]] || { echo "check: no stage '$stage'; there are: ${STAGES[*]}" >&2; exit 2; }
done

# Why a stage failed, for who reads only the end: how each failed test begins to say it, or the last
# lines.
why() {
  grep -a -A "$WHY_LINES_EACH" '^---- ' "$1" | head -n "$WHY_LINES" | grep . || tail -n "$WHY_LINES_EACH" "$1"
}

table='' reasons='' failed=0 began=$SECONDS
said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT
for stage; do
  echo "== $stage"
  start=$SECONDS
  # A stage that is interrupted says what it removes.
  exec {out}> >(exec tee -i "$said/$stage")
  shown=$!
  "stage_$stage" >&"$out" 2>&1 {out}>&-
  outcome=$?
  exec {out}>&-
  # Until all of it is shown; not for ever, as what a killed test leaves behind may hold the pipe.
  timeout --foreground 2 tail --pid=$shown -f /dev/null
  case $outcome in
    0) verdict=ok ;;
    "$NOT_CHECKED") verdict='NOT CHECKED' ;;
    *) verdict=FAILED failed=1 reasons+="== $stage failed:"$'\n'$(why "$said/$stage")$'\n' ;;
  esac
  echo "== $stage: $verdict, $((SECONDS - start)) s"
  table+=$(printf '  %-14s %-12s %4d s' "$stage" "$verdict" $((SECONDS - start)))$'\n'
done
printf '\n%s  %-14s %-12s %4d s\n' "$table" total "$([ $failed = 0 ] && echo ok || echo FAILED)" $((SECONDS - began))
printf '%s' "$reasons"
exit $failed
