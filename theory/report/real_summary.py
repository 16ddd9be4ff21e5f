"""The numbers that the report and the claim page quote, from the rows of a measurement.

``python -m theory.report.real_summary`` computes them again from the committed rows, and rewrites the pages; nothing is
measured.  Intervals are over layers, resampled with all rows of a layer together.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from theory.intervals import interval, rank_correlation, ratio_of_means
from theory.records import to_json, write_atomically
from theory.report import page, real_layers

Rows = list[dict[str, Any]]
SETS = ("calibration", "test")


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """Everything that is quoted; parts that were not measured are left out."""
    readers: dict[str, Callable[[Any], Any]] = {
        "attention": attention,
        "spectra": spectra,
        "prices": prices,
        "joint_prices": joint,
        "removals": removals,
        "noise": noise,
        "magnitudes": magnitudes,
    }
    out = {name: reader(results[name]) for name, reader in readers.items() if name in results}
    scaled = [results[name] for name in results if name.startswith("scaled_prices")]
    out["scaled"] = [
        {
            "magnitude": s["magnitude"],
            "unpruned": s["unpruned"],
            "joint": joint(s["joint"]),
        }
        for s in scaled
    ]
    return out


def attention(rows: Rows) -> dict[str, Any]:
    """Over all heads, blocks, rules and ranks."""
    return {
        "heads": sum(row["heads"] for row in rows),
        "printed_violated": sum(row["printed_violated"] for row in rows),
        "corrected_violated": sum(row["corrected_violated"] for row in rows),
        "error_over_printed": _median(rows, "error_over_printed"),
        "error_over_corrected": _median(rows, "error_over_corrected"),
        "error_over_printed_max": max(row["error_over_printed_max"] for row in rows),
        "error_over_corrected_max": max(row["error_over_corrected_max"] for row in rows),
        "norm_P": _median(rows, "norm_P"),
        "norm_P_max": max(row["norm_P_max"] for row in rows),
        "tokens": rows[0]["tokens"],
        "corrected_below_printed": float(np.mean([row["corrected_below_printed"] for row in rows])),
        "error_over_epsilon_max": {
            what: max(row["error_over_epsilon_max"] for row in rows if row["pruned"] == what)
            for what in ("qkv", "v")
        },
    }


def spectra(rows: Rows) -> dict[str, Any]:
    """Conditions over layers: median, least and largest."""
    names = (
        "kappa",
        "kappa_damped",
        "effective_rank_D",
        "condition_C_z",
        "effective_rank_C_z",
        "S7_price_of_one",
        "S15_price_of_one",
    )
    out: dict[str, Any] = {
        name: [float(f([row[name] for row in rows])) for f in (np.median, np.min, np.max)]
        for name in names
    }
    return out | {"layers": len(rows), "S10_violated": sum(row["S10_violated"] for row in rows)}


def prices(rows: Rows) -> Rows:
    """For each pair of rules and rank: loss increases summed over layers, and in how many the loss-aware is better."""
    out = []
    for (pair, rank), group in _groups(rows, "pair", "rank"):
        # Sums over layers, of what was measured and of what the models predict.
        line: dict[str, Any] = {"pair": pair, "rank": rank, "layers": len(group)}
        for who in ("activation", "loss"):
            line[who] = {name: sum(row[who][name] for row in group) for name in group[0][who]}
        ratios = [row["activation"]["kronecker"] / row["loss"]["kronecker"] for row in group]
        line["predicted_ratio"] = line["activation"]["kronecker"] / line["loss"]["kronecker"]
        line["predicted_ratio_median"] = float(np.median(ratios))
        line["predicted_ratio_max"] = float(np.max(ratios))
        sizes = [abs(row["loss"]["first_order"]) / row["loss"]["core_fisher"] for row in group]
        line["first_order_over_fisher"] = float(np.median(sizes))
        # The even part of the change, layer by layer, and the whole change.
        for name in SETS:
            even = np.array(
                [[row[who][f"even_{name}"] for who in ("activation", "loss")] for row in group]
            )
            line[f"even_{name}_ratio"] = float(even[:, 0].sum() / even[:, 1].sum())
            line[f"even_{name}_interval"] = list(interval(ratio_of_means, even[:, 0], even[:, 1]))
            line[f"even_{name}_better"] = int((even[:, 0] > even[:, 1]).sum())
            line[f"even_{name}_over_kronecker"] = float(
                even[:, 1].sum() / sum(row["loss"]["kronecker"] for row in group)
            )
            line["same_choice"] = int((even[:, 0] == even[:, 1]).sum())
            differences = np.array([row[f"{name}_difference"] for row in group])
            line[f"{name}_difference"] = float(differences.sum())
            line[f"{name}_interval"] = list(interval(np.sum, differences))
            line[f"{name}_better"] = int((differences > 0).sum())
        out.append(line)
    return out


def joint(rows: Rows) -> Rows:
    """All layers reduced at once: the measured ratio, of which a row has the standard error only, and the predicted."""
    out = []
    for row in rows:
        line = {"pair": row["pair"], "rank": row["rank"]}
        line["predicted_ratio"] = row["activation"]["kronecker"] / row["loss"]["kronecker"]
        for name in SETS:
            line[name] = {who: row[who][name] for who in ("activation", "loss")}
            difference = row[f"{name}_difference"]
            error = row[f"{name}_standard_error"]
            line[f"{name}_difference"] = [
                difference,
                difference - 1.96 * error,
                difference + 1.96 * error,
            ]
        out.append(line)
    return out


def removals(rows: Rows) -> dict[str, Any]:
    """Rank correlation of every prediction with the true loss change, with its interval over layers; S9's remainder."""
    correlations = []
    marked = [row | {"single": row["count"] == 1} for row in rows]
    for (single, recover), group in _groups(marked, "single", "recover"):
        for name in group[0]["predicted"]:
            line: dict[str, Any] = {"single": single, "recover": recover, "prediction": name}
            for of in ("true", "even"):
                for target in SETS:
                    middle, ends = correlation(group, name, of, target)
                    line[f"{of}_{target}"] = middle
                    line[f"{of}_{target}_interval"] = ends
            correlations.append(line)
    return {
        "correlations": correlations,
        "taylor": taylor([row for row in rows if "taylor" in row]),
    }


def correlation(rows: Rows, name: str, of: str, target: str) -> tuple[float, list[float]]:
    """Spearman's coefficient over all rows, of which every layer has as many, and its interval over layers."""
    by_layer = [group for _, group in _groups(rows, "depth", "kind")]
    x = np.array([[row["predicted"][name] for row in group] for group in by_layer])
    y = np.array([[row[of][target] for row in group] for group in by_layer])

    def coefficient(layers: np.ndarray, axis: int = -1) -> np.ndarray:
        chosen = np.moveaxis(layers, axis, -1).astype(int)
        shape = (*chosen.shape[:-1], -1)
        return rank_correlation(x[chosen].reshape(shape), y[chosen].reshape(shape))

    everything = np.arange(len(by_layer))
    return float(coefficient(everything)), list(interval(coefficient, everything))


def taylor(rows: Rows) -> Rows:
    """For blocks: what the exact second-order model leaves, and what the Fisher matrix puts in its place."""
    out = []
    for (recover,), group in _groups(rows, "recover"):
        true = np.array([row["true"]["calibration"] for row in group])
        exact = {
            k: np.array([row["taylor"]["calibration"][k] for row in group])
            for k in ("first_order", "second_order")
        }
        ours = {
            k: np.array([row["predicted"][k] for row in group])
            for k in ("first_order", "second_order", "core_fisher")
        }
        scale = np.abs(true).sum()
        curvature = exact["second_order"] - exact["first_order"]
        out.append(
            {
                "recover": recover,
                "rows": len(group),
                "remainder": float(np.abs(true - exact["second_order"]).sum() / scale),
                "first_order_remainder": float(np.abs(true - exact["first_order"]).sum() / scale),
                "model_remainder": float(np.abs(true - ours["second_order"]).sum() / scale),
                "fisher_remainder": float(np.abs(true - ours["core_fisher"]).sum() / scale),
                "fisher_over_curvature": float(np.median(ours["core_fisher"] / curvature)),
                "negative_curvature": int((curvature < 0).sum()),
                "negative_change": int((true < 0).sum()),
            }
        )
    return out


def noise(rows: Rows) -> Rows:
    """By rule and kind of noise: the mean share of the choice that changes, and the cost summed over layers."""
    out = []
    for (rule, kind), group in _groups(rows, "rule", "noise"):
        line: dict[str, Any] = {"rule": rule, "noise": kind, "changed": _mean(group, "changed")}
        line["any_layer_changed"] = float(np.mean([row["changed"] > 0 for row in group]))
        line["predicted"] = sum(row["predicted"] for row in group)
        line["predicted_cost"] = sum(row["predicted_cost"] for row in group)
        for name in SETS:
            if f"{name}_cost" in group[0]:
                line[name] = sum(row[name] for row in group)
                costs = np.array([row[f"{name}_cost"] for row in group])
                line[f"{name}_cost"] = float(costs.sum())
                line[f"{name}_interval"] = list(interval(np.sum, costs))
        out.append(line)
    return out


def magnitudes(rows: Rows) -> Rows:
    """By rule and magnitude: the mean share of the choice that changes."""
    return [
        {
            "rule": rule,
            "magnitude": m,
            "absolute": _mean(group, "absolute"),
            "relative": _mean(group, "relative"),
        }
        for (rule, m), group in _groups(rows, "rule", "magnitude")
    ]


def _groups(rows: Rows, *names: str) -> list[tuple[tuple[Hashable, ...], Rows]]:
    groups: dict[tuple[Hashable, ...], Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return list(groups.items())


def _median(rows: Rows, name: str) -> float:
    return float(np.median([row[name] for row in rows]))


def _mean(rows: Rows, name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def refresh() -> None:
    """Summarise the committed rows of every model again, and rewrite the pages that quote them."""
    for model, record in real_layers.read().items():
        record["summary"] = summarise(record["result"])
        write_atomically(real_layers.file(model), to_json(real_layers.rounded(record)))
    page.write(real_layers.RESULTS)


if __name__ == "__main__":
    refresh()
