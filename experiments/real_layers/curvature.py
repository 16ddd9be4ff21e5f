"""C, D and κ(D) of every layer, what S7 and S10 say of it, and the measured price of ignoring the loss."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from experiments.real_layers.edits import changed, quadratic_predictions, reflected
from experiments.real_layers.measured_model import MeasuredModel
from experiments.real_layers.moments import LayerMoments
from prunedlora.criteria import get_criterion
from prunedlora.criteria.sparsegpt2023 import DAMPING
from prunedlora.factors import Factors
from prunedlora.linalg.curvature import damped
from prunedlora.ranks.reduction import Candidate
from theory.checking.instances import all_masks
from theory.checking.numerics import condition, condition_on_range, frobenius, gram
from theory.statements import s10_weight_perturbation as weight_perturbation
from theory.statements import s15_average_gain as average_gain
from theory.statements.s07_price_of_ignoring_the_loss import (
    Layer,
    costs_and_losses,
    kappa,
    losses_of_choices,
)

#: Pairs of rules that differ in the use of the loss only: components with recovery, and truncations.
PAIRS = (("sparsegpt2023", "kfac"), ("svd_activation", "svd_kfac"))


def spectra(measured: MeasuredModel) -> list[dict[str, Any]]:
    """Part b: condition and effective rank of C and D for every layer, S7's prediction and S10's bound there."""
    generator = Generator().manual_seed(measured.settings.seed)
    rows = []
    for place, candidate in tqdm(measured.layers, desc="spectra"):
        moments = measured.moments[place]
        d_out, rank = candidate.factors.B.shape
        row = {"depth": place.depth, "kind": place.kind, "d_out": d_out, "rank": rank}
        row["norm"] = candidate.module.scaling * frobenius(core_of(candidate)).item()
        row |= conditions(moments, candidate.factors)
        row |= single_removals(moments, candidate, generator)
        rows.append(row)
    return rows


def conditions(moments: LayerMoments, factors: Factors) -> dict[str, float]:
    """κ on the range where removal acts, from the dense matrices and from r × r moments; with the rules' damping."""
    B = factors.B.double()
    statistics = moments.statistics(factors)
    # R⁻¹ U R⁻ᵀ has the eigenvalues of s² D on the range of B.
    R = torch.linalg.cholesky(B.mT @ B)
    half = torch.linalg.solve_triangular(R, statistics.U, upper=False)
    on_range = torch.linalg.solve_triangular(R, half.mT, upper=False)
    level = on_range.diagonal().mean() * torch.eye(len(R), dtype=R.dtype)
    eigenvalues = torch.linalg.eigvalsh(on_range).clamp(min=0)
    C_z = statistics.require("C_z")
    return {
        "kappa": condition_on_range(moments.D, B).item(),
        "kappa_from_core": condition(on_range).item(),
        "kappa_damped": condition(on_range + DAMPING * level).item(),
        "effective_rank_D": (eigenvalues.sum() ** 2 / eigenvalues.square().sum()).item(),
        "condition_C_z": condition(C_z).item(),
        "condition_C_z_damped": condition(damped(C_z, DAMPING)).item(),
        "effective_rank_C_z": (C_z.trace() ** 2 / C_z.square().sum()).item(),
    }


def as_layer(moments: LayerMoments, factors: Factors) -> Layer:
    """The layer as an instance of S7: B in the coordinates of its own range, single components to remove."""
    Q, R = torch.linalg.qr(factors.B.double())
    C = damped(moments.statistics(factors).require("C_z"), DAMPING)
    return Layer(
        W=R.unsqueeze(0),
        factor_C=torch.linalg.cholesky(C).mT.unsqueeze(0),
        factor_D=moments.scaling * _root(Q.mT @ moments.D @ Q).unsqueeze(0),
        masks=all_masks(factors.rank, 1).unsqueeze(0),
        recover=torch.ones(1, dtype=torch.bool),
    )


def single_removals(
    moments: LayerMoments, candidate: Candidate, generator: Generator
) -> dict[str, Any]:
    """What S7's model says of the removal of one component, S15 on average, and S10.pair under noise of 1 % on B."""
    layer = as_layer(moments, candidate.factors)
    chosen, best = losses_of_choices(layer)
    costs, losses = costs_and_losses(layer)
    expected = average_gain.Components(costs, 2 * losses / costs)
    E = torch.randn(layer.W.shape, generator=generator, dtype=torch.float64)
    E *= 0.01 * frobenius(layer.W) / frobenius(E)
    noisy = weight_perturbation.check_pair(weight_perturbation.Perturbed(**vars(layer), E=E))
    return {
        "S7_price_of_one": (chosen / best).item(),
        "S7_bound": kappa(layer).item(),
        "S15_price_of_one": (
            average_gain.by_activations(expected) / average_gain.loss_aware(expected)
        ).item(),
        "S10_ratio": noisy.ratio.item(),
        "S10_violated": bool(noisy.violated),
    }


def prices(measured: MeasuredModel) -> list[dict[str, Any]]:
    """Part c: loss of the choice by activations and of the loss-aware one, one layer pruned at a time."""
    jobs = [
        (p, c, rank, pair)
        for p, c in measured.layers
        for rank in measured.settings.ranks
        for pair in PAIRS
    ]
    rows = []
    for place, candidate, rank, pair in tqdm(jobs, desc="prices"):
        row = {"depth": place.depth, "kind": place.kind, "rank": rank, "pair": "/".join(pair)}
        row["norm"] = candidate.module.scaling * frobenius(core_of(candidate)).item()
        rows.append(row | contest(measured, place.depth, [candidate], rank, pair))
    return rows


def joint_prices(measured: MeasuredModel) -> list[dict[str, Any]]:
    """The same with all layers of the adapter reduced at once."""
    jobs = [(rank, pair) for rank in measured.settings.joint_ranks for pair in PAIRS]
    return [
        {"rank": rank, "pair": "/".join(pair)}
        | contest(measured, 0, measured.everything, rank, pair)
        for rank, pair in tqdm(jobs, desc="joint prices")
    ]


def contest(
    measured: MeasuredModel,
    depth: int,
    candidates: list[Candidate],
    rank: int,
    pair: tuple[str, str],
) -> dict[str, Any]:
    """What both rules of a pair predict and lose, and the difference of their losses with its standard error.

    The ``even`` part of the loss change, the mean over a change and its reflection, has no first-order term: it is
    what S7 is about, also where the gradient is not zero.
    """
    row: dict[str, Any] = {}
    lost = {}
    for label, rule in zip(("activation", "loss"), pair, strict=True):
        # What the rule does to each layer, and what the models of the loss say of it.
        new = [
            get_criterion(rule).reduce(c.factors, c.statistics, c.factors.rank - rank).factors
            for c in candidates
        ]
        predicted = [
            quadratic_predictions(c.factors, c.statistics, f)
            for c, f in zip(candidates, new, strict=True)
        ]
        models = ("kronecker", "core_fisher", "first_order")
        row[label] = {model: sum(p[model] for p in predicted) for model in models}
        # What the loss does; for a single layer also on the other side, where a reflection is possible.
        lost[label] = increases(measured, depth, candidates, new)
        row[label] |= {name: x.mean().item() for name, x in lost[label].items()}
        if len(candidates) == 1:
            other_side = [reflected(candidates[0].factors, new[0])]
            back = increases(measured, depth, candidates, other_side)
            for name, x in back.items():
                row[label][f"even_{name}"] = 0.5 * (x + lost[label][name]).mean().item()
    for name in lost["loss"]:
        difference = lost["activation"][name] - lost["loss"][name]
        row[f"{name}_difference"] = difference.mean().item()
        row[f"{name}_standard_error"] = (difference.std() / len(difference) ** 0.5).item()
    return row


def increases(
    measured: MeasuredModel, depth: int, candidates: list[Candidate], new: list[Factors]
) -> dict[str, Tensor]:
    """Loss increases, example by example, with several layers changed."""
    with ExitStack() as stack:
        for candidate, factors in zip(candidates, new, strict=True):
            stack.enter_context(changed(candidate, factors))
        return measured.scorer.increases(depth)


def core_of(candidate: Candidate) -> Tensor:
    """A small matrix with the singular values of BA."""
    B, A = candidate.factors.B.double(), candidate.factors.A.double()
    return torch.linalg.qr(B).R @ torch.linalg.qr(A.mT).R.mT


def _root(M: Tensor) -> Tensor:
    """F with F^T F = M, for a positive semi-definite M."""
    values, vectors = torch.linalg.eigh(M)
    root = values.clamp(min=0).sqrt().unsqueeze(-1) * vectors.mT
    assert torch.allclose(gram(root), M, rtol=1e-6, atol=1e-9 * values[-1].item())
    return root
