r"""S9, second part: what a choice by an estimated curvature costs.

**Statement.**  Let :math:`q(\delta) = \tfrac12 \operatorname{tr}(\delta H \delta^\top)`, and :math:`\hat q`
the same with :math:`(1-\eta) H \preceq \hat H \preceq (1+\eta) H`, :math:`\eta < 1`.  Over any :math:`F`,
:math:`\hat\delta \in \operatorname{argmin}_F \hat q` costs :math:`q(\hat\delta) \le \frac{1+\eta}{1-\eta}
\min_F q`.

**Proof.**  :math:`(1-\eta) q(\hat\delta) \le \hat q(\hat\delta) \le \hat q(\delta^*) \le (1+\eta)
q(\delta^*)`.  ∎

**Attained** by :math:`H = I`, :math:`\hat H = \operatorname{diag}(1-\eta, 1+\eta)`
(:func:`misjudged_curvature`). :math:`\eta` is computed from the eigenvalues of :math:`H^{-1/2} \hat H
H^{-1/2}`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from prunedlora.linalg.elimination import block_solution
from theory.checking import instances
from theory.checking.numerics import condition, gram, trace_form, usable
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare
from theory.statements.s07_price_of_ignoring_the_loss import over_masks


@dataclass(frozen=True)
class Estimate:
    """Curvature ``factor^T factor``, and the estimate of it by which masks and recovery are chosen."""

    W: Float[Tensor, "*n d r"]
    factor: Float[Tensor, "*n r r"]
    factor_hat: Float[Tensor, "*n k r"]
    masks: Int[Tensor, "*n masks count"]


def relative_error_of_curvature(
    H: Float[Tensor, "*n r r"], H_hat: Float[Tensor, "*n r r"]
) -> Float[Tensor, "*n"]:
    """Smallest η with ``(1-η) H ⪯ H_hat ⪯ (1+η) H``.

    >>> relative_error_of_curvature(torch.eye(2), torch.diag(torch.tensor([0.5, 1.2])))
    tensor(0.5000)
    """
    L = torch.linalg.cholesky(H)
    half = torch.linalg.solve_triangular(L, H_hat, upper=False)
    whitened = torch.linalg.solve_triangular(L, half.mT, upper=False)
    return (torch.linalg.eigvalsh((whitened + whitened.mT) / 2) - 1).abs().amax(dim=-1)


def cost_of_choice(instance: Estimate) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """True quadratic cost of the mask and recovery chosen by the estimate, and of the best ones."""
    W = over_masks(instance.W, instance.masks)
    masks = instance.masks
    H, H_hat = (
        over_masks(gram(instance.factor), masks),
        over_masks(gram(instance.factor_hat), masks),
    )
    delta_hat, estimated = block_solution(W, H_hat, masks)
    _, best = block_solution(W, H, masks)
    chosen = 0.5 * trace_form(delta_hat, H).gather(
        -1, estimated.argmin(dim=-1, keepdim=True)
    ).squeeze(-1)
    return chosen, best.amin(dim=-1)


def check_estimate(instance: Estimate) -> Result:
    """Cost of the choice by the estimated curvature against (1+η)/(1−η) times the optimum."""
    H = gram(instance.factor)
    eta = relative_error_of_curvature(H, gram(instance.factor_hat))
    chosen, best = cost_of_choice(instance)
    slack = torch.where(eta < 1, (1 + eta) / (1 - eta), torch.inf)
    assumptions = {
        "relative error of the curvature below 1": eta < 1 - 1e-6,
        "H positive definite": usable(condition(H)),
    }
    rounding = 1e-14 * condition(H) * chosen
    return compare(chosen, slack * best, assumptions, rounding.detach())


def sample_estimate(generator: Generator, n: int, *, d: int, r: int, count: int) -> Estimate:
    """Random curvatures with relative errors between 10^-3 and about 1; a few exceed 1."""
    factor = instances.factors(generator, n, r, condition=4.0)
    noise = instances.scaled(
        instances.normal(generator, n, r, r), instances.log_uniform(generator, n, -3.0, -0.5)
    )
    eye = torch.eye(r, dtype=torch.float64)
    W = instances.matrices(generator, n, d, r)
    return Estimate(
        W, factor, (eye + noise / r**0.5) @ factor, instances.all_masks(r, count).expand(n, -1, -1)
    )


def misjudged_curvature(eta: float = 0.5) -> Estimate:
    """The instance that attains (b)."""
    eye = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    wrong = torch.tensor([1 - eta, 1 + eta], dtype=torch.float64).sqrt()
    W = torch.tensor([[[1.0, ((1 - eta) / (1 + eta) * (1 + 1e-6)) ** 0.5]]], dtype=torch.float64)
    return Estimate(W, eye, eye * wrong, instances.all_masks(2, 1).unsqueeze(0))


register(
    Statement(
        key="S9.estimate",
        title="Guarantee for an estimated curvature",
        formula="q(δ̂) ≤ (1+η)/(1−η)·min_F q  if (1−η)H ⪯ Ĥ ⪯ (1+η)H",
        claim="bound",
        sample=sample_estimate,
        check=check_estimate,
        shapes=(
            {"d": 1, "r": 2, "count": 1},
            {"d": 4, "r": 5, "count": 2},
            {"d": 6, "r": 6, "count": 3},
        ),
        extremal=misjudged_curvature,
        attained=True,
        adversary_shapes=({"d": 1, "r": 2, "count": 1}, {"d": 2, "r": 3, "count": 1}),
    )
)
