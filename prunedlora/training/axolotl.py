"""Pruning as a plugin of axolotl.

In its configuration::

    plugins:
      - prunedlora.training.axolotl.PruningPlugin
    prunedlora:
      target_rank: 16

The settings are those of `PruneConfig`.  Needs axolotl; the tests run the plugin in a Trainer, without axolotl.
"""

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from prunedlora.errors import ConfigurationError
from prunedlora.training.callback import PruningCallback
from prunedlora.training.config import PruneConfig


class PruningArguments(BaseModel):
    """What the plugin adds to axolotl's configuration.

    Attributes:
        prunedlora: settings of `PruneConfig`.
    """

    prunedlora: dict[str, Any] | None = None


class PruningPlugin(BasePlugin):
    """Prunes the adapter that axolotl trains; what it saves in the end has the target rank."""

    def get_input_args(self) -> str:
        """Where axolotl finds the settings that it is to accept."""
        return f"{__name__}.{PruningArguments.__name__}"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[PruningCallback]:
        """The callback that prunes.

        Raises:
            ConfigurationError: the configuration has no settings for it, or wrong ones.
        """
        if not cfg.get("prunedlora"):
            raise ConfigurationError(
                "the plugin of prunedlora needs settings; put 'prunedlora:' with 'target_rank: 16' "
                "below it into the configuration, or take the plugin out"
            )
        settings = dict(cfg["prunedlora"])
        try:
            config = PruneConfig(**settings)
        except TypeError as error:
            raise ConfigurationError(
                f"prunedlora: {error}; see PruneConfig for its settings"
            ) from None
        return [PruningCallback(config)]
