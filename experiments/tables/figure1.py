"""Figure 1: plain LoRA by rank."""

from dataclasses import replace

from experiments.reporting.table import Row, Table
from experiments.settings.preset import Encoder
from experiments.tables.encoder import each_seed
from experiments.tables.labels import FULL, lora_of_rank
from experiments.tables.tuning import Tune


def table(settings: Encoder, tune: Tune) -> Table:
    """LoRA of every rank and full fine-tuning, each at its own learning rate, against the largest rank."""
    runs = {
        lora_of_rank(r): replace(settings.run, method="lora", initial_rank=r, target_rank=r)
        for r in settings.figure1_ranks
    }
    runs[FULL] = replace(settings.run, method="full")
    rows = [
        Row(label, {settings.tasks[0]: each_seed(tune(run), settings.ablation_seeds)})
        for label, run in runs.items()
    ]
    top = lora_of_rank(max(settings.figure1_ranks))
    return Table(
        "figure1",
        "Figure 1: plain LoRA by rank, every rank at its own learning rate",
        tuple(rows),
        tuple((label, top) for label in runs if label != top),
    )
