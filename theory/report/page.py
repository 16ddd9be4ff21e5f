"""The report: ``report.md``, a self-contained ``report.html``, ``claim.md`` and the pictures, from statements.json."""

import base64
import html
import inspect
import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from theory.checking.registry import available_statements, get_statement
from theory.records import from_json, write_atomically
from theory.report import claim, plots, real_layers, real_plots, real_text

COLUMNS = (
    "key",
    "verdict",
    "instances",
    "outside assumptions",
    "violations",
    "tightest",
    "constructed",
    "adversary",
    "s",
)


def write(folder: Path) -> None:
    """Write report and pictures beside the ``statements.json`` in `folder`."""
    record = from_json((folder / "statements.json").read_text(encoding="utf-8"))
    real = real_layers.read()
    drawn = figures(record["statements"]) | real_plots.figures(real)
    pictures = {name: _png(figure) for name, figure in drawn.items()}
    for name, content in pictures.items():
        write_atomically(folder / f"{name}.png", content)
    write_atomically(
        folder / "report.md", markdown(record, list(pictures), real_text.section(real))
    )
    write_atomically(folder / "report.html", page(record, pictures, real_text.section(real)))
    if real:
        images = "\n".join(
            f"![{name}]({name}.png)\n" for name in pictures if name.startswith("real_")
        )
        write_atomically(folder / "real_layers.md", f"{real_text.section(real)}\n{images}")
    if {one["key"] for one in record["statements"]} == set(available_statements()):
        write_atomically(folder / "claim.md", claim.page(record["statements"], real))


def figures(statements: list[dict[str, Any]]) -> dict[str, Figure]:
    """Every picture by its name."""
    return {
        "ratios": plots.ratios(statements),
        "adversary": plots.trajectories(statements),
        "printed_against_corrected": plots.printed_against_corrected(),
        "price": plots.price(),
        "perturbation_constant": plots.perturbation_constant(),
    }


def row(one: dict[str, Any]) -> tuple[str, ...]:
    """Line of the overview table for one statement."""
    outside = "; ".join(f"{n} ({name})" for name, n in one["assumption_failures"].items() if n)
    attacks = ", ".join(claim.number(attack["best_ratio"]) for attack in one["adversary"])
    extremal = "" if one["extremal_ratio"] is None else claim.number(one["extremal_ratio"])
    tightest = claim.number(one["tightest_ratio"])
    seconds = f"{one['seconds']:.1f}"
    counts = (one["key"], one["verdict"], f"{one['instances']:,}", outside, str(one["violations"]))
    return (*counts, tightest, extremal, attacks, seconds)


def summary_line(record: dict[str, Any]) -> str:
    """One sentence about the run."""
    statements, environment = record["statements"], record["environment"]
    good = sum(one["verdict"] in ("verified", "refuted") for one in statements)
    tried = sum(one["instances"] for one in statements)
    return (
        f"{good} of {len(statements)} statements are what they claim to be; {tried:,} random instances, seed "
        f"{record['seed']}; {record['processor_seconds']:.0f} s of processor time, {record['seconds']:.0f} s of wall "
        f"clock on {environment['threads']} thread(s); torch {environment['torch']}, {environment['precision']}."
    )


HOW_TO_READ = (
    "`verified`: no violation, and a bound claimed tight is reached to at least 0.99. `refuted`: a printed or "
    "plausible claim that the run has broken. Ratios are measured / bound; for identities, relative error / rounding "
    "allowed at that condition number. For a refuted claim, violations and ratios above 1 are the point. Instances "
    "outside the assumptions are counted apart: there the statement says nothing."
)


def markdown(record: dict[str, Any], pictures: list[str], real: str) -> str:
    """The report in Markdown."""
    head = [
        "# Robustness statements: what was verified",
        "",
        summary_line(record),
        "",
        HOW_TO_READ,
        "",
    ]
    table = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    table += ["| " + " | ".join(row(one)) + " |" for one in record["statements"]]
    images = [f"\n![{name}]({name}.png)" for name in pictures]
    return "\n".join([*head, *table, *images, "", real, *map(_section, record["statements"])])


def _section(one: dict[str, Any]) -> str:
    worst = ", ".join(f"{key} {value}" for key, value in one["worst"].items())
    lines = [
        f"\n## {one['key']}: {one['title']}",
        "",
        f"`{one['formula']}`",
        "",
        f"Proof: `{one['module']}`.",
    ]
    lines += [
        f"Verdict: **{one['verdict']}**. Tightest random instance: {claim.number(one['tightest_ratio'])} ({worst})."
    ]
    lines += [_attack(attack) for attack in one["adversary"]]
    return "\n".join(lines)


def _attack(attack: dict[str, Any]) -> str:
    fell = attack["seconds_to_fall"]
    outcome = "no violation" if fell is None else f"first violation after {fell:.2f} s"
    return (
        f"Adversary at {attack['shape']}: from {claim.number(attack['start_ratio'])} to "
        f"{claim.number(attack['best_ratio'])} of the bound in {attack['seconds']:.1f} s, {outcome}."
    )


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-size:13px}"
    "td,th{border-bottom:1px solid #ccc;padding:.2rem .6rem;text-align:left}"
    "pre{background:#f6f6f6;padding:1rem;overflow:auto;font-size:13px}img{max-width:100%}"
)


def page(record: dict[str, Any], pictures: dict[str, bytes], real: str) -> str:
    """The report in HTML, pictures and proofs included."""
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in row(one)) + "</tr>"
        for one in record["statements"]
    )
    images = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
        for name, content in pictures.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Robustness statements</title>'
        f"<style>{STYLE}</style>"
        f"<h1>Robustness statements: what was verified</h1><p>{html.escape(summary_line(record))}</p>"
        f"<p>{html.escape(HOW_TO_READ)}</p><table><tr>{''.join(f'<th>{c}</th>' for c in COLUMNS)}</tr>{cells}</table>"
        f"{images}<pre>{html.escape(real)}</pre>{''.join(map(_details, record['statements']))}</html>\n"
    )


def _details(one: dict[str, Any]) -> str:
    proof = inspect.cleandoc(get_statement(one["key"]).proof)
    return (
        f"<h2>{html.escape(one['key'])}: {html.escape(one['title'])}</h2>"
        f"<p><code>{html.escape(one['formula'])}</code></p>"
        + "".join(f"<p>{html.escape(_attack(attack))}</p>" for attack in one["adversary"])
        + f"<details><summary>statement and proof</summary><pre>{html.escape(proof)}</pre></details>"
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
