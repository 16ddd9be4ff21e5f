"""What a compressed file must be, told from the files alone: no code of the package, numpy in float64."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.utils.other import get_pattern_key

Array = np.ndarray[Any, Any]

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: Endings of A, of B and of alpha, written down apart from the package's own list.
ENDINGS = {
    "peft": (".lora_A.weight", ".lora_B.weight", ".alpha"),
    "kohya": (".lora_down.weight", ".lora_up.weight", ".alpha"),
    "embedding": (".lora_embedding_A", ".lora_embedding_B", ".alpha"),
    "live": (".lora_A.default.weight", ".lora_B.default.weight", ".alpha"),
    "mochi": (".lora_A", ".lora_B", ".alpha"),
    "torchtune": (".lora_a.weight", ".lora_b.weight", ".alpha"),
    "split": (".lora_down.0.weight", ".lora_up.0.weight", ".alpha"),
    "diffusers": (".lora.down.weight", ".lora.up.weight", ".alpha"),
    "processor": ("_lora.down.weight", "_lora.up.weight", ".alpha"),
    "text encoder": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", ".alpha"),
    "xlabs": ("_lora1.down.weight", "_lora1.up.weight", "_lora1.alpha"),
    "control": (".down", ".up", ".alpha"),
}
#: Dtypes that numpy has, and those of one byte, of which torch makes a table.
_NUMPY = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "I8": "<i1", "BOOL": "?"},
}
_BYTES = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
#: Distance from 1 to the next number.
EPSILON = {
    "F64": 2.0**-52,
    "F32": 2.0**-23,
    "F16": 2.0**-10,
    "BF16": 2.0**-7,
    "F8_E4M3": 2.0**-3,
    "F8_E5M2": 2.0**-2,
}


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def numbers(self) -> Array:
        """Its values in float64."""
        if self.dtype == "BF16":
            wide = np.frombuffer(self.data, "<u2").astype("<u4") << 16
            values = wide.view("<f4")
        elif self.dtype in _BYTES:
            table = torch.arange(256, dtype=torch.uint8).view(_BYTES[self.dtype]).float().numpy()
            values = table[np.frombuffer(self.data, np.uint8)]
        else:
            values = np.frombuffer(self.data, _NUMPY[self.dtype])
        return values.astype(np.float64).reshape(self.shape)


@dataclass(frozen=True)
class Product:
    """``s B A`` of one module, kernels flattened, and the names of the tensors that it was made of."""

    matrix: Array
    rank: int
    keys: tuple[str, ...]
    #: ``s |B| |A|`` in Frobenius norms, by which rounding is measured.
    size: float
    dtypes: tuple[str, str]


def read(file: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors and the metadata of a safetensors file that is as it should be."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", None) or {}
    tensors = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[key] = Stored(
            entry["dtype"], tuple(entry["shape"]), data[start + begin : start + end]
        )
    return tensors, metadata


def products(adapter: Path) -> tuple[dict[str, Product], dict[str, Stored]]:
    """``s B A`` of every module of an adapter, and all other tensors."""
    tensors, metadata = read(adapter / WEIGHTS if adapter.is_dir() else adapter)
    config = json.loads((adapter / CONFIG).read_text()) if adapter.is_dir() else None
    header = json.loads(metadata.get("lora_adapter_metadata", "null"))
    if header is not None:  # of the one part that there is, whatever it is called
        header = {key.rpartition(".")[2]: value for key, value in header.items()}
    found: dict[str, Product] = {}
    for A_end, B_end, alpha_end in ENDINGS.values():
        for key in [k for k in tensors if k.endswith(A_end)]:
            stem = key.removesuffix(A_end)
            fits = (
                stem + B_end in tensors
                and tensors[stem + B_end].shape[1:2] == tensors[key].shape[:1]
            )
            if stem and fits:
                names = {"A": key, "B": stem + B_end, "alpha": stem + alpha_end}
                names |= {"mid": stem + ".lora_mid.weight", "E": stem + ".lora_E"}
                part = re.search(r"(\d)\.", A_end)  # where a module has several pairs
                name = stem.removeprefix("base_model.model.") + (f".{part[1]}" if part else "")
                found[name] = _product(name, tensors, names, config, header)
    used = {key for product in found.values() for key in product.keys}
    return found, {key: tensor for key, tensor in tensors.items() if key not in used}


def products_of_methods(adapter: Path) -> tuple[dict[str, Product], dict[str, Stored]]:
    """The change of every module of a LoHa or LoKr adapter, and all other tensors."""
    tensors, _ = read(adapter / WEIGHTS if adapter.is_dir() else adapter)
    config = json.loads((adapter / CONFIG).read_text()) if adapter.is_dir() else None
    found: dict[str, Product] = {}
    stems = {
        k.rpartition(".")[0]
        for k in tensors
        if re.search(r"\.(hada_w[12]_[ab]|lokr_w[12](_[ab])?)$", k)
    }
    for stem in stems:
        own = {
            k.removeprefix(stem + "."): t
            for k, t in tensors.items()
            if k.rpartition(".")[0] == stem
        }
        ends = [end for end in own if re.fullmatch(r"hada_w[12]_[ab]|lokr_w[12](_[ab])?", end)]
        numbers = {end: _matrix(own[end].numbers()) for end in ends}
        rank = None
        if "hada_w1_a" in own:
            rank = own["hada_w1_b"].shape[0]
            first, second = (numbers[f"hada_{w}_a"] @ numbers[f"hada_{w}_b"] for w in ("w1", "w2"))
            change = first * second
        else:
            sides = []
            for side in ("lokr_w1", "lokr_w2"):
                if side in own:
                    sides.append(numbers[side])
                else:
                    sides.append(numbers[side + "_a"] @ numbers[side + "_b"])
                    rank = own[side + "_b"].shape[0]
            change = np.kron(*sides)
        name = stem.removeprefix("base_model.model.")
        used = [f"{stem}.{end}" for end in ends]
        scaling = 1.0
        if config is not None:
            plain = {**config, "lora_alpha": config.get("alpha", 8), "use_rslora": False}
            scaling = peft_scaling(plain, name)
        elif "alpha" in own:
            used.append(f"{stem}.alpha")
            scaling = own["alpha"].numbers().item() / rank if rank is not None else 1.0
        size = abs(scaling) * math.prod(float(np.linalg.norm(t)) for t in numbers.values())
        found[name] = Product(
            scaling * change, min(change.shape), tuple(used), size, ("F32", "F32")
        )
    used_keys = {key for product in found.values() for key in product.keys}
    return found, {key: tensor for key, tensor in tensors.items() if key not in used_keys}


def products_of_training(
    adapter: Path, initial: Path
) -> tuple[dict[str, Product], dict[str, Stored]]:
    """What training added to every module of an adapter, and the trained one's other tensors."""
    after, carried = products(adapter)
    before, _ = products(initial)
    found = {}
    for name, new in after.items():
        old = before[name]
        change = new.matrix - old.matrix
        found[name] = Product(change, 2 * new.rank, new.keys, new.size + old.size, new.dtypes)
    return found, carried


def _product(
    name: str,
    tensors: Mapping[str, Stored],
    names: Mapping[str, str],
    config: dict[str, Any] | None,
    header: dict[str, Any] | None,
) -> Product:
    B, A = (_matrix(tensors[names[half]].numbers()) for half in "BA")
    rank = A.shape[0]
    used = [names["A"], names["B"]]
    if config is not None:
        scaling = peft_scaling(config, name)
        if config.get("peft_type") == "ADALORA" and names["E"] in tensors:
            A = A * tensors[names["E"]].numbers()
            used.append(names["E"])
    elif names["alpha"] in tensors:
        scaling = tensors[names["alpha"]].numbers().item() / rank
        used.append(names["alpha"])
    else:
        scaling = 1.0 if header is None else peft_scaling(header, name)
    if names["mid"] in tensors and names["A"].endswith(".lora_down.weight"):
        middle = tensors[names["mid"]].numbers().reshape(rank, rank, -1)
        A = np.einsum("jix,ic->jcx", middle, A).reshape(rank, -1)
        used.append(names["mid"])
    size = (
        abs(scaling) * float(np.linalg.norm(B)) * float(np.linalg.norm(A))
        if B.any() and A.any()
        else 0.0
    )
    dtypes = (tensors[names["B"]].dtype, tensors[names["A"]].dtype)
    return Product(scaling * B @ A, rank, tuple(used), size, dtypes)


def _matrix(tensor: Array) -> Array:
    """With kernels flattened, which come last."""
    return tensor.reshape(tensor.shape[0], -1)


def peft_scaling(config: Mapping[str, Any], name: str) -> float:
    """What PEFT multiplies the module's product by."""
    rank_pattern, alpha_pattern = (config.get(k) or {} for k in ("rank_pattern", "alpha_pattern"))
    if config.get("peft_type") == "ADALORA":
        return config.get("lora_alpha", 8) / (config.get("init_r", 12) + 1e-5)
    rank = rank_pattern.get(get_pattern_key(rank_pattern.keys(), name), config.get("r", 8))
    key = get_pattern_key(alpha_pattern.keys(), name)
    alpha = alpha_pattern.get(key, config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def what_is_wrong(
    adapter: Path,
    out: Path,
    ranks: Mapping[str, int],
    excluded: list[str],
    bare: bool,
    *,
    of: Callable[[Path], tuple[dict[str, Product], dict[str, Stored]]] = products,
) -> str | None:
    """What is not as it must be in a compressed file, in words; None if all is.

    Args:
        adapter: the file or folder that was compressed.
        out: what was written.
        ranks: rank that each module should have.
        excluded: names of modules that should not be there, as they add nothing.
        bare: whether pairs that were not lowered may be carried over, as those of bare parameters are.
        of: what reads the products of the adapter.
    """
    before, carried = of(adapter)
    after, rest = products(out)
    for name in before.keys() - ranks.keys() - set(excluded):
        if not bare:
            return f"{name} was not lowered"
        tensors = read(adapter / WEIGHTS if adapter.is_dir() else adapter)[0]
        new = read(out / WEIGHTS if out.is_dir() else out)[0]
        carried |= {key: tensors[key] for key in before[name].keys}
        rest |= {key: new[key] for key in before[name].keys if key in new}
    if rest != carried:
        unlike = {key for key in {*rest, *carried} if rest.get(key) != carried.get(key)}
        return f"carried over otherwise: {sorted(unlike)[:3]}"
    for name in excluded:
        if before[name].matrix.any():
            return f"{name} is gone"
    for name, rank in ranks.items():
        if name not in before or name not in after:
            return f"{name} is in one of the files only"
        wrong = _difference(before[name], after[name], rank)
        if wrong is not None:
            return f"{name} {wrong}"
    return None


def _difference(old: Product, new: Product, rank: int) -> str | None:
    """How the new product differs from the best of its rank, if by more than its rounding."""
    U, values, Vh = np.linalg.svd(old.matrix, full_matrices=False)
    best = (U[:, :rank] * values[:rank]) @ Vh[:rank]
    rounding = 1.1 * sum(EPSILON[dtype] for dtype in new.dtypes) * new.size
    error = float(np.linalg.norm(new.matrix - best))
    following = values[rank] if rank < len(values) else 0.0
    gap = (values[rank - 1] - following) / values[0] if values[0] else 1.0
    if error <= rounding + 1e-13 * old.size / max(gap, 1e-300) + 1e-300 and gap > 1e-9:
        return None
    # Where values are equal there are several best products, all as far from the old one.
    far = float(np.linalg.norm(new.matrix - old.matrix))
    least = float(np.linalg.norm(values[rank:]))
    if gap <= 1e-9 and far <= least + rounding + 1e-7 * old.size + 1e-300:
        return None
    return f"is off by {error / (float(values[0]) or 1.0):.2g} of its largest singular value"
