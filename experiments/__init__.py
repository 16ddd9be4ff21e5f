"""Experiments that regenerate the paper's tables and figures; start with ``bash experiments/run_all.sh``."""
