"""Scores, masks and SparseGPT's update, against what they are by definition."""

import pytest
import torch

from experiments.pretrained.pruning import (
    Pattern,
    gradient_score,
    lowest,
    mask,
    sparsegpt,
    wanda_score,
)
from prunedlora.linalg.elimination import block_solution

PATTERNS = ["50%", "30%", "0%", "4:8", "2:4", "1:4"]


def problem(d_out: int = 6, d_in: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.randn(40, d_in, dtype=torch.float64)
    return torch.randn(d_out, d_in, dtype=torch.float64), X.T @ X


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("per_row", [False, True])
def test_masks_remove_exactly_what_was_asked(text, per_row):
    pattern, scores = Pattern.parse(text), torch.rand(6, 40)
    gone = mask(scores, pattern, per_row)
    assert gone.sum() == round(pattern.sparsity * gone.numel())
    if pattern.group:
        assert (gone.view(6, -1, pattern.group).sum(-1) == pattern.count(pattern.group)).all()
    elif per_row:
        assert (gone.sum(dim=1) == pattern.count(40)).all()
    assert per_row or pattern.group or not gone.any() or scores[gone].max() <= scores[~gone].min()


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("block_size", [8, 24, 64])
def test_sparsegpt_removes_exactly_what_was_asked(text, block_size):
    W, H = problem(d_in=40)
    pattern = Pattern.parse(text)
    gone = sparsegpt(W, H, pattern, 1e-2, block_size) == 0
    assert gone.sum() == pattern.count(W.numel())
    if pattern.group:
        assert (gone.view(6, -1, pattern.group).sum(-1) == pattern.count(pattern.group)).all()


@pytest.mark.parametrize(("text", "block_size"), [("50%", 16), ("50%", 4), ("2:4", 8)])
def test_sparsegpt_is_the_surgeon_column_by_column(text, block_size):
    """Each removal is the exact solution of the quadratic model in the columns that are not done yet."""
    W, H = problem()
    pruned = sparsegpt(W, H, Pattern.parse(text), 0.0, block_size)
    for row, result in zip(W, pruned, strict=True):
        expected = row.unsqueeze(0).clone()
        for j in (result == 0).nonzero().flatten().tolist():
            delta, _ = block_solution(expected[:, j:], H[j:, j:], [0])
            expected[:, j:] += delta
        torch.testing.assert_close(result, expected.squeeze(0), rtol=1e-8, atol=1e-10)


def test_sparsegpt_lies_between_the_mask_alone_and_the_best_weights_for_it():
    W, H = problem()
    pruned = sparsegpt(W, H, Pattern.parse("50%"), 0.0, 128)

    def error(result: torch.Tensor) -> torch.Tensor:
        return ((W - result) @ H * (W - result)).sum(dim=1)

    best = torch.stack(
        [
            r + block_solution(r.unsqueeze(0), H, (p == 0).nonzero().flatten())[0][0]
            for r, p in zip(W, pruned, strict=True)
        ]
    )
    assert (error(best) <= error(pruned) * (1 + 1e-9)).all()
    assert error(pruned).sum() < error(W * (pruned != 0)).sum()


def test_inputs_that_are_not_correlated_need_no_update():
    W = torch.randn(6, 16)
    pruned = sparsegpt(W, torch.eye(16), Pattern.parse("50%"), 0.0, 16)
    assert torch.equal(pruned, W.masked_fill(mask(W.abs(), Pattern.parse("50%")), 0.0))


def test_wanda_is_magnitude_where_inputs_are_alike_and_not_elsewhere():
    W, pattern = torch.randn(6, 16), Pattern.parse("50%")
    by_magnitude = mask(W.abs(), pattern, per_row=True)
    assert torch.equal(
        mask(wanda_score(W, torch.full((16,), 9.0)), pattern, per_row=True), by_magnitude
    )
    squares = torch.linspace(0.01, 9, 16)
    gone = mask(wanda_score(W, squares), pattern, per_row=True)
    assert not torch.equal(gone, by_magnitude)
    assert torch.allclose(wanda_score(W, squares), W.abs() * squares.sqrt())


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_score_against_the_dense_inverse(power):
    W, H = problem()
    damped = H + 0.1 * H.diagonal().mean() * torch.eye(16)
    expected = W.abs() ** power / torch.linalg.inv(damped).diagonal()
    torch.testing.assert_close(gradient_score(W, H, 0.1, power), expected)


def test_ties_go_to_the_lowest_index():
    assert lowest(torch.zeros(2, 5), 2).tolist() == [[True, True, False, False, False]] * 2


@pytest.mark.parametrize("text", ["100%", "5:4", "0:4", "half", "", 124])
def test_patterns_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="in quotation marks"):
        Pattern.parse(text)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="groups of 8"):
        mask(torch.rand(2, 12), Pattern.parse("4:8"))
    with pytest.raises(ValueError, match="blocks of 12"):
        sparsegpt(*problem(), Pattern.parse("4:8"), 0.0, 12)
