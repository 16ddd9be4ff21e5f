"""Hooks on layers that see a tensor of the forward pass together with its gradient."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunedlora.adapters.sharding import is_sharded

Entered = TypeVar("Entered", bound="Hooked")


class Hooked:
    """Something that holds hooks and removes them, at the latest when its ``with`` block is left."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self.active = True

    def close(self) -> None:
        """Remove all hooks; those that a compiled graph has taken in do nothing from now on."""
        self.active = False
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self: Entered) -> Entered:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


#: What to do with a layer's input or output and the gradient of its output.
Record = Callable[[Tensor, Tensor], None]


def watch(
    layer: nn.Module, begin: Callable[[], Record | None], *, keep: Literal["input", "output"]
) -> RemovableHandle:
    """Call ``begin()`` in every forward pass, and backward what it returned, with the kept tensor and the gradient.

    A deep copy of the layer takes the hook with it, and is not watched.
    """

    def forward(called: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        record = begin() if called is layer and output.requires_grad else None
        if record is not None:
            kept = (args[0] if keep == "input" else output).detach()
            output.register_hook(lambda gradient: record(kept, gradient))  # type: ignore[no-untyped-call]

    # What it closes over changes from step to step: a compiled graph calls it instead of taking it in.
    return layer.register_forward_hook(torch.compiler.disable(forward))  # type: ignore[no-untyped-call]


def watch_weight(layer: nn.Module, record: Callable[[Tensor], None]) -> RemovableHandle:
    """Call ``record`` with the gradient that each backward pass gives the layer's weight in this process, by itself.

    Of a sharded weight that is the whole gradient of this process's loss, before it is averaged and sharded.
    """
    if not is_sharded(layer.weight):
        return layer.weight.register_hook(record)  # type: ignore[operator]
    # Passes see a whole tensor in the shard's place, which is there from the first of them on.
    known: list[Tensor] = []

    def forward(called: nn.Module, args: tuple[Any, ...]) -> None:
        weight = called.weight
        if called is layer and isinstance(weight, Tensor) and not any(weight is t for t in known):
            known.append(weight)
            weight.register_hook(record)  # type: ignore[no-untyped-call]

    return layer.register_forward_pre_hook(torch.compiler.disable(forward))  # type: ignore[no-untyped-call]


def by_sample(t: Tensor) -> Float[Tensor, "n tokens d"]:
    """A layer's input, output or gradient as (samples, tokens, features), in at least float32."""
    wide = t.to(torch.promote_types(t.dtype, torch.float32))
    if t.dim() > 2:
        return wide.flatten(1, -2)
    return wide.reshape(count_samples(t), 1, t.shape[-1])


def count_samples(t: Tensor) -> int:
    """Samples in a layer's input, output or gradient; 1 for a single vector."""
    return int(t.shape[0]) if t.dim() > 1 else 1
