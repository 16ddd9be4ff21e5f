"""The header's metadata of a file of lower rank: what it says of ranks, scalings and itself, put right."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunedlora.factors import Scaled
from prunedlora.files.layouts import settings
from prunedlora.files.scalings import DIFFUSERS, Component

#: Hashes of a file's tensors under which user interfaces and web sites know it.
HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
#: The part of a file that the older of sd-scripts' hashes is of.
_LEGACY_START, _LEGACY_BYTES = 0x100000, 0x10000


@dataclass(frozen=True)
class Change:
    """What became of one module.

    Attributes:
        rank_before: in the old one.
        convolution: whether it has a kernel of more than one pixel.
        component: what the old header said of it.
        factors: in the new file.
    """

    rank_before: int
    convolution: bool
    component: Component | None
    factors: Scaled


def rewritten(metadata: Mapping[str, str], modules: Mapping[str, Change]) -> dict[str, str]:
    """The metadata of a new file: all of the old, with ranks, alphas and remarks put right.

    Hashes are left out; see `with_hashes`.

    >>> import torch
    >>> new = Change(8, False, None, Scaled(torch.ones(3, 2), torch.ones(2, 3)))
    >>> out = rewritten({"ss_network_dim": "8", "sshs_model_hash": "ab", "x": "y"}, {"m": new})
    >>> out["ss_network_dim"], "sshs_model_hash" in out, out["x"]
    ('2', False, 'y')
    """
    out = {"format": "pt"} | {k: v for k, v in metadata.items() if k not in HASHES}
    if DIFFUSERS in out:
        out[DIFFUSERS] = _diffusers(out[DIFFUSERS], modules)
    linear = [m for m in modules.values() if not m.convolution] or list(modules.values())
    convolutions = [m for m in modules.values() if m.convolution] or linear
    # What sd-scripts writes: of linear layers in two entries, of convolutions in a third.
    if "ss_network_dim" in out:
        out["ss_network_dim"] = _span(m.factors.rank for m in linear)
    if "ss_network_alpha" in out:
        out["ss_network_alpha"] = _span(_alpha(m.factors) for m in linear)
    if "ss_network_args" in out:
        dims = _span(m.factors.rank for m in convolutions)
        alphas = _span(_alpha(m.factors) for m in convolutions)
        out["ss_network_args"] = _network_args(out["ss_network_args"], dims, alphas)
    if any(key in out for key in ("ss_training_comment", "ss_network_dim")):
        was = _span(m.rank_before for m in modules.values())
        now = _span(m.factors.rank for m in modules.values())
        old = out.get("ss_training_comment", "None")
        remark = f"rank lowered from {was} to {now} by prunedlora"
        out["ss_training_comment"] = remark if old in ("", "None") else f"{remark}; {old}"
    return out


def with_hashes(metadata: Mapping[str, str], old: Mapping[str, str], file: Path) -> dict[str, str]:
    """The metadata with the hashes that the old file had, computed of the new tensors.

    Args:
        metadata: of the new file.
        old: of the old file.
        file: the new tensors, with no metadata but sd-scripts' ``ss_*``, which its hashes assume.

    Raises:
        OSError: it cannot be read.
    """
    whole = hashlib.sha256()
    with file.open("rb") as stream:
        stream.seek(8 + int.from_bytes(stream.read(8), "little"))
        while block := stream.read(1 << 20):
            whole.update(block)
        stream.seek(_LEGACY_START)
        legacy = hashlib.sha256(stream.read(_LEGACY_BYTES)).hexdigest()[:8]
    digest = whole.hexdigest()
    values = dict(zip(HASHES, (digest, legacy, "0x" + digest), strict=True))
    return {**metadata, **{key: values[key] for key in HASHES if key in old}}


def _diffusers(text: str, modules: Mapping[str, Change]) -> str:
    """The configuration that diffusers keeps of each component with the new ranks and scalings."""
    raw: dict[str, Any] = json.loads(text)
    components = {m.component.prefix for m in modules.values() if m.component is not None}
    for prefix in components:
        own = {
            name.removeprefix(prefix): m.factors
            for name, m in modules.items()
            if m.component is not None and m.component.prefix == prefix
        }
        entries = {**settings(own), "init_lora_weights": True}
        raw |= {prefix + key: value for key, value in entries.items()}
    return json.dumps(raw, indent=2, sort_keys=True)


def _network_args(text: str, dims: str, alphas: str) -> str:
    """sd-scripts' arguments of the network, of which those that give ranks are put right."""
    try:
        args = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(args, dict):
        return text
    new = {"conv_dim": dims, "conv_alpha": alphas}
    # Ranks of single blocks are not those of the new file, and nothing reads them but people.
    kept = {k: v for k, v in args.items() if not k.endswith(("block_dims", "block_alphas"))}
    return json.dumps(kept | {key: new[key] for key in new if key in kept})


def _alpha(factors: Scaled) -> float:
    return factors.scaling * factors.rank


def _span(values: Iterable[float]) -> str:
    distinct = set(values)
    return f"{distinct.pop():g}" if len(distinct) == 1 else "Dynamic"
