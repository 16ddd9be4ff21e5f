"""Writing a compressed adapter in the format of the one it came from."""

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from prunedlora.compress.card import earlier_record, model_card
from prunedlora.compress.config import CompressConfig
from prunedlora.compress.modules import CompressedModule
from prunedlora.compress.report import CompressReport
from prunedlora.errors import ConfigurationError, OutputError
from prunedlora.factors import Scaled
from prunedlora.files.adapter_file import CONFIG, WEIGHTS, AdapterFile, open_adapter
from prunedlora.files.card import CARD, EARLIER, RECORD
from prunedlora.files.header import TensorEntry
from prunedlora.files.layouts import alpha_of, as_stored, padded, settings
from prunedlora.files.metadata import HASHES, Change, rewritten, with_hashes
from prunedlora.files.readers import check_readable
from prunedlora.files.writing import (
    alone_in,
    check_free,
    publish_file,
    publish_folder,
    scratch_beside,
    write_tensors,
)

logger = logging.getLogger(__name__)


def check_output(source: AdapterFile, out: Path) -> None:
    """Refuse an output that exists, lies in the adapter's folder, or has the wrong kind of name.

    Raises:
        OutputError: the first two.
        ConfigurationError: the last.
    """
    is_file = out.suffix == ".safetensors"
    if is_file and source.config is not None:
        raise ConfigurationError(
            f"{source.source} is a PEFT folder, so OUT is a folder; choose another OUT than {out}"
        )
    if not is_file and source.config is None:
        raise ConfigurationError(
            f"{source.source} is a file alone, so OUT must end in .safetensors; choose another OUT "
            f"than {out}"
        )
    check_free(out)
    if is_file:
        _check_report(report_of(out))
    elif out.resolve().is_relative_to(source.file.parent.resolve()):
        raise OutputError(
            f"{out} lies in the adapter's own folder, which is never changed; choose another place"
        )


def _check_report(file: Path) -> None:
    """Refuse a file in the report's place, unless a run that was killed left it without weights."""
    try:
        left = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        left = None
    if not (isinstance(left, dict) and left.keys() >= {"adapter", "version", "ranks_before"}):
        check_free(file)


def report_of(out: Path) -> Path:
    """Where the report of an output lies."""
    return out.with_suffix("." + RECORD) if out.suffix == ".safetensors" else out / RECORD


def write_output(
    source: AdapterFile,
    out: Path,
    config: CompressConfig,
    compressed: list[CompressedModule],
    report: CompressReport,
) -> CompressReport:
    """Write weights, configuration and report, and publish them once they open as any adapter does.

    Returns:
        The report with the size of the written file.

    Raises:
        OutputError: the disk fails, or the file differs from memory or is larger than asked for;
            nothing is left behind.
        ConfigurationError: every module would be left out, or the reader would not load the result.
    """
    if not compressed:
        raise ConfigurationError(
            "the adapter adds nothing in any module; with zero_modules='keep' it can be written"
        )
    largest = max(item.factors.rank for item in compressed)
    modules = {}
    for item in compressed:
        rank = item.factors.rank if config.layout == "ragged" else largest
        whole = -(-rank // config.round_to) * config.round_to
        modules[item.module.name] = padded(item.factors, whole)
    modules = _levelled(compressed, modules)
    tensors = _tensors(source, compressed, modules)
    with scratch_beside(out) as part:
        weights = part / (WEIGHTS if source.config is not None else out.name)
        write_tensors(
            tensors, weights, _metadata(source, report, compressed, modules, tensors, part)
        )
        report = _measured(source, report, config, modules, weights.stat().st_size)
        if config.size is not None and report.bytes_after > config.size:
            raise OutputError(
                f"the file takes {report.bytes_after} bytes, more than the {config.size} asked for"
            )
        if source.config is not None:
            # The weights are plain factors now, whatever they were initialised from.
            exclusion = _exclusion(source, report.excluded)
            changes = {
                **settings(modules, source.config.raw),
                **exclusion,
                "init_lora_weights": True,
            }
            text = json.dumps({**source.config.raw, **changes}, indent=2, sort_keys=True)
            (part / CONFIG).write_text(text, encoding="utf-8")
            (part / CARD).write_text(model_card(source, report), encoding="utf-8")
            if (earlier := earlier_record(source)) is not None:
                (part / EARLIER).write_text(earlier, encoding="utf-8")
        _check_written(part if source.config is not None else weights, modules, config.reader)
        (part / RECORD).write_text(report.to_json(), encoding="utf-8")
        _publish(part, weights, out)
    for warning in report.warnings:
        logger.warning("%s", warning)
    return report


def _levelled(compressed: list[CompressedModule], modules: dict[str, Scaled]) -> dict[str, Scaled]:
    """Modules that share one alpha tensor at one rank, that of the largest of them."""
    groups: dict[str, int] = {}
    for item in compressed:
        key = item.module.keys.alpha_name
        groups[key] = max(groups.get(key, 1), modules[item.module.name].rank)
    return {
        item.module.name: padded(modules[item.module.name], groups[item.module.keys.alpha_name])
        for item in compressed
    }


def _tensors(
    source: AdapterFile, compressed: list[CompressedModule], modules: Mapping[str, Scaled]
) -> dict[str, Tensor]:
    tensors = source.carried()
    # Readers that guess a missing alpha take one rank for all modules.
    ranks = {module.rank for module in modules.values()}
    guessed = len(ranks) == 1 and all(module.scaling == 1 for module in modules.values())
    for item in compressed:
        module = item.module
        factors = modules[module.name]
        dtypes = (item.factors.B.dtype, item.factors.A.dtype)
        B, A = as_stored(factors, module.shape_B, module.shape_A, dtypes, module.name)
        for key, tensor in zip(module.keys.written, (B, A), strict=True):
            tensors[key] = tensor
        told = source.config is not None or module.component is not None
        if module.keys.alpha is not None or not (told or guessed):
            known = module.keys.alpha is not None
            old = source.header.tensors.get(module.keys.alpha_name) if known else None
            tensors[module.keys.alpha_name] = _alpha(factors, B.dtype, old)
    return tensors


def _alpha(factors: Scaled, dtype: torch.dtype, old: TensorEntry | None) -> Tensor:
    """The tensor of a module's alpha, in the factors' dtype if that holds it exactly."""
    exact = torch.tensor(float(alpha_of(factors)))
    rounded = exact.to(dtype)
    alpha = rounded if dtype.itemsize > 1 and rounded.double() == exact.double() else exact
    return alpha.reshape(old.shape if old is not None else ())


def _metadata(
    source: AdapterFile,
    report: CompressReport,
    compressed: list[CompressedModule],
    modules: Mapping[str, Scaled],
    tensors: Mapping[str, Tensor],
    part: Path,
) -> dict[str, str]:
    """That of the old file, with ranks, scalings and hashes put right, and what was done."""
    changes = {
        item.module.name: Change(
            item.module.rank,
            item.module.is_convolution,
            item.module.component,
            modules[item.module.name],
        )
        for item in compressed
    }
    old = source.header.metadata
    metadata = rewritten(old, changes)
    if any(key in old for key in HASHES):
        # They are of the tensors beside sd-scripts' own metadata, whatever else there is.
        file = part / "hashed"
        save_file(dict(tensors), file, {k: v for k, v in metadata.items() if k.startswith("ss_")})
        metadata = with_hashes(metadata, old, file)
        file.unlink()
    metadata["prunedlora"] = json.dumps(
        {
            "version": report.version,
            "settings": report.settings,
            "relative_error": report.relative_error,
            "loss_before": report.loss_before,
            "loss": report.loss,
        }
    )
    return metadata


def _measured(
    source: AdapterFile,
    report: CompressReport,
    config: CompressConfig,
    modules: Mapping[str, Scaled],
    size: int,
) -> CompressReport:
    """The report with the size of the file, and what its user should know."""
    warnings = list(source.remarks)
    if size >= report.bytes_before:
        if config.layout != "ragged" and len(set(report.ranks.values())) > 1:
            remedy = "its modules are filled with zeros up to one rank, so use layout 'ragged'"
        elif max(m.rank for m in modules.values()) >= max(report.ranks_before.values()):
            remedy = "ask for a lower rank or energy"
        else:
            remedy = "ask for a lower rank or energy, or another dtype"
        warnings.append(
            f"the new file is not smaller ({report.bytes_before} -> {size} bytes); {remedy}"
        )
    return replace(report, bytes_after=size, warnings=warnings)


def _exclusion(source: AdapterFile, names: list[str]) -> dict[str, Any]:
    """`exclude_modules` with further modules, in the form it has."""
    assert source.config is not None
    if not names:
        return {}
    old = source.config.raw.get("exclude_modules")
    if isinstance(old, str):
        return {"exclude_modules": "|".join([f"(?:{old})", *(re.escape(name) for name in names)])}
    return {"exclude_modules": [*(old or []), *names]}


def _check_written(place: Path, modules: Mapping[str, Scaled], reader: str | None) -> None:
    """Refuse an output that opens with other ranks or scalings, or that its reader would not take."""
    adapter = open_adapter(place)
    written = {module.name: (module.rank, module.scaling) for module in adapter.modules}
    same = written.keys() == modules.keys() and all(
        rank == modules[name].rank and math.isclose(scaling, modules[name].scaling)
        for name, (rank, scaling) in written.items()
    )
    if not same:
        raise OutputError(
            "the written adapter has other ranks or scalings than asked for; please report this"
        )
    if reader is not None:
        check_readable(adapter, reader)


def _publish(part: Path, weights: Path, out: Path) -> None:
    """Give everything its final name: a folder at once, a file alone after its report."""
    if out.suffix != ".safetensors":
        publish_folder(part, out)
        return
    with alone_in(out.parent):
        check_free(out)
        publish_file(part / RECORD, report_of(out))
        try:
            publish_file(weights, out)
        except BaseException:
            report_of(out).unlink()
            raise
