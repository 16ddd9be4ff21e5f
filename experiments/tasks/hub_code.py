"""Code as the first version of the paper had it: Code-Feedback for training, HumanEval for testing; needs the hub."""

import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

from experiments.tasks.base import Example, Task
from experiments.tasks.code import problems
from experiments.tasks.hub import load_rows
from experiments.tasks.sandbox import passes

#: A data set on the hub, as ``name@revision``.
CODE_FEEDBACK = "m-a-p/Code-Feedback@f411b16a97c910ac9acf8b0d0948e340aa77cc34"
#: First so many usable rows of the training data, kept for validation.
VALIDATION = 1_000
PYTHON_BLOCK = re.compile(r"```(?:python|py)\s*\n(.*?)(?:```|\Z)", re.DOTALL)
ANY_BLOCK = re.compile(r"```\w*\s*\n(.*?)(?:```|\Z)", re.DOTALL)


def _prompt(question: str) -> str:
    return f"Question: {question.strip()}\nAnswer:"


def _problem(problem: dict[str, Any]) -> Example:
    code = problem["prompt"]
    question = f"Complete this Python function. Answer with all of it in one block.\n```python\n{code.rstrip()}\n```"
    answer = f" ```python\n{code}{problem['canonical_solution'].rstrip()}\n```"
    tests = f"{problem['test']}\n\ncheck({problem['entry_point']})\n"
    return Example(_prompt(question), answer, tests, code)


def first_exchange(row: dict[str, Any]) -> Example | None:
    """The first question of a conversation and its answer; None if there is no Python in it, or a tested function."""
    said = [(m["role"], m["content"]) for m in row["messages"][:2]]
    if [role for role, _ in said] != ["user", "assistant"]:
        return None
    (_, question), (_, answer) = said
    if not PYTHON_BLOCK.search(answer) or _tested().search(question + answer):
        return None
    return Example(_prompt(question), f" {answer.strip()}", "")


def _tested() -> re.Pattern[str]:
    """Matches the definition of a function that HumanEval asks for."""
    names = "|".join(re.escape(p["entry_point"]) for p in problems())
    return re.compile(rf"def\s+(?:{names})\s*\(")


def _usable(rows: Any, chosen: Iterator[int] | range) -> Iterator[Example]:
    """Examples of rows, each question once."""
    seen: set[str] = set()
    for i in chosen:
        example = first_exchange(rows[i])
        if example is not None and example.prompt not in seen:
            seen.add(example.prompt)
            yield example


def _validation(n: int) -> list[Example]:
    rows = load_rows(CODE_FEEDBACK, "train")
    return list(itertools.islice(_usable(rows, range(len(rows))), min(n, VALIDATION)))


def _train(n: int, seed: int) -> list[Example]:
    rows = load_rows(CODE_FEEDBACK, "train")
    kept_out = {e.prompt for e in _validation(VALIDATION)}
    order = iter(random.Random(seed).sample(range(len(rows)), len(rows)))
    return list(itertools.islice((e for e in _usable(rows, order) if e.prompt not in kept_out), n))


def code_in(text: str) -> str:
    r"""The first block of Python in an answer, else the first block, else all of it.

    >>> code_in("Here:\n```python\nx = 1\n```\nDone.")
    'x = 1\n'
    """
    block = PYTHON_BLOCK.search(text) or ANY_BLOCK.search(text)
    return block.group(1) if block else text


def _solves(code: str, example: Example) -> bool:
    """Whether an answer passes the tests of its problem, after the problem's own imports and helpers."""
    return bool(example.answer) and passes(f"{example.text}    pass\n\n{code}\n\n{example.answer}")


HUB_CODE = Task(
    "code_feedback",
    lambda n: [_problem(p) for p in problems()[:n]],
    _validation,
    _train,
    code_in,
    max_new_tokens=512,
    judge=_solves,
)
