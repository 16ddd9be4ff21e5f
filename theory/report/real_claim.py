"""What survives of the paper's claim on real layers: a few lines for each model, from the measured numbers."""

from typing import Any

from theory.report.real_text import NAMES, between, short

INTRO = """## On real layers

Trained adapters, real text; one adapter and one seed per model, so that intervals are over layers, not over trainings.
All tables: [real_layers.md](real_layers.md).
"""


def section(records: dict[str, dict[str, Any]]) -> str:
    """The section of the claim page; empty without records."""
    return (
        "\n".join([INTRO, *(_of_model(name, record) for name, record in records.items())])
        if records
        else ""
    )


def _of_model(name: str, record: dict[str, Any]) -> str:
    s = record["summary"]
    lines = [*_bounds(s), *_price(s), *_scores(s), *_noise(s)]
    return "\n".join([f"**{NAMES.get(name, name)}**\n", *(f"- {line}" for line in lines), ""])


def _bounds(s: dict[str, Any]) -> list[str]:
    a = s["attention"]
    return [
        f"Over {a['heads']:,} heads, sentences and prunings the printed activation bound is exceeded "
        f"{a['printed_violated']} times, the corrected one {a['corrected_violated']} times. ‖P‖₂ reaches "
        f"{short(a['norm_P_max'])}, where the printed proof needs 1, but both bounds are loose: median error / bound "
        f"{short(a['error_over_printed'])} and {short(a['error_over_corrected'])}."
    ]


def _price(s: dict[str, Any]) -> list[str]:
    k, rows = s["spectra"], s["prices"]
    orders = [row["first_order_over_fisher"] for row in rows]
    out = [
        f"κ(D) is {short(k['kappa'][1])} to {short(k['kappa'][2])}: S7 allows a large price. The choices differ by far "
        f"less: for one component the model says {short(k['S7_price_of_one'][0])} in the median over layers"
        + (
            f", where S15 would expect {short(k['S15_price_of_one'][0])} of costs and curvature that are independent."
            if "S15_price_of_one" in k
            else "."
        ),
        f"The loss change of a layer is {short(min(orders))} to {short(max(orders))} times as large in its first-order "
        "term as in the Fisher term (medians over layers), and these pairs of rules leave that term out.",
    ]
    for row in rows:
        low, high = row["even_test_interval"]
        blind, aware = row["pair"].split("/")
        word = (
            "more than" if low > 1 else "less than" if 0 < high < 1 else "not distinguishably from"
        )
        out.append(
            f"Second-order loss at rank {row['rank']}: `{blind}` costs {word} `{aware}`, "
            f"{short(row['even_test_ratio'])} times as much on test ({between(row['even_test_interval'])}; predicted "
            f"{short(row['predicted_ratio'])}). "
            f"Whole loss, difference: {short(row['test_difference'])} ({between(row['test_interval'])})."
        )
    return out


def _scores(s: dict[str, Any]) -> list[str]:
    halves = {
        r["prediction"]: r
        for r in s["removals"]["correlations"]
        if not r["single"] and not r["recover"]
    }
    chosen = (
        "core_fisher",
        "kronecker",
        "prunedlora2025",
        "llmpruner2023",
        "energy",
        "wanda2024",
        "magnitude",
    )
    out = []
    for of, what in (
        ("even_test", "second-order part of the test loss"),
        ("true_test", "whole test loss"),
    ):
        ranked = ", ".join(
            f"`{n}` {halves[n][of]:.2f} ({between(halves[n][f'{of}_interval'])})" for n in chosen
        )
        out.append(
            f"Rank correlation with the {what} when half of the components are masked: {ranked}."
        )
    first = halves["first_order"]
    out.append(
        f"The first-order term of the calibration examples has rank correlation {first['true_calibration']:.2f} with "
        f"their own loss changes and {first['true_test']:.2f} with those of test examples: unless the two agree it is "
        "the sample's, not the task's."
    )
    return out


def _noise(s: dict[str, Any]) -> list[str]:
    rules = ("prunedlora2025", "sparsegpt2023", "kfac")
    moved = {(r["rule"], r["noise"]): r["changed"] for r in s["noise"]}
    shares = ", ".join(
        f"`{rule}` {moved[rule, '0.01']:.3f} and {moved[rule, '0.1']:.3f}" for rule in rules
    )
    ends = {rule: [r["absolute"] for r in s["magnitudes"] if r["rule"] == rule] for rule in rules}
    sizes = [r["magnitude"] for r in s["magnitudes"]]
    steadier = all(x[0] > x[-1] for x in ends.values())
    path = ", ".join(f"`{rule}` {x[0]:.3f} → {x[-1]:.3f}" for rule, x in ends.items())
    return [
        f"Relative noise of 1 % and 10 % on the weights changes this share of the choice: {shares}.",
        f"Module ×{sizes[0]:g} to ×{sizes[-1]:g}, noise of fixed size: {path}. "
        + (
            "Every rule is steadier where the module is large, the activation-based one too: that part of the paper's "
            "claim is no property of gradients."
            if steadier
            else "Not every rule is steadier where the module is large."
        ),
    ]
