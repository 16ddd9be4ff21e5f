"""The paper's own task: MetaMathQA for training, GSM8K's test split for accuracy; needs the hub."""

import itertools
import random
from collections.abc import Iterable
from typing import Any

from experiments.tasks.base import Example, Harness, Task
from experiments.tasks.hub import load_rows
from experiments.tasks.math import number_after_hashes

#: Data sets on the hub, as ``name@revision``.
METAMATH = "meta-math/MetaMathQA@aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18"
GSM8K = "openai/gsm8k@e53f048856ff4f594e959d75785d2c2d37b678ee"
#: First so many rows of the training data, kept for validation.
VALIDATION = 1_000


def _prompt(question: str) -> str:
    return f"Question: {question.strip()}\nAnswer:"


def _test(n: int) -> list[Example]:
    rows = itertools.islice(load_rows(GSM8K, "test", "main"), n)
    return [
        Example(_prompt(r["question"]), f" {r['answer']}", number_after_hashes(r["answer"]))
        for r in rows
    ]


def _metamath(rows: Any, chosen: Iterable[int]) -> list[Example]:
    examples = []
    for row in (rows[i] for i in chosen):
        solution, _, answer = row["response"].rpartition("The answer is:")
        target = f" {solution.strip()}\n#### {answer.strip()}"
        examples.append(Example(_prompt(row["query"]), target, answer.strip()))
    return examples


def _validation(n: int) -> list[Example]:
    return _metamath(load_rows(METAMATH, "train"), range(min(n, VALIDATION)))


def _train(n: int, seed: int) -> list[Example]:
    rows = load_rows(METAMATH, "train")
    kept_out = {e.prompt for e in _validation(VALIDATION)}
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    fresh = (i for i in order if _prompt(rows[i]["query"]) not in kept_out)
    return _metamath(rows, itertools.islice(fresh, n))


#: Training answers end in "#### number", which is what this filter reads.
LM_EVAL_GSM8K = Harness(
    "gsm8k/gsm8k.yaml",
    {"dataset_kwargs": {"revision": GSM8K.partition("@")[2]}},
    "strict-match",
    "exact_match",
    lambda document: _prompt(document["question"]),
)
METAMATH_GSM8K = Task(
    "metamath_gsm8k",
    _test,
    _validation,
    _train,
    number_after_hashes,
    max_new_tokens=512,
    harness=LM_EVAL_GSM8K,
)
