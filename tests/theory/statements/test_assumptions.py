"""A violated assumption is reported as such, not as a violated statement."""

from dataclasses import replace

import torch
from torch import Generator

from theory import get_statement
from theory.checking.result import compare
from theory.checking.runner import verify


def test_singular_output_curvature_is_outside_s7():
    statement = get_statement("S7")
    instance = statement.extremal()
    factor = instance.factor_D.clone()
    factor[..., 1, 1] = 0.0
    result = statement.check(replace(instance, factor_D=factor))
    assert not bool(result.assumptions["D positive definite where removal acts"])
    assert not bool(result.applies)
    assert not bool(result.violated)


def test_output_curvature_that_is_singular_only_off_the_range_is_inside_s7():
    statement = get_statement("S7")
    instance = statement.sample(Generator().manual_seed(0), 20, d=12, r=4, count=1, rank_D=8)
    assert torch.linalg.eigvalsh(instance.D)[:, 0].abs().max() < 1e-8
    assert statement.check(instance).applies.double().mean() > 0.7


def test_nan_in_attention_is_an_assumption_failure():
    statement = get_statement("S5.bound")
    instance = statement.extremal()
    result = statement.check(replace(instance, V=instance.V * float("nan")))
    assert not bool(result.assumptions["finite input"])
    assert not bool(result.violated)


def test_nan_within_the_assumptions_is_a_violation():
    nan = torch.tensor([float("nan")])
    assert bool(compare(nan, torch.ones(1), {}).violated)
    assert bool(compare(torch.ones(1), nan, {}).violated)


def test_a_mean_gradient_is_outside_s8():
    statement = get_statement("S8.gram")
    instance = statement.sample(Generator().manual_seed(0), 50, values=3, d=4, r=4)
    biased = replace(instance, g=instance.g + 1.0)
    result = statement.check(biased)
    assert not bool(result.applies.any())
    assert not bool(result.holds.all())  # the assumption is needed


def test_too_wrong_a_curvature_is_outside_s9():
    statement = get_statement("S9.estimate")
    instance = statement.extremal()
    result = statement.check(replace(instance, factor_hat=3 * instance.factor_hat))
    assert not bool(result.applies)


def test_failures_are_counted_apart():
    summary = verify(get_statement("S8.gram"), count=600, seed=0)
    assert summary.verdict == "verified"
    assert summary.violations == 0
    assert summary.assumption_failures["mean gradient zero"] > 10
