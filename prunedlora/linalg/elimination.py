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
from prunedlora.linalg.curvature import inverse, inverse_root
from prunedlora.linalg.numerics import holds, is_finite, round_off

Newton = Literal["off", "capped", "literal"]
#: Gram matrices of r columns are formed where more than r / COLUMNS of theirs are needed.
COLUMNS = 64


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
    apart = M.sort(dim=-1).values.diff(dim=-1) > 0
    if not (holds((M >= 0) & (W.shape[-1] > M)) and holds(apart)):
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
    lowest index.  The matrices themselves change once, at the end, by a product of rank `count`.

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
    r = curvatures[0].shape[-1]
    _check_arguments(count, r, newton, gradients, moments)
    _check_finite(*matrices, *(gradients or ()), *(moments or ()))
    roots = [inverse_root(H, damping, name) for H in curvatures]
    # The minimum without constraints is where the elimination starts.
    shifted = [W.double() for W in matrices]
    if newton != "off" and gradients is not None:
        shifted = [
            W - newton_step(W, G, root.mT @ root, newton, trust)
            for W, G, root in zip(shifted, gradients, roots, strict=True)
        ]
    # W^T W is formed where many of its columns are needed; else it is cheaper to multiply twice by W.
    if moments is None and count > r // COLUMNS:
        moments = [W.mT @ W for W in shifted]
    grams = [_Gram(W) for W in shifted] if moments is None else [_Gram(None, m) for m in moments]
    spread, weights, alive, removed, cost = _greedy(grams, torch.stack(roots), count)
    gone = ~alive.unsqueeze(-2)
    return Elimination(
        matrices=tuple(
            _less(W, (W @ left) @ right).to(original.dtype).masked_fill_(gone, 0.0)
            for W, left, right, original in zip(shifted, spread, weights, matrices, strict=True)
        ),
        removed=removed,
        cost=cost,
    )


def _less(W: Tensor, change: Tensor) -> Tensor:
    """``W - change``, in the memory of the change."""
    return torch.sub(W, change, out=change)


class _Gram:
    """``W^T W``, or a moment in its place: its diagonal, and products with single vectors."""

    def __init__(self, W: Tensor | None, moment: Tensor | None = None) -> None:
        self._W = W
        self._moment = moment if moment is None else moment.double()

    def diagonal(self) -> Float[Tensor, "*m r"]:
        if self._W is not None:
            return self._W.square().sum(dim=-2)
        assert self._moment is not None
        return self._moment.diagonal(dim1=-2, dim2=-1)

    def times(self, vector: Float[Tensor, "*m r 1"]) -> Float[Tensor, "*m r 1"]:
        if self._W is not None:
            return self._W.mT @ (self._W @ vector)
        assert self._moment is not None
        return self._moment @ vector


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
    if not all(is_finite(t) for t in tensors):
        raise NonFiniteError(
            "weights, gradients or moments hold NaN or infinity; training has diverged"
        )


def _greedy(
    grams: Sequence[_Gram], root: Float[Tensor, "s *m r r"], count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Which columns go, and the map ``I - spread @ weights`` that removes them with compensation.

    Every step changes inverse and Gram matrix by a matrix of rank one.  Neither is formed: of the first its
    diagonal and one row a step are needed, of the second its diagonal and one column.

    Args:
        grams: of each of s matrices.
        root: X with ``X^T X`` the inverse of each curvature.
        count: how many columns go.

    Returns:
        spread (s, *m, r, count), weights (s, *m, count, r), who is alive, who went, at what cost.
    """
    r = root.shape[-1]
    spread = root.new_zeros(*root.shape[:-1], count)
    weights = root.new_zeros(*root.shape[:-2], count, r)
    pivots = root.new_zeros(*root.shape[:-2], count, 1)
    norms = torch.stack([gram.diagonal() for gram in grams])
    inverses = root.square().sum(dim=-2)
    alive = torch.ones(root.shape[1:-1], dtype=torch.bool, device=root.device)
    removed = torch.zeros((*alive.shape[:-1], count), dtype=torch.long, device=root.device)
    costs = root.new_zeros(removed.shape)
    for i in range(count):
        # The cheapest column next; rounding makes ties fall alike on every device.
        saliency = _saliency(norms, inverses, alive)
        j = round_off(saliency).argmin(dim=-1, keepdim=True)
        removed[..., i : i + 1] = j
        costs[..., i : i + 1] = saliency.gather(-1, j)
        # Row j of the inverse as it is by now: less what earlier steps took out of it.
        before = weights[..., :i, :]
        shares = _column(before, j)
        row = _column(root, j).mT @ root - (shares * pivots[..., :i, :]).mT @ before
        row = row * alive.unsqueeze(-2)
        pivot = _column(row, j)
        # Column j is spread over the others in the proportion in which the inverse couples them.
        weight = row / pivot
        unit = torch.zeros_like(row).scatter_(-1, j.unsqueeze(-1).expand_as(pivot), 1.0).mT
        column = unit - spread[..., :i] @ shares
        product = torch.stack([g.times(v) for g, v in zip(grams, column, strict=True)])
        product = (product - before.mT @ (spread[..., :i].mT @ product)).mT
        # Both diagonals after the step.
        norms = norms + (weight * (weight * _column(product, j) - 2 * product)).squeeze(-2)
        inverses = inverses - (row * weight).squeeze(-2)
        alive = alive.scatter(-1, j, False)
        spread[..., i : i + 1] = column
        weights[..., i : i + 1, :] = weight
        pivots[..., i : i + 1, :] = pivot
    return spread, weights, alive, removed, costs


def _saliency(norms: Tensor, inverses: Tensor, alive: Tensor) -> Tensor:
    """Cost of removing each column next, summed over the matrices; infinite for those removed already."""
    per_matrix = 0.5 * norms.clamp(min=0.0) / inverses.where(alive, torch.ones_like(inverses))
    return per_matrix.sum(dim=0).where(alive, torch.inf)


def _column(X: Float[Tensor, "s *m n r"], j: Int[Tensor, "*m 1"]) -> Float[Tensor, "s *m n 1"]:
    """One column of every matrix, another one in each batch entry."""
    return X.gather(-1, j.unsqueeze(-1).expand(*X.shape[:-1], 1))
