r"""The truncation family: best adapters of lower rank, in the metric of the weights, the inputs or the loss.

The kept components come first, ordered by singular value; the removed ones are the last, exactly zero.  All are
invariant to any change of basis ``B -> B R^-1``, ``A -> R A``, and so to permutation, to sign and to rescaling:
they see the product BA only.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.criteria.registry import Reduction, register_reduction
from prunedlora.factors import Factors
from prunedlora.linalg.truncation import truncation
from prunedlora.linalg.weighted_truncation import DAMPING, damped_moment, weighted_truncation
from prunedlora.statistics.data import Statistics


@register_reduction("para2026", needs=(), unit="energy", rotates=True, settings={"scope": "global"})
@register_reduction(
    "lorasqueeze2026", needs=(), unit="energy", rotates=True, settings={"scope": "module"}
)
@register_reduction("svd", needs=(), unit="energy", rotates=True)
def svd(factors: Factors, statistics: Statistics, count: int) -> Reduction:
    r"""Truncated singular value decomposition of :math:`BA`; a component costs :math:`\sigma_j^2`.

    `para2026` (arXiv:2604.27796) is this rule with one threshold on the singular values of all modules, and
    `lorasqueeze2026` (arXiv:2602.10993) is this rule at every event of a gradual schedule, or once after training.

    Invariant to permutation, to sign, to rescaling and to a change of basis.
    """
    if count == 0:
        return _unchanged(factors)
    out = truncation(factors.B, factors.A, max(1, factors.rank - count))
    return last_removed(factors, out.B, out.A, out.values.square(), count, out.basis)


@register_reduction("svd_activation", needs=("C_z",), unit="energy", rotates=True)
def svd_activation(
    factors: Factors, statistics: Statistics, count: int, *, damping: float = DAMPING
) -> Reduction:
    r"""Least change of the output, :math:`\|(X - BA)C^{1/2}\|_F` with the inputs' second moment C.

    The rule of SVD-LLM (arXiv:2403.07378) for an adapter.

    Invariant to permutation, to sign, to rescaling and to a change of basis.
    """
    M_b = factors.B.double().mT @ factors.B.double()
    return _weighted(factors, M_b, input_moment(factors, statistics, damping), count, 1.0)


@register_reduction("svd_gradient", needs=("U",), unit="loss", rotates=True)
def svd_gradient(
    factors: Factors, statistics: Statistics, count: int, *, damping: float = DAMPING
) -> Reduction:
    r"""Least change seen by the loss's gradients, :math:`\|D^{1/2}(X - BA)\|_F`, inputs taken as white.

    Its cost is in loss units if the inputs are white with unit variance.

    Invariant to permutation, to sign, to rescaling and to a change of basis.
    """
    M_a = factors.A.double() @ factors.A.double().mT
    return _weighted(factors, output_moment(factors, statistics, damping), M_a, count, 0.5)


@register_reduction("svd_kfac", needs=("C_z", "U"), unit="loss", rotates=True)
def svd_kfac(
    factors: Factors, statistics: Statistics, count: int, *, damping: float = DAMPING
) -> Reduction:
    r"""Least increase of the loss under Kronecker curvature, :math:`\tfrac12\|D^{1/2}(X - BA)C^{1/2}\|_F^2`.

    No choice of components with any recovery does better under that curvature.  The LoRA counterpart of GFWSVD
    (arXiv:2505.17974), from two r x r moments.

    Invariant to permutation, to sign, to rescaling and to a change of basis.
    """
    M_b, M_a = (
        output_moment(factors, statistics, damping),
        input_moment(factors, statistics, damping),
    )
    return _weighted(factors, M_b, M_a, count, 0.5)


def output_moment(
    factors: Factors, statistics: Statistics, damping: float
) -> Float[Tensor, "*m r r"]:
    r""":math:`s^2 B^\top D B`, damped by :math:`B^\top B`."""
    B = factors.B.double()
    return damped_moment(statistics.require("U").double(), B.mT @ B, damping)


def input_moment(
    factors: Factors, statistics: Statistics, damping: float
) -> Float[Tensor, "*m r r"]:
    r""":math:`A C A^\top`, damped by :math:`A A^\top`."""
    A = factors.A.double()
    return damped_moment(statistics.require("C_z").double(), A @ A.mT, damping)


def last_removed(
    factors: Factors,
    B: Float[Tensor, "*m d_out k"],
    A: Float[Tensor, "*m k d_in"],
    costs: Float[Tensor, "*m r"],
    count: int,
    basis: tuple[Float[Tensor, "*m r k"], Float[Tensor, "*m k r"]] | None = None,
) -> Reduction:
    """The first r - count columns of B and rows of A, zeros behind them; `costs` as of all r components."""
    kept = factors.rank - count
    r = factors.rank
    new = Factors(torch.zeros_like(factors.B), torch.zeros_like(factors.A))
    new.B[..., :kept] = B[..., :kept].to(factors.B.dtype)
    new.A[..., :kept, :] = A[..., :kept, :].to(factors.A.dtype)
    removed = torch.arange(r - 1, kept - 1, -1, device=B.device).expand(*costs.shape[:-1], count)
    if basis is not None:
        # Zeros behind what is kept, as in the factors.
        P, Q = (t.new_zeros(*t.shape[:-2], r, r) for t in basis)
        P[..., :kept] = basis[0][..., :kept]
        Q[..., :kept, :] = basis[1][..., :kept, :]
        basis = P, Q
    return Reduction(new, removed, costs.flip(-1)[..., :count], basis)


def _weighted(factors: Factors, M_b: Tensor, M_a: Tensor, count: int, factor: float) -> Reduction:
    if count == 0:
        return _unchanged(factors)
    kept = max(1, factors.rank - count)
    out = weighted_truncation(factors.B, factors.A, kept, M_b, M_a)
    return last_removed(factors, out.B, out.A, factor * out.values.square(), count, out.basis)


def _unchanged(factors: Factors) -> Reduction:
    empty = torch.zeros((*factors.A.shape[:-2], 0), dtype=torch.float64, device=factors.A.device)
    return Reduction(factors, empty.long(), empty)
