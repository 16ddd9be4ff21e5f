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
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.curvature import inverse
from prunedlora.linalg.numerics import round_off

Newton = Literal["off", "capped", "literal"]


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
    # Shorten to the trust radius what is longer.
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
        removed: indices of the columns to zero, each once, 0..r-1; may be empty.  A list for the same ones in every
            batch entry.
        gradient: linear term :math:`G`; none by default.

    Returns:
        :math:`\delta` and :math:`\langle G,\delta\rangle + \tfrac12\operatorname{tr}(\delta H \delta^\top)`.

    Raises:
        ConfigurationError: an index out of range, or twice.
        NonFiniteError: NaN or infinity in an argument.
        SingularCurvatureError: see :func:`prunedlora.linalg.curvature.inverse`.

    >>> delta, cost = block_solution(torch.ones(1, 2), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), [0])
    >>> delta, cost
    (tensor([[-1.0000,  0.5000]], dtype=torch.float64), tensor(0.7500, dtype=torch.float64))
    """
    # Distinct indices within range, the same ones for the whole batch where a list was given.
    M = torch.as_tensor(removed, dtype=torch.long, device=W.device)
    ordered = M.sort(dim=-1).values
    if not ((M >= 0) & (W.shape[-1] > M)).all() or (ordered.diff(dim=-1) == 0).any():
        raise ConfigurationError(
            f"removed must be distinct indices in 0..{W.shape[-1] - 1}, not {M.tolist()}"
        )
    G = torch.zeros_like(W) if gradient is None else gradient
    _check_finite(W, G)
    W = W.double()
    G = G.double()
    H_inverse = inverse(H)
    M = M.expand(*W.shape[:-2], M.shape[-1])

    # The unconstrained minimum is -G H^-1; what is left of the removed columns there must be undone.
    step = G @ H_inverse
    shifted = torch.take_along_dim(W - step, M.unsqueeze(-2), dim=-1)
    # Lagrange multipliers of the constraint, from the block of H^-1 of the removed columns.
    rows = torch.take_along_dim(H_inverse, M.unsqueeze(-1), dim=-2)
    block = torch.take_along_dim(rows, M.unsqueeze(-2), dim=-1)
    multipliers = torch.linalg.solve(block, shifted.mT).mT
    # The removed columns end at exactly zero, not only up to rounding.
    columns = M.unsqueeze(-2).expand(*W.shape[:-1], M.shape[-1])
    delta = (-step - multipliers @ rows).scatter(-1, columns, -W.gather(-1, columns))
    return delta, 0.5 * ((multipliers * shifted).sum(dim=(-2, -1)) - (G * step).sum(dim=(-2, -1)))


def eliminate(
    matrices: Sequence[Float[Tensor, "..."]],
    curvatures: Sequence[Float[Tensor, "*m r r"]],
    count: int,
    gradients: Sequence[Float[Tensor, "..."]] | None = None,
    *,
    moments: Sequence[Float[Tensor, "*m r r"]] | None = None,
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
        moments: :math:`W^\top D W` for each matrix, where the rows have a curvature :math:`D` of their own that
            weighs the cost; :math:`D = I` by default.  It does not change the compensation (it cancels).
        damping: relative to the diagonal of each curvature; 0 is allowed.  Costs are those of the damped model.
        newton: treatment of the linear term, see :func:`newton_step`; unless ``"off"``, columns that stay take
            that step too.
        trust: radius of the capped Newton step, relative to the norm of each matrix.
        name: what to call the curvature in an error.

    Raises:
        ConfigurationError: `count` out of range, gradients missing, or `moments` with a Newton step.
        NonFiniteError: NaN or infinity in a matrix, a gradient, a moment or a curvature.
        SingularCurvatureError: see :func:`prunedlora.linalg.curvature.inverse`.

    >>> out = eliminate([torch.tensor([[1.0, 3.0]])], [torch.eye(2)], 1, damping=0.0)
    >>> out.matrices[0], out.removed, out.cost
    (tensor([[0., 3.]]), tensor([0]), tensor([0.5000], dtype=torch.float64))
    """
    _check_arguments(count, curvatures[0].shape[-1], newton, gradients, moments)
    _check_finite(*matrices, *(gradients or ()), *(moments or ()))
    H_inverse = torch.stack([inverse(H, damping, name) for H in curvatures])
    shifted = [
        W.double() - newton_step(W, G, Hi, newton, trust)
        for W, G, Hi in zip(matrices, gradients or matrices, H_inverse, strict=True)
    ]
    gram = torch.stack(
        [W.mT @ W for W in shifted] if moments is None else [m.double() for m in moments]
    )
    transform, alive, removed, cost = _greedy(gram, H_inverse, count)
    return Elimination(
        matrices=tuple(
            (W @ T * alive.unsqueeze(-2)).to(original.dtype)
            for W, T, original in zip(shifted, transform, matrices, strict=True)
        ),
        removed=removed,
        cost=cost,
    )


def _check_arguments(
    count: int, r: int, newton: str, gradients: object | None, moments: object | None
) -> None:
    if not 0 <= count <= r:
        raise ConfigurationError(f"cannot remove {count} of {r} components")
    if newton not in get_args(Newton):
        raise ConfigurationError(f"newton must be 'off', 'capped' or 'literal', not {newton!r}")
    if newton != "off" and gradients is None:
        raise ConfigurationError(f"newton={newton!r} needs the gradients")
    if newton != "off" and moments is not None:
        raise ConfigurationError(
            f"newton={newton!r} cannot be combined with moments; use newton='off'"
        )


def _check_finite(*tensors: Tensor) -> None:
    if not all(torch.isfinite(t).all() for t in tensors):
        raise NonFiniteError(
            "weights, gradients or moments hold NaN or infinity; training has diverged"
        )


def _greedy(gram: Tensor, H_inverse: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Elimination on the r x r matrices: the map to apply on the right, who is alive, who went, at what cost."""
    transform = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).expand_as(gram)
    alive = torch.ones(gram.shape[1:-1], dtype=torch.bool, device=gram.device)
    removed = torch.zeros((*alive.shape[:-1], count), dtype=torch.long, device=gram.device)
    costs = torch.zeros(removed.shape, dtype=gram.dtype, device=gram.device)
    for i in range(count):
        # The cheapest column next; rounding makes ties fall alike on every device.
        saliency = _saliency(gram, H_inverse, alive)
        j = round_off(saliency).argmin(dim=-1, keepdim=True)
        removed[..., i : i + 1] = j
        costs[..., i : i + 1] = saliency.gather(-1, j)
        # Spread it over the others in the proportion in which H^-1 couples them.
        row = _row(H_inverse, j)
        weights = row / row.gather(-1, _expand(j, row, 1))
        gram = _without(_without(gram, j, weights).mT, j, weights)
        transform = _without(transform, j, weights)
        # Take it out of the inverse: a rank-one update in place of a new inversion.
        alive = alive.scatter(-1, j, False)
        H_inverse = (H_inverse - row.mT @ weights) * (alive.unsqueeze(-1) & alive.unsqueeze(-2))
    return transform, alive, removed, costs


def _saliency(gram: Tensor, H_inverse: Tensor, alive: Tensor) -> Tensor:
    """Cost of removing each column next, summed over the matrices; infinite for those removed already."""
    norms, inverses = gram.diagonal(dim1=-2, dim2=-1), H_inverse.diagonal(dim1=-2, dim2=-1)
    per_matrix = 0.5 * norms.clamp(min=0.0) / inverses.where(alive, torch.ones_like(inverses))
    return per_matrix.sum(dim=0).where(alive, torch.inf)


def _without(X: Tensor, j: Tensor, weights: Tensor) -> Tensor:
    """X with its column j spread over the others: ``X - X[:, j] weights``, where ``weights[j] = 1``."""
    column = X.gather(-1, _expand(j, X, X.shape[-2]))
    return X - column @ weights


def _row(X: Tensor, j: Tensor) -> Tensor:
    """Row j of every matrix, as (..., 1, r)."""
    return X.mT.gather(-1, _expand(j, X, X.shape[-1])).mT


def _expand(j: Tensor, like: Tensor, rows: int) -> Tensor:
    """Indices j of each batch entry as (matrices, batch, rows, 1), to gather one column of each matrix."""
    return j.unsqueeze(-1).expand(*like.shape[:-2], rows, 1)
