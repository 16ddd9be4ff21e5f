"""Tables for the terminal."""

from collections.abc import Sequence
from typing import Any

from prunedlora.compress.benchmark import Comparison
from prunedlora.compress.report import CompressReport
from prunedlora.compress.verification import Verification
from prunedlora.errors import PrunedLoRAError
from prunedlora.files.inspection import ENERGIES, Inspection
from prunedlora.optional import require


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as text; raises MissingPackageError without tabulate."""
    text: str = require("tabulate").tabulate(
        rows, headers="keys", floatfmt=".4g", disable_numparse=[0]
    )
    return text


def inspection_text(inspection: Inspection) -> str:
    """One line for each module, then what they suggest."""
    rows = [
        {
            "module": module.name,
            "rank": module.rank,
            "scaling": module.scaling,
            "shape": f"{module.d_out}×{module.d_in}",
            "dtype": module.dtype,
            "kB": module.nbytes / 1e3,
            "largest σ": module.singular_values[0],
            "effective rank": module.effective_rank,
            **{f"rank for {share:.0%}": module.rank_for_energy[f"{share:g}"] for share in ENERGIES},
        }
        for module in inspection.modules
    ]
    suggested = ", ".join(
        f"{inspection.suggested_rank(share)} for {share:.0%}" for share in ENERGIES
    )
    return (
        f"{table(rows)}\n\n{len(rows)} modules, {inspection.file_bytes / 1e6:.2f} MB. One rank "
        f"that keeps that share of every module's energy: {suggested}."
    )


def verification_text(verification: Verification) -> str:
    """The checks, then what each reader makes of the scalings."""
    checks = [
        {"check": c.name, "": "ok" if c.passed else "FAILED", "evidence": c.detail}
        for c in verification.checks
    ]
    rows = [
        {
            "reader": row.reader,
            "scaling": row.rule,
            "from": row.smallest,
            "to": row.largest,
            "with this file": row.outcome,
        }
        for row in verification.readings
    ]
    text = f"{table(checks)}\n\n{table(rows)}"
    if any(row.wrong for row in verification.readings):
        text += (
            "\n\nReaders disagree; `prunedlora compress` with layout uniform or padded writes a "
            "file they agree on."
        )
    return text


def report_text(report: CompressReport) -> str:
    """What was done, in a few lines."""
    before, after = report.ranks_before.values(), report.ranks.values()
    lines = [
        f"{report.settings['criterion']}: rank {_span(before)} -> {_span(after)} in {len(after)} "
        f"modules, layout {report.settings['layout']}, {report.seconds:.2f} s",
        f"size {report.bytes_before / 1e6:.2f} -> {report.bytes_after / 1e6:.2f} MB, "
        f"relative change of the weights {report.relative_error:.4g}",
    ]
    if report.excluded:
        lines.append(f"left out: {', '.join(report.excluded)}")
    if report.loss is not None and report.loss_before is not None:
        change = f" ({report.loss / report.loss_before - 1:+.2%})" if report.loss_before else ""
        lines.append(f"held-out loss {report.loss_before:.5f} -> {report.loss:.5f}{change}")
        if report.settings.get("refine") and report.loss_cut is not None:
            dropped = "; refining did not lower it, and was dropped"
            lines.append(
                f"after the cut, before refining, it was {report.loss_cut:.5f}"
                f"{dropped if report.loss_cut == report.loss else ''}"
            )
    return "\n".join(lines)


def summary_line(result: CompressReport | PrunedLoRAError) -> str:
    """What became of one adapter of several, or why nothing did."""
    if isinstance(result, PrunedLoRAError):
        return f"error: {result}"
    before, after = result.ranks_before.values(), result.ranks.values()
    return (
        f"rank {_span(before)} -> {_span(after)}, {result.bytes_before / 1e6:.2f} -> "
        f"{result.bytes_after / 1e6:.2f} MB, relative change {result.relative_error:.4g}"
    )


def modules_text(report: CompressReport) -> str:
    """One line for each module that was kept."""
    rows = [
        {
            "module": name,
            "rank before": report.ranks_before[name],
            "rank": rank,
            "relative change": report.relative_errors[name],
        }
        for name, rank in report.ranks.items()
    ]
    return table(rows)


def comparison_text(comparison: Comparison) -> str:
    """Both methods side by side."""
    rows = [
        {
            "method": "prunedlora",
            "processor seconds": comparison.seconds,
            "relative error": comparison.error,
        },
        {
            "method": "peft convert_to_lora",
            "processor seconds": comparison.seconds_dense,
            "relative error": comparison.error_dense,
        },
    ]
    return (
        f"{table(rows)}\n\n{comparison.modules} modules of random weights, rank "
        f"{comparison.rank} -> {comparison.target_rank}, {comparison.threads} threads: "
        f"{comparison.ratio:.1f} times faster"
    )


def _span(ranks: Any) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low}-{high}"
