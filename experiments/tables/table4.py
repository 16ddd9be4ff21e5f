"""Table 4: the initial rank against the scaling s."""

from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.preset import Encoder
from experiments.tables.encoder import ONE_RATE, at_one_rate, each_seed
from experiments.tables.tuning import Tune

SCALINGS = (0.5, 1.0, 2.0)
#: Accuracies of Llama-3-8B on GSM8K, by initial rank; one number for each scaling.
PAPER = ("67.81 / 69.21 / 69.11", "70.12 / 70.38 / 70.43", "69.31 / 72.12 / 73.38")


def table(settings: Encoder, tune: Tune) -> Table:
    """The paper's rule from every initial rank, one column for each scaling."""
    run = at_one_rate(settings, tune)
    rows = []
    for rank, paper in zip(sorted(settings.initial_ranks), PAPER, strict=False):
        pruned = replace(
            run,
            method="prune",
            criterion="prunedlora2025",
            initial_rank=rank,
            target_rank=settings.target_rank,
        )
        cells = {
            f"s = {s:g}": each_seed(replace(pruned, scaling=s), settings.ablation_seeds)
            for s in SCALINGS
        }
        rows.append(Row(Label(f"from rank {rank}"), cells, paper))
    return Table(
        "table4",
        "Table 4: initial rank and scaling",
        tuple(rows),
        note=f"Paper: Llama-3-8B on GSM8K. {ONE_RATE}.",
    )
