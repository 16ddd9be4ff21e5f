"""Marks on the layers of adapters that are being pruned, or that have been; copies of a model take them with them."""

from collections.abc import Iterable, Mapping

from jaxtyping import Bool
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.errors import ConfigurationError

#: Attribute of a PEFT layer: names of the adapters that are being pruned.
_MARK = "_prunedlora_unfinished"
#: Attribute of a PEFT layer: masks of removed components that keep their place in its tensors, by adapter.
_REMOVED = "_prunedlora_removed"


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


def mark_removed(modules: Iterable[LoraModule], removed: Mapping[str, Bool[Tensor, " r"]]) -> None:
    """Note on layers that cannot be shrunk which components are gone."""
    for module in modules:
        masks = getattr(module.layer, _REMOVED, {})
        setattr(module.layer, _REMOVED, {**masks, module.adapter: removed[module.name]})


def removed_of(module: LoraModule) -> Bool[Tensor, " r"] | None:
    """The components that `mark_removed` noted; None where nothing was noted."""
    masks: Mapping[str, Tensor] = getattr(module.layer, _REMOVED, {})
    return masks.get(module.adapter)


def _marks(module: LoraModule) -> frozenset[str]:
    marks: frozenset[str] = getattr(module.layer, _MARK, frozenset())
    return marks
