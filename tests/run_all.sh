#!/usr/bin/env bash
# Lint, types, tests.  Arguments go to pytest:  bash tests/run_all.sh -k schedule
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source experiments/environment.sh experiments,dev

"$PYTHON" -m ruff format --check .
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
"$PYTHON" -m pytest "$@"
