# Where the other scripts find programs and keep what outlives a clone. Sourced, not run.
HOME=${HOME:-/root}
HOLDFAST_CACHE=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
# Root's path without a login shell often lacks the sbin folders.
PATH=$PATH:$HOME/.cargo/bin:$HOLDFAST_CACHE/tools/bin:/usr/local/sbin:/usr/sbin:/sbin
export HOME HOLDFAST_CACHE PATH
