#!/usr/bin/env bash
# Three machines behind three NATs on this one: a request from one to the other by virtual
# address, and what the mesh says about itself. Nothing is left behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/env.sh
. deploy/env.sh

# Namespaces need root; building does not.
holdfast=(${CARGO_TARGET_DIR:-target}/release/holdfast)
holdfast[0]=$(realpath "${holdfast[0]}")
[ "$(id -u)" = 0 ] || holdfast=(sudo "${holdfast[@]}")
dev() { "${holdfast[@]}" dev "$@"; }
say() { printf '\n\033[1m$ holdfast dev %s\033[0m\n' "$*"; dev "$@"; }

# The service may take a moment to listen, in tenths of a second.
READY_TRIES_MAX=100
server=''
finish() {
  dev down >/dev/null 2>&1 || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
}
trap finish EXIT

say up --nodes 3
dev exec node-2 -- "${holdfast[-1]}" dev serve-hello --port 8080 >/dev/null 2>&1 &
server=$!
for ((try = 1; ; try++)); do
  dev exec node-1 -- curl -fsS --max-time 5 http://127.50.0.2:8080/ >/dev/null 2>&1 && break
  [ $try -lt $READY_TRIES_MAX ] || break
  sleep 0.1
done
say exec node-1 -- curl -fsS --max-time 10 http://127.50.0.2:8080/
say status
say down
