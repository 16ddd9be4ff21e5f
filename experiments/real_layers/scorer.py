"""The loss of a model when one of its layers changes: only the blocks from that layer on are computed again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prunedlora.statistics.targets import IGNORED


def losses_of(logits: Tensor, labels: Tensor) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Negative log-likelihood of each example's label or target, float64, and how many labels it has.

    >>> losses_of(torch.zeros(1, 2), torch.tensor([1]))
    (tensor([0.6931], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    if labels.dim() == 1:
        losses = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
        return losses, torch.ones_like(losses)
    labels = labels[:, 1:]
    kept = labels != IGNORED
    each = torch.zeros(labels.shape, dtype=torch.float64)
    each[kept] = torch.nn.functional.cross_entropy(
        logits[:, :-1][kept].double(), labels[kept], reduction="none"
    )
    return each.sum(dim=1), kept.double().sum(dim=1)


class Scorer:
    """Losses on fixed batches.

    Args:
        model: the model; nothing of it changes.
        blocks: its blocks, run one after the other.
        sets: batches of each set of examples, by name.
        depths: blocks at which a pass may begin.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: nn.ModuleList,
        sets: dict[str, list[dict[str, Tensor]]],
        depths: tuple[int, ...],
    ) -> None:
        self._model = model.eval()
        self._blocks = blocks
        self._sets = sets
        # What the block before each possible start puts out, for every batch.
        self._kept: dict[int, list[Any]] = {depth - 1: [] for depth in depths if depth > 0}
        handles = [
            blocks[i].register_forward_hook(lambda _, __, output, i=i: self._kept[i].append(output))
            for i in self._kept
        ]
        try:
            self.unpruned = self.by_example(0)
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def by_example(self, depth: int) -> dict[str, Float[Tensor, " n"]]:
        """What each example adds to the loss of its set, times their number, so that the mean is the loss.

        Right if nothing before block `depth` has changed since this object was made.
        """
        by_set = {}
        number = 0
        for name, batches in self._sets.items():
            parts = []
            for batch in batches:
                inputs = {key: value for key, value in batch.items() if key != "labels"}
                with self._from(depth, number):
                    parts.append(losses_of(self._model(**inputs).logits, batch["labels"]))
                number += 1
            losses, labels = (torch.cat(part) for part in zip(*parts, strict=True))
            by_set[name] = losses / labels.mean()
        return by_set

    def increases(self, depth: int) -> dict[str, Float[Tensor, " n"]]:
        """What has been added to the loss of each set, example by example."""
        return {
            name: losses - self.unpruned[name] for name, losses in self.by_example(depth).items()
        }

    def increase(self, depth: int) -> dict[str, float]:
        """What has been added to the loss of each set."""
        return {name: losses.mean().item() for name, losses in self.increases(depth).items()}

    @contextmanager
    def _from(self, depth: int, number: int) -> Iterator[None]:
        """Blocks before `depth` hand on what they are given, the last of them what it gave for that batch."""
        skipped = list(self._blocks)[:depth]
        for i, block in enumerate(skipped):
            kept = self._kept[i][number] if i == depth - 1 else None
            block.forward = lambda hidden, *_, kept=kept, **__: hidden if kept is None else kept
        try:
            yield
        finally:
            for block in skipped:
                del block.forward
