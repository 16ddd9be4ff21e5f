"""A setting takes only the words that its type lists."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from prunedlora.choices import Layout, check_choices
from prunedlora.errors import ConfigurationError
from tests.paths import ROOT


@dataclass
class Settings:
    side: Literal["left", "right"] = "left"
    layout: Layout | None = None
    rank: int | None = None
    name: str = "any"


def test_the_words_of_a_type_and_none_where_it_says_so_are_accepted():
    check_choices(Settings())
    check_choices(Settings("right", "padded", 3, "padded"))


@pytest.mark.parametrize("value", ["up", "", None, 1])
def test_anything_else_is_refused(value):
    known = r"\('left', 'right'\)"
    with pytest.raises(ConfigurationError, match=f"^side must be one of {known}, not {value!r}$"):
        check_choices(Settings(side=value))


def test_another_word_is_refused_where_none_is_accepted():
    known = r"\(None, 'uniform', 'ragged', 'padded'\)"
    with pytest.raises(ConfigurationError, match=f"^layout must be one of {known}, not 'left'$"):
        check_choices(Settings(layout="left"))


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
