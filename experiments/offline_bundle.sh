#!/usr/bin/env bash
# Packs everything that a machine without network needs to run a preset, in pieces that can be carried there.
#
#   bash experiments/offline_bundle.sh [--pieces 60MB] [--python 3.12] [--has FILE] [--out FOLDER]
#
# --python is the version there; FILE is what `pip list` prints there: what it has is not packed. There:
#
#   bash unpack_and_run.sh --preset gpu --workers auto --minutes 8 --only table1
#   bash unpack_and_run.sh benchmarks --minutes 8
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source experiments/environment.sh experiments
exec "$PYTHON" -m experiments.offline.bundle "$@"
