#!/usr/bin/env bash
# Lint, types, tests.  Arguments go to pytest:  bash tests/run_all.sh -k schedule
#
# Types are checked while the tests run, in two processes: -n 4 for four, -n 0 for this one (to debug).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source experiments/environment.sh experiments,dev,docs
# The processes share the cores; the tensors are too small to be shared further.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .

types=$(mktemp)
trap 'rm -f "$types"' EXIT
"$PYTHON" -m mypy >"$types" 2>&1 &
typed=0 tested=0
"$PYTHON" -m pytest -n 2 --dist worksteal --durations=10 "$@" || tested=$?
wait $! || typed=$?
cat "$types"
exit $((typed > tested ? typed : tested))
