r"""S7: what a rule that sees activations only can cost in loss.

**Statement.**  Let :math:`C \succ 0` be the second moment of the inputs, :math:`D \succeq 0` the curvature of the loss
in the outputs, :math:`a(\delta) = \operatorname{tr}(\delta C \delta^\top)` the activation cost and
:math:`\Delta L(\delta) = \tfrac12 \operatorname{tr}(D \delta C \delta^\top)` the loss model (Kronecker-factored
curvature at a stationary point).  Over any set :math:`F` of changes, with :math:`\delta_{act} \in
\operatorname{argmin}_F a` and :math:`\delta^* \in \operatorname{argmin}_F \Delta L`,

.. math:: \Delta L(\delta^*) \le \Delta L(\delta_{act}) \le \kappa(D)\, \Delta L(\delta^*),
          \qquad \kappa(D) = \lambda_{max}(D) / \lambda_{min}(D),

where the eigenvalues may be taken of :math:`D` restricted to any subspace that holds the columns of every
:math:`\delta \in F`.

**Assumption.**  :math:`D` is positive definite on that subspace.  Removal of columns of :math:`W`, with any recovery of
the form (7), acts in the column space of :math:`W`; the check takes that subspace, which for a wide layer with few
columns can make :math:`\kappa` much smaller.

**Proof.**  :math:`2 \Delta L(\delta) = \operatorname{tr}(D X)` with :math:`X = \delta C \delta^\top \succeq 0`,
whose range lies in the subspace, so :math:`\lambda_{min} a(\delta) \le 2 \Delta L(\delta) \le \lambda_{max}
a(\delta)`.  Then :math:`2 \Delta L(\delta_{act}) \le \lambda_{max} a(\delta_{act}) \le \lambda_{max}
a(\delta^*) \le \kappa \cdot 2 \Delta L(\delta^*)`.  The first inequality of the statement is the definition of
:math:`\delta^*`.  ∎

**Attained** (:func:`blind_choice`): :math:`D = \operatorname{diag}(1, 1/\kappa)`, :math:`C = I`, :math:`W =
\operatorname{diag}(1, 1 + \eta)`, one column to remove.  Activations remove column 0, cost :math:`1 < (1+\eta)^2`, loss
½; the loss would remove column 1, at :math:`(1+\eta)^2 / 2\kappa`: the ratio is :math:`\kappa / (1+\eta)^2`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from prunedlora.linalg.elimination import block_solution
from theory.checking import instances
from theory.checking.numerics import (
    condition,
    condition_on_range,
    gram,
    kronecker_loss,
    trace_form,
    usable,
)
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare


@dataclass(frozen=True)
class Layer:
    """Weights, curvature factors (``C = factor_C^T factor_C``, the same for D) and the masks to choose from.

    Where `recover` is set, the kept columns move to compensate; the feasible set has one change per mask.
    """

    W: Float[Tensor, "*n d r"]
    factor_C: Float[Tensor, "*n r r"]
    factor_D: Float[Tensor, "*n k d"]
    masks: Int[Tensor, "*n masks count"]
    recover: Bool[Tensor, "*n"]

    @property
    def C(self) -> Float[Tensor, "*n r r"]:
        """Second moment of the inputs."""
        return gram(self.factor_C)

    @property
    def D(self) -> Float[Tensor, "*n d d"]:
        """Curvature of the loss in the outputs."""
        return gram(self.factor_D)


def sample(generator: Generator, n: int, *, d: int, r: int, count: int, rank_D: int = 0) -> Layer:
    """Random layers; half of them with recovery."""
    return Layer(
        W=instances.matrices(generator, n, d, r),
        factor_C=instances.factors(generator, n, r),
        factor_D=instances.factors(generator, n, d, rank=rank_D),
        masks=instances.all_masks(r, count).expand(n, -1, -1),
        recover=instances.uniform(generator, n) < 0.5,
    )


def over_masks(
    X: Float[Tensor, "*n d r"], masks: Int[Tensor, "*n masks count"]
) -> Float[Tensor, "*n masks d r"]:
    """The same matrix once for each mask."""
    return X.unsqueeze(-3).expand(*masks.shape[:-1], *X.shape[-2:])


def feasible_changes(instance: Layer) -> Float[Tensor, "*n masks d r"]:
    """The change of each mask, with or without recovery."""
    W = over_masks(instance.W, instance.masks)
    recovered, _ = block_solution(W, over_masks(instance.C, instance.masks), instance.masks)
    columns = instance.masks.unsqueeze(-2).expand(*W.shape[:-1], instance.masks.shape[-1])
    zeroed = torch.zeros_like(W).scatter(-1, columns, -W.gather(-1, columns))
    return torch.where(instance.recover[..., None, None, None], recovered, zeroed)


def costs_and_losses(
    instance: Layer,
) -> tuple[Float[Tensor, "*n masks"], Float[Tensor, "*n masks"]]:
    """Activation cost, and loss, of the change of each mask."""
    delta = feasible_changes(instance)
    C, D = (over_masks(moment, instance.masks) for moment in (instance.C, instance.D))
    return trace_form(delta, C), kronecker_loss(delta, C, D)


def losses_of_choices(instance: Layer) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Loss of the choice by activations, and of the choice by loss."""
    activation, loss = costs_and_losses(instance)
    chosen = loss.gather(-1, activation.argmin(dim=-1, keepdim=True)).squeeze(-1)
    return chosen, loss.amin(dim=-1)


def kappa(instance: Layer) -> Float[Tensor, "*n"]:
    """Condition number of D on the range where removal acts."""
    return condition_on_range(instance.D, instance.W)


def check(instance: Layer) -> Result:
    """Loss of the activation choice against κ times that of the loss-aware choice."""
    chosen, best = losses_of_choices(instance)
    price = kappa(instance)
    assumptions = {
        "D positive definite where removal acts": usable(price),
        "C positive definite": usable(condition(instance.C)),
    }
    return compare(chosen, price * best, assumptions)


def blind_choice(condition_number: float = 1e3, eta: float = 1e-4) -> Layer:
    """The instance that attains the factor.

    >>> chosen, best = losses_of_choices(blind_choice())
    >>> round((chosen / best).item(), 1)
    999.8
    """
    eye = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    scale = torch.tensor([1.0, condition_number**-0.5], dtype=torch.float64)
    stretch = torch.tensor([1.0, 1.0 + eta], dtype=torch.float64)
    masks = instances.all_masks(2, 1).unsqueeze(0)
    return Layer(eye * stretch, eye, eye * scale, masks, torch.zeros(1, dtype=torch.bool))


register(
    Statement(
        key="S7",
        title="Price of ignoring the loss: activation-based choice against loss-aware choice",
        formula="ΔL(δ_act) ≤ κ(D)·ΔL(δ*)",
        claim="bound",
        sample=sample,
        check=check,
        shapes=(
            {"d": 2, "r": 2, "count": 1},
            {"d": 4, "r": 6, "count": 2},
            {"d": 12, "r": 4, "count": 2},
            {"d": 12, "r": 4, "count": 1, "rank_D": 8},
            {"d": 8, "r": 8, "count": 4},
        ),
        extremal=blind_choice,
        attained=True,
        adversary_shapes=({"d": 2, "r": 2, "count": 1}, {"d": 4, "r": 3, "count": 2}),
    )
)
