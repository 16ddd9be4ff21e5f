"""Part d: which score predicts the loss?  Removals of components, singly and in blocks, by true forward passes."""

from typing import Any

import torch
from torch import Generator
from tqdm import tqdm

from experiments.real_layers.edits import changed, predictions, reflected, without
from experiments.real_layers.measured_model import MeasuredModel
from prunedlora.factors import Factors
from prunedlora.ranks.reduction import Candidate

#: Step of the central differences, as a share of the whole change.
STEP = 0.25


def removals(measured: MeasuredModel) -> list[dict[str, Any]]:
    """Predicted and true loss of random single components and of random halves, masked only and with recovery."""
    generator = Generator().manual_seed(measured.settings.seed)
    rows = []
    for place, candidate in tqdm(measured.layers, desc="removals"):
        r = candidate.factors.rank
        counts = [1] * measured.settings.removals + [r // 2] * measured.settings.removals
        for number, count in enumerate(counts):
            removed = torch.randperm(r, generator=generator)[:count]
            for recover in (False, True):
                row = {"depth": place.depth, "kind": place.kind, "count": count, "recover": recover}
                # Two further passes for the Taylor model: of the first block of each layer only.
                taylor = count > 1 and number == measured.settings.removals
                row |= removal(
                    measured, place.depth, candidate, removed, recover=recover, taylor=taylor
                )
                rows.append(row)
    return rows


def removal(
    measured: MeasuredModel,
    depth: int,
    candidate: Candidate,
    removed: torch.Tensor,
    *,
    recover: bool,
    taylor: bool,
) -> dict[str, Any]:
    """One removal: what each rule says, and what the loss does; with `taylor`, also its exact second-order model.

    The ``even`` part of the loss change has no first-order term, see `curvature.contest`.
    """
    new = without(candidate, removed, recover=recover)
    with changed(candidate, new):
        true = measured.scorer.increase(depth)
    with changed(candidate, reflected(candidate.factors, new)):
        back = measured.scorer.increase(depth)
    row: dict[str, Any] = {
        "true": true,
        "even": {name: 0.5 * (back[name] + true[name]) for name in back},
        "predicted": predictions(candidate, new, removed),
    }
    if taylor:
        row["taylor"] = taylor_model(measured, depth, candidate, new)
    return row


def taylor_model(
    measured: MeasuredModel, depth: int, candidate: Candidate, new: Factors
) -> dict[str, dict[str, float]]:
    """Second-order Taylor model of each set's loss along the change of BA, by central differences."""
    ahead, behind = (_part_way(measured, depth, candidate, new, t) for t in (STEP, -STEP))
    out = {}
    for name in ahead:
        first = (ahead[name] - behind[name]) / (2 * STEP)
        second = (ahead[name] + behind[name]) / STEP**2
        out[name] = {"first_order": first, "second_order": first + 0.5 * second}
    return out


def _part_way(
    measured: MeasuredModel, depth: int, candidate: Candidate, new: Factors, t: float
) -> dict[str, float]:
    """Loss increase at ``BA + t (B'A' - BA)``: B' is zero where A' is, so only B moves."""
    old = candidate.factors
    with changed(candidate, Factors(old.B + t * (new.B - old.B), old.A)):
        return measured.scorer.increase(depth)
