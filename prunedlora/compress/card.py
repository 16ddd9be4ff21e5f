"""The model card of a compressed folder: that of the adapter it came from, and what was done."""

import json
from collections.abc import Collection
from pathlib import Path

from prunedlora.compress.report import CompressReport
from prunedlora.files.adapter_file import WEIGHTS, AdapterFile

CARD = "README.md"
#: Longest card that is carried over, bytes.
_LONGEST = 2**20


def model_card(source: AdapterFile, report: CompressReport) -> str:
    """The text of ``README.md``, as the hub shows it.

    Args:
        source: the adapter as it was; a card beside it is kept, with its licence and data sets.
        report: what was done.
    """
    return f"{_old(source).rstrip()}\n\n{_section(report)}"


def _old(source: AdapterFile) -> str:
    """The card beside the old adapter, or what stands at the head of PEFT's own."""
    file = source.file.parent / CARD
    # What lies beside a model is about the model.
    home = source.file.parent.resolve()
    inside = file.is_file() and file.resolve().is_relative_to(home)
    if source.file.name == WEIGHTS and inside and file.stat().st_size <= _LONGEST:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            pass  # no text; a new one is written
    base = source.config.raw.get("base_model_name_or_path") if source.config else None
    # As JSON a name is valid YAML too, whatever letters it has.
    lines = [f"base_model: {json.dumps(base)}"] if isinstance(base, str) and base else []
    lines += ["library_name: peft", "tags:", "- lora"]
    return "\n".join(["---", *lines, "---", "", f"# {_plain(Path(source.source).name)}"])


def _section(report: CompressReport) -> str:
    before, after = _span(report.ranks_before.values()), _span(report.ranks.values())
    lines = [
        f"- adapter: `{_plain(report.adapter)}`",
        f"- rank: {before} before, {after} now, in {len(report.ranks)} modules",
        f"- criterion: `{report.settings['criterion']}`, layout: `{report.settings['layout']}`",
        f"- relative change of the weights that the adapter adds: {report.relative_error:.4g}",
        f"- size of the weights: {report.bytes_before} bytes before, {report.bytes_after} now",
    ]
    if report.loss is not None and report.loss_before is not None:
        lines.append(f"- held-out loss: {report.loss_before:.5f} before, {report.loss:.5f} now")
    if report.excluded:
        lines.append(f"- modules left out: {', '.join(map(_plain, report.excluded))}")
    version = f"by prunedlora {report.version}; everything else is in `pruning_report.json`."
    return f"## Compression\n\nThe rank was lowered {version}\n\n" + "\n".join(lines) + "\n"


def _span(ranks: Collection[int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low} to {high}"


def _plain(text: str) -> str:
    """Text that is no markup in a card."""
    return "".join(
        letter if letter.isprintable() and letter not in "`<>" else "?" for letter in text
    )
