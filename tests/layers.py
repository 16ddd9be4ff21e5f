"""Random layers for the tests, in float64 unless said otherwise."""

import torch
from hypothesis import settings
from torch import Tensor

from prunedlora.statistics.data import Statistics

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
    a, b = a.detach(), b.detach()
    return float((a - b).norm() / b.norm().clamp(min=1e-300))


def raw_data(seed: int, r: int = 5, n: int = 40, tokens: int = 2, d_out: int = 7, d_in: int = 6):
    """B, A, inputs (n, tokens, d_in) and output gradients (n, tokens, d_out), correlated."""
    x = normal(seed, n, tokens, d_in) @ (normal(seed + 1, d_in, d_in) + torch.eye(d_in))
    g = (normal(seed + 2, n, tokens, d_out) + x[..., :1]) @ normal(seed + 3, d_out, d_out)
    return normal(seed + 4, d_out, r), normal(seed + 5, r, d_in), x, g


def measured(
    B: Tensor, A: Tensor, x: Tensor, g: Tensor, scaling: float = 2.0, noise_seed: int = 0
) -> Statistics:
    """Every statistic of one adapted layer, straight from its definition; moments in at least float32."""
    wide = [t.double() for t in (B, A, x, g)]
    b, a, x, g = wide
    z, u = x @ a.mT, scaling * g @ b
    G_B, G_A = scaling * torch.einsum("nto,ntr->nor", g, z), torch.einsum("ntr,nti->nri", u, x)
    sensitivity = {"B": (b * G_B).abs(), "A": (a * G_A).abs()}
    values = {
        "gradient_B": G_B.mean(0),
        "gradient_A": G_A.mean(0),
        "gram_B": G_B.mean(0).mT @ G_B.mean(0),
        "gram_A": G_A.mean(0) @ G_A.mean(0).mT,
        "fisher_B": (G_B.mT @ G_B).mean(0),
        "fisher_A": (G_A @ G_A.mT).mean(0),
        "C_z": torch.einsum("nti,ntj->ij", z, z) / z[..., 0].numel(),
        "U": torch.einsum("nti,ntj->ij", u, u) / z.shape[0],
        "core_gradients": torch.einsum("nti,ntj->nij", u, z),
        "noise": torch.rand(a.shape[0], generator=generator(noise_seed)),
    }
    for side, value in sensitivity.items():
        values[f"sensitivity_{side}"] = value.mean(0)
        values[f"uncertainty_{side}"] = (value - value.mean(0)).abs().mean(0)
    per_weight = ("gradient_B", "gradient_A")
    wide_dtype = torch.promote_types(B.dtype, torch.float32)  # what collectors keep
    return Statistics(
        **{k: v.to(B.dtype if k in per_weight else wide_dtype) for k, v in values.items()}
    )
