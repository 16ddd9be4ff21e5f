r"""S8: for a given mask, activation-based and loss-aware recovery are the same; and what the gradients' Gram sees.

**Statement (a).**  Let :math:`C \succ 0`, :math:`D \succ 0`.  Among the :math:`\delta` with :math:`\delta_{:,M} =
-W_{:,M}`, the minimiser of :math:`\tfrac12 \operatorname{tr}(D \delta C \delta^\top)` is

.. math:: \delta = -W_{:,M} \big((C^{-1})_{M,M}\big)^{-1} (C^{-1})_{M,:},

whatever :math:`D`.  **Proof.**  With :math:`\delta' = D^{1/2} \delta` the problem is that of S1 for
:math:`W' = D^{1/2} W`, :math:`H = C`, :math:`G = 0`; its solution is :math:`-D^{1/2} W_{:,M} (\dots)`, and
:math:`D^{1/2}` cancels.  ∎  So rules that use the loss and rules that use activations differ in *which* components
they remove (the cost is :math:`\tfrac12 \operatorname{tr}(D W_{:,M} ((C^{-1})_{M,M})^{-1} W_{:,M}^\top)`), not in how
they recover.

**Statement (b).**  Let :math:`G_B = s \sum_{t=1}^T g_t z_t^\top` with tokens independent and alike, :math:`g_t`
independent of :math:`z_t` and :math:`E g_t = 0`.  Then :math:`E[G_B^\top G_B] = s^2\, T\, E\|g\|^2\, E[z z^\top]`.
**Proof.**  :math:`E[G_B^\top G_B] = s^2 \sum_{t,t'} E[(g_t^\top g_{t'}) z_t z_{t'}^\top]`.  For :math:`t \ne t'` the
factor :math:`E[g_t]^\top E[g_{t'}]` vanishes; for :math:`t = t'` independence gives :math:`E\|g\|^2 E[z z^\top]`.  ∎
So under these assumptions the paper's curvature estimate is the activation second moment of the bottleneck, up to a
factor, and sees nothing of the loss.  With a mean gradient the terms :math:`t \ne t'` add :math:`s^2 T (T-1)
\|E g\|^2 E[z] E[z]^\top`.

(b) is checked without sampling error: :math:`z` and :math:`g` have finitely many values, and the expectation over two
tokens is the sum over all combinations.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from prunedlora.linalg.elimination import block_solution, eliminate
from theory.checking import instances
from theory.checking.numerics import allowance, condition, frobenius, gram, kronecker_loss, usable
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare
from theory.statements.s01_closed_form import removed_columns

#: Tokens in the enumeration of (b).
TOKENS = 2


@dataclass(frozen=True)
class Kronecker:
    """Columns `removed` of `W` under the curvature ``D ⊗ C``, both given by factors."""

    W: Float[Tensor, "*n d r"]
    factor_C: Float[Tensor, "*n r r"]
    factor_D: Float[Tensor, "*n d d"]
    removed: Int[Tensor, "*n count"]


@dataclass(frozen=True)
class Tokens:
    """Finite distributions: `z` and `g` each take their rows with equal probability; `scaling` is s."""

    z: Float[Tensor, "*n values_z r"]
    g: Float[Tensor, "*n values_g d"]
    scaling: Float[Tensor, "*n"]


def dense_minimiser(instance: Kronecker) -> Float[Tensor, "*n d r"]:
    """Minimiser over all ``d r`` unknowns at once, from the dense matrix ``D ⊗ C``.

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> dense_minimiser(Kronecker(torch.ones(1, 2, dtype=torch.float64), eye, eye[:1, :1], torch.tensor([0])))
    tensor([[-1.,  0.]], dtype=torch.float64)
    """
    C = gram(instance.factor_C)
    D = gram(instance.factor_D)
    (d, r) = instance.W.shape[-2:]
    H = torch.einsum("...ij,...kl->...ikjl", D, C).reshape(*D.shape[:-2], d * r, d * r)
    gone = removed_columns(instance.removed, r).expand(*instance.W.shape).flatten(-2)
    scale = H.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    system = H * (1 - gone).unsqueeze(-1) + scale * torch.diag_embed(gone)
    target = -(scale * instance.W).flatten(-2) * gone
    return torch.linalg.solve(system, target).unflatten(-1, (d, r))


def check_recovery(instance: Kronecker) -> Result:
    """`block_solution` with curvature C alone against the minimiser under ``D ⊗ C``."""
    C, D = gram(instance.factor_C), gram(instance.factor_D)
    delta, _ = block_solution(instance.W, C, instance.removed)
    size = frobenius(delta) + frobenius(instance.W)
    error = torch.where(size > 0, frobenius(delta - dense_minimiser(instance)) / size, 0.0)
    kappa = condition(C) * condition(D)
    assumptions = {"C and D positive definite": usable(kappa)}
    return compare(
        error, allowance(kappa, instance.W.shape[-2] * instance.W.shape[-1]), assumptions
    )


def check_cost(instance: Kronecker) -> Result:
    """Costs of `eliminate`, which sees D only through ``W^T D W``, against the loss of the change that it makes."""
    C = gram(instance.factor_C)
    D = gram(instance.factor_D)
    count = instance.removed.shape[-1]
    out = eliminate([instance.W], [C], count, moments=[instance.W.mT @ D @ instance.W], damping=0.0)
    delta = out.matrices[0] - instance.W
    scale = frobenius(D) * frobenius(C) * (frobenius(delta) + frobenius(instance.W)).square()
    error = torch.where(
        scale > 0, (kronecker_loss(delta, C, D) - out.cost.sum(dim=-1)).abs() / scale, 0.0
    )
    return compare(
        error, allowance(condition(C), C.shape[-1]), {"C positive definite": usable(condition(C))}
    )


def expected_gram(instance: Tokens) -> Float[Tensor, "*n r r"]:
    """Exact expectation of ``G_B^T G_B`` over all combinations of two tokens."""
    outer = torch.einsum("...gd,...zr->...gzdr", instance.g, instance.z).flatten(-4, -3)
    outer = instance.scaling[..., None, None, None] * outer
    pairs = (outer.unsqueeze(-3) + outer.unsqueeze(-4)).flatten(-4, -3)
    return torch.einsum("...pdr,...pdq->...rq", pairs, pairs) / pairs.shape[-3]


def predicted_gram(instance: Tokens) -> Float[Tensor, "*n r r"]:
    """``s² T E||g||² E[z z^T]``."""
    second_moment = gram(instance.z) / instance.z.shape[-2]
    energy = instance.g.square().sum(dim=-1).mean(dim=-1)
    return (TOKENS * instance.scaling.square() * energy)[..., None, None] * second_moment


def check_gram(instance: Tokens) -> Result:
    """Expected Gram matrix of the gradient of B against the second moment of z."""
    predicted = predicted_gram(instance)
    error = frobenius(expected_gram(instance) - predicted) / frobenius(predicted)
    mean = instance.g.mean(dim=-2).norm(dim=-1)
    typical = instance.g.square().sum(dim=-1).mean(dim=-1).sqrt()
    assumptions = {
        "mean gradient zero": mean <= 1e-12 * typical,
        "gradients and inputs not all zero": frobenius(predicted) > 0,
    }
    return compare(error, allowance(torch.ones_like(error), instance.z.shape[-1] ** 2), assumptions)


def sample_recovery(generator: Generator, n: int, *, d: int, r: int, count: int) -> Kronecker:
    """Random layers."""
    return Kronecker(
        W=instances.matrices(generator, n, d, r),
        factor_C=instances.factors(generator, n, r, condition=4.0),
        factor_D=instances.factors(generator, n, d, condition=4.0),
        removed=instances.subsets(generator, n, r, count),
    )


def mostly_zero_mean(
    generator: Generator, n: int, values: int, d: int
) -> Float[Tensor, "n values d"]:
    """Values of a gradient whose mean is zero, but for a tenth of the instances."""
    g = instances.matrices(generator, n, values, d)
    biased = instances.uniform(generator, n) < 0.1
    return torch.where(biased.view(-1, 1, 1), g, g - g.mean(dim=-2, keepdim=True))


def sample_tokens(generator: Generator, n: int, *, values: int, d: int, r: int) -> Tokens:
    """Random values; a tenth of the instances has a mean gradient, about which the statement is silent."""
    g = mostly_zero_mean(generator, n, values, d)
    return Tokens(
        instances.matrices(generator, n, values, r),
        g,
        instances.log_uniform(generator, n, -1.0, 1.0),
    )


register(
    Statement(
        key="S8.recovery",
        title="Under Kronecker-factored curvature the recovery for a given mask does not depend on the loss",
        formula="argmin ½tr(DδCδᵀ) s.t. δ[:,M]=−W[:,M]  =  −W[:,M]((C⁻¹)[M,M])⁻¹(C⁻¹)[M,:]",
        claim="identity",
        sample=sample_recovery,
        check=check_recovery,
        shapes=(
            {"d": 2, "r": 3, "count": 1},
            {"d": 3, "r": 5, "count": 3},
            {"d": 6, "r": 4, "count": 2},
        ),
    )
)
register(
    Statement(
        key="S8.cost",
        title="The loss of removal with recovery needs the r × r moment WᵀDW only",
        formula="Σ cost of eliminate(W, C, moments=WᵀDW) = ½tr(DδCδᵀ)",
        claim="identity",
        sample=sample_recovery,
        check=check_cost,
        shapes=(
            {"d": 2, "r": 3, "count": 1},
            {"d": 3, "r": 5, "count": 3},
            {"d": 12, "r": 6, "count": 4},
        ),
    )
)
register(
    Statement(
        key="S8.gram",
        title="With independent zero-mean output gradients, the Gram matrix of G_B is the second moment of z",
        formula="E[G_BᵀG_B] = s²·T·E‖g‖²·E[zzᵀ]",
        claim="identity",
        sample=sample_tokens,
        check=check_gram,
        shapes=({"values": 2, "d": 2, "r": 3}, {"values": 3, "d": 4, "r": 4}),
    )
)
