"""Math from reasoning-gym: sums of two-digit numbers, and grade-school word problems with worked solutions."""

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

from experiments.tasks.base import Example, Task
from experiments.tasks.problems import problems

#: So many different problems are kept out of training for each split, however few are scored.
TEST = 1_600
VALIDATION = 400
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def _arithmetic(item: dict[str, Any]) -> Example:
    return Example(f"{item['metadata']['expression']} =", f" {item['answer']}", item["answer"])


def _gsm(item: dict[str, Any]) -> Example:
    solution = item["metadata"]["answer_cot"].strip()
    return Example(f"Question: {item['question']}\nAnswer:", f" {solution}", item["answer"])


def _task(
    name: str,
    dataset: str,
    options: dict[str, Any],
    read: Callable[[dict[str, Any]], Example],
    read_answer: Callable[[str], str],
    max_new_tokens: int,
) -> Task:
    @functools.cache
    def held_out() -> list[Example]:
        unique: dict[str, Example] = {}
        for example in map(read, problems(dataset, options, split=0)):
            unique.setdefault(example.prompt, example)
            if len(unique) == TEST + VALIDATION:
                break
        return list(unique.values())

    def test(n: int) -> list[Example]:
        return held_out()[: min(n, TEST)]

    def validation(n: int) -> list[Example]:
        return held_out()[TEST:][:n]

    def train(n: int, seed: int) -> list[Example]:
        kept_out = {example.prompt for example in held_out()}
        source = map(read, problems(dataset, options, split=seed + 1))
        return list(itertools.islice((e for e in source if e.prompt not in kept_out), n))

    return Task(name, test, validation, train, read_answer, max_new_tokens)


def first_number(text: str) -> str:
    r"""The first number in a text.

    >>> first_number(" -37\\n12")
    '-37'
    """
    match = NUMBER.search(text)
    return match.group() if match else ""


def number_after_hashes(text: str) -> str:
    r"""The number after ``####``, as worked solutions end; without it the last number.

    >>> number_after_hashes("3*4=12\\n#### 1,200"), number_after_hashes("it is 7.")
    ('1200', '7')
    """
    numbers = NUMBER.findall(text.rsplit("####", 1)[-1].replace(",", ""))
    return (numbers[0] if "####" in text else numbers[-1]) if numbers else ""


#: Data sets of reasoning-gym and their options.
DATASETS: dict[str, dict[str, Any]] = {
    "basic_arithmetic": {
        "max_terms": 2,
        "min_digits": 2,
        "max_digits": 2,
        "operators": ["+"],
        "allow_parentheses": False,
        "allow_negation": False,
    },
    "gsm_symbolic": {},
}
ARITHMETIC = _task(
    "arithmetic",
    "basic_arithmetic",
    DATASETS["basic_arithmetic"],
    _arithmetic,
    first_number,
    max_new_tokens=6,
)
GSM_SYMBOLIC = _task(
    "gsm_symbolic",
    "gsm_symbolic",
    DATASETS["gsm_symbolic"],
    _gsm,
    number_after_hashes,
    max_new_tokens=320,
)
