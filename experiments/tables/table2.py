"""Table 2 as a table: cost of a step relative to LoRA at the target rank, numbers trained, memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.reporting.table import Label, Results, Table
from experiments.reporting.writing import write_csv
from experiments.settings.jobs import Cost, RunConfig, changed
from experiments.settings.preset import Table2
from experiments.tables.labels import ADALORA, CONT_SQUEEZE, CORRECTED, DORA, FULL, LORA, from_rank
from theory.intervals import interval, ratio_of_means
from theory.records import write_atomically

#: Trainable share in % and hours of Table 2, Llama-3-8B on an H100.
PAPER = {FULL: "100, 4 h 23", LORA: "0.84, 2 h 28", DORA: "0.89, 2 h 34", ADALORA: "0.84, 2 h 41"}
#: The same of the paper's rule, from its three initial ranks.
PAPER_PRUNED = ("1.68 → 0.84, 2 h 33", "3.36 → 0.84, 2 h 46", "6.71 → 0.84, 3 h 21")

#: The column of the paper's numbers.
PRINTED = "paper: trained %, time"


def trained(table: Table) -> dict[Label, RunConfig]:
    """The runs of a table that train something, first seed, by what they are called here.

    A row that prunes once is left out: its steps cost what those of the initial and of the target rank do.  So is the
    corrected rule: it costs what the printed one does.
    """
    measured: dict[Label, RunConfig] = {}
    for row in table.rows:
        if row.label in (CONT_SQUEEZE, CORRECTED):
            continue
        for runs in row.cells.values():
            run = runs[0]
            if run.method in ("untuned", "truncate") or run in measured.values():
                continue
            # A row that is there for every initial rank says which one it is.
            many = run.method == "prune" or run.initial_rank > table_rank(table)
            measured[from_rank(row.label, run.initial_rank) if many else row.label] = run
    return measured


def table_rank(table: Table) -> int:
    """The target rank of the table: the least rank of any run that has one."""
    return min(run.target_rank for run in table.runs if run.target_rank)


def costs(settings: Table2, table: Table) -> dict[Label, Cost]:
    """What is measured, by the label of the row: each run of a table in the short form that the settings give."""
    short = {
        label: changed(run, settings.run, "table2: run") for label, run in trained(table).items()
    }
    return {label: Cost(run, short[LORA], settings.block) for label, run in short.items()}


def frame(table: Table, results: Results, measured: Mapping[Label, dict[str, Any]]) -> pd.DataFrame:
    """One line per row.

    Args:
        table: whose rows are measured.
        results: of its runs, by key.
        measured: by the label of the row, what `experiments.jobs.step_cost` and `experiments.jobs.peak_memory`
            measured.
    """
    runs = trained(table)
    pruned_from = sorted({run.initial_rank for run in runs.values() if run.method == "prune"})
    papers = dict(zip(pruned_from, PAPER_PRUNED, strict=False))
    lines = []
    for label, run in runs.items():
        paper = papers if run.criterion == "prunedlora2025" else {}
        printed = paper.get(run.initial_rank, PAPER.get(label, ""))
        lines.append(
            {"method": label, **_line(run, results[run.key], measured[label]), PRINTED: printed}
        )
    return pd.DataFrame(lines)


def _line(run: RunConfig, result: dict[str, Any], cost: dict[str, Any]) -> dict[str, str]:
    """What is printed of one run."""
    ratio, low, high = _ratio(cost)
    share = 100 * result["trainable_parameters"] / result["base_parameters"]
    line = {
        "trained %": f"{share:.3g}",
        "step, relative to LoRA": f"{ratio:.2f} [{low:.2f}, {high:.2f}]",
        "seconds of an event": "",
        "events, share of training": "",
        "adapter MB": "",
        "peak GiB": f"{cost['peak_memory_bytes'] / 2**30:.2f}",
    }
    if run.method == "prune":
        after = 100 * result["adapter_parameters"] / result["base_parameters"]
        line["trained %"] = f"{share:.3g} → {after:.3g}"
    if cost["events"]:
        event = float(np.mean([e["seconds"] for e in cost["events"]]))
        line["seconds of an event"] = f"{event:.2f}"
        line["events, share of training"] = f"{_share(event, len(result['events']), run, cost):.1%}"
    if "adapter_bytes" in result:
        line["adapter MB"] = f"{result['adapter_bytes'] / 1e6:.2f}"
    return line


def write(
    heading: str,
    table: Table,
    results: Results,
    measured: Mapping[Label, dict[str, Any]],
    folder: Path,
) -> list[Path]:
    """Markdown with the generated text, and CSV; `heading` is that of the study of the table."""
    lines = frame(table, results, measured)
    ratios = {label: _ratio(cost) for label, cost in measured.items()}
    slower = [label for label, (_, low, _) in ratios.items() if low > 1]
    dearest = max(ratios, key=lambda label: ratios[label][0])
    text = (
        f"{heading} A step is timed between events, in turn with one of LoRA at the target rank "
        "in the same process; 95 % bootstrap interval over pairs of blocks. Memory is the most that a "
        "process had in all that did nothing but train. Paper: Llama-3-8B on an H100.\n\n"
        f"{lines.to_markdown(index=False, disable_numparse=True)}\n\n"
        f"Slower than LoRA at the target rank, with the interval above 1: {', '.join(slower) or 'none'}. "
        f"The dearest step is that of {dearest}, {ratios[dearest][0]:.2f} times.\n"
    )
    files = [folder / "table2.md", folder / "table2.csv"]
    write_atomically(files[0], f"# Table 2: cost of training\n\n{text}")
    write_csv(files[1], lines)
    return files


def _ratio(cost: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds of the run's steps over those of the reference, with its interval; events are taken out."""
    run = np.array(cost["run"])
    reference = np.array(cost["reference"])
    for event in cost["events"]:
        if event["block"] >= 0:
            run[event["block"]] -= event["seconds"]
    return float(ratio_of_means(run, reference)), *interval(ratio_of_means, run, reference)


def _share(event: float, events: int, run: RunConfig, cost: dict[str, Any]) -> float:
    """Share of a whole run's time that its events take, at the speed of steps that was measured."""
    in_events = sum(e["seconds"] for e in cost["events"] if e["block"] >= 0)
    step = (sum(cost["run"]) - in_events) / (len(cost["run"]) * cost["block"])
    return events * event / (events * event + run.steps * step)
