#!/usr/bin/env bash
# A coordinator and three workers behind four NATs on this machine, with a database on each worker:
# a row is written, the leader is killed while somebody writes, another takes over, and the old one
# comes back. The cluster stays up; `demo.sh down` removes it. $HOLDFAST_DEV_PREFIX makes it another
# cluster than the usual one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/env.sh
. deploy/env.sh

# Namespaces need root; building does not.
holdfast=$(realpath "${CARGO_TARGET_DIR:-target}/release/holdfast")
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
prefix=(${HOLDFAST_DEV_PREFIX:+--prefix "$HOLDFAST_DEV_PREFIX"})
dev() { "${sudo[@]}" "$holdfast" dev "${prefix[@]}" "$@"; }
bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
say() { printf "\n$bold\$ holdfast dev %s$plain\n" "${*//$holdfast/holdfast}"; dev "$@"; }
if [ "${1:-}" = down ]; then
  dev down
  exit
fi

# A cluster that is up may hold what somebody put there; what is half made `up` removes.
if dev status >/dev/null 2>&1; then
  echo "a cluster is up: look around in it, or remove it with \`make demo-down\`" >&2
  exit 1
fi
say up
say psql -- -c 'CREATE TABLE greetings AS SELECT 1 AS id, $$hello from behind a NAT$$ AS text'
say kill leader
say psql -- -c 'SELECT text, inet_server_addr() AS served_by FROM greetings'
say heal
say status
cat <<END

The cluster is up. Look around, then remove it with: make demo-down

  ${sudo[*]:+sudo }$holdfast dev ${prefix[*]:+${prefix[*]} }status
  ${sudo[*]:+sudo }$holdfast dev ${prefix[*]:+${prefix[*]} }psql
  ${sudo[*]:+sudo }$holdfast dev ${prefix[*]:+${prefix[*]} }bench --seconds 10
  ${sudo[*]:+sudo }$holdfast dev ${prefix[*]:+${prefix[*]} }kill leader --freeze
  ${sudo[*]:+sudo }$holdfast dev ${prefix[*]:+${prefix[*]} }heal
END
