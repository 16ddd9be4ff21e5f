"""Writing the adapter of a model so that every reader loads what is in memory."""

import copy
import json
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.peft import (
    configured_model,
    description,
    name_in_base,
    peft_config,
    uncompiled,
)
from prunedlora.adapters.sharding import full, settle
from prunedlora.adapters.surgery import check_removed
from prunedlora.adapters.unfinished import refuse_unfinished, removed_of
from prunedlora.choices import Layout
from prunedlora.distributed import by_the_first
from prunedlora.errors import ConfigurationError
from prunedlora.factors import Scaled
from prunedlora.files.adapter_file import CONFIG, WEIGHTS
from prunedlora.files.card import CARD, RECORD, card, count, head, plain, span
from prunedlora.files.layouts import as_stored, lay_out, settings
from prunedlora.files.tensor_names import PREFIX
from prunedlora.files.writing import check_free, publish_folder, scratch_beside, write_tensors


def export_adapter(
    model: nn.Module,
    folder: str | Path,
    adapter: str = "default",
    *,
    layout: Layout | None = None,
    record: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model's adapter as an ordinary one, which ``PeftModel.from_pretrained`` reads, with a model card.

    The folder appears whole or not at all: files are written beside it, read back, compared with
    memory, and then renamed.

    Of a model that ``fully_shard`` (FSDP2) has sharded it is to be called in every process: tensors are gathered, the
    first process writes, and the others wait for it.  Components that were removed there are left out of the files.

    Args:
        model: a model with LoRA layers; a pruned one after `LoraRankPruner.finish`.
        folder: where to write; must not exist.
        adapter: name of the adapter in the model.
        layout: how ranks and scalings are laid out, see `prunedlora.files.layouts`.  By default as
            in memory: PEFT's patterns where modules differ, which other readers may ignore.
        record: what was done, from `LoraRankPruner.record`; written beside the weights as
            ``pruning_report.json``, and in short into the card.

    Returns:
        The folder.

    Raises:
        OutputError: the folder exists, cannot be written, or does not hold what memory holds.
        UnsupportedAdapterError, ConfigurationError: see :func:`prunedlora.find_lora_modules`; also
            ``uniform`` where ranks differ, an adapter that is still being pruned, and a removed component that is
            not zero any more.
        NonFiniteError: B with its scaling is too large for its dtype.

    >>> import peft, tempfile
    >>> config = peft.LoraConfig(r=4, target_modules=["0"])
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(8, 8)), config)
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     sorted(file.name for file in export_adapter(model, Path(scratch) / "adapter").iterdir())
    ['README.md', 'adapter_config.json', 'adapter_model.safetensors']
    """
    folder = Path(folder)
    if record is not None and (not isinstance(record, Mapping) or not record.get("ranks_before")):
        raise ConfigurationError("record must be what LoraRankPruner.record() gives")
    settle(model)
    modules = find_lora_modules(model, adapter, sharded=True)
    once: Callable[[Callable[[], None]], None] = _here
    if any(module.sharded for module in modules):
        once = by_the_first
    once(lambda: check_free(folder))
    refuse_unfinished(modules)
    # First what memory holds, without what was removed, then what a layout puts in its place.
    scaled = {name_in_base(module.name): _kept(module) for module in modules}
    config = copy.deepcopy(peft_config(model, adapter))
    sizes = {name: (factors.rank, factors.scaling) for name, factors in scaled.items()}
    for key, value in description(vars(config), sizes).items():
        setattr(config, key, value)
    tensors = _tensors(model, adapter)
    for module, factors in zip(modules, scaled.values(), strict=True):
        if factors.rank < module.rank:
            tensors |= _named(name_in_base(module.name), factors.B, factors.A)
    changes: dict[str, Any] = {}
    if layout is not None:
        replaced, changes = _laid_out(scaled, layout, vars(config))
        tensors |= replaced
    config.inference_mode = True  # as PEFT does when it saves

    text = _card(config.base_model_name_or_path, folder.name, scaled.values(), record)

    def write() -> None:
        with scratch_beside(folder) as part:
            config.save_pretrained(str(part))
            written = json.loads((part / CONFIG).read_text())
            (part / CONFIG).write_text(json.dumps(written | changes, indent=2, sort_keys=True))
            write_tensors(tensors, part / WEIGHTS, {"format": "pt"})
            (part / CARD).write_text(text, encoding="utf-8")
            if record is not None:
                (part / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
            publish_folder(part, folder)

    once(write)
    return folder


def _here(act: Callable[[], None]) -> None:
    act()


def _kept(module: LoraModule) -> Scaled:
    """The whole factors of a module, on the CPU, without components that were removed and kept their place."""
    B, A = full(module.B).cpu(), full(module.A).cpu()
    removed = removed_of(module)
    if removed is not None:
        check_removed(module, removed)
        B, A = B[:, ~removed.cpu()], A[~removed.cpu()]
    return Scaled(B, A, module.scaling)


def _card(
    base: object, title: str, modules: Collection[Scaled], record: Mapping[str, Any] | None
) -> str:
    """The text of the model card."""
    scalings = ", ".join(f"{scaling:g}" for scaling in sorted({m.scaling for m in modules}))
    facts = [
        f"rank: {span([module.rank for module in modules])}, in {count(len(modules), 'module')}",
        f"scaling of what the factors add: {scalings}",
    ]
    sentence = "Written by prunedlora."
    if record is not None:
        sentence = f"Pruned in training, by prunedlora; everything else is in `{RECORD}`."
        facts.append(f"rank before: {span(record['ranks_before'].values())}")
        facts.append(
            f"criterion: `{plain(record['config']['criterion'])}`, in {count(len(record['events']), 'event')} over "
            f"{count(record['total_steps'], 'step')}"
        )
    return card(head(base, title), "Adapter", sentence, facts)


def _laid_out(
    modules: Mapping[str, Scaled], layout: Layout, config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration entries of a layout, to put in place of those in memory."""
    wide = {name: Scaled(m.B.double(), m.A.double(), m.scaling) for name, m in modules.items()}
    out = lay_out(wide, layout)
    tensors: dict[str, Tensor] = {}
    for name, factors in out.items():
        before = modules[name]
        shapes = (tuple(before.B.shape), tuple(before.A.shape))
        B, A = as_stored(factors, *shapes, (before.B.dtype, before.A.dtype), name)
        tensors |= _named(name, B, A)
    return tensors, settings(out, config)


def _named(name: str, B: Tensor, A: Tensor) -> dict[str, Tensor]:
    """The factors of a module under the names that PEFT gives them in a file."""
    return {
        f"{PREFIX}{name}.lora_B.weight": B.contiguous(),
        f"{PREFIX}{name}.lora_A.weight": A.contiguous(),
    }


def _tensors(model: nn.Module, adapter: str) -> dict[str, Tensor]:
    """The adapter's tensors under the names that PEFT gives them in a file, on the CPU.

    As PEFT's own save does, with embeddings that were resized or are adapted.
    """
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():  # PEFT says that it saves embeddings, which is what is wanted
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")
        state = get_peft_model_state_dict(configured_model(model, adapter), adapter_name=adapter)
    if not state:
        raise ConfigurationError(f"PEFT finds no tensors for the adapter {adapter!r}")
    out = {}
    for compiled, tensor in state.items():
        name = uncompiled(compiled)
        key = name if name.startswith(PREFIX) else PREFIX + name
        out[key] = full(tensor).cpu().contiguous()
    return out
