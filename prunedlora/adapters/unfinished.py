"""Marks of adapters that are being pruned, which copies of a model take with them."""

from collections.abc import Iterable

from prunedlora.adapters.modules import LoraModule
from prunedlora.errors import ConfigurationError

#: Attribute of a PEFT layer: names of the adapters that are being pruned.
_MARK = "_prunedlora_unfinished"


def mark_unfinished(modules: Iterable[LoraModule]) -> None:
    """Mark an adapter as one that is being pruned."""
    for module in modules:
        setattr(module.layer, _MARK, _marks(module) | {module.adapter})


def unmark(modules: Iterable[LoraModule]) -> None:
    """Take the mark off."""
    for module in modules:
        setattr(module.layer, _MARK, _marks(module) - {module.adapter})


def refuse_unfinished(modules: Iterable[LoraModule]) -> None:
    """Refuse an adapter that is being pruned, and copies of a model that were made while it was.

    Raises:
        ConfigurationError: it is one.
    """
    for module in modules:
        if module.adapter in _marks(module):
            raise ConfigurationError(
                f"the adapter {module.adapter!r} is still being pruned: call finish() on its pruner, or leave the with "
                "block, first.  A copy of a model that was made before (an average of weights, EMA or SWA) holds "
                "components that have been removed since: copy the model after finish(), and average from there on"
            )


def _marks(module: LoraModule) -> frozenset[str]:
    marks: frozenset[str] = getattr(module.layer, _MARK, frozenset())
    return marks
