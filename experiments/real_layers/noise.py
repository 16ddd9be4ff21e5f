"""Part e: noise and rounding of the weights, and the module's magnitude: how choices change, and at what cost."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from experiments.real_layers.edits import changed, quadratic_predictions, without
from experiments.real_layers.measured_model import MeasuredModel
from experiments.real_layers.moments import LayerMoments
from prunedlora.criteria import get_criterion
from prunedlora.factors import Factors
from prunedlora.ranks.reduction import Candidate

#: Rules that choose components.
RULES = ("magnitude", "wanda2024", "llmpruner2023", "prunedlora2025", "sparsegpt2023", "kfac")
SIZES = (1e-4, 1e-3, 1e-2, 1e-1)
#: Noise whose cost is measured by forward passes, for one draw, and the rules for which it is.
MEASURED = ("0.1", "int8")
COSTED = ("prunedlora2025", "sparsegpt2023", "kfac")
#: Factors of the module's magnitude, and the noise then, relative to B at magnitude 1.
MAGNITUDES = (0.25, 0.5, 1.0, 2.0, 4.0)
ABSOLUTE = 0.01


def gaussian(W: Tensor, size: float, generator: Generator) -> Tensor:
    """Noise of `size` times the Frobenius norm of `W`."""
    E = torch.randn(W.shape, generator=generator, dtype=W.dtype)
    return E * (size * torch.linalg.matrix_norm(W) / torch.linalg.matrix_norm(E))


def int8(W: Tensor) -> Tensor:
    """Rounded to 8 bits with one scale per row.

    >>> int8(torch.tensor([[127.0, 1.4], [0.0, 0.0]]))
    tensor([[127.,   1.],
            [  0.,   0.]])
    """
    step = W.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(W.dtype).tiny) / 127
    return (W / step).round() * step


def perturbations(
    factors: Factors, draws: int, generator: Generator
) -> Iterator[tuple[str, Factors]]:
    """Every kind of noise: its name, and the noisy factors; rounding is drawn once."""
    for size in SIZES:
        for _ in range(draws):
            B, A = (W + gaussian(W, size, generator) for W in (factors.B, factors.A))
            yield f"{size:g}", Factors(B, A)
    yield "int8", Factors(int8(factors.B), int8(factors.A))
    yield "bf16", Factors(*(W.to(torch.bfloat16).to(W.dtype) for W in (factors.B, factors.A)))


def choice(rule: str, moments: LayerMoments, factors: Factors, count: int) -> Tensor:
    """Components that a rule removes from a layer with these factors, sorted."""
    reduction = get_criterion(rule).reduce(factors, moments.statistics(factors), count)
    return reduction.removed.sort().values


def differing(a: Tensor, b: Tensor) -> float:
    """Share of a choice that is not in the other.

    >>> differing(torch.tensor([0, 1]), torch.tensor([1, 2]))
    0.5
    """
    return 1.0 - torch.isin(a, b).double().mean().item()


def choices_under_noise(measured: MeasuredModel) -> list[dict[str, Any]]:
    """For each layer, rule and noise: the share of the choice that changes, and what the change costs in loss.

    The components chosen from the noisy weights are removed from the true ones, with recovery.  The cost is that of
    the Kronecker model, averaged over draws, and for some also the measured one of the first draw.
    """
    rows = []
    for place, candidate in tqdm(measured.layers, desc="noise"):
        generator = Generator().manual_seed(measured.settings.seed)
        moments = measured.moments[place]
        count = candidate.factors.rank // 2
        noisy = list(perturbations(candidate.factors, measured.settings.draws, generator))
        for rule in RULES:
            clean = choice(rule, moments, candidate.factors, count)
            base = _costs(measured, place.depth, candidate, clean, measure=rule in COSTED)
            for kind in dict(noisy):
                draws = [choice(rule, moments, f, count) for name, f in noisy if name == kind]
                costed = rule in COSTED and kind in MEASURED
                # A choice that noise does not change costs what it did.
                costs = [
                    base
                    if torch.equal(d, clean)
                    else _costs(measured, place.depth, candidate, d, measure=costed and i == 0)
                    for i, d in enumerate(draws)
                ]
                row = {
                    "depth": place.depth,
                    "kind": place.kind,
                    "rule": rule,
                    "noise": kind,
                    "draws": len(draws),
                }
                row["changed"] = sum(differing(d, clean) for d in draws) / len(draws)
                row["predicted"] = base["kronecker"]
                row["predicted_cost"] = (
                    sum(c["kronecker"] for c in costs) / len(costs) - base["kronecker"]
                )
                if costed:
                    row |= {name: base[name] for name in ("calibration", "test")}
                    row |= {
                        f"{name}_cost": costs[0][name] - base[name]
                        for name in ("calibration", "test")
                    }
                rows.append(row)
    return rows


def _costs(
    measured: MeasuredModel, depth: int, candidate: Candidate, removed: Tensor, *, measure: bool
) -> dict[str, float]:
    """What removal costs in the Kronecker model; with `measure`, also in the loss of each set."""
    new = without(candidate, removed, recover=True)
    predicted = quadratic_predictions(candidate.factors, candidate.statistics, new)
    costs = {"kronecker": predicted["kronecker"]}
    if measure:
        with changed(candidate, new):
            costs |= measured.scorer.increase(depth)
    return costs


def magnitudes_under_noise(measured: MeasuredModel) -> list[dict[str, Any]]:
    """Share of each rule's choice that changes when the module is larger or smaller.

    B is multiplied by the magnitude and gets noise of a fixed absolute size, or of a fixed relative one; C, D and the
    gradients of the layer are those of magnitude 1.
    """
    rows = []
    for place, candidate in tqdm(measured.layers, desc="magnitudes"):
        moments = measured.moments[place]
        B, A = candidate.factors.B, candidate.factors.A
        generator = Generator().manual_seed(measured.settings.seed)
        noises = [gaussian(B, ABSOLUTE, generator) for _ in range(measured.settings.draws)]
        for magnitude in MAGNITUDES:
            for rule in RULES:
                clean = choice(rule, moments, Factors(magnitude * B, A), B.shape[1] // 2)
                row = {
                    "depth": place.depth,
                    "kind": place.kind,
                    "rule": rule,
                    "magnitude": magnitude,
                }
                for kind, factor in (("absolute", 1.0), ("relative", magnitude)):
                    noisy = [Factors(magnitude * B + factor * E, A) for E in noises]
                    shares = [differing(choice(rule, moments, f, len(clean)), clean) for f in noisy]
                    row[kind] = sum(shares) / len(shares)
                rows.append(row)
    return rows
