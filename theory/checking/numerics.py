"""Norms, condition numbers and quadratic forms, on batches; every constant of a bound is computed by one of these."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Beyond this condition number float64 has no digits left for a comparison.
LARGEST_CONDITION = 1e12


def frobenius(X: Float[Tensor, "*n d r"]) -> Float[Tensor, "*n"]:
    """Frobenius norm."""
    return torch.linalg.matrix_norm(X)


def spectral(X: Float[Tensor, "*n d r"]) -> Float[Tensor, "*n"]:
    """Largest singular value."""
    return torch.linalg.matrix_norm(X, ord=2)


def gram(F: Float[Tensor, "*n k d"]) -> Float[Tensor, "*n d d"]:
    """``F^T F``."""
    return F.mT @ F


def trace_form(delta: Float[Tensor, "*n d r"], C: Float[Tensor, "*n r r"]) -> Float[Tensor, "*n"]:
    """``tr(delta C delta^T)``."""
    return (delta @ C * delta).sum(dim=(-2, -1))


def kronecker_loss(
    delta: Float[Tensor, "*n d r"], C: Float[Tensor, "*n r r"], D: Float[Tensor, "*n d d"]
) -> Float[Tensor, "*n"]:
    """``½ tr(D delta C delta^T)``: the loss model with Kronecker-factored curvature.

    >>> kronecker_loss(torch.ones(1, 2), torch.eye(2), 3 * torch.eye(1))
    tensor(3.)
    """
    return 0.5 * (D @ delta @ C * delta).sum(dim=(-2, -1))


def condition(H: Float[Tensor, "*n d d"]) -> Float[Tensor, "*n"]:
    """Condition number of a symmetric matrix, infinite unless it is positive definite."""
    eigenvalues = torch.linalg.eigvalsh(H)
    smallest = eigenvalues[..., 0]
    largest = eigenvalues[..., -1]
    return torch.where(smallest > 0, largest / smallest, torch.inf)


def condition_on_range(
    D: Float[Tensor, "*n d d"], W: Float[Tensor, "*n d r"]
) -> Float[Tensor, "*n"]:
    """Condition number of `D` restricted to the column space of `W`, where every change of `W` by removal acts.

    >>> D = torch.diag(torch.tensor([4.0, 1.0, 0.0]))
    >>> condition_on_range(D, torch.eye(3)[:, :2])
    tensor(4.)
    """
    Q = torch.linalg.qr(W).Q
    return condition(Q.mT @ D @ Q)


def usable(condition_number: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """Whether a matrix of that condition is positive definite to working precision."""
    return condition_number <= LARGEST_CONDITION


def allowance(condition_number: Float[Tensor, "*n"], size: int) -> Float[Tensor, "*n"]:
    """Relative rounding error to be expected of solving a system of that condition and size in float64."""
    return 64 * torch.finfo(torch.float64).eps * size * condition_number
