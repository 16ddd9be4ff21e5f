"""Tables 3, 4, 6 and 7, Figures 1 and 3 of the paper on an encoder, with the baselines it left out; and when to prune.

Each function returns a table of runs.  Where a run appears in several, it is done once.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from experiments.reporting.table import (
    ADALORA,
    CUT,
    DORA,
    FULL,
    LORA,
    PRUNED,
    RSLORA,
    SKYLINE,
    UNTUNED,
    Row,
    Table,
    Tune,
)
from experiments.settings.jobs import RunConfig, build
from experiments.settings.preset import Preset, Study
from experiments.tables.rows import CONT_SQUEEZE, CONT_SQUEEZE_TAIL, SQUEEZE_NOTE, pruned_once
from experiments.tables.tuning import Tuning, unchanged

OURS = "PrunedLoRA"
#: What the paper calls the rules that it compares.
PAPER_NAMES = {
    "magnitude": "Magnitude",
    "wanda2024": "Wanda",
    "sparsegpt2023": "SparseGPT",
    "llmpruner2023": "LLM-Pruner",
    "prunedlora2025": OURS,
}
#: What holds for all tables but Table 3 and Figure 1, where every row has a rate of its own.
ONE_RATE = f"All rows are trained at the learning rate that is best for {OURS} from the least initial rank"
#: Accuracies of Table 7 (Llama-3-8B, GSM8K, 128 to 64), one-shot / dynamic.
PAPER_7 = {
    "Magnitude": "63.21",
    "Wanda": "67.33",
    "SVD of full fine-tuning's change": "65.21 / –",
    "SparseGPT": "65.01 / 66.35",
    "LLM-Pruner": "64.45 / 69.82",
    OURS: "66.31 / 69.21",
}
#: Averages over five GLUE tasks of Table 3 (T5-base), recomputed where the paper misprints them.
PAPER_3 = {
    FULL: "87.91",
    LORA: "82.08",
    DORA: "82.57",
    ADALORA: "81.62",
    "SparseGPT": "82.87",
    "LLM-Pruner": "82.58",
}


def base(preset: Preset) -> RunConfig:
    """What all runs of the studies share."""
    assert preset.study is not None
    return build(RunConfig, asdict(preset.run) | preset.study.run, "study: run")


def _over_tasks(study: Study, run: RunConfig, label: str, tune: Tune, paper: str = "", **changes: Any) -> Row:
    chosen = tune(replace(run, **changes))
    cells = {
        task: _seeds(study.seeds if task == study.tasks[0] else study.ablation_seeds, replace(chosen, task=task))
        for task in study.tasks
    }
    return Row(label, cells, paper)


def table3(preset: Preset, tune: Tune) -> Table:
    """Language understanding, all tasks."""
    study, run = preset.study, base(preset)
    assert study is not None
    k, top = study.target_rank, max(study.initial_ranks)

    def row(label: str, **changes: Any) -> Row:
        return _over_tasks(study, run, label, tune, PAPER_3.get(label, ""), **changes)

    rows = [
        row(UNTUNED, method="untuned"),
        row(FULL, method="full"),
        row(LORA, method="lora", initial_rank=k, target_rank=k),
        row(RSLORA, method="lora", initial_rank=k, target_rank=k, rslora=True),
        row(DORA, method="dora", initial_rank=k, target_rank=k),
        row(ADALORA, method="adalora", initial_rank=k, target_rank=k),
        row(SKYLINE, method="lora", initial_rank=top, target_rank=top),
    ]
    rows += [
        row(CUT.format(c), method="truncate", criterion=c, initial_rank=top, target_rank=k)
        for c in ("svd", "para2026", "svd_kfac", "svd_fisher")
    ]
    start = replace(run, criterion="svd", initial_rank=top, target_rank=k)
    rows.append(_over_tasks(study, pruned_once(start, CONT_SQUEEZE_TAIL), CONT_SQUEEZE, tune))
    rows.append(row(PRUNED.format("svd"), method="prune", criterion="svd", initial_rank=top, target_rank=k))
    rows += [
        row(PAPER_NAMES[c], method="prune", criterion=c, initial_rank=top, target_rank=k)
        for c in ("sparsegpt2023", "llmpruner2023")
    ]
    papers = dict(zip(sorted(study.initial_ranks), ("83.88", "85.52", "87.59"), strict=False))
    rows += [
        replace(
            row(f"{OURS}, from {r}", method="prune", criterion="prunedlora2025", initial_rank=r, target_rank=k),
            paper=papers[r],
        )
        for r in sorted(study.initial_ranks)
    ]
    own = f"{OURS}, from {top}"
    rivals = (LORA, "SparseGPT", "LLM-Pruner", SKYLINE, CUT.format("svd"), CONT_SQUEEZE, PRUNED.format("svd"))
    return Table(
        "table3",
        f"Table 3: language understanding, rank {k}",
        tuple(rows),
        (
            *((own, rival) for rival in rivals),
            (LORA, SKYLINE),
            *((PRUNED.format("svd"), rival) for rival in (LORA, SKYLINE, CUT.format("svd"), "SparseGPT")),
            (CONT_SQUEEZE, CUT.format("svd")),
            (CUT.format("svd_fisher"), CUT.format("svd")),
        ),
        f"Paper: average accuracy of T5-base over five GLUE tasks, another model and other data. {SQUEEZE_NOTE}",
    )


def table4(preset: Preset, tune: Tune) -> Table:
    """Initial rank against scaling."""
    study, run = preset.study, _ablation(preset, tune)
    assert study is not None
    seeds = study.ablation_seeds
    papers = ("67.81 / 69.21 / 69.11", "70.12 / 70.38 / 70.43", "69.31 / 72.12 / 73.38")
    rows = []
    for rank, paper in zip(sorted(study.initial_ranks), papers, strict=False):
        pruned = replace(
            run, method="prune", criterion="prunedlora2025", initial_rank=rank, target_rank=study.target_rank
        )
        cells = [(f"s = {s:g}", replace(pruned, scaling=s)) for s in (0.5, 1.0, 2.0)]
        rows.append(Row(f"from rank {rank}", {name: _seeds(seeds, r) for name, r in cells}, paper))
    return Table(
        "table4", "Table 4: initial rank and scaling", tuple(rows), note=f"Paper: Llama-3-8B on GSM8K. {ONE_RATE}."
    )


def table6(preset: Preset, tune: Tune) -> Table:
    """The schedule of events."""
    study, run = preset.study, _ablation(preset, tune)
    assert study is not None
    papers = {(5, 2): "69.01", (5, 4): "68.78", (10, 2): "69.21", (10, 4): "69.11"}
    pruned = replace(
        run,
        method="prune",
        criterion="prunedlora2025",
        initial_rank=study.schedule_rank,
        target_rank=study.target_rank,
    )
    rows = [
        Row(
            f"K1 = {k1}, K2 = {k2}",
            {
                study.tasks[0]: _seeds(
                    study.ablation_seeds,
                    replace(pruned, interval=k1, per_event=k2),
                )
            },
            papers.get((k1, k2), ""),
        )
        for k1, k2 in study.schedules
    ]
    title = f"Table 6: events every K1 steps, K2 components each, from rank {study.schedule_rank}"
    return Table("table6", title, tuple(rows), note=f"Paper: Llama-3-8B on GSM8K, 128 to 64. {ONE_RATE}.")


def table7(preset: Preset, tune: Tune) -> Table:
    """One-shot against dynamic pruning, every rule."""
    study, run = preset.study, _ablation(preset, tune)
    assert study is not None
    seeds = study.seeds
    top, k = max(study.initial_ranks), study.target_rank

    def cells(criterion: str, dynamic: bool = True) -> dict[str, tuple[RunConfig, ...]]:
        shared = replace(run, criterion=criterion, initial_rank=top, target_rank=k)
        found = {"one-shot": _seeds(seeds, replace(shared, method="truncate"))}
        return found | ({"dynamic": _seeds(seeds, replace(shared, method="prune"))} if dynamic else {})

    rows = [Row("random", cells("random"))]
    rows += [Row(name, cells(c), PAPER_7[name]) for c, name in PAPER_NAMES.items()]
    full = _seeds(seeds, tune(replace(run, method="truncate_full", target_rank=k)))
    label = "SVD of full fine-tuning's change"
    rows.append(Row(label, {"one-shot": full}, PAPER_7[label]))
    names = {"adalora2023": "AdaLoRA's score", "svd": "svd (LoRA-Squeeze)", "para2026": "para2026 (PARA)"}
    rows += [Row(names.get(c, c), cells(c)) for c in ("adalora2023", "kfac", "svd", "para2026", "svd_kfac")]
    rows.append(Row("svd_fisher", cells("svd_fisher", dynamic=False)))
    for c in ("prunedlora2025", "kfac"):
        shared = replace(run, method="prune", criterion=c, scope="global", initial_rank=top, target_rank=k)
        rows.append(Row(f"{PAPER_NAMES.get(c, c)}, one budget for all modules", {"dynamic": _seeds(seeds, shared)}))
    rivals = ("random", "Magnitude", "SparseGPT", "LLM-Pruner", "svd (LoRA-Squeeze)")
    return Table(
        "table7",
        f"Table 7: one-shot and dynamic pruning, {top} to {k}",
        tuple(rows),
        (
            *((OURS, rival) for rival in rivals),
            ("svd_kfac", "svd (LoRA-Squeeze)"),
            ("kfac", "SparseGPT"),
            ("kfac", "svd (LoRA-Squeeze)"),
            ("para2026 (PARA)", "svd (LoRA-Squeeze)"),
            (f"{OURS}, one budget for all modules", OURS),
            ("kfac, one budget for all modules", "kfac"),
        ),
        "Paper: Llama-3-8B on GSM8K, 128 to 64; one-shot / dynamic. One-shot: trained at the initial rank to the end, "
        f"pruned once, no further training. {ONE_RATE}, full fine-tuning at its own. Of "
        "full fine-tuning's change the adapted layers and the head are kept, the rest is dropped.",
    )


def figure1(preset: Preset, tune: Tune) -> Table:
    """Plain LoRA by rank."""
    study, run = preset.study, base(preset)
    assert study is not None
    runs = {f"LoRA, rank {r}": replace(run, method="lora", initial_rank=r, target_rank=r) for r in study.figure1_ranks}
    runs[FULL] = replace(run, method="full")
    rows = [Row(label, {study.tasks[0]: _seeds(study.ablation_seeds, tune(r))}) for label, r in runs.items()]
    top = f"LoRA, rank {max(study.figure1_ranks)}"
    compare = tuple((label, top) for label in runs if label != top)
    return Table("figure1", "Figure 1: plain LoRA by rank, every rank at its own learning rate", tuple(rows), compare)


def figure3(preset: Preset, tune: Tune) -> Table:
    """Target rank against initial rank and rule."""
    study, run = preset.study, _ablation(preset, tune)
    assert study is not None
    seeds = study.ablation_seeds
    columns = {f"rank {k}": k for k in study.figure3_targets}
    rows = [
        Row(
            LORA,
            {c: _seeds(seeds, replace(run, method="lora", initial_rank=k, target_rank=k)) for c, k in columns.items()},
        )
    ]
    for rank in sorted({study.target_rank, *study.initial_ranks} - {min(columns.values())}):
        for criterion in ("sparsegpt2023", "llmpruner2023", "prunedlora2025"):
            shared = replace(run, method="prune", criterion=criterion, initial_rank=rank)
            runs = {c: _seeds(seeds, replace(shared, target_rank=k)) for c, k in columns.items() if k < rank}
            rows.append(Row(f"{PAPER_NAMES[criterion]}, from {rank}", runs))
    title = "Figure 3: pruned from several initial ranks to several target ranks"
    return Table("figure3", title, tuple(rows), note=f"{ONE_RATE}.")


def when_to_prune(preset: Preset, tune: Tune) -> Table:
    """The same number of steps, pruned early, late, once with a tail of recovery, or at the end."""
    study, run = preset.study, _ablation(preset, tune)
    assert study is not None
    seeds = study.ablation_seeds
    top, k, steps = max(study.initial_ranks), study.target_rank, run.steps
    events = -(-(top - k) // run.per_event)
    late = steps - max(1, steps // 10) - events * run.interval
    columns = {
        c: replace(run, method="prune", criterion=c, initial_rank=top, target_rank=k) for c in study.when_criteria
    }

    def cells(change: Callable[[RunConfig], RunConfig]) -> dict[str, tuple[RunConfig, ...]]:
        return {name: _seeds(seeds, change(r)) for name, r in columns.items()}

    rows = [Row("gradual, early", cells(unchanged))]
    if late > run.warmup_steps:
        rows.append(Row("gradual, late", cells(lambda r: replace(r, warmup_steps=late))))
    for tail in study.tails:
        rows.append(
            Row(
                f"once, then {tail:.0%} of the steps",
                cells(partial(pruned_once, tail=tail)),
            )
        )
    rows.append(Row("once, after the last step", cells(lambda r: replace(r, method="truncate"))))
    rows += [Row(f"gradual, early, moments: {m}", cells(partial(_with_moments, moments=m))) for m in ("keep", "reset")]
    rows.append(
        Row(
            SKYLINE, {c: _seeds(seeds, replace(run, method="lora", initial_rank=top, target_rank=top)) for c in columns}
        )
    )
    return Table(
        "when_to_prune",
        f"When to prune: {top} to {k}, {steps} steps in all",
        tuple(rows),
        tuple((row.label, "once, after the last step") for row in rows if row.label != "once, after the last step"),
        "Gradual: one event every K1 steps. Moments: what becomes of Adam's at an event; carried into the new basis "
        f"where not said otherwise, which for component rules is the same as kept. {ONE_RATE}.",
    )


TABLES: dict[str, Callable[[Preset, Tune], Table]] = {
    f.__name__: f for f in (table3, table4, table6, table7, figure1, figure3, when_to_prune)
}


def tuning(preset: Preset) -> Tuning:
    """Learning rates are chosen on the first task."""
    study = preset.study
    assert study is not None
    return Tuning(study.learning_rates, study.seeds, study.tasks[0])


def gated(preset: Preset, tune: Tune) -> tuple[list[RunConfig], float]:
    """The untuned model, the unpruned adapter, and the points of accuracy that must lie between them."""
    study, run = preset.study, base(preset)
    assert study is not None
    run, top = replace(run, task=study.tasks[0], seed=study.seeds[0]), max(study.initial_ranks)
    skyline = tune(replace(run, method="lora", initial_rank=top, target_rank=top))
    return [replace(run, method="untuned"), skyline], study.least_gain


def heading(preset: Preset) -> str:
    """The setting, in a sentence."""
    assert preset.study is not None
    run, study = base(preset), preset.study
    rates = ", ".join(f"{lr:g}" for lr in study.learning_rates)
    return (
        f"Preset {preset.name}: {run.model}, adapters on {', '.join(run.target_modules)}, {run.steps} steps of "
        f"{run.batch_size} examples, learning rates chosen from {rates} on "
        f"{run.validation_examples} validation examples."
    )


def _with_moments(run: RunConfig, moments: str) -> RunConfig:
    return replace(run, moments=moments)


def _seeds(seeds: tuple[int, ...], run: RunConfig) -> tuple[RunConfig, ...]:
    return tuple(replace(run, seed=seed) for seed in seeds)


def _ablation(preset: Preset, tune: Tune) -> RunConfig:
    """The shared settings at one learning rate, for tables in which one other thing varies.

    The rate is that of the paper's rule from the least initial rank, the paper's default, so that no other rule is
    favoured.
    """
    study, run = preset.study, base(preset)
    assert study is not None
    ours = replace(run, method="prune", criterion="prunedlora2025", initial_rank=min(study.initial_ranks))
    return replace(run, learning_rate=tune(replace(ours, target_rank=study.target_rank)).learning_rate)
