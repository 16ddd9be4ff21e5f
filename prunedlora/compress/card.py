"""The model card of a compressed folder: that of the adapter it came from, and what was done."""

from pathlib import Path

from prunedlora.compress.report import CompressReport
from prunedlora.files.adapter_file import WEIGHTS, AdapterFile
from prunedlora.files.card import CARD, EARLIER, RECORD, card, count, head, plain, span

#: Longest card that is carried over, bytes.
_LONGEST = 2**20


def model_card(source: AdapterFile, report: CompressReport) -> str:
    """The text of ``README.md``, as the hub shows it.

    Args:
        source: the adapter as it was; a card beside it is kept, with its licence and data sets.
        report: what was done.
    """
    lowered = max(report.ranks.values()) < max(report.ranks_before.values())
    done = "The rank was lowered" if lowered else "Written anew"
    sentence = f"{done} by prunedlora {report.version}; everything else is in `{RECORD}`."
    # What is said of the record beside the old adapter is true of the name that it has beside the new one.
    return card(_old(source).replace(RECORD, EARLIER), "Compression", sentence, _facts(report))


def earlier_record(source: AdapterFile) -> str | None:
    """The record that lies beside the adapter, as text; None without one."""
    return _beside(source, RECORD)


def _beside(source: AdapterFile, name: str) -> str | None:
    """A text file of the adapter's folder; None if there is none, or none that can be taken over."""
    file = source.file.parent / name
    # What lies beside a model is about the model.
    home = source.file.parent.resolve()
    inside = file.is_file() and file.resolve().is_relative_to(home)
    if source.file.name != WEIGHTS or not inside or file.stat().st_size > _LONGEST:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None  # no text


def _old(source: AdapterFile) -> str:
    """The card beside the old adapter, or what stands at the head of PEFT's own."""
    if (text := _beside(source, CARD)) is not None:
        return text
    base = source.config.raw.get("base_model_name_or_path") if source.config else None
    return head(base, Path(source.source).name)


def _facts(report: CompressReport) -> list[str]:
    before, after = span(report.ranks_before.values()), span(report.ranks.values())
    facts = [
        f"adapter: `{plain(report.adapter)}`",
        f"rank: {before} before, {after} now, in {count(len(report.ranks), 'module')}",
        f"criterion: `{report.settings['criterion']}`, layout: `{report.settings['layout']}`",
        f"relative change of the weights that the adapter adds: {report.relative_error:.4g}",
        f"size of the weights: {report.bytes_before} bytes before, {report.bytes_after} now",
    ]
    if report.loss is not None and report.loss_before is not None:
        facts.append(f"held-out loss: {report.loss_before:.5f} before, {report.loss:.5f} now")
    if report.excluded:
        facts.append(f"modules left out: {', '.join(map(plain, report.excluded))}")
    return facts
