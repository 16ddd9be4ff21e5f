"""In which precision a run multiplies: the same in every row of a table."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from experiments.settings.jobs import Precision


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Products of float32 matrices by TF32 where a run asks for it, backward passes and their hooks included.

    Pruning events stand outside and are computed in full precision.
    """
    if precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def forward(precision: Precision, device: torch.device) -> torch.autocast:
    """A context for forward passes, in which autocast takes bfloat16 where a run asks for it.

    Not for backward passes: hooks there would lose digits of statistics.
    """
    enabled = precision == "bf16_autocast"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
