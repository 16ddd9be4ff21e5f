import torch

from prunedlora.criteria import (
    get_criterion,
)


def test_wanda_is_the_output_energy_of_each_term(layer):
    factors, statistics, x, _ = layer
    energies = [
        (x @ torch.outer(factors.B[:, j], factors.A[j]).mT).square().sum(-1).mean()
        for j in range(5)
    ]
    torch.testing.assert_close(
        get_criterion("wanda2024").score(factors, statistics), torch.stack(energies)
    )
