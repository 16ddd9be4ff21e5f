"""What `notebooks/robustness_bounds.ipynb` shows: one picture for each setting of its sliders."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from theory.report import plots, real_layers
from theory.report.plots import LIMIT, MEASURED, QUIET
from theory.statements.attention import output_error
from theory.statements.s04_printed_activation_bound import one_key, printed_bound
from theory.statements.s05_softmax_bound import corrected_bound
from theory.statements.s07_price_of_ignoring_the_loss import blind_choice, kappa, losses_of_choices
from theory.statements.s13_double_compensation import (
    Event,
    recovered,
    recoveries,
    split,
    twin_components,
)


def break_printed(tokens: int = 64, sharpness: float = 10.0, log10_epsilon: float = -2.0) -> Figure:
    """S4 and S5 at one counterexample: output error, printed and corrected bound, each over ε.

    Args:
        tokens: N; the printed bound knows nothing of it.
        sharpness: how strongly every query attends to key 0.
        log10_epsilon: size of the change of V.
    """
    heads = one_key(N=tokens, tau=sharpness, epsilon=10**log10_epsilon)
    epsilon = heads.epsilon.item()
    values = [
        x.item() / epsilon
        for x in (output_error(heads), printed_bound(heads), corrected_bound(heads))
    ]
    fallen = values[0] > values[1]
    return _bars(
        ["output error", "printed bound", "corrected bound"],
        values,
        f"printed bound {'broken' if fallen else 'holds'}: error / bound = {values[0] / values[1]:.3g}",
        "Frobenius norm of the change, in multiples of ε",
    )


def price_of_ignoring(log10_kappa: float = 3.0, margin: float = 1e-4) -> Figure:
    """S7 at the layer that attains it: loss of the choice by activations over the least possible one, and κ(D).

    Args:
        log10_kappa: condition of the output curvature.
        margin: by how much the column that activations keep is the larger one.
    """
    layer = blind_choice(10**log10_kappa, margin)
    chosen, best = losses_of_choices(layer)
    values = [(chosen / best).item(), kappa(layer).item()]
    return _bars(
        ["paid", "κ(D)"],
        values,
        f"ΔL(activation choice) = {values[0]:.4g} · ΔL(loss-aware choice)",
        "increase of the loss, in multiples of the least possible one",
    )


def tokens_against_bounds() -> Figure:
    """S4 and S5 as the number of tokens grows."""
    figure = plots.printed_against_corrected()
    figure.axes[0].set_ylabel("change of the output")
    return figure


def recovery_turns_round(share: float = 1.0, apart: float = 0.1) -> Figure:
    """S13 at two components that are nearly alike, of which one goes: the change against the share of the recovery.

    Args:
        share: of its own recovery that each factor makes: 0 only removes, 1 is (11) of the paper as printed.
        apart: how far the two components are from being the same one.
    """
    event = twin_components(apart)
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    curve = [_first_order(event, float(t)) for t in shares]
    figure = Figure(figsize=(6.4, 3.0), layout="constrained", dpi=90)
    axes = figure.subplots()
    axes.plot(shares, curve, color=QUIET)
    axes.axhline(0, color=QUIET, linewidth=1)
    for t, name in ((0.0, "no recovery"), (0.5, "half"), (1.0, "both, as printed")):
        axes.plot(t, _first_order(event, t), "o", color=MEASURED)
        axes.annotate(
            name,
            (t, _first_order(event, t)),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
        )
    axes.plot(share, _first_order(event, share), "s", color=LIMIT, markersize=9)
    axes.margins(0.2)
    axes.set_xlabel("share of its recovery that each factor makes")
    axes.set_ylabel("change of the loss, first order")
    axes.set_title("in units of what the removed component is worth", fontsize=10)
    return figure


def _first_order(event: Event, share: float) -> float:
    """First-order change of the loss over that of the removed component itself."""
    event = replace(event, share=torch.full_like(event.share, share))
    B, A = recovered(event)
    B_M, _, A_M, _ = split(recoveries(event))
    worth = (event.G * (B_M @ A_M)).sum()
    return float((event.G * (B @ A - event.B @ event.A)).sum() / worth)


def models() -> list[str]:
    """Models whose layers have been measured."""
    return list(real_layers.read())


def layers(model: str) -> list[str]:
    """Names of the measured layers of a model."""
    rows = real_layers.read()[model]["result"]["prices"]
    return list(dict.fromkeys(_name(row) for row in rows))


def price_on_layer(model: str, layer: str) -> Figure:
    """Loss changes of one real layer for every pair of rules and rank, measured and in the model of S7.

    Args:
        model: ``minilm`` or ``smollm2``.
        layer: one of `layers`.
    """
    rows = [row for row in real_layers.read()[model]["result"]["prices"] if _name(row) == layer]
    figure = Figure(figsize=(8.4, 3.6), layout="constrained", dpi=90)
    measured, predicted = figure.subplots(1, 2)
    for axes, of, title in (
        (measured, "even_calibration", "even part of the measured ΔL"),
        (predicted, "kronecker", "ΔL in the model of S7"),
    ):
        x = np.arange(len(rows))
        for shift, who, colour in ((-0.2, "activation", LIMIT), (0.2, "loss", MEASURED)):
            axes.bar(
                x + shift, [row[who][of] for row in rows], 0.4, color=colour, label=f"{who}-aware"
            )
        axes.set_xticks(
            x,
            [f"{row['pair'].replace('/', '/' + chr(10))}\nrank {row['rank']}" for row in rows],
            fontsize=7,
        )
        axes.axhline(0, color=QUIET, linewidth=1)
        axes.set_title(title, fontsize=9)
        axes.set_ylabel("change of the loss (nats)")
        axes.set_xlabel("rules that are compared, and the rank that is left")
    measured.legend(frameon=False, fontsize=8)
    return figure


def _name(row: dict[str, Any]) -> str:
    return f"{row['depth']} {row['kind']}"


def _bars(names: list[str], values: list[float], title: str, unit: str) -> Figure:
    figure = Figure(figsize=(6.4, 2.4), layout="constrained", dpi=90)
    axes = figure.subplots()
    colours = {"printed bound": LIMIT, "κ(D)": LIMIT, "corrected bound": QUIET}
    axes.barh(
        names[::-1], values[::-1], color=[colours.get(name, MEASURED) for name in names[::-1]]
    )
    axes.set_xlabel(unit)
    axes.set_title(title, fontsize=10)
    return figure
