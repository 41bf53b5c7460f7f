#!/usr/bin/env bash
# Every CPU row of the goals against other programs, in one run: makes their environment where it is not there, builds what is measured, prints the table.
#
# usage: tests/peers/run.sh VENV PASSAGES.jsonl.gz [FLAG ...]      FLAGs are peers.py's, such as --quick and --only int8,search
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
venv=$(realpath -m "$1") passages=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../.."
tests/peers/setup.sh "$venv"
bazel build //encoder:encoder_benchmark //encoder:tokenizer_benchmark //index:certified_scan_benchmark //index:softmax_scan_benchmark \
  //index:filter_benchmark //server:loci_server //clients/cli:loci //tests/peers:roof_benchmark
exec "$venv/bin/python" tests/peers/peers.py bazel-bin models/all-MiniLM-L6-v2 "$passages" "$@"
