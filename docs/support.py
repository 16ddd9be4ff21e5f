"""Which ways to train have been tried, read off the tests that try them.

A test says what it proves by ``@pytest.mark.supports(optimizer, wrapper, trainer, precision)``, where it trains that
way and what comes out is right, or with ``verdict="refused"``, where it is one clear error.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.folders import ROOT

VERDICTS = ("right", "refused")
#: Columns of the table.
COLUMNS = ("trainer", "wrapper", "optimizer", "precision")


@dataclass(frozen=True)
class Way:
    """A way to train.

    Attributes:
        optimizer: the optimiser.
        wrapper: what is around the model.
        trainer: whose loop it is.
        precision: of weights and passes.
    """

    optimizer: str
    wrapper: str
    trainer: str
    precision: str


#: What people ask for and no test does.
UNTESTED = (
    Way("AdamW", "fully_shard (FSDP2)", "accelerate", "float32"),
    Way("AdamW", "fully_shard (FSDP2)", "Trainer", "float32"),
    Way("AdamW", "none", "Unsloth", "bfloat16"),
)


@dataclass(frozen=True)
class Proof:
    """What a test says of a way to train.

    Attributes:
        way: the way.
        verdict: one of `VERDICTS`.
        file: of the test, from the root of the repository.
        test: its name.
    """

    way: Way
    verdict: str
    file: str
    test: str


def proofs(folder: Path = ROOT / "tests") -> list[Proof]:
    """What all tests of a folder say, in the order of their files.

    Raises:
        ValueError: a mark that is not understood; the message names the test.
    """
    found = []
    for file in sorted(folder.rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        if "mark.supports(" in text:
            found += list(_of_file(ast.parse(text), file.relative_to(folder.parent).as_posix()))
    return found


def _of_file(tree: ast.Module, file: str) -> Iterator[Proof]:
    for node in tree.body:
        for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.supports":
                assert isinstance(node, ast.FunctionDef)
                yield _of_mark(mark, file, node.name)


def _of_mark(mark: ast.Call, file: str, test: str) -> Proof:
    words = [ast.literal_eval(argument) for argument in mark.args]
    named = {str(word.arg): ast.literal_eval(word.value) for word in mark.keywords}
    verdict = named.pop("verdict", "right")
    if len(words) != len(COLUMNS) or named or verdict not in VERDICTS:
        raise ValueError(f"{file}::{test}: supports() takes four words and verdict, {VERDICTS}")
    return Proof(Way(*words), verdict, file, test)


def rows() -> list[dict[str, str]]:
    """A line for each way to train: what is known of it, and the files of the tests that say so."""
    known: dict[tuple[Way, str], list[str]] = {}
    for proof in proofs():
        files = known.setdefault((proof.way, proof.verdict), [])
        if proof.file not in files:
            files.append(proof.file)
    untested: dict[tuple[Way, str], list[str]] = {(way, "untested"): [] for way in UNTESTED}
    order = (*VERDICTS, "untested")
    every = sorted((known | untested).items(), key=lambda item: order.index(item[0][1]))
    return [
        {column: getattr(way, column) for column in COLUMNS}
        | {"state": verdict}
        | {"tests": ", ".join(f"[{Path(file).stem}]({file})" for file in files)}
        for (way, verdict), files in every
    ]
