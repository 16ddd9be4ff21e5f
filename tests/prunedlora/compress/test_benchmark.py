"""The benchmark compares like with like."""

import pytest

from prunedlora.compress.benchmark import compare, random_adapter, relative_error, through_dense
from prunedlora.errors import ConfigurationError


def test_the_error_is_that_of_pefts_dense_conversion():
    model = random_adapter([(96, 64), (40, 80)], 24)
    comparison = compare(model, 6, (1, 1))
    assert comparison.error == pytest.approx(comparison.error_dense, rel=1e-5)
    assert relative_error(model, through_dense(model, 24)) < 1e-5 < comparison.error


@pytest.mark.parametrize("repeats", [(0, 1), (1, 0)])
def test_at_least_one_turn_is_timed(repeats):
    with pytest.raises(ConfigurationError, match="repeats must be at least 1, not 0"):
        compare(random_adapter([(8, 8)], 4), 2, repeats)
