"""Interrupted training: what a pruner must remember, checked before it goes on, and kept in a file without pickles."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.adapters.peft import name_in_base
from prunedlora.adapters.surgery import check_removed, no_component
from prunedlora.errors import ConfigurationError
from prunedlora.files.adapter_file import CONFIG, WEIGHTS
from prunedlora.files.tensor_names import PREFIX
from prunedlora.files.writing import publish_file, scratch_beside, write_tensors
from prunedlora.training.config import PruneConfig
from prunedlora.training.schedule import PruneEvent

#: Name of the file in the checkpoints of the transformers `Trainer`.
STATE_FILE = "prunedlora_state.safetensors"
#: Entries of the file's metadata: all but the tensors, as JSON, and a hash of that and the tensors.
_KEY = "prunedlora_state"
_HASH = "prunedlora_sha256"


def check_same_training(
    state: Mapping[str, Any], config: PruneConfig, modules: list[LoraModule]
) -> None:
    """Refuse the state of another training.

    Args:
        state: what `LoraRankPruner.state_dict` gave.
        config: settings of the pruner that is to go on.
        modules: its modules.

    Raises:
        ConfigurationError: no such state, or other settings, modules or ranks; the message says which.
    """
    expected = {"config", "ranks", "step", "events", "statistics"}
    if set(state) != expected:
        raise ConfigurationError(
            f"the state of a LoraRankPruner has {', '.join(sorted(expected))}, nothing else"
        )
    # The settings, key by key, so that the message names what changed.
    saved = json.loads(state["config"])
    current = json.loads(config.to_json())
    changed = [
        f"{key}={current[key]!r} (was {saved.get(key)!r})"
        for key in current
        if saved.get(key) != current[key]
    ]
    if changed:
        raise ConfigurationError(
            f"the checkpoint was made with other settings: {', '.join(changed)}; use the same"
        )
    # The adapter, module by module.
    ranks = {name_in_base(m.name): m.rank for m in modules}
    before: dict[str, int] = state["ranks"]
    different = sorted(
        name for name in ranks.keys() | before.keys() if ranks.get(name) != before.get(name)
    )
    if different:
        name = different[0]
        raise ConfigurationError(
            f"the checkpoint was made with another adapter: {name} had rank {before.get(name, 0)}, has "
            f"{ranks.get(name, 0)} here; start from the LoraConfig of that training"
        )


def past_events(
    events: list[dict[str, Any]], modules: list[LoraModule]
) -> tuple[list[PruneEvent], dict[str, Bool[Tensor, " r"]]]:
    """The events of a state under the names that modules have here, and which components they removed from each.

    Raises:
        ConfigurationError: these are not zero in the model.
    """
    names = {name_in_base(m.name): m.name for m in modules}  # a wrapper may have come or gone
    removed = {m.name: no_component(m) for m in modules}
    past = []
    for event in events:
        ranks, gone = (
            {names[name_in_base(n)]: v for n, v in event[key].items()}
            for key in ("ranks", "removed")
        )
        past.append(PruneEvent(**{**event, "ranks": ranks, "removed": gone}))
        for name, indices in gone.items():
            removed[name][indices] = True
    for module in modules:
        check_removed(
            module,
            removed[module.name],
            "load the weights of the same checkpoint before the pruner's state",
        )
    return past, removed


def write_state(state: Mapping[str, Any], file: Path) -> None:
    """Write what `LoraRankPruner.state_dict` gave, whole or not at all; an older file is replaced.

    Raises:
        OutputError: it cannot be written, or does not hold what memory holds.
    """
    with scratch_beside(file) as folder:
        part = folder / file.name
        write_tensors(state["statistics"], part, {_KEY: _text(state), _HASH: fingerprint(state)})
        publish_file(part, file)


def read_state(file: Path) -> dict[str, Any]:
    """What `write_state` wrote.

    Raises:
        ConfigurationError: there is no such file, or it is something else or damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            statistics = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        state = {**json.loads(header[_KEY]), "statistics": statistics}
        if header[_HASH] != fingerprint(state):
            raise ValueError("it was damaged after it was written")
        return state
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{file} holds no state of a pruner ({error}); resume from a checkpoint that was saved while pruning, or "
            "start from the beginning"
        ) from error


def _text(state: Mapping[str, Any]) -> str:
    """All but the tensors, as JSON."""
    return json.dumps({key: value for key, value in state.items() if key != "statistics"})


def fingerprint(state: Mapping[str, Any]) -> str:
    """A hash of a state, the same before it is written and after it is read: one bit that changes is found."""
    whole = hashlib.sha256(_text(state).encode())
    tensors: Mapping[str, Tensor] = state["statistics"]
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        whole.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def shrink_saved(folder: Path, live: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Cut removed components out of an adapter that PEFT has saved, as they are cut out of the one in memory.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``; left alone where they are missing.
        live: indices of the components that stay, by the name of the module in the base model.
        config: entries of the configuration that describe the new ranks and scalings.

    Raises:
        OutputError: it cannot be written.
    """
    weights = folder / WEIGHTS
    if not weights.exists():
        return
    tensors = load_file(weights)
    for name, index in live.items():
        index = index.cpu()
        for letter, dim in (("B", 1), ("A", 0)):
            key = f"{PREFIX}{name}.lora_{letter}.weight"
            tensors[key] = tensors[key].index_select(dim, index).contiguous()
    with scratch_beside(weights) as part:
        write_tensors(tensors, part / WEIGHTS, {"format": "pt"})
        entries = json.loads((folder / CONFIG).read_text()) | config
        (part / CONFIG).write_text(json.dumps(entries, indent=2, sort_keys=True))
        for name in (WEIGHTS, CONFIG):
            publish_file(part / name, folder / name)
