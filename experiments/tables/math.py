"""Tables 1 and 5, Figure 2: math with a language model, from the paper's default initial rank, and from all."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

from experiments.reporting.table import ADALORA, DORA, FULL, LORA, PRUNED, UNTUNED, Row, Table, Tune
from experiments.settings.jobs import RunConfig, build
from experiments.settings.preset import Preset
from experiments.tables import rows as finetuning
from experiments.tables.tuning import Tuning

#: Accuracies of Tables 1 and 5 (Llama-3-8B on GSM8K, to rank 64): where nothing is pruned.
PAPER = {UNTUNED: "51.34", FULL: "73.31", LORA: "64.43", DORA: "65.12", ADALORA: "65.91"}
#: Pruned, from ranks 128, 256 and 512.
PAPER_PRUNED = {
    "sparsegpt2023": ("66.35", "67.36", "69.88"),
    "llmpruner2023": ("69.82", "70.12", "70.39"),
    "prunedlora2025": ("69.21", "70.43", "73.38"),
}


def base(preset: Preset) -> RunConfig:
    """What all runs share."""
    return build(RunConfig, asdict(preset.run) | preset.math.run, "math: run")


def tuning(preset: Preset) -> Tuning:
    """How learning rates are chosen."""
    return Tuning(preset.math.learning_rates, preset.math.seeds)


def table1(preset: Preset, tune: Tune) -> Table:
    """Accuracy at the target rank, pruned from the least initial rank, as the paper does where it says nothing."""
    title = f"Table 1: {base(preset).task}, rank {preset.math.target_rank}"
    return _table("table1", title, preset, tune, sorted(preset.math.initial_ranks)[:1])


def table5(preset: Preset, tune: Tune) -> Table:
    """The same from every initial rank."""
    title = f"Table 5: {base(preset).task}, rank {preset.math.target_rank} from every initial rank"
    return _table("table5", title, preset, tune, sorted(preset.math.initial_ranks))


def figure2(preset: Preset, tune: Tune) -> Table:
    """The run that Figure 2 shows: the paper's rule from the least initial rank."""
    start = replace(base(preset), method="prune", criterion="prunedlora2025", target_rank=preset.math.target_rank)
    rank = min(preset.math.initial_ranks)
    run = replace(tune(replace(start, initial_rank=rank)), seed=preset.math.seeds[0])
    note = (
        f"One event every {run.interval} steps after {run.warmup_steps}, {run.per_event} components of every module at "
        f"each, from rank {rank} to {run.target_rank}: a column of B and the row of A that belongs to it go together, "
        "and stay zero. The picture shows one module of this run; the paper's is a schematic."
    )
    rows = (Row(PRUNED.format("prunedlora2025"), {f"from rank {rank}": (run,)}),)
    return Table("figure2", "Figure 2: the loop of pruning, and the joint mask", rows, note=note)


TABLES: dict[str, Callable[[Preset, Tune], Table]] = {f.__name__: f for f in (table1, table5, figure2)}


def gated(preset: Preset, tune: Tune) -> tuple[list[RunConfig], float]:
    """What `experiments.tables.study.check_learnt` is told: at the largest initial rank."""
    column = replace(base(preset), initial_rank=max(preset.math.initial_ranks))
    return finetuning.gated(preset.math, column, tune)


def heading(preset: Preset) -> str:
    """The setting, in a sentence."""
    return finetuning.heading(preset.name, preset.math, base(preset))


def _table(name: str, title: str, preset: Preset, tune: Tune, ranks: Iterable[int]) -> Table:
    columns = {f"from rank {r}": replace(base(preset), initial_rank=r) for r in ranks}
    paper = PAPER | {PRUNED.format(c): " / ".join(numbers[: len(columns)]) for c, numbers in PAPER_PRUNED.items()}
    return Table(
        name,
        title,
        finetuning.rows(preset.math, columns, tune, paper),
        finetuning.comparisons(preset.math),
        "Paper: Llama-3-8B on GSM8K, ranks 128, 256 and 512 to 64; another model and other data."
        + (f" {finetuning.SQUEEZE_NOTE}" if "cont_squeeze" in preset.math.baselines else ""),
    )
