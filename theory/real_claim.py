"""What survives of the paper's claim on real layers, from the measured numbers."""

from typing import Any

from theory.real_report import NAMES, between, short


def survives(records: dict[str, dict[str, Any]]) -> str:
    """What the paper's claim comes to on real layers, model by model; follows the numbers."""
    return "".join(_survives(name, record["summary"]) for name, record in records.items())


def _survives(name: str, summary: dict[str, Any]) -> str:
    out = [f"\n**{NAMES.get(name, name)}.**"]
    for row in summary.get("joint_prices", []):
        middle, low, high = row["test_difference"]
        word = "less than" if low > 0 else "more than" if high < 0 else "not distinguishably from"
        if word != "not distinguishably from":
            aware, blind = reversed(row["pair"].split("/"))
            out.append(f"At rank {row['rank']}, `{aware}` loses {word} `{blind}`, by {short(abs(middle))}.")
    undecided = [
        f"{row['pair']} at {row['rank']}"
        for row in summary.get("joint_prices", [])
        if row["test_difference"][1] <= 0 <= row["test_difference"][2]
    ]
    if undecided:
        out.append(f"Not distinguishable on test examples: {'; '.join(undecided)}.")
    if "removals" in summary:
        halves = [r for r in summary["removals"]["correlations"] if not r["single"] and not r["recover"]]
        for of, what in (("true", "true test loss"), ("even", "the even part of it")):
            ranked = sorted(halves, key=lambda r: -r[f"{of}_test"])
            best, worst = ranked[0], ranked[-1]
            out.append(
                f"The score that orders masked halves best by {what} is `{best['prediction']}` "
                f"({best[f'{of}_test']:.2f}), the worst `{worst['prediction']}` ({worst[f'{of}_test']:.2f})."
            )
    for row in summary.get("prices", []):
        low, high = row["even_test_interval"]
        word = "more than" if low > 1 else "less than" if high < 1 else "not distinguishably from"
        blind, aware = row["pair"].split("/")
        out.append(
            f"Second-order loss of one layer at rank {row['rank']}: `{blind}` costs {word} `{aware}`, "
            f"{short(row['even_test_ratio'])} times as much on test ({between(row['even_test_interval'])}; predicted "
            f"{short(row['predicted_ratio'])})."
        )
    if "magnitudes" in summary:
        rules = ("prunedlora2025", "sparsegpt2023", "kfac")
        ends = {rule: [row["absolute"] for row in summary["magnitudes"] if row["rule"] == rule] for rule in rules}
        shares = ", ".join(f"`{rule}` {short(x[0])} → {short(x[-1])}" for rule, x in ends.items())
        sizes = [row["magnitude"] for row in summary["magnitudes"]]
        out.append(
            f"From magnitude ×{sizes[0]:g} to ×{sizes[-1]:g} under fixed noise the share of the choice that changes "
            f"goes {shares}: every rule is steadier where the module is large, not the gradient-based one alone."
            if all(x[0] > x[-1] for x in ends.values())
            else f"From magnitude ×{sizes[0]:g} to ×{sizes[-1]:g} under fixed noise the share of the choice that "
            f"changes goes {shares}."
        )
    return " ".join(out) + "\n"
