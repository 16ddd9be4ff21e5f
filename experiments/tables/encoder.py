"""Tables 3, 4, 6 and 7, Figures 1 and 3 of the paper on an encoder, with the baselines it left out; and when to prune.

Each function returns a table of runs.  Where a run appears in several, it is done once.
"""

from collections.abc import Callable
from dataclasses import replace
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
)
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Encoder
from experiments.tables.rows import CONT_SQUEEZE, CONT_SQUEEZE_TAIL, SQUEEZE_NOTE, pruned_once
from experiments.tables.study import Gate
from experiments.tables.tuning import Tune, unchanged

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
ONE_RATE = (
    f"All rows are trained at the learning rate that is best for {OURS} from the least initial rank"
)
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


def _over_tasks(
    settings: Encoder, run: RunConfig, label: str, tune: Tune, paper: str = "", **changes: Any
) -> Row:
    chosen = tune(replace(run, **changes))
    cells = {
        task: _seeds(
            settings.seeds if task == settings.tasks[0] else settings.ablation_seeds,
            replace(chosen, task=task),
        )
        for task in settings.tasks
    }
    return Row(label, cells, paper)


def table3(settings: Encoder, tune: Tune) -> Table:
    """Language understanding, all tasks."""
    run = settings.run
    k, top = settings.target_rank, max(settings.initial_ranks)

    def row(label: str, **changes: Any) -> Row:
        return _over_tasks(settings, run, label, tune, PAPER_3.get(label, ""), **changes)

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
    rows.append(_over_tasks(settings, pruned_once(start, CONT_SQUEEZE_TAIL), CONT_SQUEEZE, tune))
    rows.append(
        row(PRUNED.format("svd"), method="prune", criterion="svd", initial_rank=top, target_rank=k)
    )
    rows += [
        row(PAPER_NAMES[c], method="prune", criterion=c, initial_rank=top, target_rank=k)
        for c in ("sparsegpt2023", "llmpruner2023")
    ]
    papers = dict(zip(sorted(settings.initial_ranks), ("83.88", "85.52", "87.59"), strict=False))
    rows += [
        replace(
            row(
                f"{OURS}, from {r}",
                method="prune",
                criterion="prunedlora2025",
                initial_rank=r,
                target_rank=k,
            ),
            paper=papers[r],
        )
        for r in sorted(settings.initial_ranks)
    ]
    own = f"{OURS}, from {top}"
    rivals = (
        LORA,
        "SparseGPT",
        "LLM-Pruner",
        SKYLINE,
        CUT.format("svd"),
        CONT_SQUEEZE,
        PRUNED.format("svd"),
    )
    return Table(
        "table3",
        f"Table 3: language understanding, rank {k}",
        tuple(rows),
        (
            *((own, rival) for rival in rivals),
            (LORA, SKYLINE),
            *(
                (PRUNED.format("svd"), rival)
                for rival in (LORA, SKYLINE, CUT.format("svd"), "SparseGPT")
            ),
            (CONT_SQUEEZE, CUT.format("svd")),
            (CUT.format("svd_fisher"), CUT.format("svd")),
        ),
        f"Paper: average accuracy of T5-base over five GLUE tasks, another model and other data. {SQUEEZE_NOTE}",
    )


def table4(settings: Encoder, tune: Tune) -> Table:
    """Initial rank against scaling."""
    run = _ablation(settings, tune)
    seeds = settings.ablation_seeds
    papers = ("67.81 / 69.21 / 69.11", "70.12 / 70.38 / 70.43", "69.31 / 72.12 / 73.38")
    rows = []
    for rank, paper in zip(sorted(settings.initial_ranks), papers, strict=False):
        pruned = replace(
            run,
            method="prune",
            criterion="prunedlora2025",
            initial_rank=rank,
            target_rank=settings.target_rank,
        )
        cells = [(f"s = {s:g}", replace(pruned, scaling=s)) for s in (0.5, 1.0, 2.0)]
        rows.append(Row(f"from rank {rank}", {name: _seeds(seeds, r) for name, r in cells}, paper))
    return Table(
        "table4",
        "Table 4: initial rank and scaling",
        tuple(rows),
        note=f"Paper: Llama-3-8B on GSM8K. {ONE_RATE}.",
    )


def table6(settings: Encoder, tune: Tune) -> Table:
    """The schedule of events."""
    run = _ablation(settings, tune)
    papers = {(5, 2): "69.01", (5, 4): "68.78", (10, 2): "69.21", (10, 4): "69.11"}
    pruned = replace(
        run,
        method="prune",
        criterion="prunedlora2025",
        initial_rank=settings.schedule_rank,
        target_rank=settings.target_rank,
    )
    rows = [
        Row(
            f"K1 = {k1}, K2 = {k2}",
            {
                settings.tasks[0]: _seeds(
                    settings.ablation_seeds,
                    replace(pruned, interval=k1, per_event=k2),
                )
            },
            papers.get((k1, k2), ""),
        )
        for k1, k2 in settings.schedules
    ]
    title = (
        f"Table 6: events every K1 steps, K2 components each, from rank {settings.schedule_rank}"
    )
    return Table(
        "table6", title, tuple(rows), note=f"Paper: Llama-3-8B on GSM8K, 128 to 64. {ONE_RATE}."
    )


def table7(settings: Encoder, tune: Tune) -> Table:
    """One-shot against dynamic pruning, every rule."""
    run = _ablation(settings, tune)
    seeds = settings.seeds
    top, k = max(settings.initial_ranks), settings.target_rank

    def cells(criterion: str, dynamic: bool = True) -> dict[str, tuple[RunConfig, ...]]:
        shared = replace(run, criterion=criterion, initial_rank=top, target_rank=k)
        found = {"one-shot": _seeds(seeds, replace(shared, method="truncate"))}
        return found | (
            {"dynamic": _seeds(seeds, replace(shared, method="prune"))} if dynamic else {}
        )

    rows = [Row("random", cells("random"))]
    rows += [Row(name, cells(c), PAPER_7[name]) for c, name in PAPER_NAMES.items()]
    full = _seeds(seeds, tune(replace(run, method="truncate_full", target_rank=k)))
    label = "SVD of full fine-tuning's change"
    rows.append(Row(label, {"one-shot": full}, PAPER_7[label]))
    names = {
        "adalora2023": "AdaLoRA's score",
        "svd": "svd (LoRA-Squeeze)",
        "para2026": "para2026 (PARA)",
    }
    rows += [
        Row(names.get(c, c), cells(c))
        for c in ("adalora2023", "kfac", "svd", "para2026", "svd_kfac")
    ]
    rows.append(Row("svd_fisher", cells("svd_fisher", dynamic=False)))
    for c in ("prunedlora2025", "kfac"):
        shared = replace(
            run, method="prune", criterion=c, scope="global", initial_rank=top, target_rank=k
        )
        rows.append(
            Row(
                f"{PAPER_NAMES.get(c, c)}, one budget for all modules",
                {"dynamic": _seeds(seeds, shared)},
            )
        )
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


def figure1(settings: Encoder, tune: Tune) -> Table:
    """Plain LoRA by rank."""
    run = settings.run
    runs = {
        f"LoRA, rank {r}": replace(run, method="lora", initial_rank=r, target_rank=r)
        for r in settings.figure1_ranks
    }
    runs[FULL] = replace(run, method="full")
    rows = [
        Row(label, {settings.tasks[0]: _seeds(settings.ablation_seeds, tune(r))})
        for label, r in runs.items()
    ]
    top = f"LoRA, rank {max(settings.figure1_ranks)}"
    compare = tuple((label, top) for label in runs if label != top)
    return Table(
        "figure1",
        "Figure 1: plain LoRA by rank, every rank at its own learning rate",
        tuple(rows),
        compare,
    )


def figure3(settings: Encoder, tune: Tune) -> Table:
    """Target rank against initial rank and rule."""
    run = _ablation(settings, tune)
    seeds = settings.ablation_seeds
    columns = {f"rank {k}": k for k in settings.figure3_targets}
    rows = [
        Row(
            LORA,
            {
                c: _seeds(seeds, replace(run, method="lora", initial_rank=k, target_rank=k))
                for c, k in columns.items()
            },
        )
    ]
    for rank in sorted({settings.target_rank, *settings.initial_ranks} - {min(columns.values())}):
        for criterion in ("sparsegpt2023", "llmpruner2023", "prunedlora2025"):
            shared = replace(run, method="prune", criterion=criterion, initial_rank=rank)
            runs = {
                c: _seeds(seeds, replace(shared, target_rank=k))
                for c, k in columns.items()
                if k < rank
            }
            rows.append(Row(f"{PAPER_NAMES[criterion]}, from {rank}", runs))
    title = "Figure 3: pruned from several initial ranks to several target ranks"
    return Table("figure3", title, tuple(rows), note=f"{ONE_RATE}.")


def when_to_prune(settings: Encoder, tune: Tune) -> Table:
    """The same number of steps, pruned early, late, once with a tail of recovery, or at the end."""
    run = _ablation(settings, tune)
    seeds = settings.ablation_seeds
    top, k, steps = max(settings.initial_ranks), settings.target_rank, run.steps
    events = -(-(top - k) // run.per_event)
    late = steps - max(1, steps // 10) - events * run.interval
    columns = {
        c: replace(run, method="prune", criterion=c, initial_rank=top, target_rank=k)
        for c in settings.when_criteria
    }

    def cells(change: Callable[[RunConfig], RunConfig]) -> dict[str, tuple[RunConfig, ...]]:
        return {name: _seeds(seeds, change(r)) for name, r in columns.items()}

    rows = [Row("gradual, early", cells(unchanged))]
    if late > run.warmup_steps:
        rows.append(Row("gradual, late", cells(lambda r: replace(r, warmup_steps=late))))
    for tail in settings.tails:
        rows.append(
            Row(
                f"once, then {tail:.0%} of the steps",
                cells(partial(pruned_once, tail=tail)),
            )
        )
    rows.append(Row("once, after the last step", cells(lambda r: replace(r, method="truncate"))))
    rows += [
        Row(f"gradual, early, moments: {m}", cells(partial(_with_moments, moments=m)))
        for m in ("keep", "reset")
    ]
    rows.append(
        Row(
            SKYLINE,
            {
                c: _seeds(seeds, replace(run, method="lora", initial_rank=top, target_rank=top))
                for c in columns
            },
        )
    )
    return Table(
        "when_to_prune",
        f"When to prune: {top} to {k}, {steps} steps in all",
        tuple(rows),
        tuple(
            (row.label, "once, after the last step")
            for row in rows
            if row.label != "once, after the last step"
        ),
        "Gradual: one event every K1 steps. Moments: what becomes of Adam's at an event; carried into the new basis "
        f"where not said otherwise, which for component rules is the same as kept. {ONE_RATE}.",
    )


def gate(settings: Encoder, tune: Tune) -> Gate:
    """At the largest initial rank, on the first task and seed."""
    run = replace(settings.run, task=settings.tasks[0], seed=settings.seeds[0])
    top = max(settings.initial_ranks)
    unpruned = tune(replace(run, method="lora", initial_rank=top, target_rank=top))
    return Gate(replace(run, method="untuned"), unpruned, settings.least_gain)


def heading(preset: str, settings: Encoder) -> str:
    """The setting, in a sentence."""
    run = settings.run
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    return (
        f"Preset {preset}: {run.model}, adapters on {', '.join(run.target_modules)}, {run.steps} steps of "
        f"{run.batch_size} examples, learning rates chosen from {rates} on "
        f"{run.validation_examples} validation examples."
    )


def _with_moments(run: RunConfig, moments: str) -> RunConfig:
    return replace(run, moments=moments)


def _seeds(seeds: tuple[int, ...], run: RunConfig) -> tuple[RunConfig, ...]:
    return tuple(replace(run, seed=seed) for seed in seeds)


def _ablation(settings: Encoder, tune: Tune) -> RunConfig:
    """The shared settings at one learning rate, for tables in which one other thing varies.

    The rate is that of the paper's rule from the least initial rank, the paper's default, so that no other rule is
    favoured.
    """
    run = settings.run
    ours = replace(
        run, method="prune", criterion="prunedlora2025", initial_rank=min(settings.initial_ranks)
    )
    return replace(
        run, learning_rate=tune(replace(ours, target_rank=settings.target_rank)).learning_rate
    )
