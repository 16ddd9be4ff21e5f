"""Pictures of what was measured on real layers, from the committed results; each returns a matplotlib figure."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from theory.report.plots import LIMIT, MEASURED, QUIET

Records = dict[str, dict[str, Any]]


def _figure(records: Records, height: float) -> Figure:
    figure = Figure(figsize=(5.2 * len(records), height), layout="constrained", dpi=110)
    for axes, name in zip(figure.subplots(1, len(records), squeeze=False)[0], records, strict=True):
        axes.set_title(name)
    return figure


def attention(records: Records) -> Figure:
    """Output error against both bounds, one point for each block, rule and rank."""
    figure = _figure(records, 3.6)
    for axes, record in zip(figure.axes, records.values(), strict=True):
        rows = record["result"]["attention"]
        for name, colour in (("printed", LIMIT), ("corrected", MEASURED)):
            y = [row[f"error_over_{name}_max"] for row in rows]
            axes.loglog(
                [row["epsilon"] for row in rows], y, "o", color=colour, markersize=4, label=name
            )
        axes.axhline(1, color="black", linewidth=1)
        axes.set_xlabel("activation error ε (median over heads)")
        axes.set_ylabel("largest output error / bound")
        axes.legend(frameon=False)
    return figure


def curvature(records: Records) -> Figure:
    """κ(D) of every layer, and what S7's model says one removal costs too much."""
    figure = _figure(records, 3.6)
    for axes, record in zip(figure.axes, records.values(), strict=True):
        rows = record["result"]["spectra"]
        labels = [
            f"{row['depth']} {row['kind'].split('.')[-2][:6]}.{row['kind'].split('.')[-1]}"
            for row in rows
        ]
        for name, style, colour in (
            ("kappa", "o", LIMIT),
            ("kappa_damped", "s", QUIET),
            ("S7_price_of_one", "D", MEASURED),
        ):
            axes.semilogy(
                range(len(rows)),
                [row[name] for row in rows],
                style,
                color=colour,
                markersize=4,
                label=name,
            )
        axes.set_xticks(range(len(rows)), labels, rotation=90, fontsize=6)
        axes.legend(frameon=False, fontsize=7)
    return figure


def price(records: Records) -> Figure:
    """Second-order test loss of the activation choice against that of the loss-aware one, one point a layer."""
    figure = _figure(records, 4.0)
    for axes, record in zip(figure.axes, records.values(), strict=True):
        rows = record["result"]["prices"]
        pairs = list(dict.fromkeys(row["pair"] for row in rows))
        for pair, colour in zip(pairs, (MEASURED, LIMIT), strict=True):
            x, y = (
                np.array([row[who]["even_test"] for row in rows if row["pair"] == pair])
                for who in ("loss", "activation")
            )
            axes.plot(x, y, "o", color=colour, markersize=4, label=pair)
        ends = np.array(axes.get_xlim())
        axes.plot(ends, ends, "-", color=QUIET, linewidth=1)
        axes.set_xscale("symlog", linthresh=1e-6)
        axes.set_yscale("symlog", linthresh=1e-6)
        axes.set_xlabel("even part of ΔL, loss-aware choice")
        axes.set_ylabel("even part of ΔL, activation choice")
        axes.legend(frameon=False)
    return figure


def prediction(records: Records) -> Figure:
    """Rank correlation of every score with the true change of the loss, removing random halves."""
    figure = _figure(records, 4.4)
    for axes, record in zip(figure.axes, records.values(), strict=True):
        rows = [r for r in record["summary"]["removals"]["correlations"] if not r["single"]]
        names = sorted({r["prediction"] for r in rows})
        for shift, recover, colour in ((-0.15, False, MEASURED), (0.15, True, LIMIT)):
            chosen = {r["prediction"]: r for r in rows if r["recover"] is recover}
            y = np.arange(len(names)) + shift
            middle = np.array([chosen[n]["even_test"] for n in names])
            ends = np.array([chosen[n]["even_test_interval"] for n in names]).T
            axes.errorbar(
                middle,
                y,
                xerr=np.abs(ends - middle),
                fmt="o",
                color=colour,
                markersize=4,
                linewidth=1,
                label="B recovers" if recover else "masked only",
            )
        axes.axvline(0, color=QUIET, linewidth=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("Spearman correlation with the even part of ΔL (test)")
        axes.legend(frameon=False)
    return figure


def noise(records: Records) -> Figure:
    """Share of each rule's choice that noise of a relative size changes."""
    figure = _figure(records, 3.6)
    for axes, record in zip(figure.axes, records.values(), strict=True):
        rows = [r for r in record["summary"]["noise"] if r["noise"] not in ("int8", "bf16")]
        for rule in dict.fromkeys(r["rule"] for r in rows):
            own = [r for r in rows if r["rule"] == rule]
            axes.semilogx(
                [float(r["noise"]) for r in own],
                [r["changed"] for r in own],
                "o-",
                markersize=4,
                label=rule,
            )
        axes.set_xlabel("relative noise on B and A")
        axes.set_ylabel("share of the choice that changes")
        axes.legend(frameon=False, fontsize=7)
    return figure


def magnitude(records: Records) -> Figure:
    """The same under noise of a fixed absolute size, against the module's magnitude."""
    figure = _figure(records, 3.6)
    for axes, record in zip(figure.axes, records.values(), strict=True):
        rows = record["summary"]["magnitudes"]
        for rule in dict.fromkeys(r["rule"] for r in rows):
            own = [r for r in rows if r["rule"] == rule]
            axes.loglog(
                [r["magnitude"] for r in own],
                [r["absolute"] for r in own],
                "o-",
                markersize=4,
                label=rule,
            )
        axes.set_xlabel("magnitude of the module")
        axes.set_ylabel("share of the choice that changes")
        axes.legend(frameon=False, fontsize=7)
    return figure


def figures(records: Records) -> dict[str, Figure]:
    """Every picture by its name; those of parts that not every model has are left out."""
    makers = {
        "attention": attention,
        "spectra": curvature,
        "prices": price,
        "removals": prediction,
        "noise": noise,
        "magnitudes": magnitude,
    }
    complete = {
        part for part in makers if records and all(part in r["summary"] for r in records.values())
    }
    return {f"real_{part}": make(records) for part, make in makers.items() if part in complete}
