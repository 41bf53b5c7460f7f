#!/bin/sh
# check_config_test.sh SERVER FILE...: the server takes each file, and would not take it with a mistake in it.
set -eu
server=$1
shift
[ $# -gt 0 ] || { echo "no configurations given" >&2; exit 1; }
for file in "$@"; do
  "$server" --config "$file" --check-config > "$TEST_TMPDIR/effective" || { echo "$file: refused" >&2; exit 1; }
  # What was printed is a configuration too, and means the same.
  "$server" --config "$TEST_TMPDIR/effective" --check-config | cmp - "$TEST_TMPDIR/effective"
  sed 's/^data_dir/data_dri/' "$file" > "$TEST_TMPDIR/mistaken"
  if "$server" --config "$TEST_TMPDIR/mistaken" --check-config > /dev/null 2> "$TEST_TMPDIR/error"; then
    echo "$file: a mistake was not noticed" >&2
    exit 1
  fi
  grep -q 'mistaken:[0-9]*:[0-9]*: .*data_dri' "$TEST_TMPDIR/error" || { cat "$TEST_TMPDIR/error" >&2; exit 1; }
done
