"""Writing an adapter so that every reader loads what is in memory."""

import shutil
import tempfile
from pathlib import Path

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunedlora.adapters import find_lora_modules
from prunedlora.errors import ConfigurationError, OutputError
from prunedlora.surgery import configured_model, describe_adapter, peft_config

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


def export_adapter(model: nn.Module, folder: str | Path, adapter: str = "default") -> Path:
    """Write the model's adapter as an ordinary PEFT adapter that ``PeftModel.from_pretrained`` reads.

    The folder appears whole or not at all: files are written beside it, read back, compared with memory, and
    then renamed.

    Args:
        model: a model with LoRA layers; a pruned one after `LoraRankPruner.finish`.
        folder: where to write; must not exist.
        adapter: name of the adapter in the model.

    Returns:
        The folder.

    Raises:
        OutputError: the folder exists, cannot be written, or does not hold what memory holds.
        UnsupportedAdapterError, ConfigurationError: see :func:`prunedlora.find_lora_modules`.

    >>> import peft
    >>> settings = peft.LoraConfig(r=4, target_modules=["0"])
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(8, 8)), settings)
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     sorted(file.name for file in export_adapter(model, Path(scratch) / "adapter").iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    folder = Path(folder)
    if folder.exists():
        raise OutputError(f"{folder} exists already; choose another folder or remove it")
    modules = find_lora_modules(model, adapter)
    describe_adapter(model, modules)
    tensors = _tensors(model, adapter)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"cannot write beside {folder}: {error}") from error
    try:
        config = peft_config(model, adapter)
        inference_mode, config.inference_mode = config.inference_mode, True
        try:
            config.save_pretrained(str(part))
        finally:
            config.inference_mode = inference_mode
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        _compare(load_file(part / WEIGHTS), tensors, folder)
        part.chmod(0o755)
        part.rename(folder)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _tensors(model: nn.Module, adapter: str) -> dict[str, Tensor]:
    """The adapter's tensors under the names that PEFT gives them in a file, on the CPU."""
    state = get_peft_model_state_dict(
        configured_model(model, adapter), adapter_name=adapter, save_embedding_layers=False
    )
    if not state:
        raise ConfigurationError(f"PEFT finds no tensors for the adapter {adapter!r}")
    out = {}
    for name, tensor in state.items():
        key = name if name.startswith(PREFIX) else PREFIX + name
        out[key] = tensor.detach().cpu().contiguous()
    return out


def _compare(written: dict[str, Tensor], memory: dict[str, Tensor], folder: Path) -> None:
    if written.keys() != memory.keys() or not all(torch.equal(written[k], memory[k]) for k in memory):
        raise OutputError(f"what was written for {folder} differs from memory; the disk may be full or faulty")
