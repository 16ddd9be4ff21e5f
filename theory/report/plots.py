"""Pictures of the report, and the same for a notebook; each returns a matplotlib figure."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from theory.statements.attention import output_error
from theory.statements.s04_printed_activation_bound import one_key, printed_bound
from theory.statements.s05_softmax_bound import corrected_bound
from theory.statements.s07_price_of_ignoring_the_loss import blind_choice, kappa, losses_of_choices
from theory.statements.s10_weight_perturbation import check_general, overlapping_masks

#: Blue, orange, grey: distinguishable in every common form of colour blindness.
MEASURED, LIMIT, QUIET = "#0072B2", "#D55E00", "#888888"


def _figure(columns: int, height: float) -> Figure:
    figure = Figure(figsize=(4.2 * columns, height), layout="constrained", dpi=110)
    figure.subplots(1, columns)
    return figure


def ratios(statements: Sequence[dict[str, Any]]) -> Figure:
    """Distribution of measured / bound over the random instances, with what adversary and construction reach."""
    figure = Figure(figsize=(9, 0.42 * len(statements) + 1.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    for row, one in enumerate(reversed(statements)):
        edges, counts = np.array(one["histogram"]["edges"]), np.array(one["histogram"]["counts"])
        if one["violations"] == 0:  # what lies above 1 is 1, up to rounding
            beyond = edges[:-1] >= -1e-9
            counts = (
                np.where(beyond, 0.0, counts) + np.roll(beyond, -1) * ~beyond * counts[beyond].sum()
            )
        shade = counts / max(counts.max(), 1.0)
        axes.pcolormesh(
            edges, [row - 0.4, row + 0.4], np.sqrt(shade)[None], cmap="Blues", vmin=0, vmax=1
        )
        for attack in one["adversary"]:
            axes.plot(_log(attack["best_ratio"]), row, ">", color=LIMIT, markersize=6)
        if one["extremal_ratio"] is not None:
            axes.plot(_log(one["extremal_ratio"]), row, "|", color="black", markersize=13)
    axes.axvline(0, color=LIMIT, linewidth=1)
    axes.set_yticks(range(len(statements)), [one["key"] for one in reversed(statements)])
    axes.set_xlim(-12, 3.3)
    axes.set_xlabel(
        "log10(measured / bound): shade = random instances, ▸ adversary, | constructed instance"
    )
    return figure


def trajectories(statements: Sequence[dict[str, Any]]) -> Figure:
    """Best ratio of the adversary against its steps."""
    figure = Figure(figsize=(9, 4.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    colours = mpl.colormaps["tab20"]
    attacked = [one for one in statements if one["adversary"]]
    for i, one in enumerate(attacked):
        for attack in one["adversary"]:
            path = np.array([_log(x) for x in attack["trajectory"]])
            label = one["key"] if attack is one["adversary"][0] else None
            style = "--" if one["claim"] == "refuted" else "-"
            axes.plot(np.linspace(0, 1, len(path)), path, style, color=colours(i % 20), label=label)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_ylim(-2, 3.2)
    axes.set_xlabel("share of the steps")
    axes.set_ylabel("log10(best measured / bound)")
    axes.legend(
        loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title="dashed: printed and false"
    )
    return figure


def printed_against_corrected(sizes: Sequence[int] = (2, 4, 8, 16, 32, 64, 128, 256)) -> Figure:
    """S4 and S5: the counterexample as the number of tokens grows."""
    figure = _figure(1, 3.4)
    axes = figure.axes[0]
    cases = [one_key(N) for N in sizes]
    error = [output_error(case).item() for case in cases]
    axes.loglog(sizes, error, "o-", color=MEASURED, label="output error")
    axes.loglog(
        sizes,
        [printed_bound(case).item() for case in cases],
        "--",
        color=LIMIT,
        label="printed bound",
    )
    corrected = [corrected_bound(case).item() for case in cases]
    axes.loglog(sizes, corrected, "-", color=QUIET, label="corrected bound")
    axes.set_xlabel("tokens")
    axes.legend(frameon=False)
    return figure


def price(conditions: Sequence[float] = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)) -> Figure:
    """S7: the price of the activation choice on the worst layer, against κ."""
    figure = _figure(1, 3.4)
    axes = figure.axes[0]
    layers = [blind_choice(condition) for condition in conditions]
    paid = [(chosen / best).item() for chosen, best in map(losses_of_choices, layers)]
    axes.loglog([kappa(layer).item() for layer in layers], paid, "o", color=MEASURED, label="paid")
    axes.loglog(conditions, conditions, "-", color=LIMIT, label="κ(D)")
    axes.set_xlabel("κ(D)")
    axes.set_ylabel("ΔL(activation choice) / ΔL(loss-aware)")
    axes.legend(frameon=False)
    return figure


def perturbation_constant(
    angles: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
) -> Figure:
    """S10: the constant that overlapping masks reach."""
    figure = _figure(1, 3.4)
    axes = figure.axes[0]
    reached = [2 * check_general(overlapping_masks(angle)).ratio.item() for angle in angles]
    axes.plot(angles, reached, "o", color=MEASURED, label="reached by overlapping masks")
    curve = torch.linspace(0.01, 1.3, 100)
    axes.plot(
        curve,
        (4 * curve.cos() ** 2 + 2 * curve.sin() ** 2).sqrt(),
        "-",
        color=QUIET,
        label="√(4cos²θ + 2sin²θ)",
    )
    axes.axhline(2**0.5, color=LIMIT, label="√2: limit for disjoint masks")
    axes.set_xlabel("θ")
    axes.set_ylabel("constant in front of ε√(Λ/2)")
    axes.legend(frameon=False)
    return figure


def _log(ratio: float | str) -> float:
    """log10 of a ratio, within the axes."""
    return float(np.log10(np.clip(float(ratio), 1e-12, 1e3)))
