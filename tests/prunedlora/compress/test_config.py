import pytest

from prunedlora import CompressConfig
from prunedlora.errors import ConfigurationError


def test_settings_that_contradict_each_other():
    for settings, message in (
        ({}, "exactly one"),
        ({"rank": 1, "energy": 0.5}, "exactly one"),
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
    ):
        with pytest.raises(ConfigurationError, match=message):
            CompressConfig(**settings)
