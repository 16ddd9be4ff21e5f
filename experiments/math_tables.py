"""Tables 1 and 5: math with a language model, at the paper's own initial rank and at all of them."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from experiments.config import Preset, RunConfig, build
from experiments.tables import ADALORA, CUT, DORA, FULL, LORA, PRUNED, RSLORA, SKYLINE, UNTUNED, Row, Table, Tune
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
    ranks = sorted(preset.math.initial_ranks)[:1]
    return Table("table1", f"Table 1: math, rank {preset.math.target_rank}", *_rows(preset, tune, ranks))


def table5(preset: Preset, tune: Tune) -> Table:
    """The same from every initial rank."""
    ranks = sorted(preset.math.initial_ranks)
    title = f"Table 5: math, rank {preset.math.target_rank} from every initial rank"
    return Table("table5", title, *_rows(preset, tune, ranks))


TABLES: dict[str, Callable[[Preset, Tune], Table]] = {f.__name__: f for f in (table1, table5)}


def _rows(preset: Preset, tune: Tune, ranks: list[int]) -> tuple[tuple[Row, ...], tuple[tuple[str, str], ...], str]:
    math, run = preset.math, base(preset)
    k = math.target_rank

    def row(label: str, rank: int | None, paper: str = "", **changes: Any) -> Row:
        """The runs of a row from every initial rank; the same run in all columns where it has a rank of its own."""
        cells = {}
        for initial in ranks:
            own = {"initial_rank": initial if rank is None else rank, "target_rank": k} | changes
            chosen = tune(replace(run, **own))
            seeds = math.seeds[:1] if chosen.method == "untuned" else math.seeds
            cells[f"from rank {initial}"] = tuple(replace(chosen, seed=seed) for seed in seeds)
        return Row(label, cells, paper or PAPER.get(label, ""))

    baselines: dict[str, Callable[[], Row]] = {
        "full": lambda: row(FULL, 0, method="full", target_rank=0),
        "rslora": lambda: row(RSLORA, k, rslora=True),
        "dora": lambda: row(DORA, k, method="dora"),
        "adalora": lambda: row(ADALORA, k, method="adalora"),
    }
    skylines = [row(SKYLINE, r, target_rank=r).cells[f"from rank {r}"] for r in ranks]
    rows = [
        row(UNTUNED, 0, method="untuned", target_rank=0),
        row(LORA, k),
        *(baselines[name]() for name in math.baselines),
        Row(SKYLINE, {f"from rank {r}": runs for r, runs in zip(ranks, skylines, strict=True)}),
        *(row(CUT.format(c), None, method="truncate", criterion=c) for c in math.truncations),
        *(row(PRUNED.format(c), None, _paper(c, len(ranks)), method="prune", criterion=c) for c in math.criteria),
    ]
    own = PRUNED.format("prunedlora2025")
    rivals = (LORA, SKYLINE, CUT.format("svd"), *(PRUNED.format(c) for c in math.criteria))
    pairs = [(own, rival) for rival in rivals] + [(LORA, SKYLINE), (CUT.format("svd"), LORA)]
    labels = {r.label for r in rows}
    compare = tuple(pair for pair in pairs if set(pair) <= labels and pair[0] != pair[1])
    note = "Paper: Llama-3-8B on GSM8K, ranks 128, 256 and 512 to 64; another model and other data."
    return tuple(rows), compare, note


def _paper(criterion: str, ranks: int) -> str:
    return " / ".join(PAPER_PRUNED.get(criterion, ())[:ranks])


def gated(preset: Preset, tune: Tune) -> tuple[list[RunConfig], float]:
    """The untuned model, the unpruned adapter, and the points of accuracy that must lie between them."""
    run = replace(base(preset), seed=preset.math.seeds[0])
    top = max(preset.math.initial_ranks)
    skyline = tune(replace(run, method="lora", initial_rank=top, target_rank=top))
    return [replace(run, method="untuned"), skyline], preset.math.least_gain


def heading(preset: Preset) -> str:
    """The setting, in a sentence."""
    run, math = base(preset), preset.math
    rates = ", ".join(f"{rate:g}" for rate in math.learning_rates) or f"{run.learning_rate:g} only"
    return (
        f"Preset {preset.name}: {run.model} on {run.task}, adapters on {', '.join(run.target_modules)}, {run.steps} "
        f"steps of {run.batch_size} examples, s = {run.scaling:g}, {len(math.seeds)} seed(s), learning rates chosen "
        f"from {rates}, {run.test_examples} test examples."
    )
