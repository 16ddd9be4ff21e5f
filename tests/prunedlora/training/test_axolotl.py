"""The plugin in a Trainer, with what axolotl would put around it in its place."""

import importlib
import sys
from types import ModuleType

import pytest

from prunedlora import find_lora_modules
from prunedlora.errors import ConfigurationError
from tests.prunedlora.training.test_callback import trainer

pytest.importorskip("pydantic", reason="axolotl brings it")
PLUGIN = "prunedlora.training.axolotl"
SETTINGS = {"target_rank": 4, "interval": 1, "per_event": 2, "warmup_steps": 1}


class BasePlugin:
    """As much of axolotl's class as the plugin stands on."""

    def get_input_args(self):
        return None

    def add_callbacks_post_trainer(self, cfg, trainer):
        return []


@pytest.fixture
def plugin(monkeypatch):
    """The plugin as axolotl makes it: by the name of its class."""
    for name in ("axolotl", "axolotl.integrations", "axolotl.integrations.base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["axolotl.integrations.base"].BasePlugin = BasePlugin
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    yield importlib.import_module(PLUGIN).PruningPlugin()
    sys.modules.pop(PLUGIN, None)


@pytest.mark.supports("AdamW", "none", "axolotl's plugin, without axolotl", "float32")
def test_it_prunes_what_a_trainer_trains(plugin, lora, tmp_path):
    model = lora(zero_B=True)
    around = trainer(model, tmp_path, max_steps=4)
    for callback in plugin.add_callbacks_post_trainer({"prunedlora": SETTINGS}, around):
        around.add_callback(callback)
    around.train()
    assert {module.rank for module in find_lora_modules(model)} == {4}


def test_its_settings_are_announced_to_axolotl(plugin):
    module, _, name = plugin.get_input_args().rpartition(".")
    arguments = getattr(sys.modules[module], name)
    assert arguments.model_validate({"prunedlora": SETTINGS}).prunedlora == SETTINGS


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "target_rank: 16"),
        ({"prunedlora": {"rank": 4}}, "rank"),
        ({"prunedlora": None}, "needs"),
    ],
)
def test_wrong_settings_are_refused_before_training(plugin, settings, said):
    with pytest.raises(ConfigurationError, match=said):
        plugin.add_callbacks_post_trainer(settings, None)
