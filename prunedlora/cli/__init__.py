"""The command ``prunedlora``."""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.cli.entry import main as main
    from prunedlora.cli.parsing import parse_options as parse_options
    from prunedlora.cli.parsing import parse_shape as parse_shape
    from prunedlora.cli.parsing import parse_share as parse_share
    from prunedlora.cli.parsing import parse_size as parse_size

_PLACES = {
    "main": "entry",
    "parse_options": "parsing",
    "parse_shape": "parsing",
    "parse_share": "parsing",
    "parse_size": "parsing",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
