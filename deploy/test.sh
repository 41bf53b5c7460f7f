#!/usr/bin/env bash
# Sets up, builds everything and runs every test; then, under their sanitizers, the tests tagged `tsan` and `asan`, and clang's lock
# analysis over what is tagged `tsan` or `thread_safety`. The last line is `N passed, N failed`, in test cases; a test that does not
# build counts as failed. Exits 0 only if something passed and nothing failed. What was compiled is kept in the user's cache folder, at most
# LOCI_TEST_CACHE_GIB (6) GiB of each step.
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
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
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

# Bazel's disk caches have no limit of their own: of each, what was read longest ago goes until LOCI_TEST_CACHE_GIB are left (6; everything once is 1.3, and
# .7, 3.9 and .3 of the other steps, and as much again lies in Bazel's output folder); on a disk with little room, all of it. Then what was read of
# late counts as read yesterday: where a disk is mounted with relatime, as most are, only the first reading in a day shows.
trim_caches() {
  local limit=$((${LOCI_TEST_CACHE_GIB:-6} << 30)) free folder
  free=$(($(df --output=avail -B1 "$cache" | tail -n 1)))
  if [ "$free" -lt $((14 << 30)) ]; then
    echo "test: the disk of $cache has $((free >> 30)) GiB left: what was built before goes" >&2
    limit=0
  fi
  for folder in "$cache"/bazel*; do
    [ -d "$folder" ] || continue
    # Another run may add and remove files meanwhile.
    (
      cd "$folder"
      find . -ignore_readdir_race -type f -printf '%A@ %s %P\n' | sort -rn | awk -v limit="$limit" '(size += $2) > limit { print $3 }' | xargs -r rm -f
      find . -ignore_readdir_race -type f -amin -1500 -exec touch -c -a -d '26 hours ago' {} +
    ) || echo "test: $folder could not be trimmed" >&2
  done
}
trim_caches

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
