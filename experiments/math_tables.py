"""Tables 1 and 5: math with a language model, from the initial rank that is the paper's default, and from all."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

from experiments import finetuning
from experiments.config import Preset, RunConfig, build
from experiments.tables import ADALORA, DORA, FULL, LORA, PRUNED, UNTUNED, Table, Tune
from experiments.tuning import Tuning

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
    """Learning rates are chosen on the first seed."""
    return Tuning(preset.math.learning_rates, preset.math.seeds[0])


def table1(preset: Preset, tune: Tune) -> Table:
    """Accuracy at the target rank, pruned from the least initial rank, as the paper does where it says nothing."""
    title = f"Table 1: {base(preset).task}, rank {preset.math.target_rank}"
    return _table("table1", title, preset, tune, sorted(preset.math.initial_ranks)[:1])


def table5(preset: Preset, tune: Tune) -> Table:
    """The same from every initial rank."""
    title = f"Table 5: {base(preset).task}, rank {preset.math.target_rank} from every initial rank"
    return _table("table5", title, preset, tune, sorted(preset.math.initial_ranks))


TABLES: dict[str, Callable[[Preset, Tune], Table]] = {f.__name__: f for f in (table1, table5)}


def gated(preset: Preset, tune: Tune) -> tuple[list[RunConfig], float]:
    """What `experiments.gate.check_learnt` is told: at the largest initial rank."""
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
        "Paper: Llama-3-8B on GSM8K, ranks 128, 256 and 512 to 64; another model and other data.",
    )
