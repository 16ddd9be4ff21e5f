"""Adapters of every spelling with tiny tensors, and random ways to damage them."""

import contextlib
import json
import math
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tests.prunedlora.files.oracle import CONFIG, ENDINGS, WEIGHTS

#: Kinds that are PEFT folders; all others are files alone.
FOLDERS = ("folder", "patterns", "adalora", "pissa", "loha folder", "lokr folder")
#: Kinds of other methods, of which LoRA is extracted.
METHODS = ("loha", "lokr", "loha folder", "lokr folder")
#: Every spelling of a pair, and: PEFT folders, diffusers' header, convolutions in three factors, an
#: adapter with the one that it began as, LoHa and LoKr.
KINDS = (*ENDINGS, *dict.fromkeys((*FOLDERS, "header", "mid", *METHODS)))
#: The spelling in which a kind that is not itself one is written.
_WRITTEN = {
    "header": "peft",
    "mid": "kohya",
    "folder": "peft",
    "patterns": "peft",
    "adalora": "mochi",
    "pissa": "peft",
}
#: Values that a setting or an alpha should not have, and some that it may.
VALUES = (
    *(0, -1, 1, 2, 3, 8, 0.5, -0.5, 1e300, -1e300, 1e-300, 10**400, 2**63, math.nan, math.inf),
    *(True, False, None, "", "x", "8", "all-linear", "(x+x+)+y", "\x00", "é" * 3000),
    *([], ["q_proj"], [None], [[]], {}, {"q": 1}, {"": 2}, {"(": 3}, {"(a+)+b": 4}),
    *({"layers.0.q": 2}, {"^layers.0.q": 2}, {"q": {"q": 1}}, {"q": math.nan}, [[[[[[1]]]]]]),
)
DTYPES = ("F64", "F32", "F16", "BF16", "I32", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "x")
#: Names with letters that look alike, change direction, cannot be seen or cannot be printed.
_ODD = (
    "\u0435",
    "e\u0301",
    "\u202e",
    "\u200b",
    "\ufeff",
    "\n",
    "\x00",
    "\U0001f600",
    " ",
    "/",
    "..",
)


def make(kind: str, place: Path, random_: random.Random) -> Path:
    """An adapter of two to four modules; a folder for kinds of PEFT's, else a file.

    Of the kind ``"pissa"`` the adapter that it began as lies beside it, in ``initial``.
    """
    if kind in METHODS:
        return _of_method(kind, place, random_)
    generator = torch.Generator().manual_seed(random_.randrange(2**31))
    dtype = random_.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    names = [f"layers.{i}.{part}" for i in range(random_.randint(1, 2)) for part in "qv"]
    one_rank = random_.choice([None, 4])
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    folder = kind in FOLDERS
    A_end, B_end, alpha_end = ENDINGS[_WRITTEN.get(kind, kind)]
    has_alpha = random_.choice([True, False]) and not folder and kind != "header"
    for name in names:
        rank = ranks[name] = 4 if one_rank or kind == "folder" else random_.randint(1, 6)
        d_out, d_in = random_.randint(3, 9), random_.randint(3, 9)
        shape_B, shape_A = (d_out, rank), (rank, d_in)
        if not folder and kind not in ("embedding", "mid", "header") and random_.random() < 0.3:
            shape_B, shape_A = (*shape_B, 1, 1), (*shape_A, 3, 3)
        if kind == "mid":
            shape_B, shape_A = (*shape_B, 1, 1), (*shape_A, 1, 1)
            tensors[name + ".lora_mid.weight"] = torch.randn(rank, rank, 3, 3, generator=generator)
        stem = ("base_model.model." if folder else "") + name
        tensors[stem + A_end] = torch.randn(shape_A, generator=generator)
        tensors[stem + B_end] = torch.randn(shape_B, generator=generator)
        if kind == "adalora":
            tensors[stem + ".lora_E"] = torch.randn(rank, 1, generator=generator)
        if has_alpha:
            tensors[stem + alpha_end] = torch.tensor(float(random_.randint(1, 8)))
    if random_.random() < 0.3:
        stem = "base_model.model." if folder else ""
        tensors[stem + "norm.weight"] = torch.randn(5, generator=generator)
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    metadata = {"format": "pt"}
    if random_.random() < 0.2:
        metadata |= {"ss_network_dim": "4", "ss_network_alpha": "None", "sshs_model_hash": "0"}
    patterns = {f"^{name}": rank for name, rank in ranks.items()}
    if kind == "header":
        entries = {"r": 4, "lora_alpha": 6, "rank_pattern": patterns, "use_rslora": not one_rank}
        metadata["lora_adapter_metadata"] = json.dumps(entries)
    if not folder:
        file = place / "adapter.safetensors"
        save_file(tensors, file, metadata)
        return file
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q", "v"]}
    if kind in ("patterns", "pissa"):
        alphas = {"q": 3}
        config |= {"rank_pattern": patterns, "alpha_pattern": alphas, "use_rslora": bool(one_rank)}
    if kind == "adalora":
        config |= {"peft_type": "ADALORA", "init_r": 4, "target_r": 2}
    if kind == "pissa":
        starts = {key: torch.randn(t.shape, generator=generator) for key, t in tensors.items()}
        _write_folder(place / "initial", starts, metadata, config)
        config["init_lora_weights"] = random_.choice(["pissa", "olora", "corda", "pissa_niter_4"])
    return _write_folder(place / "adapter", tensors, metadata, config)


def _write_folder(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str],
    config: dict[str, Any],
) -> Path:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS, metadata)
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def _of_method(kind: str, place: Path, random_: random.Random) -> Path:
    """LoHa or LoKr, in a file or in a PEFT folder; Kronecker products with and without factors."""
    generator = torch.Generator().manual_seed(random_.randrange(2**31))
    folder = kind.endswith("folder")
    tensors: dict[str, torch.Tensor] = {}
    for name in [f"layers.{i}.{part}" for i in range(random_.randint(1, 2)) for part in "qv"]:
        stem = ("base_model.model." if folder else "") + name
        p, q, r, s = (random_.randint(1, 4) for _ in range(4))
        if kind.startswith("loha"):
            shapes = {"hada_w1_a": (3 * p, 2), "hada_w1_b": (2, 3 * q)}
            shapes |= {"hada_w2_a": (3 * p, 2), "hada_w2_b": (2, 3 * q)}
        else:
            first = {"lokr_w1": (p, q)}
            second = {"lokr_w2": (r, s)}
            if random_.random() < 0.5:
                first = {"lokr_w1_a": (p, 2), "lokr_w1_b": (2, q)}
            if random_.random() < 0.5:
                second = {"lokr_w2_a": (r, 2), "lokr_w2_b": (2, s)}
            shapes = first | second
        for end, shape in shapes.items():
            tensors[f"{stem}.{end}"] = torch.randn(shape, generator=generator)
        if not folder and random_.random() < 0.5:
            tensors[f"{stem}.alpha"] = torch.tensor(float(random_.randint(1, 8)))
    if random_.random() < 0.3:
        tensors[("base_model.model." if folder else "") + "norm.weight"] = torch.ones(5)
    if not folder:
        save_file(tensors, place / "adapter.safetensors")
        return place / "adapter.safetensors"
    config = {"peft_type": kind[:4].upper(), "r": 2, "alpha": 3, "alpha_pattern": {"q": 5}}
    return _write_folder(place / "adapter", tensors, {}, config)


def mutate(adapter: Path, random_: random.Random) -> tuple[str, str]:
    """Change the adapter in one random way.

    Returns:
        The way, such as ``"bytes: flip"``, and what it was done to; the way ends in ``"not done"``
        where the adapter is too damaged for it already.
    """
    weights = adapter / WEIGHTS if adapter.is_dir() else adapter
    changes = [_bytes, _header, _keys, _tensors, _dtype, _alpha, _metadata]
    if adapter.is_dir():
        changes += [_config, _config]
    change: Callable[[Path, random.Random], tuple[str, str]] = random_.choice(changes)
    kind = change.__name__.lstrip("_")
    file = adapter / CONFIG if change is _config else weights
    # What cannot be changed any further is damaged enough.
    with contextlib.suppress(SafetensorError, ValueError, TypeError, RuntimeError, LookupError):
        way, what = change(file, random_)
        return f"{kind}: {way}", what
    return f"{kind}: not done", ""


def _bytes(file: Path, random_: random.Random) -> tuple[str, str]:
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    way = random_.choice(
        ["flip", "flip header", "flip data", "length", "cut", "append", "double", "zero", "ones"]
    )
    start = random_.randrange(len(data))
    if way == "flip":
        data[start] ^= 1 << random_.randrange(8)
    elif way == "flip header":
        for _ in range(random_.choice([1, 1, 2, 8])):
            data[8 + random_.randrange(length)] = random_.randrange(32, 127)
    elif way == "flip data":
        start = random_.randrange(8 + length, len(data))
        data[start] ^= 1 << random_.randrange(8)
    elif way == "length":
        new = random_.choice(
            [0, 1, length - 1, length + 1, length + 8, 2**25 + 1, 2**63, 2**64 - 1]
        )
        data[:8] = struct.pack("<Q", new)
    elif way == "cut":
        del data[start:]
    elif way == "append":
        data += random_.randbytes(random_.randint(1, 40))
    elif way == "double":
        data[start:start] = data[start : start + random_.randint(1, 40)]
    else:
        value = b"\0" if way == "zero" else b"\xff"
        data[start : start + 16] = value * len(data[start : start + 16])
    file.write_bytes(bytes(data))
    return way, f"byte {start}"


def _header(file: Path, random_: random.Random) -> tuple[str, str]:
    """An entry of the header: its dtype, shape, offsets or name."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    keys = [k for k in header if k != "__metadata__"]
    key, other = random_.choice(keys), random_.choice(keys)
    ways = ["dtype", "shape", "data_offsets", "name", "transpose", "exchange", "more", "twice"]
    way = random_.choice([*ways, "kind", "spaces"])
    text = None
    if way == "dtype":
        header[key][way] = random_.choice(DTYPES)
    elif way == "transpose":
        header[key]["shape"] = header[key]["shape"][::-1]
    elif way in ("shape", "data_offsets"):
        numbers = header[key][way] or [0]
        odd = [0, 1, 2, -1, 2**31, 2**63, 2**64, 2.5, None, "1", True, math.nan]
        numbers[random_.randrange(len(numbers))] = random_.choice(odd)
        header[key][way] = numbers
    elif way == "name":
        header[random_.choice(_names(key, random_))] = header.pop(key)
    elif way == "exchange":
        header[key], header[other] = header[other], header[key]
    elif way == "more":
        header[key]["x"] = 1
    elif way == "kind":
        header[key] = random_.choice([None, [], 1, "x", {}])
    elif way == "twice":
        text = json.dumps(header)[:-1] + f", {json.dumps(key)}: {json.dumps(header[other])}}}"
    else:
        text = json.dumps(header, indent=random_.choice([1, 9])) + " " * random_.randrange(9)
    encoded = (text or json.dumps(header, ensure_ascii=random_.random() < 0.5)).encode(
        "utf-8", "surrogatepass"
    )
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])
    return way, key


def _names(key: str, random_: random.Random) -> list[str]:
    ends = [end for endings in ENDINGS.values() for end in endings]
    odd = random_.choice(_ODD)
    place = random_.randrange(len(key) + 1)
    ascii_ = [key + ".x", "x" + key, key.replace("lora", "Lora"), key[:-1] or "x", "", key.upper()]
    moved = [key.rpartition(".")[0] or "x", re.sub("layers.[01].[qv]", "z", key)]
    respelt = ["layers.0.q" + random_.choice(ends), "norm" + random_.choice(ends)]
    strange = [key[:place] + odd + key[place:], odd, odd + key, "x" * 2000, "\ud800" + key]
    return ascii_ + moved + respelt + strange


def _keys(file: Path, random_: random.Random) -> tuple[str, str]:
    """Names of whole tensors: one renamed, two exchanged, one twice, one gone."""
    tensors, metadata = _load(file)
    key = random_.choice(list(tensors))
    way = random_.choice(["rename", "swap halves", "exchange", "copy", "drop", "respell"])
    if way == "rename":
        tensors[random_.choice(_names(key, random_)).replace("\ud800", "")] = tensors.pop(key)
    elif way == "swap halves":
        ends = [(A, B) for A, B, _ in ENDINGS.values() if key.endswith((A, B))]
        A, B = random_.choice(ends)
        stem = key.removesuffix(A).removesuffix(B)
        tensors[stem + A], tensors[stem + B] = tensors[stem + B], tensors[stem + A]
    elif way == "exchange":
        other = random_.choice(list(tensors))
        tensors[key], tensors[other] = tensors[other], tensors[key]
    elif way == "copy":
        tensors[random_.choice(_names(key, random_)).replace("\ud800", "")] = tensors[key].clone()
    elif way == "drop":
        del tensors[key]
    else:  # the whole pair in another spelling, with or without its old one
        old = random_.choice(list(ENDINGS.values()))
        new = random_.choice(list(ENDINGS.values()))
        for name in list(tensors):
            for before, after in zip(old, new, strict=True):
                if name.endswith(before):
                    tensors[name.removesuffix(before) + after] = tensors[name].clone()
                    if random_.random() < 0.9:
                        del tensors[name]
                    break
    tensors = {k: v for k, v in tensors.items() if k}
    save_file(tensors, file, metadata)
    return way, key


def _tensors(file: Path, random_: random.Random) -> tuple[str, str]:
    """The tensors themselves: other shapes, other sizes."""
    tensors, metadata = _load(file)
    key = random_.choice(list(tensors))
    way = random_.choice(["reshape", "shrink", "empty", "huge", "tiny", "zero", "value", "repeat"])
    tensor = tensors[key]
    if way == "reshape":
        shapes = [(-1,), (1, -1), (-1, 1), (*tensor.shape, 1, 1), (*tensor.shape, 1)]
        tensors[key] = tensor.reshape(random_.choice(shapes))
    elif way == "shrink" and tensor.dim():
        dim = random_.randrange(tensor.dim())
        tensors[key] = tensor.narrow(dim, 0, max(0, tensor.shape[dim] - 1)).contiguous()
    elif way == "empty":
        tensors[key] = tensor.new_zeros((0, *tensor.shape[1:]))
    elif way in ("huge", "tiny"):
        wide = random_.choice([tensor.dtype, torch.float64])
        power = random_.choice([4, 30, 150, 300]) * (1 if way == "huge" else -1)
        tensors[key] = (tensor.double() * 10.0**power).to(wide)
    elif way == "zero":
        tensors[key] = tensor * 0
    elif way == "value":
        tensor.reshape(-1)[random_.randrange(tensor.numel())] = random_.choice(_NUMBERS)
    else:  # components that are alike, so that singular values are equal or zero
        tensors[key] = tensor[:1].expand(tensor.shape).contiguous()
    save_file(tensors, file, metadata)
    return way, key


#: What a number may be set to.
_NUMBERS = (math.nan, math.inf, -math.inf, 0.0, -0.0, -3.0, 1e-8, 6e4, 1e38, 1e-45)
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz)
_INTEGERS = (torch.int32, torch.int64, torch.uint8, torch.bool)


def _dtype(file: Path, random_: random.Random) -> tuple[str, str]:
    """The dtype of one tensor, of both of a pair, or of all."""
    tensors, metadata = _load(file)
    kinds = {"float": _FLOATS, "float8": _FLOAT8, "integer": _INTEGERS}
    kind = random_.choice(["float", "float", "float8", "integer"])
    dtype = random_.choice(kinds[kind])
    key = random_.choice(list(tensors))
    which = random_.choice(["one", "module", "all"])
    chosen = {"one": [key], "all": list(tensors)}.get(which)
    if chosen is None:
        chosen = [k for k in tensors if k.split("lora")[0] == key.split("lora")[0]]
    for name in chosen:
        tensors[name] = tensors[name].to(dtype)
    save_file(tensors, file, metadata)
    return f"{kind}, {which}", f"{key} to {dtype}"


def _alpha(file: Path, random_: random.Random) -> tuple[str, str]:
    """One alpha: gone, added, of another value, shape or dtype."""
    tensors, metadata = _load(file)
    alphas = [key for key in tensors if key.endswith("alpha")]
    halves = [k for k in tensors if any(k.endswith(A) for A, _, _ in ENDINGS.values())]
    way = random_.choice(["add", "drop", "value", "value", "shape", "dtype"])
    key = random_.choice(alphas or [k.split(".lora")[0] + ".alpha" for k in halves])
    value = random_.choice([*_NUMBERS, *(float(n) for n in range(1, 9))])
    if way == "drop":
        del tensors[key]
    elif way == "shape":
        shape = random_.choice([(), (1,), (1, 1), (2,), (0,), (1, 1, 1)])
        tensors[key] = torch.full(shape, random_.choice([2.0, value]))
    elif way == "dtype":
        dtype = random_.choice([*_FLOATS, *_FLOAT8, *_INTEGERS])
        tensors[key] = torch.tensor(random_.choice([2.0, 3.7])).to(dtype)
    else:
        tensors[key] = torch.tensor(value)
    save_file(tensors, file, metadata)
    return way, f"{key}, {value}"


def _metadata(file: Path, random_: random.Random) -> tuple[str, str]:
    """An entry of the header's metadata."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    names = ["lora_adapter_metadata", "lora_alpha", "ss_network_alpha", "config", "format", "r"]
    names += ["ss_network_dim", "ss_network_args", "sshs_legacy_hash", "modelspec.hash_sha256", "é"]
    texts = [
        '{"r": 4, "lora_alpha": 2}',
        "{}",
        "[",
        "8",
        "x" * 1000,
        5,
        None,
        "NaN",
        "\x00",
        "[" * 3000,
    ]
    texts += [
        '{"conv_dim": 4, "block_dims": [1]}',
        '{"r": NaN}',
        '{"r": 1e999, "lora_alpha": -1}',
        '{"unet.r": 4, "unet.lora_alpha": 2}',
    ]
    key, text = random_.choice(names), random_.choice(texts)
    if random_.random() < 0.1:
        header["__metadata__"] = random_.choice([None, [], "x", {"x": {"y": "z"}}, {}])
    else:
        header.setdefault("__metadata__", {})[key] = text
    encoded = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])
    return key, str(text)[:30]


def _config(file: Path, random_: random.Random) -> tuple[str, str]:
    """An entry of the configuration, or the file as a whole."""
    text = file.read_text()
    config = json.loads(text)
    keys = ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_r"]
    keys += ["exclude_modules", "target_parameters", "modules_to_save", "init_lora_weights", "bias"]
    keys += [
        "use_dora",
        "lora_bias",
        "target_modules",
        "auto_mapping",
        "task_type",
        "layers_pattern",
    ]
    keys += ["fan_in_fan_out", "base_model_name_or_path", "alpha", "x"]
    way = random_.choice(["value", "value", "value", "drop", "text", "bytes"])
    if way == "drop":
        key = random_.choice(list(config))
        del config[key]
        file.write_text(json.dumps(config))
        return way, key
    if way == "value":
        key, value = random_.choice(keys), random_.choice(VALUES)
        config[key] = value
        file.write_text(json.dumps(config))
        return way, f"{key} = {str(value)[:40]!r}"
    if way == "text":
        texts = [
            "",
            "null",
            "[]",
            "5",
            '"x"',
            "{",
            "[" * 100_000,
            '{"r": ' + "9" * 5000 + "}",
            text + "x",
        ]
        texts += ["\ufeff" + text, text[: len(text) // 2], '{"a":' * 10_000, text.replace(":", "=")]
        file.write_text(random_.choice(texts))
        return way, ""
    data = bytearray(file.read_bytes())
    place = random_.randrange(len(data))
    data[place] = random_.randrange(256)
    file.write_bytes(bytes(data))
    return way, f"byte {place}"


def _load(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(file, framework="pt") as tensors:
        keys = tensors.keys()
        return {key: tensors.get_tensor(key).clone() for key in keys}, tensors.metadata() or {}
