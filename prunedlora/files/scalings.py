"""Where the scaling of each module stands, so that a file never means two.

A PEFT folder says it in ``adapter_config.json``; a file alone in ``alpha`` tensors, or in the
configuration that diffusers keeps in the header (``lora_adapter_metadata``), or by saying nothing,
which every reader takes as 1.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prunedlora.errors import AdapterFileError
from prunedlora.files.adapter_config import AdapterConfig, parse_config

#: Key of the header under which diffusers keeps the adapter's configuration.
DIFFUSERS = "lora_adapter_metadata"
#: Names under which other metadata might give a rank or an alpha.
_RANKS = ("r", "rank", "lora_rank", "lora_r", "network_dim", "lora_dim")
#: Parts of a pipeline that a header may describe.
_MAX_COMPONENTS = 64
_ALPHAS = ("lora_alpha", "alpha", "network_alpha")


@dataclass(frozen=True)
class Component:
    """What the header says of one part of a pipeline, such as its transformer.

    Attributes:
        prefix: of its modules' names, such as ``"transformer."``; empty for all modules.
        config: ranks and scalings, by names without the prefix.
    """

    prefix: str
    config: AdapterConfig


def read_components(metadata: Mapping[str, str], file: str) -> tuple[Component, ...]:
    """The configurations that diffusers wrote into a header; empty if there are none.

    Args:
        metadata: of the header.
        file: for messages.

    Raises:
        AdapterFileError, UnsupportedAdapterError: see
            `prunedlora.files.adapter_config.parse_config`.

    >>> metadata = {"lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 8}'}
    >>> [(c.prefix, c.config.r, c.config.alpha) for c in read_components(metadata, "x")]
    [('unet.', 4, 8.0)]
    """
    if DIFFUSERS not in metadata:
        return ()
    where = f"{file}: {DIFFUSERS} in its header"
    raw = _json(metadata[DIFFUSERS])
    if not isinstance(raw, dict):
        raise AdapterFileError(f"{where} is not a JSON object")
    ends = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
    prefixes = {key.removesuffix(end) for end in ends for key in raw if _ends(key, end)}
    if len(prefixes) > _MAX_COMPONENTS:
        raise AdapterFileError(f"{where} is of {len(prefixes)} parts, which no pipeline has")
    return tuple(Component(p, _component(raw, p, where)) for p in sorted(prefixes))


def _ends(key: str, end: str) -> bool:
    return key == end or key.endswith("." + end)


def _component(raw: Mapping[str, Any], prefix: str, where: str) -> AdapterConfig:
    entries = {
        key.removeprefix(prefix): value
        for key, value in raw.items()
        if key.startswith(prefix) and (prefix or "." not in key)
    }
    return parse_config({"peft_type": "LORA"} | entries, where)


def component_of(name: str, components: tuple[Component, ...]) -> Component | None:
    """The component that a module belongs to; None where the header says nothing of it."""
    fitting = [c for c in components if name.startswith(c.prefix)]
    if fitting:
        return max(fitting, key=lambda c: len(c.prefix))
    # Files with names of other tools have one component, whose patterns could not be matched.
    if len(components) == 1 and not _has_patterns(components[0].config):
        return components[0]
    return None


def _has_patterns(config: AdapterConfig) -> bool:
    return bool(config.rank_pattern or config.alpha_pattern)


def check_components(names: list[str], components: tuple[Component, ...], file: str) -> None:
    """Refuse configurations in the header that are of none of the file's modules.

    Raises:
        AdapterFileError: they are of none.
    """
    if components and all(component_of(name, components) is None for name in names):
        raise AdapterFileError(
            f"{file}: {DIFFUSERS} in its header gives scalings of {components[0].prefix}*, but the "
            f"file's modules have other names, such as {names[0]}; save it again with diffusers"
        )


def scaling_of(
    name: str, rank: int, alpha: float | None, component: Component | None, file: str
) -> float:
    """The scaling of a module of a file alone.

    Args:
        name: of the module.
        rank: components in the file.
        alpha: value of its alpha tensor, if there is one.
        component: what the header says of it, if it does.
        file: for messages.

    Raises:
        AdapterFileError: the two differ, the rank is another than the header's, or alpha is 0,
            which is 0 to some readers and the rank to others.
    """
    if alpha == 0:
        raise AdapterFileError(
            f"{file}: the alpha of {name} is 0, which ComfyUI takes as 0 and sd-scripts as the "
            "rank; write the alpha that is meant"
        )
    by_tensor = alpha / rank if alpha is not None else None
    if component is None:
        return 1.0 if by_tensor is None else by_tensor
    inner = name.removeprefix(component.prefix)
    check_rank(name, rank, component.config.rank(inner), f"{DIFFUSERS} in its header", file)
    by_header = component.config.scaling(inner)
    if by_tensor is not None and not math.isclose(by_tensor, by_header, rel_tol=1e-2):
        raise AdapterFileError(
            f"{file}: the scaling of {name} is {by_tensor:g} by its alpha tensor and "
            f"{by_header:g} by {DIFFUSERS} in its header; save it with the one that is meant"
        )
    return by_header if by_tensor is None else by_tensor


def check_rank(name: str, rank: int, said: int, where: str, file: str) -> None:
    """Refuse tensors of another rank than is said of them, with an AdapterFileError."""
    if rank != said:
        raise AdapterFileError(
            f"{file}: {name} has rank {rank}, but {where} says {said} (r and rank_pattern)"
        )


def refuse_unread(
    metadata: Mapping[str, str], scalings: Mapping[int, set[float]], file: str
) -> None:
    """Refuse a scaling in the header that no reader of such files reads and that differs.

    ``ss_network_alpha`` of sd-scripts is not one: it is a remark, of which only the alpha tensors
    count.

    Args:
        metadata: of the header.
        scalings: those that the file's readers apply, by rank of the modules.
        file: for messages.

    Raises:
        AdapterFileError: a scaling that differs.
    """
    for key, entries in _entries(metadata):
        rank = _number(entries, _RANKS)
        alpha = _number(entries, _ALPHAS)
        if alpha is None:
            continue
        for own_rank, own in scalings.items():
            if rank not in (None, own_rank):
                continue
            if not any(math.isclose(alpha / own_rank, s, rel_tol=1e-2) for s in own):
                raise AdapterFileError(
                    f"{file}: its header ({key}) gives alpha {alpha:g} at rank {own_rank}, but "
                    "readers of such files take none from there and apply "
                    f"{', '.join(f'{s:g}' for s in sorted(own)[:3])}; write alpha tensors (a "
                    "single number beside each pair, named <module>.alpha), or take the entry out "
                    "of the header"
                )


def _entries(metadata: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What might be configurations: each entry that is a JSON object, and the header itself."""
    plain = {k: v for k, v in metadata.items() if k in _ALPHAS or k in _RANKS}
    yield ", ".join(plain), {k: _json(v) for k, v in plain.items()}
    for key, text in metadata.items():
        if key not in (DIFFUSERS, "prunedlora") and not key.startswith("ss_"):
            value = _json(text) if text.lstrip().startswith("{") else None
            if isinstance(value, dict):
                yield key, {k.rpartition(".")[2]: v for k, v in value.items()}


def _number(entries: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        value = entries.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
            return float(value)
    return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
