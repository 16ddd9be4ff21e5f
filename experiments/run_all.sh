#!/usr/bin/env bash
# Regenerates the paper's tables and figures.
#
#   bash experiments/run_all.sh [--preset quick|smoke|cpu|gpu|paper] [--only table1 ...] [--fresh] [--dry-run]
#
# quick   the default: some runs of cpu once more, each number beside the committed one   (2 cores: about ten minutes)
# smoke   tiny random models: everything runs, nothing is learnt                          (2 cores: three minutes)
# cpu     SmolLM2-135M-Instruct and MiniLM from their packages: what is committed is not computed again (--fresh does:
#         about nine hours with --workers 2); all tables and figures
# gpu     SmolLM2-135M-Instruct, word problems with worked solutions, the paper's ranks (--dry-run names its pieces)
# paper   Llama-3-8B on MetaMathQA, from the hub
#
# What will be done, and how long it takes, is said before anything begins; --dry-run says no more than that.
# --only EXPERIMENT ...   some of them; --workers N runs N at a time (auto: by cores, or by the memory of a GPU);
# --minutes N starts nothing after that
#
# Everything is written to experiments/runs/PRESET, which git ignores; committed results (experiments/results,
# paper_figures) are read, and written with --update-reference only.  A run whose result is there is skipped; --fresh
# redoes it.  Interrupted?  Run it again.  Status 1: something differs from what is committed, the last line says where.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Step 1: an environment (only the first time).
source experiments/environment.sh experiments

# Step 2: the missing runs, each in a process of its own; then tables and figures, drawn from the result files.
exec "$PYTHON" -m experiments "$@"
