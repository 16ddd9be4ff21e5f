"""Figure 1: plain LoRA by rank."""

from dataclasses import replace

from experiments.reporting.table import Row, Table
from experiments.settings.preset import Ablations
from experiments.tables.labels import FULL, lora_of_rank
from experiments.tables.runs import each_seed, unpruned
from experiments.tables.tuning import Tune


def table(settings: Ablations, tune: Tune) -> Table:
    """LoRA of every rank and full fine-tuning, each at its own learning rate, against the largest rank."""
    runs = {
        lora_of_rank(r): unpruned(replace(settings.run, initial_rank=r))
        for r in settings.figure1_ranks
    }
    runs[FULL] = replace(unpruned(settings.run), method="full", initial_rank=0, target_rank=0)
    rows = [
        Row(label, {settings.run.task: each_seed(tune(run), settings.seeds)})
        for label, run in runs.items()
    ]
    top = lora_of_rank(max(settings.figure1_ranks))
    return Table(
        "figure1",
        "Figure 1: plain LoRA by rank, every rank at its own learning rate",
        tuple(rows),
        tuple((label, top) for label in runs if label != top),
        margin=settings.margin,
    )
