#!/usr/bin/env bash
# Builds the documentation into docs/_build/html; a warning is an error.  Arguments go to sphinx-build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source experiments/environment.sh experiments,docs
"$PYTHON" -m sphinx -W --keep-going -b html "$@" docs docs/_build/html
echo "open docs/_build/html/index.html"
