r"""S11: the best adapter of lower rank under Kronecker-factored curvature, from r × r statistics.

**Statement.**  Let :math:`D \succ 0`, :math:`C \succ 0`, :math:`B \in \mathbb R^{d_{out} \times r}`, :math:`A
\in \mathbb R^{r \times d_{in}}`.  Among all :math:`X` of rank at most :math:`k`, :math:`\|D^{1/2} (X - BA)
C^{1/2}\|_F` is minimised by the truncated singular value decomposition of :math:`D^{1/2} B A C^{1/2}`, mapped
back.  With :math:`R_b^\top R_b = B^\top D B`, :math:`R_a^\top R_a = A C A^\top` (invertible) and :math:`R_b
R_a^\top = U \Sigma V^\top` this is

.. math:: X = (B R_b^{-1} U_k \Sigma_k)\,(V_k^\top R_a^{-\top} A),

and the error is :math:`(\sum_{i > k} \sigma_i^2)^{1/2}`.  In particular no choice of :math:`k` components, with any
recovery, does better.

**Proof.**  :math:`Y = D^{1/2} X C^{1/2}` has the rank of :math:`X`, so the first claim is Eckart-Young for
:math:`Y`. :math:`D^{1/2} B = O_b R_b` with :math:`O_b = D^{1/2} B R_b^{-1}`, whose columns are orthonormal:
:math:`O_b^\top O_b = R_b^{-\top} B^\top D B R_b^{-1} = I`.  Likewise :math:`C^{1/2} A^\top = O_a R_a`.  So
:math:`D^{1/2} B A C^{1/2} = O_b R_b R_a^\top O_a^\top = (O_b U) \Sigma (O_a V)^\top` is a singular value
decomposition, and its truncation mapped back is :math:`D^{-1/2} O_b U_k \Sigma_k V_k^\top O_a^\top C^{-1/2} = B
R_b^{-1} U_k \Sigma_k V_k^\top R_a^{-\top} A`.  A choice of components with recovery is an :math:`X` of rank at
most :math:`k`.  ∎

:math:`A C A^\top = E[z z^\top]` with :math:`z = A x`, and :math:`s^2 B^\top D B = E[u u^\top]` with :math:`u =
\partial L / \partial z` if :math:`D = E[g g^\top]`: both pass through the bottleneck, and no matrix of size d ×
d is needed.

**References.**  Eckart and Young 1936; SVD-LLM (arXiv:2403.07378), activation-weighted; GFWSVD (arXiv:2505.17974),
Kronecker Fisher-weighted, both for full weights.  :math:`D = C = I` is plain truncation.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from prunedlora.linalg.elimination import block_solution
from prunedlora.linalg.weighted_truncation import singular_values, truncate_weighted
from theory.checking import instances
from theory.checking.numerics import allowance, condition, frobenius, gram, usable
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare


@dataclass(frozen=True)
class Adapter:
    """An adapter, the curvature by factors, and a competitor ``left @ right`` of the rank to keep."""

    B: Float[Tensor, "*n d_out r"]
    A: Float[Tensor, "*n r d_in"]
    factor_C: Float[Tensor, "*n d_in d_in"]
    factor_D: Float[Tensor, "*n d_out d_out"]
    left: Float[Tensor, "*n d_out k"]
    right: Float[Tensor, "*n k d_in"]

    @property
    def moments(self) -> tuple[Float[Tensor, "*n r r"], Float[Tensor, "*n r r"]]:
        """``B^T D B`` and ``A C A^T``."""
        return gram(self.factor_D @ self.B), gram(self.factor_C @ self.A.mT)

    @property
    def rank(self) -> int:
        """Components kept."""
        return self.left.shape[-1]


def weighted_error(instance: Adapter, X: Float[Tensor, "*n d_out d_in"]) -> Float[Tensor, "*n"]:
    """``||D^{1/2} (X - BA) C^{1/2}||_F``; any factors of D and C give the same norm."""
    return frobenius(instance.factor_D @ (X - instance.B @ instance.A) @ instance.factor_C.mT)


def optimum(instance: Adapter) -> Float[Tensor, "*n d_out d_in"]:
    """The library's solution, from the two r × r moments."""
    left, right = truncate_weighted(instance.B, instance.A, instance.rank, *instance.moments)
    return left @ right


def dense_optimum(instance: Adapter) -> Float[Tensor, "*n d_out d_in"]:
    """The same from the dense matrix ``D^{1/2} B A C^{1/2}``."""
    U, S, Vh = torch.linalg.svd(
        instance.factor_D @ instance.B @ instance.A @ instance.factor_C.mT, full_matrices=False
    )
    k = instance.rank
    truncated = (U[..., :k] * S[..., None, :k]) @ Vh[..., :k, :]
    half = torch.linalg.solve(instance.factor_D, truncated)
    return torch.linalg.solve(instance.factor_C, half.mT).mT


def sensitivity(instance: Adapter) -> Float[Tensor, "*n"]:
    """Condition of the problem: that of the moments, over the relative gap of the spectrum at the cut."""
    M_b, M_a = instance.moments
    values = singular_values(M_b, M_a)
    gap = (values[..., instance.rank - 1] - values[..., instance.rank]) / values[..., 0]
    return (condition(M_b) + condition(M_a)) / gap


def check_factors(instance: Adapter) -> Result:
    """Solution through the factors against the dense one, both errors and their difference in the metric."""
    M_b, M_a = instance.moments
    values = singular_values(M_b, M_a)
    through, dense = optimum(instance), dense_optimum(instance)
    difference = frobenius(instance.factor_D @ (through - dense) @ instance.factor_C.mT)
    tail = values[..., instance.rank :].square().sum(dim=-1).sqrt()
    error = (
        torch.maximum(difference, (weighted_error(instance, through) - tail).abs()) / values[..., 0]
    )
    amplification = sensitivity(instance)
    assumptions = {"moments invertible, gap in the spectrum": usable(amplification)}
    return compare(error, allowance(amplification, instance.B.shape[-1]), assumptions)


def check_optimum(instance: Adapter) -> Result:
    """Error of the solution against that of the competitor."""
    M_b, M_a = instance.moments
    kappa = condition(M_b) + condition(M_a)
    best = weighted_error(instance, optimum(instance))
    rounding = (
        allowance(kappa.clamp(max=1e10), instance.B.shape[-1]) * singular_values(M_b, M_a)[..., 0]
    )
    competitor = weighted_error(instance, instance.left @ instance.right)
    return compare(best, competitor, {"moments invertible": kappa <= 1e10}, rounding.detach())


def recovered_choice(
    B: Float[Tensor, "*n d_out r"],
    A: Float[Tensor, "*n r d_in"],
    M_a: Float[Tensor, "*n r r"],
    order: Tensor,
    k: int,
) -> tuple[Float[Tensor, "*n d_out k"], Float[Tensor, "*n k d_in"]]:
    """The first k components of `order`, the others removed with the best recovery on B.

    >>> B, A, order = torch.eye(2), torch.eye(2), torch.tensor([1, 0])
    >>> recovered_choice(B, A, torch.eye(2), order, 1)[0]
    tensor([[0.],
            [1.]], dtype=torch.float64)
    """
    kept = order[..., :k]
    removed = order[..., k:]
    delta, _ = block_solution(B, M_a, removed)
    left = torch.take_along_dim(B + delta, kept.unsqueeze(-2), dim=-1)
    return left, torch.take_along_dim(A, kept.unsqueeze(-1), dim=-2)


def sample(generator: Generator, n: int, *, d_out: int, d_in: int, r: int, k: int) -> Adapter:
    """Random adapters; the competitor is a choice of components with recovery."""
    B, A = instances.matrices(generator, n, d_out, r), instances.matrices(generator, n, r, d_in)
    factor_C = instances.factors(generator, n, d_in, condition=4.0)
    factor_D = instances.factors(generator, n, d_out, condition=4.0)
    order = instances.subsets(generator, n, r, r)
    left, right = recovered_choice(B, A, gram(factor_C @ A.mT), order, k)
    return Adapter(B, A, factor_C, factor_D, left, right)


SHAPES = (
    {"d_out": 4, "d_in": 4, "r": 3, "k": 1},
    {"d_out": 12, "d_in": 8, "r": 4, "k": 2},
    {"d_out": 8, "d_in": 24, "r": 8, "k": 3},
)

register(
    Statement(
        key="S11.factors",
        title="Weighted truncation through r × r factors equals the dense solution",
        formula="(B·R_b⁻¹U_kΣ_k)(V_kᵀR_a⁻ᵀ·A) = D^(−½)·svd_k(D^½BAC^½)·C^(−½)",
        claim="identity",
        sample=sample,
        check=check_factors,
        shapes=SHAPES,
    )
)
register(
    Statement(
        key="S11.optimum",
        title="No adapter of the same rank, and no choice of components with recovery, does better",
        formula="‖D^½(X*−BA)C^½‖_F ≤ ‖D^½(X−BA)C^½‖_F for every X of rank k",
        claim="bound",
        sample=sample,
        check=check_optimum,
        shapes=SHAPES,
        attained=True,
        adversary_shapes=({"d_out": 4, "d_in": 4, "r": 3, "k": 1},),
    )
)
