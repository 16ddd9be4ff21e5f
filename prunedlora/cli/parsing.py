"""Values as people type them: ``20MB``, ``1%``, ``4096x1024``, ``damping=0.1``."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from prunedlora.errors import ConfigurationError

_UNITS = {
    **{"": 1, "B": 1},
    **{"KB": 10**3, "MB": 10**6, "GB": 10**9},
    **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30},
}


def parse_size(text: str) -> int:
    """Bytes of a size such as ``20MB`` (10^6 bytes each) or ``20MiB`` (2^20).

    Raises:
        ConfigurationError: not a size.

    >>> parse_size("20MB"), parse_size("1.5 KiB")
    (20000000, 1536)
    """
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigurationError(f"{text!r} is not a valid size; write 20MB or 20MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_share(text: str) -> float:
    """A share such as ``1%`` or ``0.01``.

    Raises:
        ConfigurationError: not a share.

    >>> parse_share("1%"), parse_share("0.5")
    (0.01, 0.5)
    """
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is not a valid share; write 1% or 0.01") from error


def parse_shape(text: str) -> tuple[int, int]:
    """Outputs and inputs of a shape such as ``4096x1024``.

    Raises:
        ConfigurationError: not a shape.

    >>> parse_shape("4096x1024")
    (4096, 1024)
    """
    match = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", text)
    if match is None:
        raise ConfigurationError(f"{text!r} is not a valid shape; write 4096x1024")
    return int(match[1]), int(match[2])


def parse_weighted(text: str) -> tuple[str, float]:
    """An adapter and its weight, such as ``style:0.7``; the weight is 1 where none is given.

    >>> parse_weighted("style:0.7"), parse_weighted("organisation/name")
    (('style', 0.7), ('organisation/name', 1.0))
    """
    name, _, number = text.rpartition(":")
    try:
        return (name, float(number)) if name else (text, 1.0)
    except ValueError:
        return text, 1.0


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options such as ``damping=0.1``: numbers, true, false, null, and anything else as text.

    Raises:
        ConfigurationError: not an option, or one that is given twice.

    >>> parse_options(["damping=0.1", "newton=capped", "mu=null"])
    {'damping': 0.1, 'newton': 'capped', 'mu': None}
    """
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise ConfigurationError(f"{text!r} is not a valid option; write damping=0.1")
        if name in options:
            raise ConfigurationError(f"the option {name!r} is given twice")
        options[name] = _value(value)
    return options


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    plain = (
        value is None
        or isinstance(value, bool | int)
        or (isinstance(value, float) and math.isfinite(value))
    )
    return value if plain else text
