r"""S1: the closed form (7)-(8) of arXiv:2510.00192 solves its problem (6).

**Statement.**  Let :math:`H \succ 0`, :math:`G, W \in \mathbb R^{d \times r}`, :math:`M` a set of columns and
:math:`q(\delta) = \langle G, \delta\rangle + \tfrac12 \operatorname{tr}(\delta H \delta^\top)`.  Among all
:math:`\delta` with :math:`\delta_{:,M} = -W_{:,M}`, with :math:`\tilde W = W - G H^{-1}`,

.. math:: \delta^* = -G H^{-1} - \tilde W_{:,M} \big((H^{-1})_{M,M}\big)^{-1} (H^{-1})_{M,:}

is the only minimiser, and :math:`q(\delta^*) = -\tfrac12 \operatorname{tr}(G H^{-1} G^\top) + \tfrac12
\operatorname{tr}\big(\tilde W_{:,M} ((H^{-1})_{M,M})^{-1} \tilde W_{:,M}^\top\big)`.  Moreover, for every
:math:`\eta` with :math:`\eta_{:,M} = 0`,

.. math:: q(\delta^* + \eta) = q(\delta^*) + \tfrac12 \operatorname{tr}(\eta H \eta^\top).

**Proof.**  Complete the square: with :math:`\varepsilon = \delta + G H^{-1}`, :math:`q(\delta) = \tfrac12
\operatorname{tr}(\varepsilon H \varepsilon^\top) - \tfrac12 \operatorname{tr}(G H^{-1} G^\top)`, and the constraint
becomes :math:`\varepsilon_{:,M} = -\tilde W_{:,M}`.  Let :math:`\varepsilon^* = -\tilde W_{:,M} P^{-1}
(H^{-1})_{M,:}` with :math:`P = (H^{-1})_{M,M}`, which is invertible as a principal block of a positive definite
matrix.  Its columns :math:`M` are :math:`-\tilde W_{:,M} P^{-1} P`, so it is feasible.  :math:`\varepsilon^* H =
-\tilde W_{:,M} P^{-1} I_{M,:}` vanishes outside the columns :math:`M`, so it is orthogonal to every :math:`\eta`
with :math:`\eta_{:,M} = 0`, and :math:`\operatorname{tr}((\varepsilon^*+\eta) H (\varepsilon^*+\eta)^\top) =
\operatorname{tr}(\varepsilon^* H \varepsilon^{*\top}) + \operatorname{tr}(\eta H \eta^\top)`.  The last term is
positive unless :math:`\eta = 0`, which gives the identity, the minimum and its uniqueness.  The value is
:math:`\operatorname{tr}(\varepsilon^* H \varepsilon^{*\top}) = \operatorname{tr}(\tilde W_{:,M} P^{-1} P P^{-1}
\tilde W_{:,M}^\top)`.  ∎

Checked against the stationarity conditions, solved by LU without any inverse of :math:`H`, and against random
feasible :math:`\eta`; both sides are relative errors against the rounding expected at the condition of :math:`H`.

**References.**  LeCun, Denker and Solla 1990 (optimal brain damage); Hassibi and Stork 1993 (optimal brain
surgeon); Frantar and Alistarh 2023 (SparseGPT).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from prunedlora.linalg.elimination import block_solution
from theory.checking import instances
from theory.checking.numerics import allowance, condition, frobenius, gram, trace_form, usable
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare


@dataclass(frozen=True)
class Removal:
    """Columns `removed` of `W` under the model of linear term `G` and curvature ``factor^T factor``.

    `eta` is a direction in which the feasible point is perturbed; its columns `removed` are ignored.
    """

    W: Float[Tensor, "*n d r"]
    G: Float[Tensor, "*n d r"]
    factor: Float[Tensor, "*n k r"]
    eta: Float[Tensor, "*n d r"]
    removed: Int[Tensor, "*n count"]


def sample(generator: Generator, n: int, *, d: int, r: int, count: int) -> Removal:
    """Random instances."""
    return Removal(
        W=instances.matrices(generator, n, d, r),
        G=instances.matrices(generator, n, d, r),
        factor=instances.factors(generator, n, r),
        eta=instances.matrices(generator, n, d, r),
        removed=instances.subsets(generator, n, r, count),
    )


def model(
    delta: Float[Tensor, "*n d r"], G: Float[Tensor, "*n d r"], H: Float[Tensor, "*n r r"]
) -> Float[Tensor, "*n"]:
    """The objective of (6), ``<G, delta> + ½ tr(delta H delta^T)``."""
    return (G * delta).sum(dim=(-2, -1)) + 0.5 * trace_form(delta, H)


def removed_columns(removed: Int[Tensor, "*n count"], r: int) -> Float[Tensor, "*n 1 r"]:
    """1 in the removed columns, 0 elsewhere."""
    zeros = torch.zeros(*removed.shape[:-1], r, dtype=torch.float64, device=removed.device)
    return zeros.scatter(-1, removed, 1.0).unsqueeze(-2)


def stationary_point(instance: Removal) -> Float[Tensor, "*n d r"]:
    """Solution of the stationarity conditions.

    ``G + delta H`` vanishes in the kept columns, ``delta + W`` in the removed ones.

    >>> one = Removal(torch.ones(1, 2), torch.zeros(1, 2), torch.eye(2), torch.zeros(1, 2), torch.tensor([0]))
    >>> stationary_point(one)
    tensor([[-1.,  0.]], dtype=torch.float64)
    """
    H = gram(instance.factor).double()
    gone = removed_columns(instance.removed, instance.W.shape[-1])
    scale = H.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    system = H * (1 - gone) + scale * torch.diag_embed(gone.squeeze(-2))
    target = -instance.G * (1 - gone) - scale * instance.W * gone
    return torch.linalg.solve(system, target, left=False)


def check_stationarity(instance: Removal) -> Result:
    """`block_solution` against the stationarity conditions, and its value against the model evaluated there."""
    H = gram(instance.factor)
    delta, value = block_solution(instance.W, H, instance.removed, instance.G)
    expected, kappa = stationary_point(instance), condition(H)
    newton = torch.linalg.solve(H, instance.G, left=False)
    size = frobenius(delta) + frobenius(instance.W) + frobenius(newton)
    energy = frobenius(H) * size.square()
    point_error = frobenius(delta - expected) / size
    value_error = (value - model(expected, instance.G, H)).abs() / energy
    error = torch.where(size > 0, torch.maximum(point_error, value_error), 0.0)
    return compare(
        error, allowance(kappa, H.shape[-1]), {"curvature positive definite": usable(kappa)}
    )


def check_optimality(instance: Removal) -> Result:
    """The identity for feasible perturbations: the gain over the minimum is exactly the curvature term."""
    H = gram(instance.factor)
    kept = 1 - removed_columns(instance.removed, instance.W.shape[-1])
    delta, value = block_solution(instance.W, H, instance.removed, instance.G)
    other = delta + instance.eta * kept
    kappa = condition(H)
    gain = model(other, instance.G, H) - value
    predicted = 0.5 * trace_form(instance.eta * kept, H)
    newton = torch.linalg.solve(H, instance.G, left=False)
    energy = frobenius(H) * (frobenius(other) + frobenius(delta) + frobenius(newton)).square()
    error = torch.where(energy > 0, (gain - predicted).abs() / energy, 0.0)
    return compare(
        error, allowance(kappa, H.shape[-1]), {"curvature positive definite": usable(kappa)}
    )


SHAPES = (
    {"d": 1, "r": 2, "count": 1},
    {"d": 3, "r": 6, "count": 2},
    {"d": 8, "r": 4, "count": 3},
    {"d": 16, "r": 12, "count": 8},
)

register(
    Statement(
        key="S1.stationarity",
        title="Closed form of removal with compensation solves the constrained quadratic problem",
        formula="δ* of (7) = solution of the stationarity conditions; q(δ*) = −½tr(GH⁻¹Gᵀ) + ½·(8)",
        claim="identity",
        sample=sample,
        check=check_stationarity,
        shapes=SHAPES,
    )
)
register(
    Statement(
        key="S1.optimality",
        title="No feasible change does better than the closed form",
        formula="q(δ* + η) = q(δ*) + ½tr(ηHηᵀ) for every η with η[:,M] = 0",
        claim="identity",
        sample=sample,
        check=check_optimality,
        shapes=SHAPES,
    )
)
