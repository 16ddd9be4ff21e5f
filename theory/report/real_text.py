"""What was measured on real layers, in words: a section of the report."""

from collections.abc import Callable
from typing import Any

SETS = ("calibration", "test")
NAMES = {"smollm2": "SmolLM2-135M-Instruct (Llama)", "minilm": "all-MiniLM-L6-v2 (BERT)"}


def short(value: float) -> str:
    """Three significant digits.

    >>> short(0.0123456), short(1.5e-7), short(12345.6)
    ('0.0123', '1.5e-07', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def between(interval: list[float]) -> str:
    """An interval in words.

    >>> between([-0.5, 1.25])
    '-0.5 to 1.25'
    """
    return f"{short(interval[0])} to {short(interval[1])}"


def section(records: dict[str, dict[str, Any]]) -> str:
    """What was measured, in Markdown, with all tables; empty without records."""
    if not records:
        return ""
    intro = (
        "## Measured on real layers\n\nTrained adapters, real text, one layer changed at a time unless said otherwise; "
        "loss changes by true forward passes. Rows, settings and environment: `real_layers_*.json`, written by `python "
        "-m experiments.real_layers`. One adapter and one seed per model: intervals are over layers or examples, not "
        "over trainings.\n"
    )
    return "\n".join([intro, *(of_model(name, record) for name, record in records.items())])


def of_model(name: str, record: dict[str, Any]) -> str:
    """Everything about one model."""
    summary, settings = record["summary"], record["settings"]
    loss = record["result"]["loss"]["unpruned"]
    head = (
        f"### {NAMES.get(name, name)}\n\nRank-{settings['run']['initial_rank']} adapter on all linear layers, task "
        f"`{settings['run']['task']}`, {settings['calibration']} calibration and as many test examples; loss before "
        f"pruning {short(loss['calibration'])} and {short(loss['test'])}; rounding of float32 moves it by up to "
        f"{short(record['result']['loss']['rounding'])}.\n"
    )
    parts: dict[str, Callable[[Any], str]] = {
        "attention": of_attention,
        "spectra": of_spectra,
        "prices": of_prices,
        "joint_prices": of_joint,
        "removals": of_removals,
        "noise": of_noise,
        "magnitudes": of_magnitudes,
    }
    lines = [reader(summary[part]) for part, reader in parts.items() if part in summary]
    lines += [of_scaled(one) for one in summary.get("scaled", [])]
    return "\n".join([head, *lines, ""])


def of_attention(s: dict[str, Any]) -> str:
    """Part a."""
    return (
        f"- **Activation bounds** ({s['heads']:,} heads × sentences × prunings): the printed one is exceeded "
        f"{s['printed_violated']} times, the corrected one {s['corrected_violated']} times. The step of the printed "
        f"proof that is wrong is wrong here too: ‖P‖₂ has median {short(s['norm_P'])}, largest "
        f"{short(s['norm_P_max'])} at {s['tokens']} tokens, and where only values are pruned the output error reaches "
        f"{short(s['error_over_epsilon_max']['v'])} ε. Median error / bound {short(s['error_over_printed'])} for the "
        f"printed one (with Frobenius norms), {short(s['error_over_corrected'])} for the corrected one, which is the "
        f"smaller of the two in {100 * s['corrected_below_printed']:.0f} % of heads; largest "
        f"{short(s['error_over_printed_max'])} and {short(s['error_over_corrected_max'])}."
    )


def of_spectra(s: dict[str, Any]) -> str:
    """Part b."""
    low, high = (short(x) for x in s["kappa"][1:])
    return (
        f"- **κ(D)** over {s['layers']} layers: median {short(s['kappa'][0])}, {low} to {high}; with the rules' "
        f"damping median {short(s['kappa_damped'][0])}; effective rank of D on the range of B "
        f"{short(s['effective_rank_D'][0])} in the median. So S7 allows a high price. For the removal of one component "
        f"the model says {short(s['S7_price_of_one'][0])} in the median and {short(s['S7_price_of_one'][2])} at most: "
        f"far from κ. S15 would expect {short(s['S15_price_of_one'][0])} in the median and "
        f"{short(s['S15_price_of_one'][2])} at most, were a layer's costs and its d independent of each other. "
        f"S10's bound, under noise of 1 % on B: {s['S10_violated']} violations."
    )


def of_prices(rows: list[dict[str, Any]]) -> str:
    """Part c, layer by layer."""
    lines = [
        "- **Price of ignoring the loss**, sums over layers pruned one at a time: ΔL of the activation choice against "
        "that of the loss-aware one.",
        "",
        "  | rules | rank | ratio predicted (largest layer) | even parts, calibration | even parts, test "
        "| better in (calibration, test) | whole ΔL, difference on test | first order / Fisher |",
        "  |---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row["pair"],
            row["rank"],
            f"{short(row['predicted_ratio'])} ({short(row['predicted_ratio_max'])})",
            *(even_parts(row, n) for n in SETS),
            f"{row['even_calibration_better']}, {row['even_test_better']} of {row['layers'] - row['same_choice']}",
            f"{short(row['test_difference'])} ({between(row['test_interval'])})",
            short(row["first_order_over_fisher"]),
        ]
        lines.append("  | " + " | ".join(map(str, cells)) + " |")
    ratio = [row["first_order_over_fisher"] for row in rows]
    lines += [
        "",
        f"  The term <∂L/∂S, X> is {short(min(ratio))} to {short(max(ratio))} times the Fisher term in size; where "
        "it is larger, S7's assumption of a stationary point fails and the loss change is mostly first order. "
        "The even part, the mean over a change and its reflection, has no first-order term: it is what S7 speaks of. "
        "Intervals are over layers.",
        "",
    ]
    return "\n".join(lines)


def even_parts(row: dict[str, Any], of: str) -> str:
    """Sums of the even parts over layers, and their ratio unless the sign of a sum is open."""
    sums = " / ".join(short(row[who][f"even_{of}"]) for who in ("activation", "loss"))
    interval = row[f"even_{of}_interval"]
    return (
        f"{sums} = {short(row[f'even_{of}_ratio'])} ({between(interval)})"
        if interval[0] > 0
        else f"{sums}, sign open"
    )


def of_joint(rows: list[dict[str, Any]]) -> str:
    """Part c, all layers at once."""
    lines = [
        "- **All layers reduced at once**, ΔL of the activation choice / of the loss-aware one:",
        "",
        "  | rules | rank | predicted ratio | calibration | test | Δ(ΔL) on test |",
        "  |---|---|---|---|---|---|",
    ]
    for row in rows:
        both = [
            f"{short(row[n]['activation'])} / {short(row[n]['loss'])}"
            for n in ("calibration", "test")
        ]
        middle, *interval = row["test_difference"]
        cells = [
            row["pair"],
            row["rank"],
            short(row["predicted_ratio"]),
            *both,
            f"{short(middle)} ({between(interval)})",
        ]
        lines.append("  | " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", "  Intervals are over test examples.", ""])


def of_removals(s: dict[str, Any]) -> str:
    """Part d."""
    lines = [
        "- **Which score predicts the loss?** Spearman correlation with the true change on test examples:",
        "",
    ]
    for of, what in (("true", "the whole change"), ("even", "its even part")):
        for single, recover in ((True, False), (False, False), (False, True)):
            chosen = [
                r for r in s["correlations"] if (r["single"], r["recover"]) == (single, recover)
            ]
            chosen.sort(key=lambda r, of=of: -r[f"{of}_test"])  # type: ignore[misc]
            kind = ("single components" if single else "random halves") + (
                ", B recovers" if recover else ", masked"
            )
            ranked = "; ".join(
                f"{r['prediction']} {r[f'{of}_test']:.2f} ({between(r[f'{of}_test_interval'])})"
                for r in chosen
            )
            lines.append(f"  - {what}, {kind}: {ranked}.")
    for row in s["taylor"]:
        kind = "with recovery" if row["recover"] else "masked only"
        lines.append(
            f"  - S9's remainder, random halves {kind}, as a share of the loss changes: {short(row['remainder'])} "
            f"after the exact second-order model, {short(row['first_order_remainder'])} after the first-order one, "
            f"{short(row['model_remainder'])} after gradient and Fisher matrix as estimated, "
            f"{short(row['fisher_remainder'])} after the Fisher matrix alone; {row['negative_change']} of "
            f"{row['rows']} removals lower the loss."
        )
    return "\n".join([*lines, ""])


def of_noise(rows: list[dict[str, Any]]) -> str:
    """Part e, noise."""
    kinds = list(dict.fromkeys(row["noise"] for row in rows))
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    by_rule = {(row["rule"], row["noise"]): row for row in rows}
    lines = ["- **Noise on the weights**: mean share of the chosen half that changes:", ""]
    lines += ["  | rule | " + " | ".join(kinds) + " |", "  |" + "---|" * (len(kinds) + 1)]
    for rule in rules:
        lines.append(
            f"  | {rule} | "
            + " | ".join(f"{by_rule[rule, k]['changed']:.3f}" for k in kinds)
            + " |"
        )
    costed = [row for row in rows if "test_cost" in row]
    costs = "; ".join(
        f"{row['rule']} at {row['noise']}: {short(row['test_cost'])} ({between(row['test_interval'])})"
        for row in costed
    )
    return "\n".join(
        [*lines, "", f"  What the change costs in test loss, summed over layers: {costs}.", ""]
    )


def of_magnitudes(rows: list[dict[str, Any]]) -> str:
    """Part e, magnitude of the module."""
    sizes = list(dict.fromkeys(row["magnitude"] for row in rows))
    by_rule = {(row["rule"], row["magnitude"]): row for row in rows}
    lines = [
        "- **The module's magnitude**, noise of fixed absolute size on B: mean share of the choice that changes:",
        "",
    ]
    lines += ["  | rule | " + " | ".join(f"×{m:g}" for m in sizes) + " | relative noise |"]
    lines += ["  |" + "---|" * (len(sizes) + 2)]
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells = [f"{by_rule[rule, m]['absolute']:.3f}" for m in sizes]
        relative = sorted({f"{by_rule[rule, m]['relative']:.3f}" for m in sizes})
        lines.append(
            f"  | {rule} | "
            + " | ".join(cells)
            + f" | {' – '.join(relative[:: max(1, len(relative) - 1)])} |"
        )
    return "\n".join([*lines, ""])


def of_scaled(one: dict[str, Any]) -> str:
    """Part e, the price when the whole adapter is larger or smaller."""
    cells = "; ".join(
        f"{row['pair']} at rank {row['rank']}: {short(row['test']['activation'])} / {short(row['test']['loss'])} "
        f"(predicted ratio {short(row['predicted_ratio'])})"
        for row in one["joint"]
    )
    return (
        f"- **Adapter ×{one['magnitude']:g}**, statistics measured again (test loss before pruning "
        f"{short(one['unpruned']['test'])}), all layers reduced: ΔL on test, activation choice / loss-aware choice: "
        f"{cells}.\n"
    )
