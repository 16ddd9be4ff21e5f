"""What a task is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A prompt, the text to be produced after it, and the short answer that counts."""

    prompt: str
    target: str
    answer: str


@dataclass(frozen=True)
class Task:
    """A task with disjoint splits.

    Attributes:
        name: its name in a configuration.
        test: ``n -> examples`` of the test split, always the same.
        train: ``(n, seed) -> examples`` of the training split; none has a prompt of the test split.
        read_answer: the answer that a generated text gives, or an empty string.
        max_new_tokens: tokens that a generation may take.
    """

    name: str
    test: Callable[[int], list[Example]]
    train: Callable[[int, int], list[Example]]
    read_answer: Callable[[str], str]
    max_new_tokens: int
