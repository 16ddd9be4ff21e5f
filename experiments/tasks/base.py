"""What a task is."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """A prompt, the text to be produced after it, and the short answer that counts.

    Of a classification task also the input alone, which is what an encoder reads; its answer is the label.
    """

    prompt: str
    target: str
    answer: str
    text: str = ""


def fingerprint(examples: Iterable[Example]) -> str:
    """A short hash of examples in their order, which every result holds for the splits that it used.

    >>> one, other = Example("1 + 1 =", " 2", "2"), Example("1 + 1 =", " 3", "3")
    >>> fingerprint([one]) == fingerprint([one]) != fingerprint([other])
    True
    """
    parts = (part for e in examples for part in (e.prompt, e.target, e.answer))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Harness:
    """A task of lm-eval that judges the answers to a test split.

    Attributes:
        file: that defines it, within lm-eval's folder of tasks.
        changes: what is different here, such as the revision of the data.
        filter: of its filters, the one that reads the answer.
        metric: of its metrics, the one that is 1 for a right answer.
        prompt: our prompt of one of its documents.
    """

    file: str
    changes: dict[str, Any]
    filter: str
    metric: str
    prompt: Callable[[dict[str, Any]], str]


@dataclass(frozen=True)
class PlantedChange:
    """What a teacher adds to every adapted layer of the base model.

    Attributes:
        rank: R of the change.
        decay: its j-th singular value is in proportion to j to the power of minus this; 0 for equal ones.
        size: its norm relative to that of the layer's weight.
        seed: of its singular vectors.
    """

    rank: int
    decay: float
    size: float
    seed: int


@dataclass(frozen=True)
class Task:
    """A task with disjoint splits.

    Attributes:
        name: its name in a configuration.
        test: ``n -> examples`` of the test split, always the same; at most as many as it has.
        validation: ``n -> examples`` of the validation split, likewise.
        train: ``(n, seed) -> examples`` of the training split; none has a prompt of the other splits.
        read_answer: the answer that a generated text gives, or an empty string.
        max_new_tokens: tokens that a generation may take.
        labels: the possible answers of a classification task; empty where answers are free text.
        judge: whether what `read_answer` gives is right, where that takes more than a comparison.
        harness: judges the test split in place of all that, where there is one.
        planted: what the teacher adds whose hidden states are to be matched; examples have a text alone then.
    """

    name: str
    test: Callable[[int], list[Example]]
    validation: Callable[[int], list[Example]]
    train: Callable[[int, int], list[Example]]
    read_answer: Callable[[str], str]
    max_new_tokens: int
    labels: tuple[str, ...] = ()
    judge: Callable[[str, Example], bool] | None = None
    harness: Harness | None = None
    planted: PlantedChange | None = None
