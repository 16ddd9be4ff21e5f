"""An adapter in memory, reduced to a lower rank by any criterion."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.peft import configured_model, describe_adapter
from prunedlora.adapters.surgery import hold_at_zero, no_component, shrink, write_factors
from prunedlora.choices import Budget, Scope, checked
from prunedlora.criteria import Criterion, check_options, get_criterion
from prunedlora.errors import ConfigurationError
from prunedlora.ranks.budget import settled_scope
from prunedlora.ranks.reduction import Candidate, allocate_ranks, reduce_all
from prunedlora.statistics.data import Statistics
from prunedlora.statistics.measurement import measure_statistics

Batch = TypeVar("Batch")


@torch.inference_mode(False)  # or what is made here could never be trained, nor measured
def reduce_adapter(
    model: nn.Module,
    rank: int,
    criterion: str = "svd",
    statistics: Mapping[str, Statistics] | None = None,
    *,
    batches: Iterable[Batch] | None = None,
    loss: Callable[[Batch], Tensor] | None = None,
    fisher: Callable[[Batch, torch.Generator], Tensor] | None = None,
    options: Mapping[str, Any] | None = None,
    scope: Scope | None = None,
    budget: Budget = "rank",
    min_rank: int = 1,
    round_to: int = 1,
    adapter: str = "default",
    seed: int = 0,
) -> dict[str, int]:
    """Lower the rank of every module of a trained adapter in memory, by any criterion; the scaling does not change.

    For an adapter whose training is over: the parameters are replaced, no optimiser follows.  A module of no more
    than `rank` components keeps them.

    Args:
        model: with the adapter.
        rank: of every module; with the scope ``"global"`` their mean.
        criterion: name of the rule, see :func:`prunedlora.available_criteria`.
        statistics: what the criterion needs of each module, by its name in the model, as
            :func:`prunedlora.measure_statistics` gives it; measured here from `batches` if not given.
        batches: data to measure them on; not used by a criterion that needs none.
        loss: of a batch, see :func:`prunedlora.measure_statistics`.
        fisher: of a batch, see there.
        options: options of the criterion, e.g. ``{"damping": 0.1}``.
        scope: ``"module"``, or ``"global"`` for one budget over all modules; by default as the criterion's name
            implies, else per module.
        budget: what a global budget counts, ``"rank"`` or ``"parameters"``.
        min_rank: smallest rank of a module with the scope ``"global"``.
        round_to: with the scope ``"global"``, ranks are multiples of it.
        adapter: name of the adapter.
        seed: of random numbers.

    Returns:
        The rank of each module afterwards, by its name in the model.

    Raises:
        UnsupportedAdapterError: see :func:`prunedlora.find_lora_modules`.
        ConfigurationError: a rank out of range, an unknown criterion or option, or statistics that are missing.
        NonFiniteError, SingularCurvatureError: numbers that decide nothing; the message names the module.
        Whatever is raised, the adapter has not been changed.

    >>> import peft
    >>> _ = torch.manual_seed(0)
    >>> settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights=False)
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(8, 8)), settings)
    >>> batches = [torch.randn(16, 8)]
    >>> reduce_adapter(model, 2, "wanda2024", batches=batches, fisher=lambda x, _: model(x).sum())
    {'base_model.model.0': 2}
    >>> [(module.rank, module.scaling) for module in find_lora_modules(model)]
    [(2, 2.0)]
    """
    # Everything that can be refused is refused before anything is measured or changed.
    rule = get_criterion(criterion)
    check_options(rule, options or {})
    scope = settled_scope(rule, checked("scope", scope, Scope | None))
    checked("budget", budget, Budget)
    modules = find_lora_modules(model, adapter)
    configured_model(model, adapter)
    rank = _checked_rank(rank, max(module.rank for module in modules))
    if checked("min_rank", min_rank, int) < 1 or checked("round_to", round_to, int) < 1:
        raise ConfigurationError("min_rank and round_to must be at least 1")
    if statistics is None:
        statistics = _measured(model, modules, rule, batches, loss, fisher, adapter, seed)
    _check_complete(statistics, modules, rule)

    # A module whose product is zero has no component to choose, and no criterion can score it.
    empty = [module for module in modules if not (module.B.any() and module.A.any())]
    candidates = [Candidate.of(m, statistics[m.name]) for m in modules if m not in empty]
    ranks = {module.name: min(rank, module.rank) for module in modules}
    if scope == "global" and candidates:
        ranks |= allocate_ranks(
            rule,
            options or {},
            candidates,
            ranks,
            budget=budget,
            min_rank=min_rank,
            round_to=round_to,
        )
    reductions = reduce_all(rule, options or {}, candidates, ranks)

    # Only now is the model changed.
    for candidate, reduction in reductions:
        new = reduction.factors
        write_factors(candidate.module, candidate.live, new.B, new.A)
        removed = no_component(candidate.module)
        removed[reduction.removed] = True
        shrink(candidate.module, removed)
    for module in empty:
        removed = no_component(module)
        removed[ranks[module.name] :] = True
        hold_at_zero(module, removed)
        shrink(module, removed)
    describe_adapter(model, modules)
    return {module.name: module.rank for module in modules}


def _checked_rank(rank: int, largest: int) -> int:
    rank = checked("rank", rank, int)
    if not 1 <= rank <= largest:
        raise ConfigurationError(
            f"rank must be between 1 and {largest}, the largest rank of the adapter, not {rank}"
        )
    return rank


def _measured(
    model: nn.Module,
    modules: list[LoraModule],
    rule: Criterion,
    batches: Iterable[Batch] | None,
    loss: Callable[[Batch], Tensor] | None,
    fisher: Callable[[Batch, torch.Generator], Tensor] | None,
    adapter: str,
    seed: int,
) -> dict[str, Statistics]:
    """The statistics that the criterion needs: none, random numbers, or measurements of the batches."""
    if not rule.needs:
        return {module.name: Statistics() for module in modules}
    if rule.needs == ("noise",):
        generator = torch.Generator().manual_seed(seed)
        return {
            module.name: Statistics(
                noise=torch.rand(module.rank, generator=generator).to(module.A.device)
            )
            for module in modules
        }
    if batches is None:
        raise ConfigurationError(
            f"{rule.name} needs {', '.join(rule.needs)}: pass batches=, or statistics= from "
            "prunedlora.measure_statistics; 'svd' needs no data"
        )
    return measure_statistics(
        model, rule.needs, batches, loss=loss, fisher=fisher, adapter=adapter, seed=seed
    )


def _check_complete(
    statistics: Mapping[str, Statistics], modules: list[LoraModule], rule: Criterion
) -> None:
    """Refuse statistics that lack a module or something that the criterion needs of one, or do not fit its rank."""
    for module in modules:
        if module.name not in statistics:
            raise ConfigurationError(
                f"there are no statistics of {module.name}; measure them on this model, for this adapter"
            )
        for need in rule.needs:
            value = statistics[module.name].require(need)
            expected = _shape(need, module, statistics[module.name])
            if tuple(value.shape[-len(expected) :]) != expected:
                raise ConfigurationError(
                    f"the statistic {need} of {module.name} has the shape {tuple(value.shape)}, which does not fit "
                    f"rank {module.rank}; measure it on the adapter as it is now"
                )


def _shape(need: str, module: LoraModule, statistics: Statistics) -> tuple[int, ...]:
    """Of a statistic of a module, without the samples that may come first."""
    if need.startswith(("gradient", "sensitivity", "uncertainty")):
        return tuple((module.A if need.endswith("_A") else module.B).shape)
    if need == "core_gradients" and statistics.core_rows is not None:
        c = statistics.core_rows.shape[-2]
        return (
            (c, c) if statistics.core_rows.shape[-1] == module.rank else (module.rank, module.rank)
        )
    return (module.rank,) if need == "noise" else (module.rank, module.rank)
