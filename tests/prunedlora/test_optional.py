import pytest

from prunedlora.errors import MissingPackageError
from prunedlora.optional import require


def test_a_missing_package_is_named_with_the_fix():
    with pytest.raises(MissingPackageError, match=r'pip install "prunedlora\[cli\]"'):
        require("a_package_that_is_not_there")
