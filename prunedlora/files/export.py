"""Writing the adapter of a model so that every reader loads what is in memory."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.peft import (
    configured_model,
    describe_adapter,
    name_in_base,
    peft_config,
    uncompiled,
)
from prunedlora.adapters.unfinished import refuse_unfinished
from prunedlora.choices import Layout
from prunedlora.errors import ConfigurationError
from prunedlora.factors import Scaled
from prunedlora.files.adapter_file import CONFIG, WEIGHTS
from prunedlora.files.card import CARD, RECORD, card, head, plain, span
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
            ``uniform`` where ranks differ, and an adapter that is still being pruned.
        NonFiniteError: B with its scaling is too large for its dtype.

    >>> import peft, tempfile
    >>> config = peft.LoraConfig(r=4, target_modules=["0"])
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(8, 8)), config)
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     sorted(file.name for file in export_adapter(model, Path(scratch) / "adapter").iterdir())
    ['README.md', 'adapter_config.json', 'adapter_model.safetensors']
    """
    folder = Path(folder)
    check_free(folder)
    # First what memory holds, then what a layout puts in its place.
    modules = find_lora_modules(model, adapter)
    refuse_unfinished(modules)
    describe_adapter(model, modules)
    tensors = _tensors(model, adapter)
    changes: dict[str, Any] = {}
    if layout is not None:
        replaced, changes = _laid_out(modules, layout, vars(peft_config(model, adapter)))
        tensors |= replaced
    with scratch_beside(folder) as part:
        # As PEFT does when it saves, for the time of writing only.
        config = peft_config(model, adapter)
        inference_mode = config.inference_mode
        config.inference_mode = True
        try:
            config.save_pretrained(str(part))
        finally:
            config.inference_mode = inference_mode
        written = json.loads((part / CONFIG).read_text())
        (part / CONFIG).write_text(json.dumps(written | changes, indent=2, sort_keys=True))
        write_tensors(tensors, part / WEIGHTS, {"format": "pt"})
        text = _card(config.base_model_name_or_path, folder.name, modules, record)
        (part / CARD).write_text(text, encoding="utf-8")
        if record is not None:
            (part / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        publish_folder(part, folder)
    return folder


def _card(
    base: object, title: str, modules: list[LoraModule], record: Mapping[str, Any] | None
) -> str:
    """The text of the model card."""
    scalings = ", ".join(f"{scaling:g}" for scaling in sorted({m.scaling for m in modules}))
    facts = [
        f"rank: {span([module.rank for module in modules])}, in {len(modules)} modules",
        f"scaling of what the factors add: {scalings}",
    ]
    sentence = "Written by prunedlora."
    if record is not None:
        sentence = f"Pruned in training, by prunedlora; everything else is in `{RECORD}`."
        facts.append(f"rank before: {span(record['ranks_before'].values())}")
        facts.append(
            f"criterion: `{plain(record['config']['criterion'])}`, in {len(record['events'])} events over "
            f"{record['total_steps']} steps"
        )
    return card(head(base, title), "Adapter", sentence, facts)


def _laid_out(
    modules: list[LoraModule], layout: Layout, config: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration entries of a layout, to put in place of those in memory."""
    scaled = {}
    for module in modules:
        B, A = (factor.detach().cpu().double() for factor in (module.B, module.A))
        scaled[name_in_base(module.name)] = Scaled(B, A, module.scaling)
    out = lay_out(scaled, layout)
    tensors = {}
    for module, (name, factors) in zip(modules, out.items(), strict=True):
        shapes = (tuple(module.B.shape), tuple(module.A.shape))
        B, A = as_stored(factors, *shapes, (module.B.dtype, module.A.dtype), name)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = B
        tensors[f"{PREFIX}{name}.lora_A.weight"] = A
    return tensors, settings(out, config)


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
        out[key] = tensor.detach().cpu().contiguous()
    return out
