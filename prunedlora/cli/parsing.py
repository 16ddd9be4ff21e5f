"""Sizes, shares and shapes as people write them: ``20MB``, ``1%``, ``4096x1024``."""

import re

from prunedlora.errors import ConfigurationError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of a size such as ``20MB`` (10^6 bytes each) or ``20MiB`` (2^20).

    Raises:
        ConfigurationError: no size.

    >>> parse_size("20MB"), parse_size("1.5 KiB")
    (20000000, 1536)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigurationError(f"{text!r} is no size; write 20MB or 20MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_share(text: str) -> float:
    """A share such as ``1%`` or ``0.01``.

    Raises:
        ConfigurationError: no share.

    >>> parse_share("1%"), parse_share("0.5")
    (0.01, 0.5)
    """
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is no share; write 1% or 0.01") from error


def parse_shape(text: str) -> tuple[int, int]:
    """Outputs and inputs of a shape such as ``4096x1024``.

    Raises:
        ConfigurationError: no shape.

    >>> parse_shape("4096x1024")
    (4096, 1024)
    """
    match = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", text)
    if match is None:
        raise ConfigurationError(f"{text!r} is no shape; write 4096x1024")
    return int(match[1]), int(match[2])
