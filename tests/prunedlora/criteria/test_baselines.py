import torch

from prunedlora.criteria import (
    get_criterion,
)


def test_magnitude_is_the_norm_of_each_term(layer):
    factors, statistics, _, _ = layer
    terms = [torch.outer(factors.B[:, j], factors.A[j]).norm() for j in range(5)]
    torch.testing.assert_close(
        get_criterion("magnitude").score(factors, statistics), torch.stack(terms)
    )
