import pytest

from prunedlora import CompressConfig
from prunedlora.errors import ConfigurationError


def test_settings_that_contradict_each_other():
    for settings, message in (
        ({}, "exactly one"),
        ({"size": 1, "energy": 0.5}, "exactly one"),
        ({"rank": 1, "size": 5}, "exactly one"),
        ({"rank": 1, "energy": 0.5, "ratio": 2.0}, "exactly one"),
        ({"rank": 1, "max_loss_increase": 0.5}, "exactly one"),
        ({"cumulative": 1.5}, "cumulative"),
        ({"ratio": 0.5}, "ratio"),
        ({"knee": -1.0}, "knee"),
        ({"conv_rank": 2, "energy": 0.5}, "conv_rank"),
        ({"rank": 2, "conv_rank": 2, "scope": "global"}, "conv_rank"),
        ({"rank": 12, "round_to": 8}, "multiple"),
        ({"rank": 8, "round_to": 0}, "round_to"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 1.5}, "energy"),
        ({"rank": 1, "base": "x"}, "go together"),
        ({"rank": 1, "criterion": "svd_kfac"}, "needs data"),
        ({"max_loss_increase": 0.1}, "needs data"),
        ({"rank": 1, "criterion": "nothing"}, "no criterion"),
        ({"rank": 1, "scope": "global", "layout": "uniform"}, "ragged"),
        ({"rank": 1, "scope": "global", "criterion": "random"}, "no unit"),
        ({"rank": 1, "scope": "module", "criterion": "para2026"}, "scope='global'"),
        ({"rank": 1, "options": {"x": 1}}, "no option"),
        ({"rank": 1, "samples": 1}, "samples"),
        ({"rank": 1, "seed": 10**30}, "seed"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            CompressConfig(**settings)
