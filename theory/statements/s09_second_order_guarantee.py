r"""S9: what a rule that minimises the second-order model of the loss guarantees about the loss itself.

**Statement.**  Let :math:`F` be a set of changes with :math:`\|\delta\|_F \le \rho`, :math:`m(\delta)` the exact
second-order Taylor model of :math:`L` at :math:`W`, and :math:`\delta_g \in \operatorname{argmin}_F m`.  If along every
segment :math:`t \mapsto W + t \delta`, :math:`t \in [0, 1]`, the third derivative is at most :math:`M_3
\|\delta\|_F^3`, then

.. math:: L(W + \delta_g) \le \min_{\delta \in F} L(W + \delta) + M_3 \rho^3 / 3.

**Proof.**  With :math:`\varphi(t) = L(W + t \delta)`, Taylor's formula with integral remainder gives :math:`L(W +
\delta) - m(\delta) = \int_0^1 \tfrac12 (1 - t)^2 \varphi'''(t)\, dt`, at most :math:`M_3 \rho^3 / 6` in size.  For any
:math:`\delta \in F`: :math:`L(W + \delta_g) \le m(\delta_g) + M_3 \rho^3/6 \le m(\delta) + M_3 \rho^3/6 \le L(W +
\delta) + M_3 \rho^3 / 3`.  ∎  Attained in the limit by :math:`F = \{\delta, -\delta\}` at a stationary point where the
third derivative does not vanish (:func:`mirrored_changes`): the model cannot tell the two apart.

**The constant is computed**: :math:`\varphi'''` by three nested Jacobian-vector products, at the nodes of a
Gauss-Legendre rule.  The rule has positive weights, so the maximum over its nodes bounds the remainder up to the
error of the rule, and that error is known, since the remainder itself is: it is added to the rounding allowed, and
where it is not small against the bound the instance is reported as outside the assumptions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import jvp

from prunedlora.linalg.elimination import block_solution
from theory.checking import instances
from theory.checking.numerics import frobenius, gram
from theory.checking.registry import Statement, register, wrong_choice
from theory.checking.result import Result, compare
from theory.statements.s07_price_of_ignoring_the_loss import over_masks

#: Nodes of the Gauss-Legendre rule along each segment.
NODES = 12


@dataclass(frozen=True)
class Classifier:
    """Mean cross-entropy of the linear map `W` on inputs `Z`, and the set F of changes.

    The labels are soft, ``softmax(Z W^T + offset)``: without `offset` the point `W` is stationary.  F = {δ, −δ for δ
    in `steps`}.
    """

    W: Float[Tensor, "*n d r"]
    Z: Float[Tensor, "*n N r"]
    offset: Float[Tensor, "*n N d"]
    steps: Float[Tensor, "*n k d r"]

    @property
    def changes(self) -> Float[Tensor, "*n m d r"]:
        """The set F."""
        return torch.cat((self.steps, -self.steps), dim=-3)


def cross_entropy(
    W: Float[Tensor, "*n d r"], Z: Float[Tensor, "*n N r"], labels: Float[Tensor, "*n N d"]
) -> Float[Tensor, "*n"]:
    """Mean over tokens of the cross-entropy of the logits ``W z`` against a distribution over labels."""
    logits = Z @ W.mT
    return (logits.logsumexp(dim=-1) - (labels * logits).sum(dim=-1)).mean(dim=-1)


def along_segments(instance: Classifier) -> Callable[[Tensor], Tensor]:
    """The function ``t -> L(W + t delta)`` for every change at once; t is (..., n, k)."""
    labels = torch.softmax(instance.Z @ instance.W.mT + instance.offset, dim=-1)

    def phi(t: Tensor) -> Tensor:
        W = instance.W.unsqueeze(-3) + t[..., None, None] * instance.changes
        Z, soft = (
            x.unsqueeze(-3).expand(*W.shape[:-2], *x.shape[-2:]) for x in (instance.Z, labels)
        )
        return cross_entropy(W, Z, soft)

    return phi


def derivative(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Entrywise derivative of an entrywise function, by a Jacobian-vector product.

    >>> derivative(derivative(torch.sin))(torch.zeros(1) + torch.pi / 2)
    tensor([-1.])
    """
    return lambda t: jvp(function, (t,), (torch.ones_like(t),))[1]


def quadrature() -> tuple[Float[Tensor, "nodes"], Float[Tensor, "nodes"]]:
    """Nodes on [0, 1] and weights of ``∫ ½ (1-t)² f(t) dt``."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    t = torch.from_numpy((x + 1) / 2)
    return t, torch.from_numpy(w / 2) * 0.5 * (1 - t).square()


def taylor_model(
    phi: Callable[[Tensor], Tensor], start: Float[Tensor, "*n k"]
) -> Float[Tensor, "*n k"]:
    """Second-order model of every change, from two nested Jacobian-vector products."""
    first = derivative(phi)
    return phi(start) + first(start) + 0.5 * derivative(first)(start)


def remainder_constant(instance: Classifier) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n k"]]:
    """M₃ along the segments, and the remainder of each change by quadrature of the third derivative."""
    phi = along_segments(instance)
    start = torch.zeros_like(instance.changes[..., 0, 0])
    nodes, weights = (x.to(start.device).view(-1, *[1] * start.ndim) for x in quadrature())
    third = derivative(derivative(derivative(phi)))(nodes + start)
    M3 = (third.abs().amax(dim=0) / frobenius(instance.changes).pow(3)).amax(dim=-1)
    return M3, (weights * third).sum(dim=0)


def check_remainder(instance: Classifier) -> Result:
    """Loss of the choice by the exact quadratic model against the best loss plus the remainder bound."""
    phi = along_segments(instance)
    start = torch.zeros_like(instance.changes[..., 0, 0])
    model = taylor_model(phi, start)
    true = phi(start + 1)
    (M3, remainder) = remainder_constant(instance)
    radius = frobenius(instance.changes)
    bound = M3 * radius.amax(dim=-1).pow(3) / 3
    chosen = true.gather(-1, model.argmin(dim=-1, keepdim=True)).squeeze(-1)
    rule_error = (true - model - remainder).abs().amax(dim=-1)
    noise = 1e-14 * (1 + true.abs() + phi(start).abs()).amax(dim=-1)
    assumptions = {
        "remainder resolved by the quadrature": rule_error <= 1e-4 * bound + noise,
        "no change is zero": radius.amin(dim=-1) > 0,
    }
    return compare(
        chosen - true.amin(dim=-1), bound, assumptions, (2 * rule_error + noise).detach()
    )


def ascent_remainder(instance: Classifier) -> Float[Tensor, "*n"]:
    """What the adversary climbs: the excess of the best wrong choice over the bound, if the model can be led to it."""
    phi = along_segments(instance)
    start = torch.zeros_like(instance.changes[..., 0, 0])
    bound = remainder_constant(instance)[0] * frobenius(instance.changes).amax(dim=-1).pow(3) / 3
    return wrong_choice(phi(start + 1), taylor_model(phi, start)) / bound


def sample_classifier(
    generator: Generator, n: int, *, d: int, r: int, N: int, count: int
) -> Classifier:
    """Random classifiers; F: for every set of `count` columns a step towards its removal with recovery, and back.

    Half of the points are stationary; there the model cannot tell the two directions apart.
    """
    W = instances.matrices(generator, n, d, r, low=-2.0, high=0.3)
    Z = instances.normal(generator, n, N, r) * instances.log_uniform(generator, n, -1.0, 0.3).view(
        -1, 1, 1
    )
    stationary = (instances.uniform(generator, n) < 0.5).view(-1, 1, 1)
    offset = torch.where(
        stationary, 0.0, instances.matrices(generator, n, N, d, low=-6.0, high=0.0)
    )
    masks = instances.all_masks(r, count).expand(n, -1, -1)
    delta, _ = block_solution(over_masks(W, masks), over_masks(gram(Z) / N, masks), masks)
    return Classifier(
        W, Z, offset, instances.scaled(delta, instances.log_uniform(generator, n, -2.0, 0.0))
    )


def mirrored_changes(size: float = 1e-3) -> Classifier:
    """F = {δ, −δ} at the stationary point of a lopsided logistic loss: the bound is attained in the limit.

    >>> round(check_remainder(mirrored_changes()).ratio.item(), 2)
    1.0
    """
    W = torch.tensor([[[0.0], [-1.1]]], dtype=torch.float64)
    Z = torch.ones(1, 1, 1, dtype=torch.float64)
    delta = torch.tensor([[0.0], [size]], dtype=torch.float64)
    forward = Classifier(W, Z, 0 * Z @ W.mT, delta.view(1, 1, 2, 1))
    uphill, downhill = along_segments(forward)(torch.ones(1, 2, dtype=torch.float64)).unbind(dim=-1)
    return forward if uphill > downhill else replace(forward, steps=-forward.steps)


register(
    Statement(
        key="S9.remainder",
        title="Guarantee for minimising the exact second-order model, with the remainder measured by jvp",
        formula="L(W+δ_g) − min_F L(W+δ) ≤ M₃ρ³/3",
        claim="bound",
        sample=sample_classifier,
        check=check_remainder,
        shapes=(
            {"d": 2, "r": 2, "N": 4, "count": 1},
            {"d": 4, "r": 3, "N": 8, "count": 1},
            {"d": 3, "r": 4, "N": 8, "count": 2},
        ),
        extremal=mirrored_changes,
        attained=True,
        instances=1_000,
        adversary_shapes=({"d": 2, "r": 2, "N": 2, "count": 1},),
        ascent=ascent_remainder,
        starts=16,
    )
)
