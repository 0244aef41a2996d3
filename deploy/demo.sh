#!/usr/bin/env bash
# A coordinator and two workers behind three NATs on this machine: they become members, a request
# goes from one to the other by virtual address, and they say about themselves what there is to
# know. The cluster stays up; `demo.sh down` removes it. $HOLDFAST_DEV_PREFIX makes it another
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

# What an earlier demonstration left, up or half made.
dev down >/dev/null
say up --workers 2
say exec worker-2 -- "$holdfast" dev serve-hello --port 8080 --background
say exec worker-3 -- curl -fsS --max-time 10 http://127.50.0.2:8080/
say status
cat <<END

The cluster is up. Look around, then remove it with: make demo-down

  ${sudo[*]:+sudo }$holdfast dev ${prefix[*]:+${prefix[*]} }status
  ${sudo[*]:+sudo }$holdfast dev ${prefix[*]:+${prefix[*]} }wipe worker-3
  ${sudo[*]:+sudo }$holdfast dev ${prefix[*]:+${prefix[*]} }exec coordinator-1 -- curl -sS http://127.50.0.2:8080/
END
