"""Part d: which score predicts the loss?  Removals of components, singly and in blocks, by true forward passes."""

from typing import Any

import torch
from torch import Generator
from tqdm import tqdm

from experiments.real_layers.edits import changed, predictions, reflected, without
from experiments.real_layers.measured_model import Subject
from prunedlora.factors import Factors
from prunedlora.ranks.reduction import Candidate

#: Step of the central differences, as a share of the whole change.
STEP = 0.25


def removals(subject: Subject) -> list[dict[str, Any]]:
    """Predicted and true loss of random single components and of random halves, masked only and with recovery."""
    generator = Generator().manual_seed(subject.settings.seed)
    rows = []
    for place, candidate in tqdm(subject.layers, desc="removals"):
        r = candidate.factors.rank
        counts = [1] * subject.settings.removals + [r // 2] * subject.settings.removals
        for number, count in enumerate(counts):
            removed = torch.randperm(r, generator=generator)[:count]
            for recover in (False, True):
                row = {"depth": place.depth, "kind": place.kind, "count": count, "recover": recover}
                whole = count > 1 and number == subject.settings.removals
                rows.append(
                    row
                    | removal(
                        subject, place.depth, candidate, removed, recover=recover, taylor=whole
                    )
                )
    return rows


def removal(
    subject: Subject,
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
        found: dict[str, Any] = {"true": subject.scorer.increase(depth)}
    with changed(candidate, reflected(candidate.factors, new)):
        back = subject.scorer.increase(depth)
    found["even"] = {name: 0.5 * (back[name] + found["true"][name]) for name in back}
    found["predicted"] = predictions(candidate, new, removed)
    if taylor:
        found["taylor"] = taylor_model(subject, depth, candidate, new)
    return found


def taylor_model(
    subject: Subject, depth: int, candidate: Candidate, new: Factors
) -> dict[str, dict[str, float]]:
    """Second-order Taylor model of each set's loss along the change of BA, by central differences."""
    ahead, behind = (_part_way(subject, depth, candidate, new, t) for t in (STEP, -STEP))
    out = {}
    for name in ahead:
        first = (ahead[name] - behind[name]) / (2 * STEP)
        second = (ahead[name] + behind[name]) / STEP**2
        out[name] = {"first_order": first, "second_order": first + 0.5 * second}
    return out


def _part_way(
    subject: Subject, depth: int, candidate: Candidate, new: Factors, t: float
) -> dict[str, float]:
    """Loss increase at ``BA + t (B'A' - BA)``: B' is zero where A' is, so only B moves."""
    old = candidate.factors
    with changed(candidate, Factors(old.B + t * (new.B - old.B), old.A)):
        return subject.scorer.increase(depth)
