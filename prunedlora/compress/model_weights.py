"""The weights of a model in its files, of which the model itself is not made."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from prunedlora.errors import AdapterFileError, ConfigurationError
from prunedlora.files.adapter_file import AdapterModule, finite
from prunedlora.files.header import TensorEntry, opened, read_header

_MODEL = "model.safetensors"
#: Dtypes whose numbers need no scale that is kept elsewhere.
WHOLE = ("F64", "F32", "F16", "BF16")
_INDEX = "model.safetensors.index.json"


def model_weights(model: str | Path) -> dict[str, tuple[Path, TensorEntry]]:
    """Every tensor of a model: the file that holds it and what the header says of it.

    Args:
        model: a safetensors file, or a folder as transformers writes it.

    Raises:
        AdapterFileError: there is none, or it is damaged.
    """
    place = Path(model)
    files = [place]
    if place.is_dir():
        files = [place / _MODEL] if (place / _MODEL).exists() else _shards(place)
    return {
        key: (file, entry) for file in files for key, entry in read_header(file).tensors.items()
    }


def _shards(folder: Path) -> list[Path]:
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterFileError(f"{folder} holds neither {_MODEL} nor a valid {_INDEX}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise AdapterFileError(f"{folder}: {_INDEX} names files outside of the folder")
    return [folder / name for name in names]


def read_weight(file: Path, key: str) -> Tensor:
    """One tensor of a file."""
    with opened(file) as tensors:
        tensor: Tensor = tensors.get_tensor(key)
    return tensor


def weight_norms(model: str | Path, modules: Iterable[AdapterModule]) -> dict[str, float]:
    """Frobenius norm of the weight that each module of an adapter changes, read one at a time.

    Args:
        model: see `model_weights`.
        modules: of the adapter.

    Returns:
        The norms by name of module.

    Raises:
        AdapterFileError: see `model_weights`.
        ConfigurationError: a module has no weight of its size there, or several that might be it, or
            one of zeros.
        NonFiniteError: NaN or infinity in a weight.
    """
    stored = model_weights(model)
    find = _finder(stored)
    norms = {}
    for module in modules:
        key = find(module.name)
        entry = stored[key][1] if key is not None else None
        size = module.shape_B[0] * math.prod(module.shape_A[1:])
        if key is None or entry is None or math.prod(entry.shape) != size:
            raise ConfigurationError(
                f"{model} holds no weight that is clearly that of {module.name}; name the base model of "
                "the adapter, a safetensors file or a folder of them"
            )
        if entry.dtype not in WHOLE:
            raise ConfigurationError(
                f"{key} in {model} is stored as {entry.dtype}, whose scale is kept elsewhere; name the base model "
                "before its quantisation"
            )
        weight = finite(read_weight(stored[key][0], key), key)
        norms[module.name] = float(torch.linalg.vector_norm(weight, dtype=torch.float64))
        if norms[module.name] == 0:
            raise ConfigurationError(
                f"{key} in {model} is zero, so that nothing can be relative to it"
            )
    return norms


def _finder(keys: Iterable[str]) -> Callable[[str], str | None]:
    """What finds the weight of a module by its path; None where there is none, or no single one.

    Either side may lack the beginning of a path, and tools for diffusion models write underscores for
    dots.

    >>> find = _finder(["model.layers.0.q.weight", "unet.down.0.to_q.weight"])
    >>> find("layers.0.q"), find("base.model.layers.0.q"), find("lora_unet_down_0_to_q"), find("v")
    ('model.layers.0.q.weight', 'model.layers.0.q.weight', 'unet.down.0.to_q.weight', None)
    """
    whole = {
        key.removesuffix(".weight").replace(".", "_"): key
        for key in keys
        if key.endswith(".weight")
    }
    by_end: dict[str, list[str]] = {}
    for path, key in whole.items():
        for end in _ends(path):
            by_end.setdefault(end, []).append(key)

    def find(name: str) -> str | None:
        path = name.replace(".", "_")
        if path in whole:
            return whole[path]
        if path in by_end:
            return by_end[path][0] if len(by_end[path]) == 1 else None
        return next((whole[end] for end in _ends(path) if end in whole), None)

    return find


def _ends(path: str) -> Iterator[str]:
    """A path, and what is left of it without its first parts, the longest first."""
    parts = path.split("_")
    return ("_".join(parts[start:]) for start in range(len(parts)))
