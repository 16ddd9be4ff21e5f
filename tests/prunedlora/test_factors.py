"""Factors in low rank against their dense products."""

import pytest

from prunedlora.factors import squared_distance
from tests.layers import normal


def test_distances_through_gram_matrices_are_those_of_the_products():
    B, A, B2, A2 = normal(1, 7, 4), normal(2, 4, 6), normal(3, 7, 2), normal(4, 2, 6)
    error, norm = squared_distance(B, A, B2, A2)
    assert error == pytest.approx(float((B @ A - B2 @ A2).square().sum()))
    assert norm == pytest.approx(float((B @ A).square().sum()))
