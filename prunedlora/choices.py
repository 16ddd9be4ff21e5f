"""The words that settings may be set to, and the check that they are."""

from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from prunedlora.errors import ConfigurationError

#: Whether every module goes to a rank of its own, or all modules share one budget.
Scope = Literal["module", "global"]
#: What a shared budget counts.
Budget = Literal["rank", "parameters"]
#: How ranks and scalings are written to a file, see `prunedlora.files.layouts`.
Layout = Literal["uniform", "ragged", "padded"]
#: Precision of a written adapter.
DtypeName = Literal["bf16", "fp16", "fp32", "fp64"]
#: What becomes of a module that adds nothing: kept at rank 1, or left out of the adapter.
ZeroModules = Literal["keep", "exclude"]
#: What becomes of an optimiser's state at a pruning event, see `prunedlora.PruneConfig`.
Moments = Literal["follow", "keep", "reset"]
#: What the Fisher matrix of the factors averages over.
FisherPer = Literal["micro_batch", "sample"]


def check_choices(config: Any) -> None:
    """Check every field of a dataclass whose type is a `Literal`, or a `Literal` or None.

    Raises:
        ConfigurationError: a field has another value; the message lists the possible ones.
    """
    for name, hint in get_type_hints(type(config)).items():
        known = _values(hint)
        if known and getattr(config, name) not in known:
            raise ConfigurationError(
                f"{name} must be one of {known}, not {getattr(config, name)!r}"
            )


def _values(hint: Any) -> tuple[Any, ...]:
    """What a field of this type may hold; nothing for a type that is not a choice."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    literals = [part for part in get_args(hint) if get_origin(part) is Literal]
    words = [word for literal in literals for word in get_args(literal)]
    return (None, *words) if words and NoneType in get_args(hint) else ()
