"""The words that settings may be set to, and the check that settings are what their types say."""

from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prunedlora.errors import ConfigurationError

#: Whether every module goes to a rank of its own, or all modules share one budget.
Scope = Literal["module", "global"]
#: What a shared budget counts.
Budget = Literal["rank", "parameters"]
#: How ranks and scalings are written to a file, see `prunedlora.files.layouts`.
Layout = Literal["uniform", "ragged", "padded"]
#: Programs that an adapter can be written for, see `prunedlora.files.readers`.
ReaderName = Literal[
    "peft",
    "vllm",
    "sglang",
    "tensorrt-llm",
    "llama.cpp",
    "ollama",
    "lorax",
    "comfyui",
    "diffusers",
    "sd-scripts",
]
#: Precision of a written adapter.
DtypeName = Literal["bf16", "fp16", "fp32", "fp64", "fp8"]
#: What becomes of a module that adds nothing: kept at rank 1, or left out of the adapter.
ZeroModules = Literal["keep", "exclude"]
#: What becomes of an optimiser's state at a pruning event, see `prunedlora.PruneConfig`.
Moments = Literal["follow", "keep", "reset"]
#: What the Fisher matrix of the factors averages over.
FisherPer = Literal["micro_batch", "sample"]


def check_settings(config: Any) -> None:
    """Check every field of a dataclass against its type: choices, whole and other numbers, words.

    Numbers of other kinds, such as numpy's, become plain ones, so that settings can be written as JSON.

    Raises:
        ConfigurationError: a field has another value; the message names it and says what it may be.
    """
    kind: Any = type(config)
    for name, hint in _hints(kind).items():
        value = getattr(config, name)
        plain = checked(name, value, hint)
        if plain is not value:
            object.__setattr__(config, name, plain)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields; to look them up takes longer than to check them all."""
    return get_type_hints(kind)


def checked(name: str, value: Any, hint: Any) -> Any:
    """A setting as its type says it; a number becomes a plain `int` or `float`.

    Args:
        name: of the setting, for the message.
        value: that it was given.
        hint: a `Literal`, int, float, bool, str or a mapping, or one of these or None.

    Raises:
        ConfigurationError: the value is none of these.

    >>> checked("rank", 3, int), checked("scope", None, Scope | None)
    (3, None)
    """
    known = _values(hint)
    if known and not (isinstance(value, str | None) and value in known):
        raise ConfigurationError(f"{name} must be one of {known}, not {value!r}")
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = {get_origin(part) or part for part in parts}
    if known or (value is None and NoneType in kinds):
        return value
    if int in kinds and _is_number(value, Integral):
        return int(value)
    if float in kinds and _is_number(value, Real):
        return value if isinstance(value, int | float) else float(value)
    for kind, what, fits in (
        (int, "a whole number", False),
        (float, "a number", False),
        (bool, "true or false", isinstance(value, bool)),
        (str, "text", isinstance(value, str)),
        (Mapping, "a mapping", isinstance(value, Mapping)),
    ):
        if kind in kinds and not fits:
            raise ConfigurationError(f"{name} must be {what}, not {value!r}")
    return value


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _values(hint: Any) -> tuple[Any, ...]:
    """What a field of this type may hold; nothing for a type that is not a choice."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    literals = [part for part in get_args(hint) if get_origin(part) is Literal]
    words = [word for literal in literals for word in get_args(literal)]
    return (None, *words) if words and NoneType in get_args(hint) else ()
