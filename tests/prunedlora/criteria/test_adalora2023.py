import torch

from prunedlora.criteria import (
    get_criterion,
)


def test_adalora_averages_sensitivity_times_uncertainty(layer):
    factors, s, _, _ = layer
    expected = [
        (s.sensitivity_B[:, j] * s.uncertainty_B[:, j]).mean()
        + (s.sensitivity_A[j] * s.uncertainty_A[j]).mean()
        for j in range(5)
    ]
    torch.testing.assert_close(
        get_criterion("adalora2023").score(factors, s), torch.stack(expected)
    )
