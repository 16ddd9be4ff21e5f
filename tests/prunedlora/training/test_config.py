"""Settings of a pruning run."""

import pytest
from jaxtyping import TypeCheckError

from prunedlora import PruneConfig
from prunedlora.criteria import available_criteria, get_criterion
from prunedlora.errors import ConfigurationError


def config(name, **settings):
    return PruneConfig(target_rank=2, criterion=name, **settings)


def test_named_schedules_imply_their_scope():
    assert config("para2026").scope == "global"
    assert config("lorasqueeze2026").scope == "module"
    assert PruneConfig.from_json(config("para2026").to_json()) == config("para2026")
    with pytest.raises(ConfigurationError, match="para2026 means scope='global'"):
        config("para2026", scope="module")


@pytest.mark.parametrize(
    "settings",
    [
        {"scope": "layer"},
        {"budget": "bytes"},
        {"fisher_per": "epoch"},
        {"min_rank": 0},
        {"min_rank": 3},
        {"round_to": 4},
        {"window": 0},
        {"window": 2, "decay": 0.5},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(
        (ConfigurationError, TypeCheckError)
    ):  # choices are types too, checked in tests
        config("magnitude", **settings)


def test_json_round_trip_and_unknown_keys():
    config = PruneConfig(
        target_rank=4, criterion="prunedlora2025", options={"damping": 0.1}, decay=0.9
    )
    assert PruneConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigurationError, match="no setting intervall"):
        PruneConfig.from_json('{"target_rank": 4, "intervall": 3}')


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("kfac", {"damping": float("nan")}, "damping must be a finite number"),
        ("kfac", {"damping": float("inf")}, "damping must be a finite number"),
        ("svd_kfac", {"damping": -0.1}, "not negative"),
        ("prunedlora2025", {"newton": "foo"}, "newton must be one of"),
        ("prunedlora2025", {"newton": "capped"}, "recovery='both'"),
        (
            "prunedlora2025",
            {"trust": float("nan"), "newton": "capped", "recovery": "both"},
            "trust",
        ),
        ("svd_fisher", {"max_iter": 0.5}, "cannot work with max_iter=0.5"),
        ("svd_fisher", {"mu": "much"}, "cannot work with mu='much'"),
        ("svd_fisher", {"mu": float("nan"), "lam": 0.1}, "mu must be a finite"),
    ],
    ids=str,
)
def test_options_that_would_fail_at_the_first_event_are_refused_before_training(
    name, options, match
):
    with pytest.raises(ConfigurationError, match=match):
        config(name, options=options)


def test_options_that_work_are_accepted():
    for name in available_criteria():
        defaults = {k: v for k, v in get_criterion(name).options.items() if v is not None}
        assert config(name, options=defaults).options == defaults
    assert config("svd_fisher", options={"mu": 0.1, "lam": 0.1}).options
