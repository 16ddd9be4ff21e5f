import pytest
import torch

from prunedlora.errors import ConfigurationError
from prunedlora.statistics.average import Average, discount


def test_average_discounts_and_names_what_is_missing():
    average = Average()
    with pytest.raises(ConfigurationError, match="no backward pass has reached layer 3"):
        average.mean("layer 3")
    average.add(torch.tensor([[4.0]]), 1)
    discount([average], 0.5)
    average.add(torch.tensor([[1.0]]), 1)
    assert average.mean("").item() == pytest.approx(2.0)
    empty = Average()
    empty.add(torch.tensor([[float("nan")]]), 1)
    with pytest.raises(ConfigurationError, match="NaN, infinite or masked"):
        empty.mean("layer 3")
