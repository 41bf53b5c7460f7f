#!/bin/sh
# Runs a Python test with the environment that deploy/setup.sh made: run_python_test.sh TEST.py SERVER [CLI].
if [ ! -x "${LOCI_PYTHON:-}" ]; then
  echo "LOCI_PYTHON (\"${LOCI_PYTHON:-}\") is no Python; deploy/setup.sh --test makes one and says where it lies" >&2
  exit 1
fi
LOCI_SERVER_BINARY=$PWD/$2
LOCI_CLI_BINARY=${3:+$PWD/$3}
export LOCI_SERVER_BINARY LOCI_CLI_BINARY
export PYTHONPATH=$PWD/tests/integration:$PWD/clients/python
unset LOCI_SERVER
exec "$LOCI_PYTHON" -B "$1"
