#!/usr/bin/env bash
# From a bare Debian 12 to answers with evidence: sets up, builds, indexes this machine's own package catalogue, serves it and asks
# three questions. See --help.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/loci

usage() {
  cat <<'USAGE'
usage: deploy/quickstart.sh [--serve] [--data-dir DIR] [--port N] [--long]

  --serve         leave the server up at the end, and say how to ask it and how to stop it
  --data-dir DIR  where the server keeps its stores; default: a folder in the cache that starts empty each time
  --port N        the server's port on the loopback interface; default: a free one
  --long          index the long descriptions too, where apt has them; takes several times as long
USAGE
}

serve=0 port=0 data_dir='' corpus_options=()
while [ $# -gt 0 ]; do
  case $1 in
    --serve) serve=1 ;;
    --long) corpus_options=(--long) ;;
    --data-dir) data_dir=${2:?--data-dir needs a folder}; shift ;;
    --data-dir=*) data_dir=${1#*=} ;;
    --port) port=${2:?--port needs a number}; shift ;;
    --port=*) port=${1#*=} ;;
    -h|--help) usage; exit 0 ;;
    *) echo "quickstart: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

die() { echo "quickstart: $*" >&2; exit 1; }

[ -z "$data_dir" ] || { mkdir -p "$data_dir" && data_dir=$(cd "$data_dir" && pwd); }
cd "$root"

steps=()
now_ms() { date +%s%3N; }
begin() { step_name=$1; step_start=$(now_ms); echo "== $step_name"; }
end() {
  local took_ms=$(($(now_ms) - step_start))
  steps+=("$(printf '%7d.%d s  %s' $((took_ms / 1000)) $((took_ms % 1000 / 100)) "$step_name")")
}
all_start=$(now_ms)

server_pid=''
finish() {
  if [ -n "$server_pid" ]; then
    kill -TERM "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
  fi
  # On a machine that is thrown away nothing is left running.
  if [ -n "${CI:-}" ]; then bazel shutdown >/dev/null 2>&1 || true; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

begin "set up"
deploy/setup.sh
end

begin "build"
bazel build --color=no --curses=no //server:loci_server //clients/cli:loci
server=$(readlink -f bazel-bin)/server/loci_server
loci=$(readlink -f bazel-bin)/clients/cli/loci
end

begin "package catalogue"
mkdir -p "$cache"
corpus=$(mktemp -d "$cache/corpus.XXXXXX")
trap 'finish; rm -rf "$corpus"' EXIT
make_corpus() { apt-cache dumpavail 2>/dev/null | python3 deploy/package_corpus.py "${corpus_options[@]}" > "$corpus/packages.jsonl"; }
make_corpus
if [ "$(wc -l < "$corpus/packages.jsonl")" -lt 10000 ]; then
  # Images often come without package lists.
  [ "$(id -u)" = 0 ] || die "this machine has no package lists; as root run: apt-get update"
  apt-get -qq -o Acquire::Retries=3 update || die "apt-get update failed; is this machine online?"
  make_corpus
fi
passages=$(wc -l < "$corpus/packages.jsonl")
[ "$passages" -gt 0 ] || die "apt-cache dumpavail lists no package"
echo "$passages packages"
end

begin "start the server"
if [ -z "$data_dir" ]; then
  data_dir=$cache/quickstart
  # The server inherits the lock, so the folder is never emptied under a server that was left up.
  mkdir -p "$cache"
  exec 8>"$data_dir.lock"
  flock -n 8 || die "a server that an earlier run left up uses $data_dir; stop it, or name another --data-dir"
  rm -rf "$data_dir"
fi
mkdir -p "$data_dir"
log=$data_dir/server.log out=$data_dir/server.out
# The catalogue has many packages that do nearly the same, which makes the reader unsure; here it shall answer all the same, and say how
# sure it is.
setsid "$server" --data-dir "$data_dir" --model "$root/models/all-MiniLM-L6-v2" --listen "127.0.0.1:$port" --metrics-listen 127.0.0.1:0 \
  --abstain-threshold 0.05 \
  >"$out" 2>"$log" < /dev/null &
server_pid=$!
address=''
for _ in $(seq 600); do
  address=$(sed -n 's/^listening on //p' "$out" | head -n 1)
  [ -n "$address" ] && break
  kill -0 "$server_pid" 2>/dev/null || { tail -n 20 "$log" >&2; server_pid=''; die "the server ended before it was listening; see $log"; }
  sleep 0.1
done
[ -n "$address" ] || { tail -n 20 "$log" >&2; die "the server was not listening after 60 s; see $log"; }
echo "listening on $address, $(sed -n 's/^metrics on /metrics on /p' "$out" | head -n 1)"
end

begin "encode and index $passages packages"
"$loci" --server "$address" ingest packages "$corpus/packages.jsonl" --mode new-generation
end

ask() {
  begin "ask: $1"
  "$loci" --server "$address" ask packages "$1"
  end
}
ask "which package turns PDF into text?"
ask "How can I find out which folders fill my disk?"
ask "Which tool downloads a web site for reading it offline?"

echo
echo "time taken"
printf '%s\n' "${steps[@]}"
all_ms=$(($(now_ms) - all_start))
printf '%7d.%d s  in all\n' $((all_ms / 1000)) $((all_ms % 1000 / 100))
echo
# RssFile is what of mapped files (vectors, program) happens to be in memory.
awk '/^(VmHWM|VmRSS|RssAnon|RssFile):/ {printf "%s %.0f MiB  ", $1, $2 / 1024} END {print "of the server"}' "/proc/$server_pid/status"
du -sm "$data_dir/stores/packages" | awk '{print $1 " MiB on disk for the store"}'

if [ $serve = 1 ]; then
  disown "$server_pid"
  echo
  echo "The server is up: process $server_pid, logs in $log. Ask it, and stop it, with"
  echo "  $loci --server $address ask packages 'which program plays chess?'"
  echo "  kill $server_pid"
  server_pid=''
fi
