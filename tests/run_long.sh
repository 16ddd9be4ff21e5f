#!/usr/bin/env bash
# What takes too long for tests/run_all.sh.  Each line goes on where it stopped, and writes into tests/results/.
#
#   bash tests/run_long.sh                   # all of it
#   bash tests/run_long.sh --count 5000      # arguments go to the damaged files
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source experiments/environment.sh experiments,dev
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# 100,000 damaged adapters: about a quarter of an hour of one idle core
"$PYTHON" -m tests.prunedlora.files.fuzz "$@"
