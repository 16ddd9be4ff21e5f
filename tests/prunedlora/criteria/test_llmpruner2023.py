import inspect

import pytest
import torch

from prunedlora.criteria import (
    get_criterion,
    llmpruner2023,
)
from prunedlora.errors import ConfigurationError


@pytest.mark.parametrize("form", ["element1", "element2", "mixed"])
def test_llmpruner_sums_its_taylor_terms(layer, form):
    factors, statistics, _, _ = layer
    expected = []
    for j in range(5):
        t = torch.cat(
            [factors.B[:, j] * statistics.gradient_B[:, j], factors.A[j] * statistics.gradient_A[j]]
        )
        terms = {"element1": t.abs(), "element2": 0.5 * t**2, "mixed": (t - 0.5 * t**2).abs()}
        expected.append(terms[form].sum())
    torch.testing.assert_close(
        get_criterion("llmpruner2023").score(factors, statistics, form=form), torch.stack(expected)
    )


def test_llmpruner_refuses_an_unknown_form(layer):
    with pytest.raises(ConfigurationError, match="form must be"):
        inspect.unwrap(llmpruner2023.llmpruner2023)(*layer[:2], form="element3")
