#!/usr/bin/env bash
# Checks and unpacks the pieces beside it (only the first time), runs a preset or the benchmarks, and packs the results.
#
#   bash unpack_and_run.sh [--preset gpu --only table1 --workers auto --minutes 8 ...]
#   bash unpack_and_run.sh benchmarks [--device cuda --minutes 8 ...]
#
# Everything lies in the folder `unpacked` beside it; nothing is installed elsewhere and no network is used.
# PYTHON names the Python to use, python3 by default. Run it again to go on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=${PYTHON:-python3}

# Step 1: unpack, into a folder that counts only when it is whole.
if [ ! -d unpacked ]; then
    started=$SECONDS
    sha256sum --check --quiet SHA256SUMS
    rm -rf unpacked.part
    mkdir unpacked.part
    cat bundle.tar.[0-9]* | tar -x -C unpacked.part
    "$python" unpacked.part/project/experiments/offline/set_up.py unpacked.part/wheels unpacked.part/packages
    mv unpacked.part unpacked
    echo "unpacked in $((SECONDS - started)) s" >&2
fi

# Step 2: run, from what was unpacked only.
program=experiments
if [ "${1:-}" = benchmarks ]; then
    program=experiments.benchmarks
    shift
fi
export PYTHONPATH=$PWD/unpacked/project:$PWD/unpacked/packages
export PRUNEDLORA_CACHE=$PWD/unpacked/cache
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PIP_NO_INDEX=1
touch unpacked/started
status=0
(cd unpacked/project && "$python" -m "$program" "$@") || status=$?

# Step 3: what is new, with the tables and figures.
results=results-$(date +%Y%m%d-%H%M%S).tar.gz
(cd unpacked/project && mkdir -p experiments/runs && find experiments/results experiments/runs paper_figures -type f -newer ../started -not -name '*.py*' -print0 |
    tar -czf "../../$results" --null --files-from -)
echo "new results: $results" >&2
exit "$status"
