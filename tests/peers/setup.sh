#!/usr/bin/env bash
# Makes the Python environment of the peers that Loci is measured against, at the versions of requirements.txt.
#
# usage: tests/peers/setup.sh FOLDER      Needs python3 with venv, about 6 GB of disk and PyPI; does nothing where FOLDER is complete.
set -euo pipefail
[ $# = 1 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
venv=$1 requirements=$(dirname "$0")/requirements.txt
cmp -s "$requirements" "$venv/.complete" && exit 0
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
cp "$requirements" "$venv/.complete"
