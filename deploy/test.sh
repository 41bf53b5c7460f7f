#!/usr/bin/env bash
# Sets up, builds everything and runs every test; then, under their sanitizers, the tests tagged `tsan` and `asan`, and clang's lock
# analysis over what is tagged `tsan` or `thread_safety`. The last line is `N passed, N failed`, in test cases; a test that does not
# build counts as failed. Exits 0 only if something passed and nothing failed.
#
# usage: deploy/test.sh [--quick] [TARGET ...]      --quick leaves the sanitizers and clang out; targets default to //...
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/loci
cd "$root"

quick=0
targets=()
for arg in "$@"; do
  case $arg in
    --quick) quick=1 ;;
    -h|--help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "test: unknown argument '$arg'" >&2; exit 2 ;;
    *) targets+=("$arg") ;;
  esac
done
[ ${#targets[@]} -gt 0 ] || targets=(//...)

started=$SECONDS
deploy/setup.sh --test
events=$(mktemp -d)
finish() {
  rm -rf "$events"
  # On a machine that is thrown away nothing is left running.
  if [ -n "${CI:-}" ]; then bazel shutdown >/dev/null 2>&1 || true; fi
}
trap finish EXIT

# What was not used for 30 days goes: Bazel's disk cache has no limit of its own.
find "$cache"/bazel* -type f -atime +30 -delete 2>/dev/null || true

failed_step=0
step() {  # NAME VERB OPTION...
  local name=$1 verb=$2 begin=$SECONDS rc=0
  shift 2
  echo "== $name"
  bazel "$verb" --keep_going --build_event_json_file="$events/$name.json" --color=no --curses=no "$@" -- "${targets[@]}" || rc=$?
  case $rc in
    0) ;;
    4) ;;  # No test target under this filter.
    *) failed_step=1 ;;
  esac
  echo "== $name: $((SECONDS - begin)) s, exit $rc"
}

step default test
if [ $quick = 0 ]; then
  step tsan test --config=tsan --build_tests_only --test_tag_filters=tsan
  step asan test --config=asan --build_tests_only --test_tag_filters=asan
  step clang build --config=clang --build_tag_filters=tsan,thread_safety
fi
echo "== $((SECONDS - started)) s in all"
python3 deploy/test_summary.py "$events"/*.json || failed_step=1
exit $failed_step
