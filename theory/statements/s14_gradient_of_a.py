r"""S14: what the Gram matrix of A's gradient sees of the loss.

**Statement.**  Let :math:`G_A = s \sum_{t=1}^T B^\top g_t x_t^\top` with tokens independent and alike, :math:`g_t` (the
gradient of the layer's output) independent of the input :math:`x_t`, and :math:`E g_t = 0`.  With :math:`D = E[g
g^\top]`,

.. math:: E[G_A G_A^\top] = s^2\, T\, E\|x\|^2\, B^\top D B.

**Proof.**  :math:`E[G_A G_A^\top] = s^2 \sum_{t,t'} E[(x_t^\top x_{t'})\, B^\top g_t g_{t'}^\top B]`.  For :math:`t \ne
t'` the factor :math:`E[g_t] E[g_{t'}]^\top` vanishes, whatever the mean of :math:`x`; for :math:`t = t'` independence
gives :math:`E\|x\|^2 B^\top D B`.  ∎

Together with S8 (b), :math:`E[G_B^\top G_B] = s^2\, T\, E\|g\|^2\, E[z z^\top]`: under these assumptions B's half of
the paper's rule is an activation-based one, which sees the loss only as a factor that is the same for all
components, and all its knowledge of the loss sits in A's half, through the output curvature :math:`D`.  It is not the
curvature of the loss in BA, which is :math:`D \otimes C`, but it does change with :math:`D`, and so do choices that add
both halves.

Checked without sampling error, as S8 (b): :math:`x` and :math:`g` have finitely many values.  The enumeration is that
of S8 with the roles exchanged, :math:`B^\top g` in the place of :math:`z` and :math:`x` in that of :math:`g`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from theory.checking import instances
from theory.checking.numerics import allowance, frobenius, gram
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare
from theory.statements.s08_kronecker_recovery import TOKENS, Tokens, expected_gram, mostly_zero_mean


@dataclass(frozen=True)
class Layer:
    """An adapted layer: `x` and `g` each take their rows with equal probability; `scaling` is s."""

    B: Float[Tensor, "*n d_out r"]
    x: Float[Tensor, "*n values_x d_in"]
    g: Float[Tensor, "*n values_g d_out"]
    scaling: Float[Tensor, "*n"]


def expected(instance: Layer) -> Float[Tensor, "*n r r"]:
    """Exact expectation of ``G_A G_A^T`` over all combinations of two tokens."""
    return expected_gram(Tokens(instance.g @ instance.B, instance.x, instance.scaling))


def predicted(instance: Layer) -> Float[Tensor, "*n r r"]:
    """``s² T E||x||² B^T D B``."""
    D = gram(instance.g) / instance.g.shape[-2]
    energy = instance.x.square().sum(dim=-1).mean(dim=-1)
    factor = TOKENS * instance.scaling.square() * energy
    return factor[..., None, None] * (instance.B.mT @ D @ instance.B)


def check(instance: Layer) -> Result:
    """Both sides, relative to the size of the products that the sums are made of."""
    energy = instance.x.square().sum(dim=-1).mean(dim=-1)
    spread = instance.g.square().sum(dim=-1).mean(dim=-1)
    scale = TOKENS * instance.scaling.square() * energy * spread * frobenius(instance.B).square()
    error = frobenius(expected(instance) - predicted(instance)) / scale
    mean = instance.g.mean(dim=-2).norm(dim=-1)
    assumptions = {
        "mean gradient zero": mean <= 1e-12 * spread.sqrt(),
        "gradients, inputs and B not all zero": scale > 0,
    }
    terms = instance.x.shape[-2] * instance.g.shape[-2] * instance.B.shape[-1]
    return compare(error, allowance(torch.ones_like(error), terms), assumptions)


def sample(generator: Generator, n: int, *, values: int, d_out: int, d_in: int, r: int) -> Layer:
    """Random values; a tenth of the instances has a mean gradient, about which the statement is silent."""
    g = mostly_zero_mean(generator, n, values, d_out)
    return Layer(
        instances.matrices(generator, n, d_out, r),
        instances.matrices(generator, n, values, d_in),
        g,
        instances.log_uniform(generator, n, -1.0, 1.0),
    )


register(
    Statement(
        key="S14",
        title="With independent zero-mean output gradients, the Gram matrix of G_A is that of BᵀDB",
        formula="E[G_A G_Aᵀ] = s²·T·E‖x‖²·BᵀDB",
        claim="identity",
        sample=sample,
        check=check,
        shapes=(
            {"values": 3, "d_out": 3, "d_in": 4, "r": 2},
            {"values": 4, "d_out": 6, "d_in": 5, "r": 3},
        ),
    )
)
