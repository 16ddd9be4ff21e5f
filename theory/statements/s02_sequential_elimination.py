r"""S2: removing columns one by one, with a down-dated inverse, gives the block solution in any order.

**Statement.**  Let :math:`H \succ 0` and :math:`M = \{j_1, \dots, j_m\}`.  Starting from :math:`W^0 = W`,
:math:`K^0 = H^{-1}`, repeat for :math:`i = 1 \dots m`

.. math:: W^i = W^{i-1} - \frac{W^{i-1}_{:,j_i}}{K^{i-1}_{j_i j_i}} K^{i-1}_{j_i,:}, \qquad
          K^i = K^{i-1} - \frac{K^{i-1}_{:,j_i} K^{i-1}_{j_i,:}}{K^{i-1}_{j_i j_i}}, \qquad
          c_i = \frac{\|W^{i-1}_{:,j_i}\|^2}{2 K^{i-1}_{j_i j_i}}.

Then, in every order, :math:`W^m - W` is the block solution for :math:`M` (S1 with :math:`G = 0`) and
:math:`\sum_i c_i` is its cost.

**Proof.**  Let :math:`F` be the columns not yet removed.  The down-date is the Schur complement that turns the
inverse of :math:`H_{F,F}` into the inverse of :math:`H_{F \setminus j, F \setminus j}`, and makes row and column
:math:`j` zero.  By induction :math:`K^{i}` restricted to the kept columns is the inverse of :math:`H` restricted to
them.  Let :math:`q_i(W')=\tfrac12\operatorname{tr}((W'-W)H(W'-W)^\top)` be minimised over the :math:`W'` whose columns
:math:`j_1 \dots j_i` vanish; :math:`W^i` is that minimiser: by S1 the first step is; and if :math:`W^{i-1}` is, then
:math:`q(W') = q(W^{i-1}) + \tfrac12 \operatorname{tr}((W'-W^{i-1}) H (W'-W^{i-1})^\top)` for every :math:`W'` with
these columns zero (the identity of S1), which is S1's problem on the columns :math:`F` with curvature
:math:`H_{F,F}` and the single constraint on :math:`j_i`; its solution is the step above and its cost :math:`c_i`.
So the costs add up to the minimum for :math:`M`, and the minimiser is unique, whatever the order.  ∎

Checked for a random order, and for the greedy order that :func:`prunedlora.linalg.elimination.eliminate` chooses,
against :func:`prunedlora.linalg.elimination.block_solution` of the same set.
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from prunedlora.linalg.curvature import inverse
from prunedlora.linalg.elimination import block_solution, eliminate
from theory.checking.numerics import allowance, condition, frobenius, gram, usable
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare
from theory.statements.s01_closed_form import SHAPES, Removal
from theory.statements.s01_closed_form import sample as sample_removal


def remove_in_order(
    W: Float[Tensor, "*n d r"], H: Float[Tensor, "*n r r"], order: Int[Tensor, "*n count"]
) -> tuple[Float[Tensor, "*n d r"], Float[Tensor, "*n"]]:
    """Matrices after one-by-one removal in that order, and the summed cost.

    >>> H = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> remove_in_order(torch.ones(1, 2), H, torch.tensor([0]))
    (tensor([[0.0000, 1.5000]], dtype=torch.float64), tensor(0.7500, dtype=torch.float64))
    """
    W = W.double()
    K = inverse(H)
    cost = torch.zeros(W.shape[:-2], dtype=W.dtype, device=W.device)
    for j in order.unbind(dim=-1):
        index = j[..., None, None]
        row = torch.take_along_dim(K, index, dim=-2)
        pivot = torch.take_along_dim(row, index, dim=-1)
        column = torch.take_along_dim(W, index, dim=-1)
        cost = cost + 0.5 * column.square().sum(dim=(-2, -1)) / pivot.squeeze((-2, -1))
        W = W - column / pivot * row
        K = K - row.mT @ row / pivot
    return W, cost


def check(instance: Removal) -> Result:
    """Random order and greedy order against the block solution; the larger of the relative errors."""
    H = gram(instance.factor)
    W = instance.W
    kappa = condition(H)
    count = instance.removed.shape[-1]
    ordered, ordered_cost = remove_in_order(W, H, instance.removed)
    block, block_cost = block_solution(W, H, instance.removed)
    greedy = eliminate([W], [H], count, damping=0.0)
    chosen, chosen_cost = block_solution(W, H, greedy.removed)
    size = frobenius(W) + frobenius(block) + frobenius(chosen)
    energy = frobenius(H) * size.square()
    errors = torch.stack(
        (
            frobenius(ordered - W - block) / size,
            frobenius(greedy.matrices[0] - W - chosen) / size,
            (ordered_cost - block_cost).abs() / energy,
            (greedy.cost.sum(dim=-1) - chosen_cost).abs() / energy,
        )
    ).amax(dim=0)
    error = torch.where(size > 0, errors, 0.0)
    return compare(
        error, allowance(kappa, H.shape[-1]), {"curvature positive definite": usable(kappa)}
    )


def sample(generator: Generator, n: int, *, d: int, r: int, count: int) -> Removal:
    """Random instances; the order of removal is random."""
    return sample_removal(generator, n, d=d, r=r, count=count)


register(
    Statement(
        key="S2",
        title="One-by-one removal with a down-dated inverse equals removal as a block, in any order",
        formula="W^m − W = δ*(M) and Σ c_i = q(δ*(M)) for every order of M",
        claim="identity",
        sample=sample,
        check=check,
        shapes=SHAPES,
    )
)
