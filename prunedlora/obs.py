r"""Closed-form removal of columns under a quadratic model (optimal brain surgeon).

For one matrix :math:`W` (rows independent, all with curvature :math:`H \succ 0`) and a set of columns
:math:`M`, the problem

.. math:: \min_\delta \langle G, \delta\rangle + \tfrac12 \operatorname{tr}(\delta H \delta^\top)
          \quad\text{s.t.}\quad \delta_{:,M} = -W_{:,M}

is solved, with :math:`\tilde W = W - G H^{-1}`, by

.. math:: \delta = -G H^{-1} - \tilde W_{:,M}\,\big((H^{-1})_{M,M}\big)^{-1} (H^{-1})_{M,:}

(PrunedLoRA, arXiv:2510.00192, equations 6-8).  Removing the columns of :math:`M` one by one, each time with
the inverse down-dated by :math:`H^{-1} \leftarrow H^{-1} - H^{-1}_{:,j} H^{-1}_{j,:} / H^{-1}_{jj}`, gives the
same :math:`\delta`, so the greedy elimination below is exact for the set that it chooses.

All algebra on :math:`r \times r` matrices is done in float64.  Leading dimensions are batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError, SingularCurvatureError

Newton = Literal["off", "capped", "literal"]

#: Relative damping tried, in this order, where a matrix is not positive definite to working precision.
DAMPING_LADDER = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
#: Smallest eigenvalue kept, relative to the largest, when damping alone does not help.
EIGENVALUE_FLOOR = 1e-8


@dataclass(frozen=True)
class Elimination:
    """Outcome of :func:`eliminate`.

    Attributes:
        matrices: the matrices after removal and compensation; removed columns are exactly zero.
        removed: indices of the removed columns, in the order of removal.
        cost: increase of the quadratic model at each removal, summed over the matrices (the terms of (8), halved).
    """

    matrices: tuple[Float[Tensor, "..."], ...]
    removed: Int[Tensor, "*m count"]
    cost: Float[Tensor, "*m count"]


def damped(H: Float[Tensor, "*m r r"], damping: float) -> Float[Tensor, "*m r r"]:
    r"""Marquardt damping, :math:`H + \lambda \operatorname{diag}(H)`, in float64.

    Proportional to the diagonal, so that scores do not change under ``B[:, j] -> c B[:, j]``,
    ``A[j, :] -> A[j, :] / c``.  A zero on the diagonal (a component without curvature) becomes the smallest
    number that keeps the matrix invertible: its removal is free and moves nothing else.

    >>> damped(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), 0.5)
    tensor([[3., 0.],
            [0., 6.]], dtype=torch.float64)
    """
    H = H.double()
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    largest = diagonal.amax(dim=-1, keepdim=True)
    floor = torch.where(largest > 0, largest, torch.ones_like(largest)) * torch.finfo(H.dtype).eps
    return H + torch.diag_embed(damping * diagonal + torch.where(diagonal > 0, 0.0, floor))


def inverse(H: Float[Tensor, "*m r r"], damping: float = 0.0, name: str = "H") -> Float[Tensor, "*m r r"]:
    """Inverse of a positive (semi-)definite matrix in float64, after Marquardt damping.

    The matrix is first scaled to unit diagonal, so that the scale of single components costs no digits.  Where
    it is still singular, the damping is raised along `DAMPING_LADDER`, then eigenvalues are floored.

    Args:
        H: symmetric matrices, one per batch entry.
        damping: relative damping, >= 0.
        name: what to call the matrix in an error.

    Raises:
        ConfigurationError: negative damping.
        NonFiniteError: NaN or infinity in `H`.
        SingularCurvatureError: an eigenvalue so negative that `H` is no curvature matrix.

    >>> inverse(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    tensor([[ 0.6667, -0.3333],
            [-0.3333,  0.6667]], dtype=torch.float64)
    """
    if damping < 0:
        raise ConfigurationError(f"damping must be >= 0, not {damping}")
    if not torch.isfinite(H).all():
        raise NonFiniteError(f"{name} holds NaN or infinity; check the loss and the gradients before pruning")
    H = damped(H, damping)
    scale = H.diagonal(dim1=-2, dim2=-1).rsqrt()
    if not torch.isfinite(scale).all():
        raise SingularCurvatureError(f"{name} has a negative diagonal; a curvature matrix has none")
    correlation = scale.unsqueeze(-1) * H * scale.unsqueeze(-2)
    return scale.unsqueeze(-1) * _inverse_of_correlation(correlation, name) * scale.unsqueeze(-2)


def _inverse_of_correlation(R: Float[Tensor, "*m r r"], name: str) -> Float[Tensor, "*m r r"]:
    """Inverse of matrices of unit diagonal, by Cholesky, climbing the ladder only where needed."""
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    tolerance = R.shape[-1] * torch.finfo(R.dtype).eps
    factor, failed = _cholesky(R, tolerance)
    for level in DAMPING_LADDER:
        if not failed.any():
            break
        better, still = _cholesky(R + level * eye, tolerance)
        factor = torch.where(failed[..., None, None], better, factor)
        failed = failed & still
    if not failed.any():
        return torch.cholesky_inverse(factor)
    eigenvalues, vectors = torch.linalg.eigh(R)
    smallest, largest = eigenvalues[..., 0], eigenvalues[..., -1]
    if (smallest < -DAMPING_LADDER[-1] * largest).any():
        worst = (smallest / largest).min().item()
        raise SingularCurvatureError(
            f"{name} is indefinite (smallest over largest eigenvalue {worst:.1e}); "
            "use a Gram or Fisher matrix, or raise `damping`"
        )
    floored = eigenvalues.clamp(min=EIGENVALUE_FLOOR * largest.unsqueeze(-1))
    by_eigenvalues = (vectors / floored.unsqueeze(-2)) @ vectors.mT
    safe = torch.where(failed[..., None, None], eye, factor)
    return torch.where(failed[..., None, None], by_eigenvalues, torch.cholesky_inverse(safe))


def _cholesky(R: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Cholesky factor and where it failed or lost all its digits."""
    factor, info = torch.linalg.cholesky_ex(R)
    return factor, (info != 0) | (factor.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1) < tolerance)


def newton_step(
    W: Float[Tensor, "*m d r"],
    G: Float[Tensor, "*m d r"],
    H_inverse: Float[Tensor, "*m r r"],
    newton: Newton,
    trust: float = 0.1,
) -> Float[Tensor, "*m d r"]:
    r"""The term :math:`G H^{-1}` that (7) subtracts from the weights.

    With :math:`H = G^\top G` it is the pseudo-inverse of `G` and grows like :math:`1/|G|`: near a minimum the
    literal form destroys the model.  ``"capped"`` scales it so that its Frobenius norm is at most `trust` times
    that of `W`; ``"off"`` leaves it out.

    Raises:
        ConfigurationError: an unknown value of `newton`, or `trust` <= 0.
    """
    if newton == "off":
        return torch.zeros_like(W, dtype=H_inverse.dtype)
    step: Tensor = G.to(H_inverse.dtype) @ H_inverse
    if newton == "literal":
        return step
    if newton != "capped":
        raise ConfigurationError(f"newton must be 'off', 'capped' or 'literal', not {newton!r}")
    if trust <= 0:
        raise ConfigurationError(f"trust must be > 0, not {trust}")
    radius = trust * torch.linalg.matrix_norm(W.to(step.dtype), keepdim=True)
    length = torch.linalg.matrix_norm(step, keepdim=True)
    return step * (radius / length.clamp(min=torch.finfo(step.dtype).tiny)).clamp(max=1.0)


def block_solution(
    W: Float[Tensor, "*m d r"],
    H: Float[Tensor, "*m r r"],
    removed: Sequence[int] | Int[Tensor, "*m count"],
    gradient: Float[Tensor, "*m d r"] | None = None,
) -> tuple[Float[Tensor, "*m d r"], Float[Tensor, "*m"]]:
    r"""Best change of `W` that zeroes the columns `removed`, and the value of the quadratic model there.

    Equations (7) and (8) of arXiv:2510.00192, literally; in float64, undamped.

    Args:
        W: matrix whose columns are removed.
        H: curvature shared by all rows of `W`, positive definite.
        removed: indices of the columns to zero; a list for the same ones in every batch entry.
        gradient: linear term :math:`G`; none by default.

    Returns:
        :math:`\delta` and :math:`\langle G,\delta\rangle + \tfrac12\operatorname{tr}(\delta H \delta^\top)`.

    >>> delta, cost = block_solution(torch.ones(1, 2), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), [0])
    >>> delta, cost
    (tensor([[-1.0000,  0.5000]], dtype=torch.float64), tensor(0.7500, dtype=torch.float64))
    """
    W, H_inverse = W.double(), inverse(H)
    M = torch.as_tensor(removed, dtype=torch.long, device=W.device)
    M = M.expand(*W.shape[:-2], M.shape[-1])
    step = torch.zeros_like(W) if gradient is None else gradient.double() @ H_inverse
    shifted = torch.take_along_dim(W - step, M.unsqueeze(-2), dim=-1)
    rows = torch.take_along_dim(H_inverse, M.unsqueeze(-1), dim=-2)
    block = torch.take_along_dim(rows, M.unsqueeze(-2), dim=-1)
    multipliers = torch.linalg.solve(block, shifted.mT).mT
    delta = -step - multipliers @ rows
    columns = M.unsqueeze(-2).expand(*W.shape[:-1], M.shape[-1])
    delta = delta.scatter(-1, columns, -W.gather(-1, columns))
    constant = 0.0 if gradient is None else (gradient.double() * step).sum(dim=(-2, -1))
    return delta, 0.5 * ((multipliers * shifted).sum(dim=(-2, -1)) - constant)


def eliminate(
    matrices: Sequence[Float[Tensor, "..."]],
    curvatures: Sequence[Float[Tensor, "*m r r"]],
    count: int,
    gradients: Sequence[Float[Tensor, "..."]] | None = None,
    *,
    damping: float = 1e-2,
    newton: Newton = "off",
    trust: float = 0.1,
    name: str = "H",
) -> Elimination:
    r"""Remove `count` columns, shared by several matrices, greedily and with compensation.

    At each step the column of least :math:`\sum \tfrac12 \|\tilde W_{:,j}\|^2 / (H^{-1})_{jj}` (the sum over the
    matrices; equation (10)) goes, the others move to compensate, and each inverse is down-dated.  Ties go to the
    lowest index.  Only :math:`r \times r` matrices change inside the loop; each matrix is multiplied once at the
    end.

    Args:
        matrices: the matrices, each (\*m, d_i, r); for LoRA ``(B, A.mT)``.
        curvatures: one curvature matrix for each.
        count: how many columns to remove, 0..r.
        gradients: linear terms, needed unless `newton` is ``"off"``.
        damping: relative to the diagonal of each curvature; 0 is allowed.
        newton: treatment of the linear term, see :func:`newton_step`.
        trust: radius of the capped Newton step, relative to the norm of each matrix.
        name: what to call the curvature in an error.

    Raises:
        ConfigurationError: `count` out of range, or gradients missing.
        NonFiniteError: NaN or infinity in a matrix or a curvature.
        SingularCurvatureError: see :func:`inverse`.

    >>> out = eliminate([torch.tensor([[1.0, 3.0]])], [torch.eye(2)], 1, damping=0.0)
    >>> out.matrices[0], out.removed, out.cost
    (tensor([[0., 3.]]), tensor([0]), tensor([0.5000], dtype=torch.float64))
    """
    r = curvatures[0].shape[-1]
    if not 0 <= count <= r:
        raise ConfigurationError(f"cannot remove {count} of {r} components")
    if newton != "off" and gradients is None:
        raise ConfigurationError(f"newton={newton!r} needs the gradients")
    if not all(torch.isfinite(W).all() for W in matrices):
        raise NonFiniteError("the adapter's weights hold NaN or infinity; training has diverged")
    H_inverse = torch.stack([inverse(H, damping, name) for H in curvatures])
    shifted = [
        W.double() - newton_step(W, G, Hi, newton, trust)
        for W, G, Hi in zip(matrices, gradients or matrices, H_inverse, strict=True)
    ]
    gram = torch.stack([W.mT @ W for W in shifted])
    transform = torch.eye(r, dtype=gram.dtype, device=gram.device).expand_as(gram).contiguous()
    alive = torch.ones(gram.shape[1:-1], dtype=torch.bool, device=gram.device)
    removed, costs = [], []
    for _ in range(count):
        saliency = _saliency(gram, H_inverse, alive)
        j = saliency.argmin(dim=-1, keepdim=True)
        removed.append(j)
        costs.append(saliency.gather(-1, j))
        step, H_inverse = _remove(j, H_inverse)
        gram = step.mT @ gram @ step
        transform = transform @ step
        alive = alive.scatter(-1, j, False)
    empty = torch.zeros((*alive.shape[:-1], 0), device=gram.device)
    return Elimination(
        matrices=tuple(
            (W @ T * alive.unsqueeze(-2)).to(original.dtype)
            for W, T, original in zip(shifted, transform, matrices, strict=True)
        ),
        removed=torch.cat(removed, dim=-1) if removed else empty.long(),
        cost=torch.cat(costs, dim=-1) if costs else empty.double(),
    )


def _saliency(gram: Tensor, H_inverse: Tensor, alive: Tensor) -> Tensor:
    """Cost of removing each column next, summed over the matrices; infinite for those removed already."""
    norms, inverses = gram.diagonal(dim1=-2, dim2=-1), H_inverse.diagonal(dim1=-2, dim2=-1)
    per_matrix = 0.5 * norms.clamp(min=0.0) / inverses.where(alive, torch.ones_like(inverses))
    return per_matrix.sum(dim=0).where(alive, torch.inf)


def _remove(j: Tensor, H_inverse: Tensor) -> tuple[Tensor, Tensor]:
    """The r x r map that removes column j with compensation, and the down-dated inverses."""
    r = H_inverse.shape[-1]
    index = j.unsqueeze(-1).expand(*H_inverse.shape[1:-2], 1, r).expand(*H_inverse.shape[:-2], 1, r)
    row = H_inverse.gather(-2, index)
    pivot = row.gather(-1, j.unsqueeze(-1).expand(*row.shape[:-1], 1))
    unit = torch.zeros_like(row).scatter(-1, j.unsqueeze(-1).expand(*row.shape[:-1], 1), 1.0)
    gone = 1.0 - unit
    step = torch.eye(r, dtype=row.dtype, device=row.device) - unit.mT @ (row / pivot)
    updated = (H_inverse - row.mT @ row / pivot) * gone * gone.mT
    return step * gone, updated
