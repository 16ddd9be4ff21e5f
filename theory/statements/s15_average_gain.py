r"""S15: how much a choice that sees the loss wins on average.

**Setting.**  Under the curvature of S7 the loss of removing component :math:`j`, with the best recovery, is
:math:`q_j = a_j d_j`: its activation cost :math:`a_j`, and how much the loss minds where it writes,
:math:`d_j = b_j^\top D b_j / \|b_j\|^2` for column :math:`b_j` of B (S8).  A rule that sees activations only removes
the component of least :math:`a_j`, a loss-aware one that of least :math:`q_j`.

**Statement.**  Let :math:`a_1 \le a_2 \le \dots \le a_r` be given, :math:`r \ge 2`, and let the :math:`d_j \ge 0` be
independent of them and of each other, with one distribution of mean :math:`\bar d`; so it is where the directions of
B's columns are drawn without regard to :math:`D` and to the activations.  With :math:`d, d'` two of them,

.. math:: E[\min_j q_j] \;\le\; E[q_1] - E[(a_1 d - a_2 d')_+], \qquad E[q_1] = \bar d\, a_1,

with equality for :math:`r = 2`.  The loss-aware choice is strictly better on average if and only if :math:`P(a_1 d >
a_2 d') > 0`: where the loss minds some directions more than others by a larger factor than the two cheapest components
differ by.

**Proof.**  :math:`E[q_1] = a_1 E[d_1]`.  :math:`\min_j q_j \le \min(q_1, q_2) = q_1 - (q_1 - q_2)_+`, with equality for
:math:`r = 2`; take expectations.  If :math:`P(a_1 d > a_2 d') > 0`, the last term is positive.  If it is 0, then almost
surely :math:`q_1 = a_1 d_1 \le a_2 d_j \le a_j d_j = q_j` for every :math:`j > 1`, and both rules lose the same.  ∎

So it is a gain of the choice alone, of one component.  S7 bounds it: never more than the factor :math:`\kappa(D)`.

Checked without sampling error: :math:`d` takes finitely many values with equal probability.  The minimum exceeds
:math:`t` where every :math:`a_j d_j` does, with probability :math:`\prod_j P(d > t / a_j)`, whose integral over
:math:`t` is the expectation.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from theory.checking import instances
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare

#: Relative rounding of a product that is divided again.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Components:
    """Activation costs of the components, in any order, and the values that each d_j takes with equal probability."""

    costs: Float[Tensor, "*n r"]
    values: Float[Tensor, "*n v"]


def loss_aware(instance: Components) -> Float[Tensor, "*n"]:
    """Exact expectation of the loss of the loss-aware choice.

    >>> loss_aware(Components(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 3.0])))
    tensor(1.5000)
    """
    costs, values = instance.costs, instance.values.sort(dim=-1).values
    # Between two products a_j d of the values nothing changes.
    steps = (costs.unsqueeze(-1) * values.unsqueeze(-2)).flatten(-2).sort(dim=-1).values
    starts = torch.cat([torch.zeros_like(steps[..., :1]), steps[..., :-1]], dim=-1)
    # Share of the values above t / a_j, at the start of each step and for each component.
    thresholds = starts.unsqueeze(-2) / costs.unsqueeze(-1)
    products = values.unsqueeze(-2).expand(*costs.shape, -1).contiguous()
    at_most = torch.searchsorted(products, thresholds * (1 + ROUNDING), right=True)
    survival = (1 - at_most.to(values.dtype) / values.shape[-1]).prod(dim=-2)
    return ((steps - starts) * survival).sum(dim=-1)


def by_activations(instance: Components) -> Float[Tensor, "*n"]:
    """Expected loss of the choice by activations."""
    return instance.costs.amin(dim=-1) * instance.values.mean(dim=-1)


def gain(instance: Components) -> Float[Tensor, "*n"]:
    """``E (a_1 d - a_2 d')_+``: by how much the loss-aware choice is better at least.

    >>> gain(Components(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 3.0])))
    tensor(0.2500)
    """
    first, second = instance.costs.sort(dim=-1).values[..., :2].unbind(dim=-1)
    d = instance.values
    excess = (first[..., None] * d).unsqueeze(-1) - (second[..., None] * d).unsqueeze(-2)
    return excess.clamp(min=0.0).mean(dim=(-2, -1))


def check(instance: Components) -> Result:
    """Expected loss of the loss-aware choice against that of the choice by activations, less the gain."""
    assumptions = {
        "activation costs positive": instance.costs.amin(dim=-1) > 0,
        "d not negative, and not always zero": (instance.values.amin(dim=-1) >= 0)
        & (instance.values.amax(dim=-1) > 0),
    }
    return compare(loss_aware(instance), by_activations(instance) - gain(instance), assumptions)


def sample(generator: Generator, n: int, *, r: int, values: int) -> Components:
    """Costs and values that spread over up to three powers of ten."""
    spread = 3 * instances.uniform(generator, n, 1)
    return Components(
        10 ** (spread * instances.uniform(generator, n, r)),
        10 ** (3 * instances.uniform(generator, n, 1) * instances.uniform(generator, n, values)),
    )


def two_components() -> Components:
    """Two components of nearly equal cost: the statement is an equality.

    >>> round(check(two_components()).ratio.item(), 9)
    1.0
    """
    return Components(
        torch.tensor([[1.0, 1.1]], dtype=torch.float64),
        torch.tensor([[0.1, 1.0, 4.0]], dtype=torch.float64),
    )


register(
    Statement(
        key="S15",
        title="A loss-aware choice is strictly better on average where D is uneven enough",
        formula="E[min_j a_j d_j] ≤ d̄·a₁ − E[(a₁d − a₂d')₊]",
        claim="bound",
        sample=sample,
        check=check,
        shapes=(
            {"r": 2, "values": 3},
            {"r": 3, "values": 4},
            {"r": 5, "values": 3},
        ),
        extremal=two_components,
        attained=True,
        adversary_shapes=({"r": 3, "values": 3},),
    )
)
