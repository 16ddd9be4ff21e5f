#!/usr/bin/env bash
# Regenerates the paper's tables and figures.
#
#   bash experiments/run_all.sh [--preset smoke|cpu|gpu|paper] [--only table1 ...] [--fresh] [--dry-run]
#
# smoke   tiny random models: everything runs, nothing is learnt             (2 cores: three minutes)
# cpu     SmolLM2-135M-Instruct and MiniLM from their packages               (2 cores: about nine hours with --workers 2)
# gpu     SmolLM2-135M-Instruct, word problems with worked solutions, the paper's ranks (--dry-run names its pieces)
# paper   Llama-3-8B on MetaMathQA, from the hub
#
# --only EXPERIMENT ...   some of them; --dry-run checks a preset and says what it takes; --workers N runs N at a time
# (auto: by cores, or by the memory of a GPU);
# --minutes N starts nothing after that
#
# Without --preset: gpu if CUDA is there, else cpu.  A run whose result file exists is skipped; --fresh redoes it.
# Interrupted?  Run it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Step 1: an environment (only the first time).
source experiments/environment.sh experiments

# Step 2: the missing runs, each in a process of its own; then the tables (experiments/results/PRESET) and the
# figures (paper_figures/PRESET), drawn from the result files.
exec "$PYTHON" -m experiments "$@"
