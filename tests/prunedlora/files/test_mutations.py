import pytest

from tests.prunedlora.files.mutations import KINDS, try_one


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_a_damaged_file_is_refused_or_lowered_right(tmp_path, kind, start):
    """The same for many more: ``python -m tests.prunedlora.files.mutations --count 5000``."""
    story, outcome = try_one(kind + len(KINDS) * start, tmp_path)
    assert not outcome.startswith("WRONG"), f"{story} -> {outcome}"
