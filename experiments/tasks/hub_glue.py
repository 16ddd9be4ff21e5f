"""Language understanding as in the paper: five tasks of GLUE (Wang et al., arXiv:1804.07461); needs the hub.

GLUE keeps the labels of its test splits, so its validation splits are tested on, as everywhere; our validation split is
taken out of its training split.  The input is written as T5's authors did (Raffel et al., arXiv:1910.10683).
"""

import random
from collections.abc import Iterable
from typing import Any

from experiments.tasks.base import Example, Task
from experiments.tasks.hub import load_rows

#: Data set on the hub, as ``name@revision``.
GLUE_ROWS = "nyu-mll/glue@bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
#: The last so many rows of the training split are kept for validation, but no larger a share of it.
VALIDATION = 1_000
LARGEST_SHARE = 0.2


def _task(
    name: str, fields: tuple[str, ...], labels: tuple[str, ...], tested: str = "validation"
) -> Task:
    def example(row: dict[str, Any]) -> Example:
        text = " ".join([name, *(f"{field}: {row[field].strip()}" for field in fields)])
        label = labels[row["label"]]
        return Example(f"{text}\nAnswer:", f" {label}", label, text=text)

    def examples(rows: Any, chosen: Iterable[int]) -> list[Example]:
        return [example(rows[i]) for i in chosen]

    def kept_out(rows: Any) -> int:
        return min(VALIDATION, round(LARGEST_SHARE * len(rows)))

    def test(n: int) -> list[Example]:
        rows = load_rows(GLUE_ROWS, tested, name)
        return examples(rows, range(min(n, len(rows))))

    def validation(n: int) -> list[Example]:
        rows = load_rows(GLUE_ROWS, "train", name)
        start = len(rows) - kept_out(rows)
        return examples(rows, range(start, min(start + n, len(rows))))

    def train(n: int, seed: int) -> list[Example]:
        rows = load_rows(GLUE_ROWS, "train", name)
        held = {e.prompt for e in (*test(10**9), *validation(VALIDATION))}
        order = random.Random(seed).sample(range(len(rows)), len(rows))
        usable: list[Example] = []
        for e in (example(rows[i]) for i in order):
            if e.prompt not in held:
                usable.append(e)
            if len(usable) == n:
                return usable
        # The split is too small: it is repeated.
        return [usable[i % len(usable)] for i in range(n)]

    return Task(
        f"glue_{name}",
        test,
        validation,
        train,
        lambda text: text.strip(),
        max_new_tokens=4,
        labels=labels,
    )


GLUE = (
    _task(
        "mnli",
        ("hypothesis", "premise"),
        ("entailment", "neutral", "contradiction"),
        "validation_matched",
    ),
    _task("sst2", ("sentence",), ("negative", "positive")),
    _task("cola", ("sentence",), ("unacceptable", "acceptable")),
    _task("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
    _task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
)
