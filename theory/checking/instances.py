"""Random instances in float64, spread over scale, conditioning and sparsity; and the algebra of instances.

An instance is a frozen dataclass of tensors with a common leading dimension, one entry per instance.
"""

import itertools
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

Instance = TypeVar("Instance")


def log_uniform(generator: Generator, n: int, low: float, high: float) -> Float[Tensor, "n"]:
    """``10 ** u`` with u uniform on [low, high].

    >>> log_uniform(Generator().manual_seed(0), 2, 0.0, 0.0)
    tensor([1., 1.], dtype=torch.float64)
    """
    return 10 ** (low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64))


def uniform(generator: Generator, *shape: int) -> Float[Tensor, "..."]:
    """Uniform on [0, 1)."""
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def normal(generator: Generator, *shape: int) -> Float[Tensor, "..."]:
    """Standard normal."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def scaled(X: Float[Tensor, "n ..."], factor: Float[Tensor, "n"]) -> Float[Tensor, "n ..."]:
    """Each entry of the batch times its own factor."""
    return X * factor.view(-1, *[1] * (X.ndim - 1))


def matrices(
    generator: Generator, n: int, *shape: int, low: float = -3.0, high: float = 3.0
) -> Float[Tensor, "n ..."]:
    """Normal matrices of scale 10^low..10^high whose columns differ in scale by up to 10^2.

    Half of them are sparse, with up to 90 % zeros.
    """
    X = normal(generator, n, *shape)
    spread = scaled(uniform(generator, n, shape[-1]), 2 * uniform(generator, n))
    X = X * 10 ** -spread.view(n, *[1] * (len(shape) - 1), shape[-1])
    sparsity = (1.8 * uniform(generator, n) - 0.9).clamp(min=0.0)
    kept = uniform(generator, n, *shape) >= sparsity.view(-1, *[1] * len(shape))
    return scaled(X * kept, log_uniform(generator, n, low, high))


def factors(
    generator: Generator, n: int, d: int, rank: int = 0, condition: float = 6.0
) -> Float[Tensor, "n k d"]:
    """Factors F of curvatures ``F^T F`` of scale 10^±3 and condition up to 10^condition; a quarter are diagonal.

    With `rank` > 0 the curvature has that rank only.
    """
    k = rank or d
    Q = torch.linalg.qr(normal(generator, n, d, d)).Q
    diagonal = uniform(generator, n) < 0.25
    Q = torch.where(diagonal.view(-1, 1, 1), torch.eye(d, dtype=Q.dtype), Q)[:, :k]
    exponent = scaled(uniform(generator, n, k), 0.5 * condition * uniform(generator, n))
    return scaled(10 ** -exponent.unsqueeze(-1) * Q, log_uniform(generator, n, -1.5, 1.5))


def subsets(generator: Generator, n: int, r: int, count: int) -> Int[Tensor, "n count"]:
    """A random set of `count` of r indices for each instance, in random order."""
    return uniform(generator, n, r).argsort(dim=-1)[:, :count]


def all_masks(r: int, count: int) -> Int[Tensor, "masks count"]:
    """Every set of `count` of r indices.

    >>> all_masks(3, 2).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    return torch.tensor(list(itertools.combinations(range(r), count)), dtype=torch.long).view(
        -1, count
    )


def entry(instance: Instance, index: int) -> Instance:
    """One instance out of a batch, as a batch of one."""
    return _map(instance, lambda x: x[index : index + 1])


def to_device(instance: Instance, device: str) -> Instance:
    """The same instances on another device; they are always drawn on the CPU, so they are the same everywhere."""
    return _map(instance, lambda x: x.to(device))


def tensors(instance: Any) -> dict[str, Tensor]:
    """The fields of an instance that are set."""
    values = {f.name: getattr(instance, f.name) for f in fields(instance)}
    return {name: value for name, value in values.items() if value is not None}


def _map(instance: Instance, function: Any) -> Instance:
    changed = {name: function(value) for name, value in tensors(instance).items()}
    return replace(instance, **changed)  # type: ignore[type-var]
