"""Factors in low rank against their dense products."""

import pytest
import torch

from prunedlora.factors import Factors, squared_distance
from tests.layers import normal


def test_distances_through_gram_matrices_are_those_of_the_products():
    B, A, B2, A2 = normal(1, 7, 4), normal(2, 4, 6), normal(3, 7, 2), normal(4, 2, 6)
    error, norm = squared_distance(B, A, B2, A2)
    assert error == pytest.approx(float((B @ A - B2 @ A2).square().sum()))
    assert norm == pytest.approx(float((B @ A).square().sum()))


def test_without_zeroes_the_removed_components_of_each_batch_entry_and_touches_no_other():
    factors = Factors(normal(1, 2, 3, 4), normal(2, 2, 4, 5))
    removed = torch.tensor([[0, 2], [3, 1]])
    out = factors.without(removed)
    for i, gone in enumerate(removed.tolist()):
        kept = [j for j in range(4) if j not in gone]
        assert not out.B[i][:, gone].any()
        assert not out.A[i][gone].any()
        assert torch.equal(out.B[i][:, kept], factors.B[i][:, kept])
        assert torch.equal(out.A[i][kept], factors.A[i][kept])
