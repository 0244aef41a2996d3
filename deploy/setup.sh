#!/usr/bin/env bash
# Installs what is missing on a Debian machine to build and run Holdfast. Quiet and quick if
# nothing is.
#
#   setup.sh demo    what `make demo` needs
#   setup.sh test    that, and what `make test` needs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/env.sh
. deploy/env.sh

RUST_MIN_MINOR=95 # The root Cargo.toml's rust-version is 1.95.
# The one that the checks were written with: a newer one may say other things, or need a newer Rust.
CARGO_DENY_VERSION=0.20.2
# The newest that builds from its Go module alone; deploy/consul/go.mod names it too.
CONSUL_VERSION=1.20.1
GO_MIN_MINOR=22 # deploy/consul/go.mod says 1.22.
mode=${1:-}
packages=() # The Debian packages that are missing.
missing=() # The environments of Python that are missing or old.

die() { echo "setup: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# need PROGRAM PACKAGE...: these packages bring the program.
need() { have "$1" || packages+=("${@:2}"); }

# A cargo that is new enough. Within this folder rustup takes the version of rust-toolchain.toml.
have_rust() {
  local version
  have cargo && version=$(cargo --version 2>/dev/null) || return 1
  [[ $version =~ ^cargo\ 1\.([0-9]+)\. ]] && ((BASH_REMATCH[1] >= RUST_MIN_MINOR))
}

# A compiler alone is not enough: libc's headers and start files are in a package of their own.
have_c() {
  have gcc && printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' |
    gcc -x c -o /dev/null - >/dev/null 2>&1
}

have_cargo_deny() {
  [ "$(cargo-deny --version 2>/dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ]
}

# A Go that is new enough, or that fetches one by itself (since 1.21).
have_go() {
  local version
  have go && version=$(go env GOVERSION 2>/dev/null) || return 1
  [[ $version =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= GO_MIN_MINOR))
}

# The program says what it is, and for its version this is right.
is_consul() { [[ $("$1" version 2>/dev/null | head -n 1) == "Consul v${2:-}"* ]]; }
have_consul() {
  if [ -n "${CONSUL_BIN:-}" ]; then
    is_consul "$CONSUL_BIN" || die "CONSUL_BIN=$CONSUL_BIN is not Consul: '$CONSUL_BIN version' does not say so"
  else
    is_consul "$HOLDFAST_CACHE/tools/bin/consul" "$CONSUL_VERSION"
  fi
}

# Others use this machine as well, so it is nice. The program appears when it is whole.
build_consul() {
  local bin=$HOLDFAST_CACHE/tools/bin log
  mkdir -p "$bin"
  log=$(mktemp)
  echo "setup: building Consul $CONSUL_VERSION, once, about five minutes" >&2
  if ! (cd deploy/consul && CGO_ENABLED=0 nice -n 10 go build -mod=readonly -buildvcs=false -trimpath \
    -ldflags '-s -w' -o "$bin/consul.new" github.com/hashicorp/consul) >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log" "$bin/consul.new"
    die "Consul $CONSUL_VERSION cannot be built: see above, or set CONSUL_BIN to an installed one"
  fi
  rm -f "$log"
  mv "$bin/consul.new" "$bin/consul"
}

# Where PostgreSQL's programs are: Debian keeps them off the path.
have_postgres() { compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

# Python programs are in environments of their own: the system's Python stays as it is. The
# database's user runs them, who cannot read root's home; so it is the system's Python, in a folder
# that everybody can read. What is there is told by the list that it was made from, since programs
# take seconds to say their version.
have_python() { cmp -s "deploy/$1/requirements.txt" "$HOLDFAST_OPT/$1/requirements.txt"; }

# install_python NAME: as deploy/NAME/requirements.txt says.
install_python() {
  local to=$HOLDFAST_OPT/$1
  echo "setup: installing what deploy/$1/requirements.txt lists" >&2
  as_root rm -rf "$to"
  as_root mkdir -p "$to" "$HOLDFAST_OPT/bin"
  as_root /usr/bin/python3 -m venv "$to" || die "python3 -m venv does not work: is python3-venv installed?"
  as_root "$to/bin/pip" --quiet --disable-pip-version-check install --use-pep517 --root-user-action ignore \
    --requirement "deploy/$1/requirements.txt" || die "deploy/$1/requirements.txt cannot be installed: see above"
  # Last: it says that all is there.
  as_root install -m 644 "deploy/$1/requirements.txt" "$to/"
  as_root chmod -R go+rX "$HOLDFAST_OPT"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# What keeps packages from starting services and making clusters, taken back however we end.
let_services_be() {
  as_root rm -f "$no_cluster"
  if [ "${masked:-}" = 1 ]; then
    as_root systemctl --quiet unmask coturn.service 2>/dev/null || true
  fi
}

install_packages() {
  have apt-get || die "please install: ${packages[*]} (Debian's names)"
  [ "$(id -u)" = 0 ] || have sudo || die "not root and no sudo: please install: ${packages[*]}"
  # Packages may bring a service; holdfast runs programs, never services. RUNLEVEL keeps
  # System V's scripts from starting, a mask systemd's.
  local coturn=0
  [[ " ${packages[*]} " == *" coturn "* ]] && coturn=1
  no_cluster=/etc/postgresql-common/createcluster.d/holdfast.conf masked=0
  trap let_services_be EXIT
  if [ $coturn = 1 ] && have systemctl; then
    as_root systemctl --quiet mask coturn.service 2>/dev/null && masked=1
  fi
  # PostgreSQL's package would make a cluster of its own.
  if [[ " ${packages[*]} " == *" postgresql "* ]]; then
    as_root mkdir -p "${no_cluster%/*}"
    echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
  fi
  local apt=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends install)
  echo "setup: installing ${packages[*]}" >&2
  # The lists may be fresh enough, and are fetched at most once; but an old list may know the
  # compiler's package with an older compiler in it.
  if [[ " ${packages[*]} " == *" rustc-web "* ]] || ! as_root "${apt[@]}" "${packages[@]}" >/dev/null 2>&1; then
    as_root apt-get -qq update
    as_root "${apt[@]}" "${packages[@]}" >/dev/null
  fi
  let_services_be
  trap - EXIT
  if [ $coturn = 1 ] && have systemctl; then
    as_root systemctl --quiet disable coturn.service 2>/dev/null || true
  elif [ $coturn = 1 ] && have update-rc.d; then
    as_root update-rc.d coturn disable >/dev/null 2>&1 || true
  fi
}

case $mode in
  demo | test) ;;
  *) die "expected demo or test, found '${mode}'" ;;
esac

rust=1
if ! have_rust; then
  have rustup && die "rustup cannot provide Rust 1.$RUST_MIN_MINOR: run 'rustup toolchain install'"
  rust=0
  packages+=(rustc-web cargo-web)
fi
have_c || packages+=(gcc libc6-dev)
need ip iproute2
need nft nftables
need curl curl
# cargo and curl trust nobody without it.
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
have_postgres || packages+=(postgresql)
python=(patroni)
[ "$mode" = demo ] || python+=(clients)
for name in "${python[@]}"; do have_python "$name" || missing+=("$name"); done
[ ${#missing[@]} = 0 ] || /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
if [ "$mode" = test ]; then
  if [ $rust = 0 ]; then
    packages+=(rustfmt-web rust-web-clippy)
  elif ! have rustup; then
    need rustfmt rustfmt-web
    need clippy-driver rust-web-clippy
  fi
  need make make # The check of `make demo` runs it.
  need conntrack conntrack
  need ethtool ethtool
  need turnserver coturn
  need iperf3 iperf3
  need ps procps
  have chromium-headless-shell || have chromium || have google-chrome || packages+=(chromium-headless-shell)
  need git git # cargo-deny fetches the advisories with it.
  [ -x "${CONSUL_BIN:-$HOLDFAST_CACHE/tools/bin/consul}" ] || have go || packages+=(golang-go)
fi
[ ${#packages[@]} = 0 ] || install_packages
have_c || die "gcc cannot compile and link a C program: try gcc -x c - <<<'int main(void){}'"
have_rust || die "Rust 1.$RUST_MIN_MINOR or newer is needed, found: $(cargo --version 2>&1 | head -1)"
for name in "${missing[@]}"; do install_python "$name"; done
[ -e "$HOLDFAST_OPT/bin/patroni" ] ||
  as_root ln -sfn ../patroni/bin/patroni ../patroni/bin/patronictl "$HOLDFAST_OPT/bin/"

if [ "$mode" = test ]; then
  if have rustup; then
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
      rustup component add rustfmt clippy
  fi
  if ! have_cargo_deny; then
    echo "setup: building cargo-deny $CARGO_DENY_VERSION, once, about two minutes" >&2
    # A target folder of the caller would be filled with a build that is needed once.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --force "cargo-deny@$CARGO_DENY_VERSION" \
      --root "$HOLDFAST_CACHE/tools"
    have_cargo_deny || die "cargo-deny $CARGO_DENY_VERSION is built, but $(command -v cargo-deny) is found first"
  fi
  if ! have_consul; then
    have_go || die "Consul needs Go 1.$GO_MIN_MINOR or newer, found: $(go version 2>&1 | head -n 1); or set CONSUL_BIN to an installed Consul"
    build_consul
    have_consul || die "Consul $CONSUL_VERSION is built, but says: $("$HOLDFAST_CACHE/tools/bin/consul" version 2>&1 | head -n 1)"
  fi
fi
