"""A setting takes only what its type says: its words, numbers, text."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from prunedlora.choices import Layout, check_settings
from prunedlora.errors import ConfigurationError
from tests.paths import ROOT


@dataclass
class Settings:
    side: Literal["left", "right"] = "left"
    layout: Layout | None = None
    rank: int | None = None
    name: str = "any"
    share: float = 0.5
    padded: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def test_the_words_of_a_type_and_none_where_it_says_so_are_accepted():
    check_settings(Settings())
    check_settings(Settings("right", "padded", 3, "padded"))


@pytest.mark.parametrize("value", ["up", "", None, 1])
def test_anything_else_is_refused(value):
    known = r"\('left', 'right'\)"
    with pytest.raises(ConfigurationError, match=f"^side must be one of {known}, not {value!r}$"):
        check_settings(Settings(side=value))


def test_another_word_is_refused_where_none_is_accepted():
    known = r"\(None, 'uniform', 'ragged', 'padded'\)"
    with pytest.raises(ConfigurationError, match=f"^layout must be one of {known}, not 'left'$"):
        check_settings(Settings(layout="left"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rank", "8", "a whole number"),
        ("rank", 2.0, "a whole number"),
        ("rank", True, "a whole number"),
        ("share", "0.5", "a number"),
        ("share", None, "a number"),
        ("share", False, "a number"),
        ("padded", "no", "true or false"),
        ("padded", 1, "true or false"),
        ("name", None, "text"),
        ("name", ["svd"], "text"),
        ("options", None, "a mapping"),
        ("options", ["damping"], "a mapping"),
        ("side", ["left"], r"one of \('left', 'right'\)"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_name(name, value, expected):
    message = f"^{name} must be {expected}, not {re.escape(repr(value))}$"
    with pytest.raises(ConfigurationError, match=message):
        check_settings(Settings(**{name: value}))


def test_numbers_become_plain_ones():
    settings = Settings(rank=np.int64(8), share=np.float32(0.25))
    check_settings(settings)
    assert json.dumps(asdict(settings)).count('"rank": 8, "name": "any", "share": 0.25') == 1
    settings = Settings(share=1)
    check_settings(settings)
    assert settings.share == 1


def test_both_configurations_check_their_types():
    code = """
from prunedlora import CompressConfig, PruneConfig
from prunedlora.errors import ConfigurationError
for config, name, value in (
    (CompressConfig, "rank", "8"),
    (CompressConfig, "rank", 2.5),
    (PruneConfig, "target_rank", "8"),
    (PruneConfig, "target_rank", 2.5),
):
    try:
        config(**{name: value})
    except ConfigurationError as error:
        assert str(error) == f"{name} must be a whole number, not {value!r}", error
    else:
        raise AssertionError(name)
for text in ("{", "[]", "{}", '{"target_rank": "8"}', '{"target_rank": 8, "seed": 1.5}'):
    try:
        PruneConfig.from_json(text)
    except ConfigurationError:
        continue
    raise AssertionError(text)"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_both_configurations_check_their_words():
    """In a process of its own: in this one the types themselves are checked, so no word gets through."""
    code = """
from prunedlora import CompressConfig, PruneConfig
from prunedlora.errors import ConfigurationError
for config, names in (
    (lambda **word: CompressConfig(rank=1, **word), ("scope", "layout", "dtype", "zero_modules")),
    (lambda **word: PruneConfig(1, **word), ("scope", "budget", "fisher_per", "moments")),
):
    for name in names:
        try:
            config(**{name: "any"})
        except ConfigurationError as error:
            assert str(error).startswith(f"{name} must be one of"), error
        else:
            raise AssertionError(name)"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
