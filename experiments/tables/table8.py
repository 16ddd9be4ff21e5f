"""Table 8 as Markdown and CSV, with what it says in words."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.reporting.comparison import difference, mean_interval
from experiments.reporting.writing import write_csv
from experiments.settings.preset import Table8
from theory.records import write_atomically

LABELS = {
    "dense": "dense model",
    "random": "Random (ours)",
    "magnitude": "Magnitude",
    "sparsegpt": "SparseGPT",
    "wanda": "Wanda",
    "gradient": "Gradient",
    "gradient_squared": "Gradient, squared (ours)",
}
#: What the paper prints for LLaMA-7B on WikiText.
PAPER = {
    "dense": {"dense": 5.88},
    "magnitude": {"50%": 17.29, "4:8": 16.43, "2:4": 42.13},
    "sparsegpt": {"50%": 7.22, "4:8": 8.61, "2:4": 11.23},
    "wanda": {"50%": 7.26, "4:8": 8.57, "2:4": 11.53},
    "gradient": {"50%": 7.02, "4:8": 8.23, "2:4": 11.53},
}
#: Rows that are compared, the first with the second.
COMPARED = (
    ("gradient", "wanda"),
    ("gradient", "sparsegpt"),
    ("gradient", "magnitude"),
    ("gradient_squared", "gradient"),
    ("wanda", "sparsegpt"),
)
NOTE = (
    "Perplexity on the test sequences [95 % interval: bootstrap over sequences], ± its standard deviation over seeds "
    "where there are several, which draw the calibration sequences; *paper*: LLaMA-7B on WikiText, another model, "
    "another text and more calibration, so that only the order can be compared. SparseGPT and Wanda "
    "see inputs that have passed through the pruned layers before, Gradient the gradients of the dense model, one for "
    "each batch. Gradient is the score that the paper prints, |W| / diag((Ĥ + λI)⁻¹), without an update; squared is "
    "W² / diag((Ĥ + λI)⁻¹), the cost of a removal in the same quadratic model."
)

#: Losses by (method, pattern), of each test sequence for each seed.
Losses = dict[tuple[str, str], Float[np.ndarray, "seeds sequences"]]


def gate(settings: Table8, dense: dict[str, Any]) -> None:
    """Stop if the dense model is not a language model of this text.

    Raises:
        SystemExit: its perplexity is not finite, or above the preset's bound.
    """
    perplexity = float(dense["rows"][0]["perplexity"])
    if not (math.isfinite(perplexity) and perplexity <= settings.max_perplexity):
        raise SystemExit(
            f"table8: the dense model has perplexity {perplexity:g}, not at most "
            f"{settings.max_perplexity:g}: compressing it would say nothing; look at the model and "
            "the text, or raise max_perplexity in the preset"
        )


def write(
    preset: str,
    settings: Table8,
    dense: dict[str, Any],
    rows: dict[str, list[dict[str, Any]]],
    folder: Path,
) -> list[Path]:
    """The table and its text; the numbers of the cells as CSV.

    Args:
        preset: name of the preset whose table it is.
        settings: of the table.
        dense: result of the dense model.
        rows: results of each method, one for each seed.
        folder: where the files go.
    """
    run = settings.run
    losses = collect({"dense": [dense], **rows})
    files = [folder / "table8.md", folder / "table8.csv"]
    title = (
        f"# Table 8, preset {preset}: {run.model} compressed in one shot\n\n"
        f"Text: {dense['text']}. {run.sequences} calibration sequences of {run.length} tokens, batches of "
        f"{run.batch_size}; {run.test_sequences} test sequences ({dense['tokens']} predicted tokens) of other "
        f"documents; all {dense['layers']} linear layers but embedding and head; λ = {run.damping:g} of the mean "
        f"diagonal; {len(settings.seeds)} seed{'s' * (len(settings.seeds) > 1)}. SHA-256 of the documents: "
        f"calibration {dense['sha256']['calibration'][:16]}…, test {dense['sha256']['test'][:16]}…."
    )
    markdown = frame(losses, run.patterns).to_markdown(index=False, disable_numparse=True)
    said = "\n\n".join(sentences(losses, run.patterns))
    write_atomically(files[0], f"{title}\n\n{markdown}\n\n{NOTE}\n\n## What was found\n\n{said}\n")
    write_csv(files[1], plain(losses))
    return files


def collect(results: dict[str, list[dict[str, Any]]]) -> Losses:
    """Losses of the test sequences by method and pattern, from results of each seed."""
    losses = {}
    for method, seeds in results.items():
        for i, row in enumerate(seeds[0]["rows"]):
            of_seeds = [result["rows"][i]["losses"] for result in seeds]
            losses[method, row["pattern"]] = np.array(of_seeds, dtype=float)
    return losses


def frame(losses: Losses, patterns: tuple[str, ...]) -> pd.DataFrame:
    """One line per method, one column per pattern, the paper's number beside ours."""
    lines = []
    for method in dict.fromkeys(method for method, _ in losses):
        line = {"method": LABELS[method]}
        for pattern in patterns:
            column = "dense" if method == "dense" else pattern
            line[pattern] = _written(losses[method, column])
            line[f"{pattern}, paper"] = str(PAPER.get(method, {}).get(column, ""))
        lines.append(line)
    return pd.DataFrame(lines)


def plain(losses: Losses) -> pd.DataFrame:
    """One line per cell."""
    lines = []
    for (method, pattern), own in losses.items():
        low, high = np.exp(mean_interval(own.mean(axis=0)))
        lines.append(
            {
                "method": method,
                "pattern": pattern,
                "perplexity": _perplexity(own),
                "low": low,
                "high": high,
                "spread": _spread(own),
                "seeds": len(own),
                "sequences": own.shape[1],
                "paper_llama_7b": PAPER.get(method, {}).get(pattern),
            }
        )
    return pd.DataFrame(lines)


def sentences(losses: Losses, patterns: tuple[str, ...]) -> list[str]:
    """What the numbers say."""
    text = []
    for pattern in patterns:
        ranked = sorted(
            (_perplexity(own), method)
            for (method, where), own in losses.items()
            if where == pattern
        )
        order = ", ".join(f"{LABELS[method]} {_number(value)}" for value, method in ranked)
        printed = sorted((row[pattern], method) for method, row in PAPER.items() if pattern in row)
        theirs = ", ".join(f"{LABELS[method]} {value:g}" for value, method in printed)
        text.append(f"{pattern}: {order}." + (f" In the paper: {theirs}." if printed else ""))
        text += [
            _compare(one, other, losses, pattern)
            for one, other in COMPARED
            if {(one, pattern), (other, pattern)} <= set(losses)
        ]
    return [*text, *_verdict(losses, patterns)]


def _compare(one: str, other: str, losses: Losses, pattern: str) -> str:
    """One method against another: a difference of losses is a ratio of perplexities."""
    change = difference(losses[one, pattern], losses[other, pattern])
    seeds = f"; {change.agree} of {change.seeds} seeds" if change.seeds > 1 else ""
    verdict = {-1: "lower than", 0: "not distinguishable from", 1: "higher than"}[change.sign]
    ratio, *ends = (math.exp(x) for x in (change.mean, change.low, change.high))
    return (
        f"{pattern}: the perplexity of {LABELS[one]} is {verdict} that of {LABELS[other]}: {_number(ratio)} times, "
        f"paired 95 % interval {_number(ends[0])} to {_number(ends[1])}{seeds}."
    )


def _verdict(losses: Losses, patterns: tuple[str, ...]) -> list[str]:
    """Whether the paper's claim holds here."""
    rivals = ("wanda", "sparsegpt")
    asked = [p for p in patterns if all((method, p) in losses for method in ("gradient", *rivals))]
    if not asked:
        return []

    def is_ahead(pattern: str) -> bool:
        own = losses["gradient", pattern]
        return all(difference(own, losses[rival, pattern]).sign < 0 for rival in rivals)

    ahead = [pattern for pattern in asked if is_ahead(pattern)]
    return [
        "The paper's Gradient is ahead of both Wanda and SparseGPT, by intervals that exclude equality and in every "
        f"seed, in {len(ahead)} of {len(asked)} patterns{' (' + ', '.join(ahead) + ')' if ahead else ''}."
    ]


def _perplexity(losses: np.ndarray) -> float:
    """Over all seeds."""
    return float(np.exp(losses.mean()))


def _spread(losses: np.ndarray) -> float:
    """Standard deviation of the perplexity over seeds; nan for one."""
    return float(np.exp(losses.mean(axis=1)).std(ddof=1)) if len(losses) > 1 else math.nan


def _written(losses: np.ndarray) -> str:
    low, high = np.exp(mean_interval(losses.mean(axis=0)))
    spread = f" ± {_number(_spread(losses))}" if len(losses) > 1 else ""
    return f"{_number(_perplexity(losses))} [{_number(low)}, {_number(high)}]{spread}"


def _number(value: float) -> str:
    """Three digits, but no fewer than a whole number has."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
