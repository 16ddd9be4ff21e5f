r"""S4: Proposition 2 of arXiv:2510.00192, activation side, is false as printed.

**Claim (false).**  If :math:`Q, K, V` each change by at most :math:`\varepsilon` in the Frobenius norm, then

.. math:: \|Z - \hat Z\|_F \le \Big(1 + \frac{\|Q\| + \|K\|}{\sqrt d} \|\hat V\|\Big) \varepsilon,
          \qquad Z = \operatorname{softmax}(Q K^\top / \sqrt d)\, V.

**Where the proof breaks.**  :math:`Z - \hat Z = P (V - \hat V) + (P - \hat P) \hat V`, and the printed proof bounds
:math:`\|P\|` by 1.  A row-stochastic :math:`N \times N` matrix only has :math:`\|P\|_2 \le \sqrt N`: its rows sum to
one, so :math:`\|P x\|_\infty \le \|x\|_\infty`, but when all rows are the same, :math:`P = \mathbf 1 p^\top` has norm
:math:`\sqrt N \|p\|`.

**Counterexample** (:func:`one_key`).  Every query attends to key 0: each row of :math:`Q` is :math:`\tau e_1`, row 0 of
:math:`K` is :math:`\tau e_1`, the others 0.  :math:`V = 0`; :math:`\hat V` has :math:`\varepsilon e_1` in row 0;
:math:`\hat Q = Q`, :math:`\hat K = K`.  Then every row of :math:`\hat Z` is :math:`p_0 \varepsilon e_1` with
:math:`p_0 = (1 + (N-1) e^{-\tau^2/\sqrt d})^{-1}`, so :math:`\|Z - \hat Z\|_F = \sqrt N p_0 \varepsilon`, while the
printed bound is :math:`(1 + \tau(\sqrt N + 1) \varepsilon / \sqrt d)\, \varepsilon`.  As :math:`\varepsilon \to 0` the
ratio tends to :math:`\sqrt N p_0`: no constant saves the claim.  (:math:`Q`, :math:`K`, :math:`\hat V` have rank one,
so it makes no difference whether :math:`\|\cdot\|` is the spectral or the Frobenius norm.)  ∎

**A second slip** (:func:`vanishing_queries`).  :math:`Q K^\top - \hat Q \hat K^\top = (Q-\hat Q) K^\top + \hat
Q (K - \hat K)^\top` needs :math:`\|\hat Q\|`, not :math:`\|Q\|`.  With :math:`Q = K = 0` and :math:`V = \hat V`
the printed bound is :math:`\varepsilon`, but :math:`\hat Q`, :math:`\hat K` of size :math:`\varepsilon` turn
uniform attention into a choice of one key, and the output moves by a multiple of :math:`\|V\|`, which is free.

The norms are left open in print; the check takes Frobenius norms, the larger ones, in favour of the claim.  S5 is
what holds.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from theory.checking.numerics import frobenius
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare
from theory.statements.attention import Heads, output_error, over_heads, sample


def printed_bound(instance: Heads) -> Float[Tensor, "*n h"]:
    """Right-hand side as printed, with Frobenius norms, for each head."""
    norms = frobenius(instance.Q) + frobenius(instance.K)
    return (1 + norms / instance.Q.shape[-1] ** 0.5 * frobenius(instance.V_hat)) * instance.epsilon


def one_key(N: int = 64, d: int = 8, tau: float = 10.0, epsilon: float = 0.01) -> Heads:
    """The counterexample.

    >>> instance = one_key()
    >>> f"{output_error(instance).item():.4f} against {printed_bound(instance).item():.4f}"
    '0.0800 against 0.0132'
    """
    Q, K, V, V_hat = torch.zeros(4, 1, 1, N, d, dtype=torch.float64).unbind()
    Q[..., 0], K[..., 0, 0], V_hat[..., 0, 0] = tau, tau, epsilon
    return Heads(Q, K, V, Q, K, V_hat)


def vanishing_queries(values: float = 1e3) -> Heads:
    """The second slip: no queries and no keys before, some after; large values.

    >>> check(vanishing_queries()).ratio.item() > 300
    True
    """
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    keys = torch.cat((one, -one), dim=-2)
    return Heads(0 * one, 0 * keys, values * keys, one, keys, values * keys)


def check(instance: Heads) -> Result:
    """The printed claim, over the concatenated heads."""
    bound = over_heads(printed_bound(instance))
    return compare(over_heads(output_error(instance)), bound, {"finite input": instance.finite})


register(
    Statement(
        key="S4",
        title="False as printed: Proposition 2, activation side",
        formula="‖Z−Ẑ‖_F ≤ (1 + (‖Q‖+‖K‖)·‖V̂‖/√d)·ε",
        claim="refuted",
        sample=sample,
        check=check,
        shapes=({"h": 1, "N": 16, "N_keys": 16, "d": 4}, {"h": 4, "N": 32, "N_keys": 32, "d": 8}),
        extremal=one_key,
        instances=2_000,
        adversary_shapes=({"h": 1, "N": 16, "N_keys": 16, "d": 2},),
    )
)
