"""Writing a compressed adapter in the format of the one it came from."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunedlora.compress.config import CompressConfig
from prunedlora.compress.modules import CompressedModule
from prunedlora.compress.report import CompressReport
from prunedlora.errors import ConfigurationError, OutputError
from prunedlora.factors import Scaled
from prunedlora.files.adapter_file import CONFIG, WEIGHTS, AdapterFile, open_adapter
from prunedlora.files.layouts import as_stored, lay_out, settings
from prunedlora.files.writing import check_free, publish_folder, scratch_beside, write_tensors

REPORT = "pruning_report.json"


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
        check_free(report_of(out))
    elif out.resolve().is_relative_to(source.file.parent.resolve()):
        raise OutputError(
            f"{out} lies in the adapter's own folder, which is never changed; choose another place"
        )


def report_of(out: Path) -> Path:
    """Where the report of an output lies."""
    return out.with_suffix("." + REPORT) if out.suffix == ".safetensors" else out / REPORT


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
        ConfigurationError: every module would be left out.
    """
    if not compressed:
        raise ConfigurationError(
            "the adapter adds nothing in any module; with zero_modules='keep' it can be written"
        )
    assert config.layout is not None
    rank = max(item.factors.rank for item in compressed)
    modules = lay_out({item.module.name: item.factors for item in compressed}, config.layout, rank)
    tensors = _tensors(source, compressed, modules)
    with scratch_beside(out) as part:
        weights = part / (WEIGHTS if source.config is not None else out.name)
        write_tensors(tensors, weights, _metadata(source, report, modules))
        report = replace(report, bytes_after=weights.stat().st_size)
        if config.size is not None and report.bytes_after > config.size:
            raise OutputError(
                f"the file takes {report.bytes_after} bytes, more than the {config.size} asked for"
            )
        if source.config is not None:
            # The weights are plain factors now, whatever they were initialised from.
            exclusion = _exclusion(source, report.excluded)
            changes = {**settings(modules), **exclusion, "init_lora_weights": True}
            text = json.dumps({**source.config.raw, **changes}, indent=2, sort_keys=True)
            (part / CONFIG).write_text(text, encoding="utf-8")
        _check_written(part if source.config is not None else weights, modules)
        (part / REPORT).write_text(report.to_json(), encoding="utf-8")
        _publish(part, weights, out)
    return report


def _tensors(
    source: AdapterFile, compressed: list[CompressedModule], modules: Mapping[str, Scaled]
) -> dict[str, Tensor]:
    tensors = source.carried()
    for item in compressed:
        module = item.module
        factors = modules[module.name]
        B, A = as_stored(factors, module.shape_B, module.shape_A, item.factors.B.dtype, module.name)
        tensors[module.keys.B] = B
        tensors[module.keys.A] = A
        if module.keys.alpha is not None:
            tensors[module.keys.alpha] = torch.tensor(float(factors.rank)).to(B.dtype)
    return tensors


def _metadata(
    source: AdapterFile, report: CompressReport, modules: Mapping[str, Scaled]
) -> dict[str, str]:
    """That of the old file, with ranks and alphas put right, and what was done."""
    ranks = {module.rank for module in modules.values()}
    metadata = {"format": "pt", **source.header.metadata}
    for key in ("ss_network_dim", "ss_network_alpha"):  # what tools for diffusion models show
        if key in metadata:
            metadata[key] = str(*ranks) if len(ranks) == 1 else "Dynamic"
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


def _exclusion(source: AdapterFile, names: list[str]) -> dict[str, Any]:
    """`exclude_modules` with further modules, in the form it has."""
    assert source.config is not None
    if not names:
        return {}
    old = source.config.raw.get("exclude_modules")
    if isinstance(old, str):
        return {"exclude_modules": "|".join([f"(?:{old})", *(re.escape(name) for name in names)])}
    return {"exclude_modules": [*(old or []), *names]}


def _check_written(place: Path, modules: Mapping[str, Scaled]) -> None:
    written = {module.name: (module.rank, module.scaling) for module in open_adapter(place).modules}
    if written != {name: (module.rank, 1.0) for name, module in modules.items()}:
        raise OutputError(
            "the written adapter has other ranks or scalings than asked for; please report this"
        )


def _publish(part: Path, weights: Path, out: Path) -> None:
    """Give everything its final name: a folder at once, a file alone after its report."""
    if out.suffix != ".safetensors":
        publish_folder(part, out)
        return
    report = report_of(out)
    (part / REPORT).rename(report)
    try:
        weights.rename(out)
    except OSError:
        report.unlink()
        raise
