# Where the other scripts find programs and keep what outlives a clone. Sourced, not run.
HOME=${HOME:-/root}
HOLDFAST_CACHE=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
# What other users run as well.
HOLDFAST_OPT=${HOLDFAST_OPT:-/opt/holdfast}
# rustup's programs before a distribution's, which may be older; and our own tools before both.
# Root's path without a login shell often lacks the sbin folders.
PATH=$HOLDFAST_CACHE/tools/bin:$HOLDFAST_OPT/bin:$HOME/.cargo/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
export HOME HOLDFAST_CACHE HOLDFAST_OPT PATH
