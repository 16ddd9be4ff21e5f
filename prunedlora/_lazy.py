"""Names that are imported when they are first used (PEP 562), so that a package costs nothing."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose public names live in its modules.

    The modules themselves can be reached as attributes too, as if they had been imported already.

    Args:
        package: its ``__name__``.
        places: for each public name the module that defines it, relative to the package.

    >>> get, _ = lazy_names("prunedlora", {"PrunedLoRAError": "errors"})
    >>> get("PrunedLoRAError")
    <class 'prunedlora.errors.PrunedLoRAError'>
    """

    def get(name: str) -> Any:
        if name in places:
            value = getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        else:
            value = _submodule(package, name)
        setattr(sys.modules[package], name, value)  # from now on found without this function
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return get, names


def moved(old: str, *new: str) -> Callable[[str], Any]:
    """``__getattr__`` of a module that now lives elsewhere.

    Its names still work, with a DeprecationWarning that says where they are.

    Args:
        old: its ``__name__``.
        new: the modules that have its names now.
    """

    def get(name: str) -> Any:
        if name == "__all__":  # asked for by ``from ... import *``
            return [n for place in new for n in _own_names(place)]
        # Tools look for attributes such as __path__ and __test__, which is not a use of the old place.
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        place = next((p for p in new if hasattr(importlib.import_module(p), name)), new[0])
        value = getattr(importlib.import_module(place), name)
        warnings.warn(
            f"{old} is now {place}; import {name} from there", DeprecationWarning, stacklevel=2
        )
        return value

    return get


def _own_names(module: str) -> list[str]:
    """Public names that a module defines itself."""
    names = vars(importlib.import_module(module)).items()
    own = [n for n, value in names if getattr(value, "__module__", "") == module]
    return [n for n in own if not n.startswith("_")]


def _submodule(package: str, name: str) -> Any:
    full = f"{package}.{name}"
    if not name.startswith("__"):
        try:
            return importlib.import_module(full)
        except ModuleNotFoundError as error:
            if error.name != full:  # the module is there, but something that it imports is not
                raise
    raise AttributeError(f"module {package!r} has no attribute {name!r}")
