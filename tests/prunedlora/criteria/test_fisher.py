import torch

from prunedlora.criteria import (
    get_criterion,
)
from prunedlora.statistics.data import Statistics


def test_fisher_and_prunedlora_agree_on_equal_curvature(layer):
    factors, statistics, _, _ = layer
    grams = Statistics(
        **{**vars(statistics), "gram_B": statistics.fisher_B, "gram_A": statistics.fisher_A}
    )
    one, two = (get_criterion(n).reduce(factors, grams, 2) for n in ("fisher", "prunedlora2025"))
    assert torch.equal(one.factors.B, two.factors.B)
