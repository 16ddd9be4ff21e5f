"""Random layers for the tests, in float64 unless said otherwise."""

import torch
from hypothesis import settings
from torch import Tensor

settings.register_profile("short", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("short")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def moment(seed: int, r: int, samples: int | None = None) -> Tensor:
    """A second moment E[z zᵀ] of correlated vectors; of rank `samples` where given, else well conditioned."""
    mix = normal(seed, r, r) + torch.eye(r, dtype=torch.float64)
    z = normal(seed + 1, samples or 3 * r, r) @ mix
    M = z.mT @ z / z.shape[0]
    return M if samples else M + 0.02 * M.diagonal().mean() * torch.eye(r, dtype=torch.float64)


def relative(a: Tensor, b: Tensor) -> float:
    """Relative difference in the Frobenius norm."""
    return float((a - b).norm() / b.norm().clamp(min=1e-300))
