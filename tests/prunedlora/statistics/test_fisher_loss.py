import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunedlora.errors import ConfigurationError
from prunedlora.statistics.fisher_loss import fisher_loss, signed_root


@given(st.integers(2, 6), st.integers(0, 1000))
def test_the_mean_over_all_signs_is_the_fisher_matrix(c, seed):
    torch.manual_seed(seed)
    logits = 3 * torch.randn(1, c, dtype=torch.float64)
    patterns = torch.tensor([[(i >> j) & 1 for j in range(c - 1)] for i in range(2 ** (c - 1))])
    total = torch.zeros(c, c, dtype=torch.float64)
    for pattern in patterns:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randint", lambda *_, pattern=pattern, **__: pattern.unsqueeze(0))
            v = signed_root(logits, None)
        total += v.mT @ v / len(patterns)
    p = logits.softmax(-1)
    torch.testing.assert_close(total, torch.diag(p[0]) - p.mT @ p, rtol=1e-10, atol=1e-12)


def test_positions_that_do_not_count_do_not_matter_and_the_scale_is_that_of_the_mean_loss():
    logits = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    counted = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]) == 1
    fisher_loss(logits, counted, torch.Generator().manual_seed(0)).backward()
    assert not logits.grad[~counted].any()
    p = logits.detach().softmax(-1)
    n, T = 3, 6
    for i, t in counted.nonzero():
        own = n * logits.grad[i, t]  # of the sample's own number
        expected = n / T * (torch.diag(p[i, t]) - torch.outer(p[i, t], p[i, t]))
        torch.testing.assert_close(torch.outer(own, own), expected)


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ConfigurationError, match="two classes"):
        fisher_loss(torch.zeros(3, 1))
    with pytest.raises(ConfigurationError, match="counted"):
        fisher_loss(torch.zeros(3, 2, 2), torch.zeros(3, 2, dtype=torch.bool))


def test_parts_of_the_positions_draw_the_same_signs(monkeypatch):
    logits = torch.randn(5, 7, 6, requires_grad=True)
    counted = torch.rand(5, 7) > 0.3
    gradients = []
    for at_once in (2**24, 13, 1):
        monkeypatch.setattr("prunedlora.statistics.fisher_loss.AT_ONCE", at_once)
        loss = fisher_loss(logits, counted, torch.Generator().manual_seed(2))
        gradients += torch.autograd.grad(loss, logits)
    assert gradients[0].any()
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
