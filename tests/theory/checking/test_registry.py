import pytest

from prunedlora.errors import ConfigurationError
from theory.checking.registry import select_statements


def test_a_key_selects_its_parts_and_an_unknown_one_is_refused():
    assert [s.key for s in select_statements("S6")] == ["S6.path", "S6.printed"]
    assert [s.key for s in select_statements("S7")] == ["S7"]
    with pytest.raises(ConfigurationError, match="there are: S1"):
        select_statements("S99")
