r"""S5: how much an attention head moves when its queries, keys and values do (corrects S4).

**Statement.**  Let :math:`\|Q-\hat Q\|_F, \|K-\hat K\|_F, \|V-\hat V\|_F \le \varepsilon`, :math:`P =
\operatorname{softmax}(Q K^\top/\sqrt d)` row-wise, :math:`Z = P V`.  Then

.. math:: \|Z - \hat Z\|_F \le \Big( \|P\|_2 + \frac{\|\hat Q\|_2 + \|K\|_2}{2 \sqrt d} \|\hat V\|_2 \Big) \varepsilon.

For several heads, concatenated, the squares of both sides add up.  No assumption beyond finite inputs.  A mask that
forbids some keys, the same before and after, changes nothing: the softmax of each row is then over its allowed keys,
:math:`P` is zero elsewhere, and the forbidden scores drop out of the differences below.

**Lemma.**  The softmax Jacobian :math:`J(p) = \operatorname{diag}(p) - p p^\top` has :math:`\|J(p)\|_2 \le \tfrac12`,
with equality at :math:`p = (\tfrac12, \tfrac12)`.
*Proof.*  :math:`J` is symmetric and positive semi-definite: :math:`x^\top J x` is the variance of :math:`x` under
:math:`p`.  A variable with values in an interval of length :math:`\ell` has variance at most :math:`\ell^2/4`
(Popoviciu), and for :math:`\|x\|=1` the length :math:`\max_i x_i - \min_i x_i` is at most :math:`\sqrt 2`.  At
:math:`p = (\tfrac12, \tfrac12)`, :math:`x = (1,-1)/\sqrt 2` has variance ½.

**Proof.**  :math:`Z - \hat Z = P (V - \hat V) + (P - \hat P) \hat V`, and :math:`\|X Y\|_F \le \|X\|_2 \|Y\|_F`, also
with the roles exchanged, so :math:`\|Z - \hat Z\|_F \le \|P\|_2 \varepsilon + \|P - \hat P\|_F \|\hat V\|_2`.  Row by
row, along the segment between the scores, the lemma makes softmax ½-Lipschitz in the Euclidean norm, hence
:math:`\|P - \hat P\|_F \le \tfrac12 \|Q K^\top - \hat Q \hat K^\top\|_F / \sqrt d`.  Finally :math:`Q K^\top - \hat Q
\hat K^\top = (Q - \hat Q) K^\top + \hat Q (K - \hat K)^\top` has Frobenius norm at most :math:`(\|K\|_2 +
\|\hat Q\|_2)\, \varepsilon`.  ∎

**Attained** in the limit by one query, two opposite keys and :math:`P = (\tfrac12,\tfrac12)` (:func:`opposite_keys`):
each inequality above becomes an equality as :math:`\hat V` outgrows :math:`\|P\|_2` and :math:`\varepsilon \to 0`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from theory.checking import instances
from theory.checking.numerics import spectral
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare
from theory.statements.attention import (
    Heads,
    jacobian_norm,
    output_error,
    over_heads,
    probabilities,
    sample,
)

#: Largest spectral norm of the softmax Jacobian (the lemma).
JACOBIAN_BOUND = 0.5


@dataclass(frozen=True)
class Logits:
    """Scores of one row of attention."""

    s: Float[Tensor, "*n N"]


def corrected_bound(instance: Heads) -> Float[Tensor, "*n h"]:
    """Right-hand side for each head."""
    P = probabilities(instance.Q, instance.K, instance.allowed)
    reach = spectral(instance.Q_hat) + spectral(instance.K)
    moved = JACOBIAN_BOUND * reach * spectral(instance.V_hat) / instance.Q.shape[-1] ** 0.5
    return (spectral(P) + moved) * instance.epsilon


def check(instance: Heads) -> Result:
    """The bound over the concatenated heads.

    Rounding: scores of size s are known to eps·s only, which moves the output by eps·s·||V|| on either side.
    """
    reach = (
        instance.Q_hat.abs() @ instance.K_hat.abs().mT + instance.Q.abs() @ instance.K.abs().mT
    ).amax(dim=(-2, -1))
    values = torch.linalg.matrix_norm(instance.V) + torch.linalg.matrix_norm(instance.V_hat)
    rounding = (
        16
        * torch.finfo(reach.dtype).eps
        * over_heads((1 + reach) * values)
        * instance.Q.shape[-2] ** 0.5
    )
    lhs, rhs = over_heads(output_error(instance)), over_heads(corrected_bound(instance))
    return compare(lhs, rhs, {"finite input": instance.finite}, rounding.detach())


def check_jacobian(instance: Logits) -> Result:
    """The lemma: the spectral norm of the softmax Jacobian, computed, against ½."""
    norm = jacobian_norm(torch.softmax(instance.s, dim=-1))
    return compare(
        norm,
        torch.full_like(norm, JACOBIAN_BOUND),
        {"finite input": torch.isfinite(instance.s).all(dim=-1)},
    )


def sample_logits(generator: Generator, n: int, *, N: int) -> Logits:
    """Random scores over six decades of scale."""
    return Logits(instances.matrices(generator, n, N))


def opposite_keys(values: float = 1e3, epsilon: float = 1e-4) -> Heads:
    """One query, two opposite keys, P = (½, ½): the bound is attained in the limit.

    >>> round(check(opposite_keys()).ratio.item(), 2)
    1.0
    """
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    K = torch.cat((one, -one), dim=-2)
    V = values * torch.cat((one, -one), dim=-2)
    return Heads(0 * one, K, V, epsilon * one, K, V)


def fair_coin() -> Logits:
    """Two equal scores, where the lemma is an equality."""
    return Logits(torch.zeros(1, 2, dtype=torch.float64))


register(
    Statement(
        key="S5.bound",
        title="Corrected bound on the output of attention heads",
        formula="‖Z−Ẑ‖_F ≤ (‖P‖₂ + (‖Q̂‖₂+‖K‖₂)·‖V̂‖₂/(2√d))·ε",
        claim="bound",
        sample=sample,
        check=check,
        shapes=(
            {"h": 1, "N": 1, "N_keys": 2, "d": 1},
            {"h": 1, "N": 4, "N_keys": 8, "d": 3},
            {"h": 4, "N": 8, "N_keys": 8, "d": 4},
            {"h": 2, "N": 16, "N_keys": 16, "d": 8},
        ),
        extremal=opposite_keys,
        attained=True,
        adversary_shapes=(
            {"h": 1, "N": 1, "N_keys": 2, "d": 1},
            {"h": 2, "N": 3, "N_keys": 4, "d": 2},
        ),
    )
)
register(
    Statement(
        key="S5.jacobian",
        title="The softmax Jacobian has spectral norm at most one half",
        formula="‖diag(p) − ppᵀ‖₂ ≤ ½",
        claim="bound",
        sample=sample_logits,
        check=check_jacobian,
        shapes=({"N": 2}, {"N": 5}, {"N": 24}),
        extremal=fair_coin,
        attained=True,
        adversary_shapes=({"N": 2}, {"N": 6}),
    )
)
