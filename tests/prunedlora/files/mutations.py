"""Damaged adapters: files of every spelling, changed at random, and what must come of them.

``python -m tests.prunedlora.files.mutations --count 5000`` tries that many and ends with status 1 where
one is neither refused by an error of the package nor lowered to the best product.
"""

import argparse
import contextlib
import json
import logging
import math
import random
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prunedlora import (
    CompressConfig,
    PrunedLoRAError,
    compress_adapter,
    inspect_adapter,
    verify_adapter,
)

#: Largest time and memory of one file, seconds and bytes.
SECONDS, MEMORY = 10.0, 500e6
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
KINDS = (*ENDINGS, "folder", "patterns", "adalora", "header", "mid")
#: Values that a setting or an alpha should not have, and some that it may.
VALUES = (
    *(0, -1, 1, 2, 3, 8, 0.5, -0.5, 1e300, -1e300, 1e-300, 10**400, 2**63, math.nan, math.inf),
    *(
        True,
        False,
        None,
        "",
        "x",
        "8",
        [],
        ["q_proj"],
        {},
        {"q": 1},
        {"": 2},
        {"(": 3},
        {"(a+)+b": 4},
    ),
    *(
        {"layers.0.q": 2},
        {"^layers.0.q": 2},
        [None],
        [[]],
        "all-linear",
        "(x+x+)+y",
        "\x00",
        "é" * 3000,
    ),
)


def make(kind: str, place: Path, random_: random.Random) -> Path:
    """An adapter of two to four modules; a folder for kinds of PEFT's, else a file."""
    generator = torch.Generator().manual_seed(random_.randrange(2**31))
    dtype = random_.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    names = [f"layers.{i}.{part}" for i in range(random_.randint(1, 2)) for part in "qv"]
    one_rank = random_.choice([None, 4])
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    folder = kind in ("folder", "patterns", "adalora")
    known = {
        "header": "peft",
        "mid": "kohya",
        "folder": "peft",
        "patterns": "peft",
        "adalora": "mochi",
    }
    A_end, B_end, alpha_end = ENDINGS[known.get(kind, kind)]
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
    patterns = {f"^{name}": rank for name, rank in ranks.items()}
    if kind == "header":
        entries = {
            "r": 4,
            "lora_alpha": 6,
            "rank_pattern": patterns,
            "use_rslora": one_rank is None,
        }
        metadata["lora_adapter_metadata"] = json.dumps(entries)
    if not folder:
        file = place / "adapter.safetensors"
        save_file(tensors, file, metadata)
        return file
    place = place / "adapter"
    place.mkdir()
    save_file(tensors, place / WEIGHTS, metadata)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q", "v"]}
    if kind == "patterns":
        config |= {
            "rank_pattern": patterns,
            "alpha_pattern": {"q": 3},
            "use_rslora": bool(one_rank),
        }
    if kind == "adalora":
        config |= {"peft_type": "ADALORA", "init_r": 4, "target_r": 2}
    (place / CONFIG).write_text(json.dumps(config))
    return place


def mutate(adapter: Path, random_: random.Random) -> str:
    """Change the adapter in one random way; what was done, in words."""
    weights = adapter / WEIGHTS if adapter.is_dir() else adapter
    choices: list[Callable[[Path, random.Random], str]] = [_bytes, _entry, _value, _tensors]
    if adapter.is_dir():
        choices += [_config, _config]
    change = random_.choice(choices)
    return change(adapter / CONFIG if change is _config else weights, random_)


def _bytes(file: Path, random_: random.Random) -> str:
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    way = random_.choice(["flip", "flip header", "cut", "append", "double", "zero"])
    start = random_.randrange(len(data))
    if way == "flip":
        data[start] ^= 1 << random_.randrange(8)
    elif way == "flip header":
        for _ in range(random_.choice([1, 1, 2, 8])):
            data[8 + random_.randrange(length)] = random_.randrange(32, 127)
    elif way == "cut":
        del data[start:]
    elif way == "append":
        data += random_.randbytes(random_.randint(1, 40))
    elif way == "double":
        data[start:start] = data[start : start + random_.randint(1, 40)]
    else:
        data[start : start + 16] = bytes(len(data[start : start + 16]))
    file.write_bytes(bytes(data))
    return f"bytes: {way} at {start}"


def _entry(file: Path, random_: random.Random) -> str:
    """An entry of the header: its dtype, shape, offsets or name."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    key = random_.choice([k for k in header if k != "__metadata__"])
    what = random_.choice(
        ["dtype", "shape", "data_offsets", "name", "transpose", "more", "metadata"]
    )
    if what == "dtype":
        dtypes = [
            "F64",
            "F32",
            "F16",
            "BF16",
            "I32",
            "I64",
            "U8",
            "BOOL",
            "F8_E4M3",
            "F8_E5M2",
            "x",
        ]
        header[key][what] = random_.choice(dtypes)
    elif what == "transpose":
        header[key]["shape"] = header[key]["shape"][::-1]
    elif what in ("shape", "data_offsets"):
        numbers = header[key][what] or [0]
        numbers[random_.randrange(len(numbers))] = random_.choice(
            [0, 1, 2, -1, 2**31, 2**63, 2.5, None]
        )
        header[key][what] = numbers
    elif what == "name":
        header[random_.choice(_names(key, random_))] = header.pop(key)
    elif what == "more":
        header[key]["x"] = 1
    else:
        names = ["lora_adapter_metadata", "lora_alpha", "ss_network_alpha", "config", "format"]
        texts = ['{"r": 4, "lora_alpha": 2}', "{}", "[", "8", "x" * 1000, 5]
        header.setdefault("__metadata__", {})[random_.choice(names)] = random_.choice(texts)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return f"header: {what} of {key}"


def _names(key: str, random_: random.Random) -> list[str]:
    ends = [end for endings in ENDINGS.values() for end in endings]
    return [key + ".x", "x" + key, key.replace("lora", "Lora"), key[:-1] or "x", "", "é\n", "x" * 2000,
            key.rpartition(".")[0] or "x", re.sub("layers.[01].[qv]", "z", key),
            "layers.0.q" + random_.choice(ends)]  # fmt: skip


def _tensors(file: Path, random_: random.Random) -> str:
    """The tensors themselves: one less, one more, another shape or size."""
    tensors, metadata = _load(file)
    key = random_.choice(list(tensors))
    way = random_.choice(
        ["drop", "copy", "reshape", "shrink", "empty", "dtype", "huge", "tiny", "zero"]
    )
    tensor = tensors[key]
    if way == "drop":
        del tensors[key]
    elif way == "copy":
        tensors[random_.choice(_names(key, random_))] = tensor.clone()
    elif way == "reshape":
        tensors[key] = tensor.reshape(
            random_.choice([(-1,), (1, -1), (-1, 1), (*tensor.shape, 1, 1)])
        )
    elif way == "shrink" and tensor.dim():
        dim = random_.randrange(tensor.dim())
        tensors[key] = tensor.narrow(dim, 0, max(0, tensor.shape[dim] - 1)).contiguous()
    elif way == "empty":
        tensors[key] = tensor.new_zeros((0, *tensor.shape[1:]))
    elif way == "dtype":
        kinds = [torch.float64, torch.int32, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2]
        tensors[key] = tensor.to(random_.choice(kinds))
    elif way in ("huge", "tiny"):
        wide = random_.choice([tensor.dtype, torch.float64])
        power = random_.choice([4, 30, 150, 300]) * (1 if way == "huge" else -1)
        tensors[key] = (tensor.double() * 10.0**power).to(wide)
    else:
        tensors[key] = tensor * 0
    tensors = {k: v for k, v in tensors.items() if k}
    save_file(tensors, file, metadata)
    return f"tensors: {way} {key}"


def _value(file: Path, random_: random.Random) -> str:
    """One number of a tensor, preferably of an alpha."""
    tensors, metadata = _load(file)
    alphas = [key for key in tensors if key.endswith("alpha")]
    key = random_.choice(alphas or list(tensors))
    value = random_.choice([math.nan, math.inf, -math.inf, 0.0, -0.0, -3.0, 1e-8, 6e4, 1e38, 1e-45])
    if tensors[key].numel():
        tensors[key].reshape(-1)[random_.randrange(tensors[key].numel())] = value
    save_file(tensors, file, metadata)
    return f"value: {value} in {key}"


def _config(file: Path, random_: random.Random) -> str:
    config = json.loads(file.read_text())
    keys = ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_r"]
    keys += ["exclude_modules", "target_parameters", "modules_to_save", "init_lora_weights"]
    keys += [
        "use_dora",
        "lora_bias",
        "target_modules",
        "auto_mapping",
        "task_type",
        "fan_in_fan_out",
    ]
    key, value = random_.choice(keys), random_.choice(VALUES)
    config[key] = value
    file.write_text(json.dumps(config))
    return f"config: {key} = {str(value)[:40]!r}"


def _load(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(file, framework="pt") as tensors:
        keys = tensors.keys()
        return {key: tensors.get_tensor(key).clone() for key in keys}, tensors.metadata() or {}


def dense(adapter: Path) -> dict[str, torch.Tensor]:
    """``s B A`` of each module by a plain reading of the file, in float64; kernels are flattened."""
    weights = adapter / WEIGHTS if adapter.is_dir() else adapter
    tensors, metadata = _load(weights)
    config = json.loads((adapter / CONFIG).read_text()) if adapter.is_dir() else None
    header = json.loads(metadata.get("lora_adapter_metadata", "null"))
    products = {}
    for A_end, B_end, alpha_end in ENDINGS.values():
        for key in [k for k in tensors if k.endswith(A_end)]:
            stem = key.removesuffix(A_end)
            if stem + B_end not in tensors:
                continue
            part = re.search(r"(\d)\.", A_end)  # where a module has several pairs
            name = stem.removeprefix("base_model.model.") + (f".{part[1]}" if part else "")
            B, A = (tensors[k].double().flatten(1) for k in (stem + B_end, key))
            rank = A.shape[0]
            if config is not None:
                scaling = _peft_scaling(config, name)
                if stem + ".lora_E" in tensors:
                    A = A * tensors[stem + ".lora_E"].double()
            elif stem + alpha_end in tensors:
                scaling = float(tensors[stem + alpha_end]) / rank
            elif header is not None:
                scaling = _peft_scaling(header, name)
            else:
                scaling = 1.0
            middle = tensors.get(stem + ".lora_mid.weight")
            if middle is not None:
                A = torch.einsum("jixy,ic->jcxy", middle.double(), A).flatten(1)
            products[name] = scaling * B @ A
    return products


def _peft_scaling(config: dict, name: str) -> float:
    rank_pattern, alpha_pattern = (config.get(k) or {} for k in ("rank_pattern", "alpha_pattern"))
    if config.get("peft_type") == "ADALORA":
        return config.get("lora_alpha", 8) / (config.get("init_r", 12) + 1e-5)
    rank = rank_pattern.get(get_pattern_key(rank_pattern.keys(), name), config.get("r", 8))
    alpha = alpha_pattern.get(
        get_pattern_key(alpha_pattern.keys(), name), config.get("lora_alpha", 8)
    )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def try_one(seed: int, place: Path) -> tuple[str, str]:
    """Make, change and compress one adapter.

    Returns:
        What was done, and what came of it: ``"right"``, the name of the error, or, behind ``"WRONG"``,
        what is not as it must be.
    """
    random_ = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    adapter = make(kind, place, random_)
    done = []
    # What cannot be changed any further is damaged enough.
    for _ in range(random_.choice([0, 1, 1, 1, 2])):
        with contextlib.suppress(SafetensorError, ValueError, TypeError, RuntimeError, KeyError):
            done.append(mutate(adapter, random_))
    story = f"{seed} {kind}: {'; '.join(done) or 'nothing'}"
    out = place / ("out" if adapter.is_dir() else "out.safetensors")
    rank = random_.randint(1, 3)
    wishes = [{"rank": rank}, {"rank": rank}, {"energy": 0.9}, {"rank": rank, "layout": "padded"}]
    start = time.perf_counter()
    try:
        inspect_adapter(adapter)
        verify_adapter(adapter)
        report = compress_adapter(adapter, out, CompressConfig(**random_.choice(wishes)))
        outcome = _judged(adapter, out, report.ranks)
    except PrunedLoRAError as error:
        outcome = type(error).__name__
        text = str(error)
        if "\n" in text or len(text) > 2000 or not text.isprintable():
            outcome = f"WRONG: a message of several lines or odd letters: {text[:200]!r}"
        if out.exists() or [p for p in place.iterdir() if p != adapter]:
            outcome = "WRONG: something is left behind"
    except Exception as error:
        outcome = f"WRONG: {type(error).__name__}: {str(error)[:200]}"
    if time.perf_counter() - start > SECONDS:
        outcome = f"WRONG: {time.perf_counter() - start:.0f} s"
    return story, outcome


def _judged(adapter: Path, out: Path, ranks: dict[str, int]) -> str:
    before, after = dense(adapter), dense(out)
    tensors = _load(out / WEIGHTS if out.is_dir() else out)[0]
    factors = [t for k, t in tensors.items() if any(k.endswith(e[:2]) for e in ENDINGS.values())]
    digits = max((torch.finfo(t.dtype).eps for t in factors if t.is_floating_point()), default=1e-7)
    for name, product in after.items():
        if name not in before:
            return f"WRONG: {name} is new"
        best = best_product(before[name], ranks[name])
        # Both factors are rounded, so that entries are off by their lengths.
        allowed = 4 * digits * float(before[name].norm()) + 1e-300
        if not float((product - best).norm()) <= allowed:
            error = float((product - best).norm()) / (float(before[name].norm()) or 1.0)
            return f"WRONG: {name} is off by {error:.2g}"
    missing = before.keys() - after.keys()
    if any(before[name].any() for name in missing):
        return f"WRONG: {missing} are gone"
    return "right"


def best_product(product: torch.Tensor, rank: int) -> torch.Tensor:
    """The best approximation of lower rank."""
    U, S, Vh = torch.linalg.svd(product, full_matrices=False)
    return U[:, :rank] * S[:rank] @ Vh[:rank]


def main() -> int:
    """Try many; the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    outcomes: dict[str, int] = {}
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        place = Path(tempfile.mkdtemp())
        try:
            story, outcome = try_one(seed, place)
        finally:
            shutil.rmtree(place)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        if grown > MEMORY and seed > arguments.seed:
            outcome = f"WRONG: {grown / 1e6:.0f} MB"
        if outcome.startswith("WRONG"):
            sys.stdout.write(f"{story} -> {outcome}\n")
        outcome = outcome.split(":")[0]
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    sys.stdout.write(f"{arguments.count} tried: {outcomes}\n")
    return int("WRONG" in outcomes)


if __name__ == "__main__":
    sys.exit(main())
