r"""One-shot pruning of a weight matrix: scores, masks and the update of SparseGPT, as functions of tensors.

`W` is (d_out, d_in), as in `torch.nn.Linear`; `H` is (d_in, d_in), a second moment of the layer's inputs or of its
gradients.  A low score is removed.  A mask is True where a weight is removed.

Sources: SparseGPT, Frantar and Alistarh, arXiv:2301.00774, Algorithm 1; Wanda, Sun et al., arXiv:2306.11695,
equation 1; PrunedLoRA, arXiv:2510.00192, Table 8.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from prunedlora.linalg.curvature import inverse


@dataclass(frozen=True)
class Pattern:
    """What is removed: a share of all weights, or of every group of so many consecutive inputs of an output.

    >>> Pattern.parse("2:4")
    Pattern(sparsity=Fraction(1, 2), group=4)
    """

    sparsity: Fraction
    group: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """``50%``: that share of the weights is removed; ``n:m``: of m consecutive inputs, n stay.

        Raises:
            ValueError: it is neither.
        """
        if match := re.fullmatch(r"(\d+):(\d+)", str(text)):
            kept = int(match[1])
            group = int(match[2])
            if 0 < kept <= group:
                return cls(Fraction(group - kept, group), group)
        elif (match := re.fullmatch(r"(\d+)%", str(text))) and int(match[1]) < 100:
            return cls(Fraction(int(match[1]), 100))
        raise ValueError(f'a pattern is "50%" or "2:4", in quotation marks, not {text!r}')

    def count(self, weights: int) -> int:
        """How many of so many weights are removed."""
        return round(self.sparsity * weights)


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` lowest scores along the last dimension; ties go to the lowest index.

    >>> lowest(torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0]]), 1)
    tensor([[False,  True, False],
            [ True, False, False]])
    """
    order = scores.argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)


def mask(scores: Tensor, pattern: Pattern, per_row: bool = False) -> Tensor:
    """The weights that a pattern removes: those of least score in each group, in each row, or in the whole layer.

    Raises:
        ValueError: the inputs cannot be divided into such groups.

    >>> mask(torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]), Pattern.parse("50%")).sum(dim=1)
    tensor([4, 0])
    """
    if pattern.group is not None:
        if scores.shape[1] % pattern.group:
            raise ValueError(
                f"{scores.shape[1]} inputs cannot be divided into groups of {pattern.group}"
            )
        groups = scores.unflatten(1, (-1, pattern.group))
        return lowest(groups, pattern.count(pattern.group)).flatten(1)
    if per_row:
        return lowest(scores, pattern.count(scores.shape[1]))
    return lowest(scores.flatten(), pattern.count(scores.numel())).view_as(scores)


def damped_inverse(H: Tensor, damping: float) -> Tensor:
    r"""Inverse of :math:`H + \lambda I` in float64, :math:`\lambda` being `damping` times the mean of the diagonal.

    >>> damped_inverse(torch.eye(2), 1.0).diagonal()
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    H = H.double()
    return inverse(
        H + damping * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype, device=H.device)
    )


def wanda_score(W: Tensor, squares: Tensor) -> Tensor:
    """|W| times the norm of each input, whose sum of squares is given, (d_in,)."""
    return W.abs() * squares.sqrt()


def gradient_score(W: Tensor, H: Tensor, damping: float, power: int = 1) -> Tensor:
    r""":math:`|W|^p / \operatorname{diag}((H + \lambda I)^{-1})`; the paper has p = 1, the optimal brain surgeon 2.

    >>> gradient_score(torch.tensor([[2.0, 3.0]]), torch.diag(torch.tensor([4.0, 1.0])), 0.0)
    tensor([[8., 3.]], dtype=torch.float64)
    """
    return W.abs().double() ** power / damped_inverse(H, damping).diagonal()


def sparsegpt(W: Tensor, H: Tensor, pattern: Pattern, damping: float, block_size: int) -> Tensor:
    """`W` pruned column by column, the columns to the right moving to make up for what is removed.

    Weights are chosen block by block (group by group in a pattern n:m) by their cost in the quadratic model.

    Raises:
        ValueError: a pattern whose groups do not fit into blocks or inputs.
    """
    if pattern.group is not None and (W.shape[1] % pattern.group or block_size % pattern.group):
        raise ValueError(
            f"{W.shape[1]} inputs in blocks of {block_size} cannot be divided in groups of {pattern.group}"
        )
    columns = W.double().mT.clone(
        memory_format=torch.contiguous_format
    )  # a column of W lies in one piece
    U = torch.linalg.cholesky(damped_inverse(H, damping), upper=True)
    for start in range(0, W.shape[1], block_size):
        end = min(start + block_size, W.shape[1])
        count = pattern.count(len(W) * end) - pattern.count(len(W) * start)
        errors = _prune_block(columns[start:end], U[start:end, start:end], pattern, count)
        columns[end:] -= U[start:end, end:].mT @ errors
    return columns.mT.to(W.dtype).contiguous()


def _prune_block(columns: Tensor, U: Tensor, pattern: Pattern, count: int) -> Tensor:
    """Prune some columns in place; returns by what multiples of the rows of U those to their right must change."""
    costs = U.diagonal() ** 2
    errors = torch.zeros_like(columns)
    gone = torch.zeros_like(columns, dtype=torch.bool)
    if pattern.group is None:
        gone = lowest((columns.mT**2 / costs).flatten(), count).view_as(columns.mT).mT
    for j in range(len(columns)):
        if pattern.group is not None and j % pattern.group == 0:
            group = slice(j, j + pattern.group)
            gone[group] = mask(columns[group].mT ** 2 / costs[group], pattern).mT
        errors[j] = (columns[j] / U[j, j]).masked_fill(~gone[j], 0.0)
        columns[j:].addr_(U[j, j:], errors[j], alpha=-1)
        columns[j].masked_fill_(gone[j], 0.0)
    return errors
