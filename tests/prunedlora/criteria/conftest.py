"""One adapted layer with every statistic."""

import pytest

from prunedlora.factors import Factors
from tests.layers import measured, raw_data


@pytest.fixture
def layer():
    B, A, x, g = raw_data(42)
    return Factors(B, A), measured(B, A, x, g), x, g
