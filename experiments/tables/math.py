"""Tables 1 and 5, Figure 2: math with a language model, from the paper's default initial rank, and from all."""

from collections.abc import Iterable
from dataclasses import replace

from experiments.reporting.table import Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Finetuning
from experiments.tables.labels import (
    ADALORA,
    DORA,
    FULL,
    LORA,
    PRUNED_BY_OURS,
    SKYLINE,
    UNTUNED,
    pruned_by,
)
from experiments.tables.rows import (
    SQUEEZE_NOTE,
    comparisons,
    finetuning_rows,
    gradually,
    schedule_note,
)
from experiments.tables.tuning import Tune

#: Accuracies of Tables 1 and 5 (Llama-3-8B on GSM8K, to rank 64): where nothing is pruned.
PAPER = {UNTUNED: "51.34", FULL: "73.31", LORA: "64.43", DORA: "65.12", ADALORA: "65.91"}
#: Pruned, from ranks 128, 256 and 512.
PAPER_PRUNED = {
    "sparsegpt2023": ("66.35", "67.36", "69.88"),
    "llmpruner2023": ("69.82", "70.12", "70.39"),
    "prunedlora2025": ("69.21", "70.43", "73.38"),
}


def from_largest_rank(settings: Finetuning) -> RunConfig:
    """A run at the largest initial rank."""
    return replace(settings.run, initial_rank=max(settings.initial_ranks))


def table1(settings: Finetuning, tune: Tune) -> Table:
    """Accuracy at the target rank, pruned from the least initial rank, the paper's default."""
    title = f"Table 1: {settings.run.task}, rank {settings.target_rank}"
    return _table("table1", title, settings, tune, sorted(settings.initial_ranks)[:1])


def table5(settings: Finetuning, tune: Tune) -> Table:
    """The same from every initial rank."""
    title = f"Table 5: {settings.run.task}, rank {settings.target_rank} from every initial rank"
    return _table("table5", title, settings, tune, sorted(settings.initial_ranks))


def low_rank(settings: Finetuning, tune: Tune) -> Table:
    """From every initial rank to a rank far below them."""
    title = f"{settings.run.task}, rank {settings.target_rank} from every initial rank"
    columns = _columns(settings, sorted(settings.initial_ranks))
    rows = finetuning_rows(settings, columns, tune, paper={})
    return Table("low_rank", title, rows, comparisons(settings), gate=(LORA, SKYLINE))


def figure2(settings: Finetuning, tune: Tune) -> Table:
    """The run that Figure 2 shows: the paper's rule from the least initial rank."""
    rank = min(settings.initial_ranks)
    start = gradually(settings, "prunedlora2025")(replace(settings.run, initial_rank=rank))
    run = replace(tune(start), seed=settings.seeds[0])
    note = (
        f"One event every {run.interval} steps after {run.warmup_steps}, {run.per_event} components of every module at "
        f"each, from rank {rank} to {run.target_rank}: a column of B and the row of A that belongs to it go together, "
        "and stay zero. The picture shows one module of this run; the paper's is a schematic."
    )
    rows = (Row(PRUNED_BY_OURS, {f"from rank {rank}": (run,)}),)
    return Table("figure2", "Figure 2: the loop of pruning, and the joint mask", rows, note=note)


def _table(name: str, title: str, settings: Finetuning, tune: Tune, ranks: Iterable[int]) -> Table:
    columns = _columns(settings, ranks)
    paper = PAPER | {
        pruned_by(c): " / ".join(numbers[: len(columns)]) for c, numbers in PAPER_PRUNED.items()
    }
    return Table(
        name,
        title,
        finetuning_rows(settings, columns, tune, paper),
        comparisons(settings),
        "Paper: Llama-3-8B on GSM8K, ranks 128, 256 and 512 to 64; another model and other data."
        + (f" {SQUEEZE_NOTE}" if "cont_squeeze" in settings.baselines else "")
        + f" {schedule_note(settings, next(iter(columns.values())))}",
        gate=(LORA, SKYLINE),
    )


def _columns(settings: Finetuning, ranks: Iterable[int]) -> dict[str, RunConfig]:
    """A run of LoRA at each initial rank, by the name of its column."""
    return {f"from rank {rank}": replace(settings.run, initial_rank=rank) for rank in ranks}
