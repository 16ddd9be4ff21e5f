"""The printed proposition falls, on both sides, and so do the plausible invariances."""

from dataclasses import replace

import pytest
import torch

from theory import get_statement
from theory.statements.attention import head_output, output_error, sample
from theory.statements.s04_printed_activation_bound import (
    check,
    one_key,
    printed_bound,
    vanishing_queries,
)
from theory.statements.s05_softmax_bound import check as check_corrected
from theory.statements.s06_gradient_path import (
    check_path,
    joint_error,
    silent_modules,
    single_errors,
)


def test_activation_side_with_the_published_numbers():
    """N = 64, d = 8, τ = 10, ε = 0.01: 0.0800 against 0.0132."""
    instance = one_key(N=64, d=8, tau=10.0, epsilon=0.01)
    assert output_error(instance).item() == pytest.approx(0.0800, abs=5e-5)
    assert printed_bound(instance).item() == pytest.approx(0.0132, abs=5e-5)
    assert bool(check(instance).violated)
    assert not bool(check_corrected(instance).violated)


@pytest.mark.parametrize("N", [4, 16, 64, 256])
def test_no_constant_repairs_the_activation_side(N):
    """The ratio grows like √N."""
    ratio = check(one_key(N=N, epsilon=1e-6)).ratio.item()
    assert ratio == pytest.approx(N**0.5, rel=1e-3)


def test_the_second_slip_of_the_activation_side():
    instance = vanishing_queries(values=1e6)
    assert check(instance).ratio.item() > 1e5
    assert not bool(check_corrected(instance).violated)


def test_gradient_side():
    instance = silent_modules()
    assert torch.equal(single_errors(instance), torch.zeros(3, 1, dtype=torch.float64))
    assert joint_error(instance).item() > 1
    assert bool(get_statement("S6.printed").check(instance).violated)
    assert not bool(check_path(instance).violated)


@pytest.mark.parametrize("key", ["S3.absolute", "S3.basis"])
def test_what_is_not_invariant(key):
    statement = get_statement(key)
    assert bool(statement.check(statement.extremal()).violated)


def test_the_corrected_bound_holds_under_a_causal_mask_and_forbidden_keys_do_not_matter():
    generator = torch.Generator().manual_seed(1)
    heads = sample(generator, 200, h=2, N=6, N_keys=6, d=3)
    causal = torch.ones(6, 6, dtype=torch.bool).tril().expand(200, 2, 6, 6)
    masked = replace(heads, allowed=causal)
    assert not check_corrected(masked).violated.any()
    last = torch.zeros_like(heads.V_hat)
    last[..., -1, :] = 5.0
    before, after = (
        output_error(masked),
        output_error(replace(masked, V=heads.V + last, V_hat=heads.V_hat + last)),
    )
    first_row = head_output(heads.Q, heads.K, heads.V + last, causal)[..., 0, :]
    torch.testing.assert_close(first_row, heads.V[..., 0, :])
    assert not torch.equal(before, after)  # the last query does see it
