"""Second moments of the linear layers of a decoder, and pruning it layer by layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

#: (weight, statistic of the layer's inputs) to the new weight.
Prune = Callable[[Tensor, Tensor], Tensor]
#: Inputs of a layer, (tokens, d_in), to what is summed over batches.
Statistic = Callable[[Tensor], Tensor]


class _Entered(Exception):  # noqa: N818 - not an error: the first layer has been reached
    """Stops the forward pass where the first layer begins."""


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """All linear layers of the decoder's blocks: neither the embedding nor the head."""
    return [m for block in blocks(model) for m in block.modules() if isinstance(m, nn.Linear)]


def blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder's blocks."""
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    return layers


def second_moment(x: Tensor) -> Tensor:
    """Sum of the outer products of the rows."""
    return x.mT @ x


def squares(x: Tensor) -> Tensor:
    """Sum of the squares of each column."""
    return (x * x).sum(dim=0)


@contextmanager
def collecting(linears: list[nn.Linear], statistic: Statistic) -> Iterator[dict[nn.Linear, Tensor]]:
    """Sums a statistic of the inputs of some layers over what passes through them; layers of one input share it."""
    sums: dict[nn.Linear, Tensor] = {}
    last: tuple[Any, Tensor | None] = (None, None)

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal last
        assert isinstance(module, nn.Linear)
        if inputs[0] is not last[0]:
            last = inputs[0], statistic(inputs[0].detach().flatten(0, -2).float())
        assert last[1] is not None
        sums[module] = sums[module] + last[1] if module in sums else last[1]

    handles: list[RemovableHandle] = [linear.register_forward_pre_hook(hook) for linear in linears]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def prune_layers(
    model: nn.Module, batches: list[Tensor], statistic: Statistic, prune: Prune
) -> None:
    """Prune the blocks in turn, each from inputs that have passed through the pruned ones before it; in place."""
    entrances = [_entrance(model, batch) for batch in batches]
    # Twice through every block: once for its statistics, and once pruned, for the inputs of the next.
    for block in blocks(model):
        linears = [m for m in block.modules() if isinstance(m, nn.Linear)]
        with collecting(linears, statistic) as sums:
            for hidden, arguments in entrances:
                block(hidden, **arguments)
        for linear in linears:
            linear.weight.copy_(prune(linear.weight, sums[linear]))
        entrances = [
            (_hidden(block(hidden, **arguments)), arguments) for hidden, arguments in entrances
        ]


def _entrance(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """What the first block is called with."""
    calls: list[tuple[Tensor, dict[str, Any]]] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], arguments: dict[str, Any]) -> None:
        calls.append((inputs[0], arguments))
        raise _Entered

    handle = blocks(model)[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        model(input_ids=batch, use_cache=False)
    except _Entered:
        pass
    finally:
        handle.remove()
    return calls[0]


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def gradient_moments(model: nn.Module, batches: list[Tensor]) -> dict[nn.Linear, Tensor]:
    """The sum over batches of GᵀG, for the gradient G of a batch's mean loss in each layer's weight.

    No gradient is left behind, and what was trainable stays so.
    """
    linears = linear_layers(model)
    sums = {}
    # Only these weights need gradients here, whatever is trainable otherwise.
    trainable = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    for linear in linears:
        linear.weight.requires_grad_(True)
        sums[linear] = torch.zeros(
            linear.in_features, linear.in_features, device=linear.weight.device
        )
    for batch in batches:
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        for linear in linears:
            assert linear.weight.grad is not None
            sums[linear] += second_moment(linear.weight.grad.float())
            linear.weight.grad = None
    for parameter, before in trainable.items():
        parameter.requires_grad_(before)
    return sums
