"""Statistics of a trained adapter over batches, by the two kinds of backward pass that criteria ask for."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule
from prunedlora.errors import AdapterFileError
from prunedlora.statistics.collector import Collector
from prunedlora.statistics.data import Statistics

#: Measured with the true Fisher matrix; the rest with the labels of the data, as in training.
OF_THE_MODEL = ("C_z", "U", "core_gradients")

Batch = TypeVar("Batch")


def measure_statistics(
    model: nn.Module,
    modules: list[LoraModule],
    needs: tuple[str, ...],
    batches: Iterable[Batch],
    *,
    loss: Callable[[Batch], Tensor],
    fisher: Callable[[Batch, torch.Generator], Tensor],
    seed: int = 0,
) -> dict[str, Statistics]:
    """What a criterion needs of each module, over all batches; the adapter stays as it is.

    Every batch counts as one optimiser step, and gradients are means over all batches.  Only the kinds of pass that
    `needs` asks for are made.  Masked tokens do not count.

    Args:
        model: in the mode in which it is to be measured.
        modules: its adapted modules.
        needs: fields of `prunedlora.criteria.Statistics`.
        batches: whatever the two functions take; gone through once for each kind of pass.
        loss: the loss of a batch, a mean over its samples.
        fisher: a number whose gradients have the Fisher matrix as their second moment, see `prunedlora.statistics.fisher_loss`.
        seed: of random numbers in `fisher` and of the criterion's noise.

    Raises:
        AdapterFileError: the loss does not reach a module.
        ConfigurationError: nothing was collected.
    """
    of_model = tuple(n for n in needs if n in OF_THE_MODEL)
    of_data = tuple(n for n in needs if n not in OF_THE_MODEL)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict[str, Tensor]] = {m.name: {} for m in modules}
    for wanted, number in ((of_data, loss), (of_model, lambda batch: fisher(batch, generator))):
        if wanted:
            for name, statistics in _collect(model, modules, wanted, batches, number, seed).items():
                found[name] |= {n: getattr(statistics, n) for n in wanted}
    model.zero_grad()
    return {name: Statistics(**values) for name, values in found.items()}


def _collect(
    model: nn.Module,
    modules: list[LoraModule],
    needs: tuple[str, ...],
    batches: Iterable[Batch],
    number: Callable[[Batch], Tensor],
    seed: int,
) -> dict[str, Statistics]:
    parameters = [p for m in modules for p in (m.B, m.A)]
    sums, count = [torch.zeros_like(p) for p in parameters], 0
    with Collector(model, modules, needs, ignore_padding=True, seed=seed) as collector:
        for batch in batches:
            model.zero_grad()
            number(batch).backward()  # type: ignore[no-untyped-call]
            _check_reached(modules)
            collector.update()
            for total, p in zip(sums, parameters, strict=True):
                assert p.grad is not None
                total += p.grad
            count += 1
        for total, p in zip(sums, parameters, strict=True):
            p.grad = total / max(count, 1)
        return {m.name: collector.measure(m, torch.arange(m.rank, device=m.A.device)) for m in modules}


def _check_reached(modules: list[LoraModule]) -> None:
    for module in modules:
        if module.A.grad is None or module.B.grad is None:
            raise AdapterFileError(f"the loss does not reach {module.name}; its rank cannot be chosen by data")
