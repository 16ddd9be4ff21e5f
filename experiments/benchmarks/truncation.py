"""What a truncation takes, through the factors and densely: ``python -m experiments.benchmarks.truncation``.

For each rank a batch of random float32 modules is truncated to an eighth of its rank,

* through the factors, as the library does: `prunedlora.truncate`;
* through the factors by Householder reflections and torch's own SVD of the r x r core;
* densely, by the SVD of the product BA, on one module, the seconds multiplied by how many there are.

Beside them the r x r core alone, by `core_svd` and by torch's SVD, and errors: of the product against the dense optimum
where that is computed in float64, of the core's singular values, relative to the largest.  All in one process, with
the same threads.  With ``--device cuda`` modules are the square projections of Llama-3-8B.  Writes
``experiments/results/benchmark_truncation.json``, of a GPU ``benchmark_truncation_gpu.json``.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.machine import capability, floor, median_seconds, write
from prunedlora import truncate
from prunedlora.linalg.qr import ByReflections
from prunedlora.linalg.truncation import core_svd

NAME = "truncation"
#: Side of the modules and how many there are, on a CPU and on a GPU.
ON_CPU = 1024, 4
ON_GPU = 4096, 64
RANKS = (64, 128, 256, 512)
#: How many times faster than the dense SVD it should be at rank 64.
AIM = 15.0


def factors(modules: int, d: int, r: int, device: str) -> tuple[Tensor, Tensor]:
    """Random factors; column j of B is divided by j + 1, so that there is something to truncate."""
    generator = torch.Generator().manual_seed(0)
    B = torch.randn(modules, d, r, generator=generator) / torch.arange(1, r + 1)
    A = torch.randn(modules, r, d, generator=generator) / d**0.5
    return B.to(device), A.to(device)


def by_reflections(B: Tensor, A: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same by Householder reflections and torch's SVD."""
    b = ByReflections(B.double())
    a = ByReflections(A.mT.double())
    U, S, Vh = torch.linalg.svd(b.R @ a.R.mT, full_matrices=False)
    root = S[..., :k].sqrt().unsqueeze(-2)
    return b.apply(U[..., :k] * root).float(), a.apply(Vh.mT[..., :k] * root).mT.float()


def densely(B: Tensor, A: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same by the SVD of the product, in the dtype of the factors."""
    U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
    return U[..., :k] * S[..., None, :k], Vh[..., :k, :]


def measure(r: int, modules: int, d: int, able: dict[str, float], device: str) -> dict[str, Any]:
    """Seconds and errors at one rank."""
    B, A = factors(modules, d, r, device)
    k = r // 8
    core = ByReflections(B.double()).R @ ByReflections(A.mT.double()).R.mT
    row: dict[str, Any] = {
        "seconds": median_seconds(lambda: truncate(B, A, k), device),
        "reflections": median_seconds(lambda: by_reflections(B, A, k), device),
        "dense": modules * median_seconds(lambda: densely(B[0], A[0], k), device, 1),
        "core_seconds": median_seconds(lambda: core_svd(core), device),
        "core_torch": median_seconds(lambda: torch.linalg.svd(core), device),
    }
    if device.startswith("cuda"):
        call = lambda: torch.linalg.svd(core, driver="gesvda")  # noqa: E731
        row["core_gesvda"] = median_seconds(call, device)
    # Gram matrices and new factors; Cholesky factors and their inverses; eigenvectors and two products.
    flops = modules * (2 * d * r * (2 * r + 2 * k) + 4 / 3 * r**3 + 9 * r**3 + 6 * r**3)
    row["floor_seconds"] = floor(4 * 2 * modules * d * (r + k), flops, able)
    row["times_dense"] = row["dense"] / row["seconds"]
    row["times_reflections"] = row["reflections"] / row["seconds"]
    # Against float64 throughout.
    left, right = truncate(B[:1], A[:1], k)
    best = densely(B[0].double(), A[0].double(), k)
    exact = best[0] @ best[1]
    values = torch.linalg.svdvals(core)
    row["product_error"] = float((left[0] @ right[0] - exact).norm() / exact.norm())
    row["value_error"] = float(((core_svd(core)[1] - values).abs() / values[..., :1]).max())
    return row


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    d, modules = ON_GPU if arguments.device.startswith("cuda") else ON_CPU
    able = capability(arguments.device)
    rows = {f"rank {r}": measure(r, modules, d, able, arguments.device) for r in RANKS}
    first = rows[f"rank {RANKS[0]}"]
    first["reached"] = first["times_dense"] >= AIM
    setting = {"modules": modules, "d": d, "to": "an eighth of the rank", "aim": AIM, **able}
    what = "seconds of truncating all modules, median of three; the dense SVD once, on one module"
    write(NAME, what, setting, rows, arguments.device)


if __name__ == "__main__":
    main()
