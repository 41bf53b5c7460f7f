#!/usr/bin/env bash
# Checks and measures the CUDA encoder and exact search on a machine that has a GPU and need not have anything else of Loci's.
#
#   deploy/gpu_check.sh bundle DIR          builds the bundle of the encoder: the programs, the libraries they need but CUDA's own, a float16 copy of the model
#   deploy/gpu_check.sh bundle DIR search   builds that of exact search, without a model
#   DIR/gpu_check.sh run [REPORT]           on the machine with the GPU: prints the report, within nine minutes
#   deploy/gpu_check.sh                     all of it, in temporary folders
#
# `bundle` needs what a build needs, the CUDA toolkit and deploy/setup.sh's model. `run` needs the driver and, for the encoder, cuBLASLt 13 (the toolkit's
# lib64 in $LOCI_CUDA_LIBRARY_DIR where the linker does not find it); search makes $LOCI_SEARCH_ROWS rows of 384, 10 million, in $TMPDIR. It compares with
# torch where python3 has it, and runs compute-sanitizer where that is installed and works. Without a device `run` says so and exits 2. Exits 1 where
# anything was wrong.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
limit_bytes=$((60 * 1000 * 1000))

half_precision_model() {  # FROM TO
  python3 - "$1" "$2" <<'PYTHON'
import json, math, os, shutil, struct, sys
source, target = sys.argv[1:]
os.makedirs(target, exist_ok=True)
for name in os.listdir(source):
    path = os.path.join(source, name)
    if os.path.isdir(path):
        shutil.copytree(path, os.path.join(target, name), dirs_exist_ok=True)
    elif name.endswith((".json", ".txt")) and name != "data_config.json":
        shutil.copy(path, target)
with open(os.path.join(source, "model.safetensors"), "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    data = file.read()
out, at, tensors = [], 0, {}
for name, info in header.items():
    if name == "__metadata__":
        continue
    begin, end = info["data_offsets"]
    raw, dtype = data[begin:end], info["dtype"]
    if dtype == "F32":
        count = math.prod(info["shape"])
        raw, dtype = struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", raw)), "F16"
    tensors[name] = {"dtype": dtype, "shape": info["shape"], "data_offsets": [at, at + len(raw)]}
    out.append(raw)
    at += len(raw)
text = json.dumps(tensors).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(target, "model.safetensors"), "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text + b"".join(out))
PYTHON
}

bundle() {  # DIR [search]
  local to=$1 what=${2:-encoder} root targets program built library
  root=$(cd "$here/.." && pwd)
  local other=search_benchmark
  [ "$what" = encoder ] || other=cuda_benchmark
  # `run` would take it for the other's.
  [ ! -e "$to/bin/$other" ] || { echo "gpu_check: $to holds the other bundle: give another folder" >&2; exit 1; }
  mkdir -p "$to"
  to=$(cd "$to" && pwd)
  cd "$root"
  local model=${LOCI_MODEL_DIR:-models/all-MiniLM-L6-v2}
  if [ "$what" = search ]; then
    targets=(//index/cuda:search_check //index/cuda:search_benchmark)
  else
    [ -f "$model/model.safetensors" ] || { echo "gpu_check: no model in $model: run deploy/setup.sh, or set LOCI_MODEL_DIR" >&2; exit 1; }
    targets=(//encoder/cuda:cuda_check //encoder/cuda:cuda_benchmark)
  fi
  ${LOCI_BAZEL:-bazel} build "${targets[@]}"
  mkdir -p "$to/bin" "$to/lib"
  for target in "${targets[@]}"; do
    program=${target#*:}
    built=${target#//}
    built=bazel-bin/${built/:/\/}
    install -m 755 "$built" "$to/bin/$program"
    strip "$to/bin/$program"
    grep -aq cudaErrorInsufficientDriver "$to/bin/$program" || { echo "gpu_check: $program has no CUDA in it: no toolkit was found" >&2; exit 1; }
    # Not the C library, which must be the machine's own, with what belongs to it; not CUDA's. (Of what was built: the program in the bundle finds
    # the libraries that are there already.)
    ldd "$built" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
      { grep -vE '/(ld-linux|libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libcuda|libcudart|libcublas|libcublasLt|libnv[a-z]*)[-.0-9]*\.so' || true; } |
      while read -r library; do install -m 644 "$library" "$to/lib/"; done
  done
  [ "$what" = search ] || half_precision_model "$model" "$to/model"
  install -m 644 "tests/peers/gpu_${what}_benchmark.py" "$to/"
  install -m 755 "$here/gpu_check.sh" "$to/gpu_check.sh"
  git rev-parse HEAD > "$to/COMMIT" 2>/dev/null || echo unknown > "$to/COMMIT"
  local bytes
  bytes=$(du -sb "$to" | cut -f1)
  echo "gpu_check: the bundle in $to has $bytes bytes"
  [ "$bytes" -le $limit_bytes ] || { echo "gpu_check: that is more than $limit_bytes" >&2; exit 1; }
}

failed=0
unfinished=0
deadline=0
left() { echo $((deadline - SECONDS)); }

# Whether a tool of compute-sanitizer has found something, by its OUTPUT. Where it could not begin it counts that as an error too.
found_by_sanitizer() {  # OUTPUT
  local no_tool='Unable to|[Nn]ot supported|NotSupported|NOT_SUPPORTED|Target application'
  if grep -aE '^=========' "$1" | grep -avE "$no_tool" | grep -aqE '^=========.* (Invalid|Race|Error:|Program hit|Potential|Barrier error)'; then return 0; fi
  grep -aqE '^========= (ERROR|RACECHECK) SUMMARY: [1-9]' "$1" && ! grep -aqE "^=========.*($no_tool)" "$1"
}

# Parts are of KIND `tests`, which end and pass tests, at least one and none skipped; `whole`, which end; `partial`, which may run out of
# time; or `partial_tests`. Exit 3 says that not all was measured. Of Google Test's lines those of tests that passed are left out.
part() {  # KIND SECONDS NAME COMMAND...
  local kind=$1 seconds=$2 name=$3 rc=0 output begin=$SECONDS
  shift 3
  echo
  echo "== $name"
  # A part gets no more than what is left.
  local rest
  rest=$(left)
  if [ "$rest" -lt 10 ]; then
    echo "not run: the time is over"
    unfinished=$((unfinished + 1))
    return 0
  fi
  # What is cut off by the end of all the time has not failed.
  if [ "$rest" -lt "$seconds" ]; then
    seconds=$rest
    case $kind in
      tests) kind=partial_tests ;;
      whole) kind=partial ;;
    esac
  fi
  output=$(mktemp)
  timeout -k 5 "$seconds" "$@" 2>&1 | tee "$output" | { grep --line-buffered -avE '^\[ RUN|^\[ +OK|^\[---|^$' || true; } || rc=$?
  case $rc/$kind in
    0/*tests)
      if grep -aq '^\[  SKIPPED' "$output"; then
        rc=1
        echo "FAILED: tests were skipped"
      elif ! grep -aqE '^\[  PASSED  \] [1-9]' "$output"; then
        rc=1
        echo "FAILED: no test ran"
      fi
      [ $rc = 0 ] || failed=1
      ;;
    0/*) ;;
    3/*)
      unfinished=$((unfinished + 1))
      echo "not all of it was measured"
      ;;
    # 137: it did not end when it was told to.
    124/partial* | 137/partial*)
      unfinished=$((unfinished + 1))
      echo "not finished: its time is over"
      # What failed before that has failed.
      if grep -aqE '^\[  FAILED|FAILED$' "$output" || found_by_sanitizer "$output"; then
        failed=1
        echo "FAILED before that"
      fi
      ;;
    124/* | 137/*) failed=1; echo "FAILED: it has not ended in its time" ;;
    *) failed=1; echo "FAILED with exit $rc" ;;
  esac
  echo "($((SECONDS - begin)) s)"
  rm -f "$output"
}

# Where compute-sanitizer works on this machine: it refuses some devices that programs alone may use. FIRST: tests that show it.
sanitize() {  # PROGRAM FIRST MEMCHECK_TESTS RACECHECK_TESTS
  local program=$1 first=$2 sanitizer output rest tool rc=0
  sanitizer=$(command -v compute-sanitizer || ls "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" 2>/dev/null || true)
  if [ -z "$sanitizer" ]; then
    printf '\n== compute-sanitizer\nnot run: it is not installed here\n'
    unfinished=$((unfinished + 1))
    return 0
  fi
  rest=$(left)
  if [ "$rest" -lt 10 ]; then
    printf '\n== compute-sanitizer\nnot run: the time is over\n'
    unfinished=$((unfinished + 1))
    return 0
  fi
  output=$(mktemp)
  timeout -k 5 $((rest < 60 ? rest : 60)) "$sanitizer" --tool memcheck "$here/bin/$program" --gtest_filter="$first" >"$output" 2>&1 || rc=$?
  if [ $rc != 0 ] || ! grep -aqE '^\[  PASSED  \] [1-9]' "$output" || grep -aq '^\[  SKIPPED' "$output"; then
    if found_by_sanitizer "$output"; then
      printf '\n== compute-sanitizer memcheck\n'
      grep -avE '^\[ RUN|^\[ +OK|^\[---|^$' "$output" | head -40
      echo "FAILED: it found errors"
      failed=1
    else
      printf '\n== compute-sanitizer\nnot run, it does not work here (exit %s): ' $rc
      grep -am1 -iE 'error|not supported|skipped' "$output" || tail -1 "$output"
      unfinished=$((unfinished + 1))
    fi
  else
    for tool in memcheck racecheck; do
      part partial_tests 75 "compute-sanitizer $tool" "$sanitizer" --tool $tool --error-exitcode 9 "$here/bin/$program" \
        --gtest_filter="$([ $tool = memcheck ] && echo "$3" || echo "$4")"
    done
  fi
  rm -f "$output"
}

# A shape that has begun takes a while: the script is told to begin none when its time is nearly over.
against_torch() {  # SCRIPT ARG...
  if ! command -v python3 >/dev/null; then
    printf '\n== against torch\nnot run: no python3 here\n'
    unfinished=$((unfinished + 1))
    return 0
  fi
  local rest
  rest=$(left)
  part partial 210 "against torch" python3 -u "$here/$1" "${@:2}" --seconds $((rest < 210 ? rest - 50 : 160))
}

run_encoder() {
  SECONDS=0
  deadline=520  # Of 540 s; what has not ended by then is given 5 s more.
  for folder in "${CUDA_HOME:-}"/lib64 /usr/local/cuda/lib64; do
    if [ -z "${LOCI_CUDA_LIBRARY_DIR:-}" ] && [ -e "$folder/libcublasLt.so" ]; then export LOCI_CUDA_LIBRARY_DIR=$folder; fi
  done
  # Where only Python's packages bring the library.
  if [ -z "${LOCI_CUDA_LIBRARY_DIR:-}" ] && command -v python3 >/dev/null; then
    LOCI_CUDA_LIBRARY_DIR=$(python3 -c 'import glob, sys
print(next((p.rsplit("/", 1)[0] for f in sys.path for p in glob.glob(f + "/nvidia/*/lib/libcublasLt.so.*")), ""))' 2>/dev/null || true)
    export LOCI_CUDA_LIBRARY_DIR
  fi
  echo "Loci's CUDA encoder, commit $(cat "$here/COMMIT"), $(date -u +%Y-%m-%dT%H:%MZ)"
  timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2>/dev/null || echo "nvidia-smi does not answer"
  export TMPDIR=${TMPDIR:-/tmp}
  export TEST_TMPDIR=$TMPDIR
  local rc=0 first
  first=$(timeout -k 5 60 "$here/bin/cuda_benchmark" "$here/model" soak 0 2>&1) || rc=$?
  if [ $rc = 2 ]; then
    echo "$first"
    echo "There is no device to check: nothing of this report was measured."
    return 2
  fi
  if [ $rc != 0 ]; then
    echo "$first"
    echo "FAILED with exit $rc: an encoder was loaded, swapped and run"
    failed=1
  fi

  # What is right comes before what is fast.
  part tests 120 "parity of each kernel with its reference, on the device" "$here/bin/cuda_check" --gtest_filter='*cuda_*'
  part tests 60 "the encoder against the CPU's, on the device" "$here/bin/cuda_check" --gtest_filter='*OnADevice*'
  part whole 60 "soak" "$here/bin/cuda_benchmark" "$here/model" soak 20
  local sanitized='*cuda_bfloat16:*cuda_float32:-*Longest*:*Dense*'
  sanitize cuda_check '*PoolingOfZeros*cuda_float32*' "$sanitized" "$sanitized"
  part partial 60 "kernels" "$here/bin/cuda_benchmark" "$here/model" kernels
  part partial 90 "encoder" "$here/bin/cuda_benchmark" "$here/model" encoder
  against_torch gpu_encoder_benchmark.py "$here/bin/cuda_benchmark" "$here/model"
  conclude
}

conclude() {
  echo
  local rest_of=""
  [ $unfinished = 0 ] || rest_of="; parts not run or not finished: $unfinished"
  [ $failed = 0 ] && echo "everything that ran passed$rest_of; $SECONDS s" || echo "something FAILED$rest_of; $SECONDS s"
  return $failed
}

run_search() {
  SECONDS=0
  deadline=520
  echo "Loci's exact search on CUDA devices, commit $(cat "$here/COMMIT"), $(date -u +%Y-%m-%dT%H:%MZ)"
  timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2>/dev/null || echo "nvidia-smi does not answer"
  export TMPDIR=${TMPDIR:-/tmp}
  local rc=0 first
  # Without rows it gets no further than to the device.
  first=$(timeout -k 5 60 "$here/bin/search_benchmark" /nonexistent measure 2>&1) || rc=$?
  if [ $rc = 2 ]; then
    echo "$first"
    echo "There is no device to check: nothing of this report was measured."
    return 2
  fi
  rows_folder=$(mktemp -d)
  trap 'rm -rf "$rows_folder"' EXIT
  export TEST_TMPDIR=$rows_folder
  part tests 120 "hits against the CPU's, on the device" "$here/bin/search_check" --gtest_filter='*/cuda'
  part whole 120 "rows" "$here/bin/search_benchmark" "$rows_folder" make "${LOCI_SEARCH_ROWS:-10000000}" 384
  part whole 150 "search" "$here/bin/search_benchmark" "$rows_folder" measure
  sanitize search_check '*Ties*/cuda' '*FindsWhatTheCpuFinds/cuda:*SumsWhatTheCpuSums/cuda:*Hidden*/cuda:*NotNumbers*/cuda' \
    '*Ties*/cuda:*Hidden*/cuda:*ManyTiles*/cuda'
  against_torch gpu_search_benchmark.py "$here/bin/search_benchmark" "$rows_folder"
  conclude
}

# What the bundle is of.
run() {
  if [ -e "$here/bin/search_benchmark" ]; then run_search; else run_encoder; fi
}

# Sourced, it only defines what is above.
[ "${BASH_SOURCE[0]}" = "$0" ] || return 0
case ${1:-} in
  bundle)
    [ $# = 2 ] || [ "$#/${3:-}" = 3/search ] || { echo "usage: deploy/gpu_check.sh bundle DIR [search]" >&2; exit 1; }
    bundle "${@:2}"
    ;;
  run) if [ $# = 2 ]; then run 2>&1 | tee "$2"; exit "${PIPESTATUS[0]}"; else run; fi ;;
  "")
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    (bundle "$folder/encoder")
    (bundle "$folder/search" search)
    rc=0
    "$folder/encoder/gpu_check.sh" run || rc=$?
    "$folder/search/gpu_check.sh" run || rc=$?
    exit $rc
    ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 1 ;;
esac
