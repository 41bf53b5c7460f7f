#!/usr/bin/env bash
# Checks the format of every C++ file, and with --tidy runs clang-tidy over the sources (minutes). Needs clang-format and clang-tidy.
#
# usage: deploy/lint.sh [--fix] [--tidy] [FILE ...]      --fix formats in place; FILEs default to all
set -euo pipefail
cd "$(dirname "$0")/.."

fix=0 tidy=0 files=()
for arg in "$@"; do
  case $arg in
    --fix) fix=1 ;;
    --tidy) tidy=1 ;;
    -h|--help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "lint: unknown argument '$arg'" >&2; exit 2 ;;
    *) files+=("$arg") ;;
  esac
done
[ ${#files[@]} -gt 0 ] || mapfile -t files < <(git ls-files '*.h' '*.cc' '*.cu')
for tool in clang-format $([ $tidy = 1 ] && echo clang-tidy); do
  command -v "$tool" >/dev/null || { echo "lint: $tool is missing; as root run: apt-get install $tool" >&2; exit 1; }
done

rc=0
if [ $fix = 1 ]; then
  clang-format -i "${files[@]}"
else
  clang-format --dry-run -Werror "${files[@]}" 2>&1 | sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error.*/\1/p' | sort -u | sed 's/$/: not formatted; run deploy\/lint.sh --fix/' |
    { ! grep . ; } || rc=1
fi
if [ $tidy = 1 ]; then
  # Generated headers come from the last build.
  printf '%s\n' "${files[@]}" | grep '\.cc$' | xargs -r -P "$(nproc)" -n 4 clang-tidy --quiet -- \
    -std=c++20 -march=x86-64-v3 -I. -Ibazel-bin "-I${XDG_CACHE_HOME:-$HOME/.cache}/loci/faiss-1.7.3" || rc=1
fi
exit $rc
