#!/usr/bin/env bash
# Searches for inputs that break the parsers, by clang's libFuzzer: tests/fuzz/fuzz.sh [SECONDS], of each target, one after another (default
# 900). What was found lies in fuzz-findings/; exit 1 then.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-900}
mapfile -t targets < <(bazel query 'kind(cc_test, //tests/fuzz:all)' 2>/dev/null)
[ ${#targets[@]} -gt 0 ] || { echo "fuzz.sh: no fuzz targets" >&2; exit 2; }
bazel build --config=fuzz "${targets[@]}"
bin=$(bazel info --config=fuzz bazel-bin 2>/dev/null)
mkdir -p fuzz-findings
found=0
for target in "${targets[@]}"; do
  name=${target##*:}
  corpus=tests/fuzz/corpus/${name%_fuzz}
  work=$(mktemp -d)
  # New inputs go to the first folder; the corpus is only read.
  if "$bin/tests/fuzz/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
      -artifact_prefix="fuzz-findings/$name-" "$work" "$corpus" > "fuzz-findings/$name.log" 2>&1; then
    verdict="no finding"
  else
    verdict="FOUND: see fuzz-findings/$name.log"
    found=1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "fuzz-findings/$name.log")
  echo "$name: $seconds s, ${runs:-?} runs, $(ls "$work" | wc -l) new inputs, $verdict"
  rm -rf "$work"
done
exit $found
