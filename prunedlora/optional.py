"""Packages that only the command line needs."""

import importlib
from typing import Any

from prunedlora.errors import MissingPackageError


def require(package: str) -> Any:
    """Import an optional package.

    Raises:
        MissingPackageError: it is not installed; the message says how to get it.

    >>> require("json").loads("1")
    1
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        top = package.partition(".")[0]
        raise MissingPackageError(f'this needs {top}: pip install "prunedlora[cli]"') from error
