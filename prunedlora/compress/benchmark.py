"""How long truncation takes through the factors, and through PEFT's dense decomposition."""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.peft import name_in_base
from prunedlora.errors import ConfigurationError
from prunedlora.factors import squared_distance
from prunedlora.linalg.truncation import truncate
from prunedlora.optional import require

Outcome = TypeVar("Outcome")
Result = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Comparison:
    """Both methods on one adapter.

    Attributes:
        modules: adapted modules.
        rank: before.
        target_rank: after.
        seconds: processor time through the factors, median; that of all threads, so that a busy
            machine counts less.
        seconds_dense: the same of PEFT's ``convert_to_lora``.
        ratio: of the two.
        error: relative error of the product over all modules, through the factors.
        error_dense: the same of PEFT's.
        threads: of torch, for both.
    """

    modules: int
    rank: int
    target_rank: int
    seconds: float
    seconds_dense: float
    ratio: float
    error: float
    error_dense: float
    threads: int


def random_adapter(shapes: list[tuple[int, int]], rank: int) -> nn.Module:
    """Linear layers (d_out, d_in) with random adapters in float32; their singular values decay.

    Raises:
        ConfigurationError: a rank below 1 or above a dimension.
    """
    import peft

    if not 1 <= rank <= min(min(shape) for shape in shapes):
        raise ConfigurationError(
            f"rank {rank} does not fit {shapes}; it must be between 1 and the smallest dimension"
        )
    layers = nn.ModuleList(nn.Linear(d_in, d_out, bias=False) for d_out, d_in in shapes)
    model = nn.Module()
    model.layers = layers
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=r"layers\.\d+")
    model = peft.inject_adapter_in_model(config, model)
    fill_decaying(find_lora_modules(model), seed=0)
    return model


@torch.no_grad()
def fill_decaying(modules: list[LoraModule], seed: int) -> None:
    """Random factors; column j of B is divided by j+1, so that there is something to truncate."""
    generator = torch.Generator().manual_seed(seed)
    for module in modules:
        decay = 1 / torch.arange(1, module.rank + 1)
        A = torch.randn(module.A.shape, generator=generator)
        B = torch.randn(module.B.shape, generator=generator)
        module.A.copy_(A / module.A.shape[1] ** 0.5)
        module.B.copy_(B * decay / module.B.shape[0] ** 0.5)


@torch.no_grad()
def through_factors(model: nn.Module, target_rank: int) -> Result:
    """Every module's factors at the target rank, scaling baked into B, by `prunedlora.truncate`."""
    out = {}
    for module in find_lora_modules(model):
        B, A = truncate(module.B, module.A, target_rank)
        out[name_in_base(module.name)] = module.scaling * B, A
    return out


def through_dense(model: nn.Module, target_rank: int) -> Result:
    """The same by PEFT's ``convert_to_lora``, which decomposes the dense product.

    Raises:
        MissingPackageError: the installed PEFT does not have it.
    """
    convert_to_lora = require("peft:convert_to_lora", "-U peft", purpose="the comparison")
    with warnings.catch_warnings():  # PEFT warns that the adapter is a LoRA already
        warnings.simplefilter("ignore")
        _, state = convert_to_lora(model, rank=target_rank)
    by_name = {name_in_base(key): value for key, value in state.items()}
    names = [name_in_base(module.name) for module in find_lora_modules(model)]
    return {
        name: (by_name[f"{name}.lora_B.weight"], by_name[f"{name}.lora_A.weight"]) for name in names
    }


@torch.no_grad()
def relative_error(model: nn.Module, result: Result) -> float:
    """``||dW - dW'||_F / ||dW||_F`` over all modules."""
    error = norm = 0.0
    for module in find_lora_modules(model):
        B, A = result[name_in_base(module.name)]
        distance, size = squared_distance(
            module.scaling * module.B.double(), module.A.double(), B.double(), A.double()
        )
        error += distance
        norm += size
    return (error / norm) ** 0.5


def compare(model: nn.Module, target_rank: int, repeats: tuple[int, int] = (5, 3)) -> Comparison:
    """Time both methods on a model with LoRA layers, taking turns, in this process.

    Args:
        model: the model, its adapters in memory.
        target_rank: rank afterwards.
        repeats: how often the way through the factors is timed before each turn of the dense one,
            and how many turns there are.

    Raises:
        ConfigurationError: nothing would be timed, or a rank that the adapter does not have.

    >>> compare(random_adapter([(32, 16)], 4), 2, (1, 1)).modules
    1
    """
    if min(repeats) < 1:
        raise ConfigurationError(f"repeats must be at least 1, not {min(repeats)}")
    through_factors(model, target_rank)  # warm-up
    times: list[float] = []
    times_dense: list[float] = []
    for _ in range(repeats[1]):
        for _ in range(repeats[0]):
            fast = timed(lambda: through_factors(model, target_rank), times)
        dense = timed(lambda: through_dense(model, target_rank), times_dense)
    seconds = statistics.median(times)
    seconds_dense = statistics.median(times_dense)
    modules = find_lora_modules(model)
    return Comparison(
        modules=len(modules),
        rank=max(module.rank for module in modules),
        target_rank=target_rank,
        seconds=seconds,
        seconds_dense=seconds_dense,
        ratio=seconds_dense / seconds,
        error=relative_error(model, fast),
        error_dense=relative_error(model, dense),
        threads=torch.get_num_threads(),
    )


def timed(call: Callable[[], Outcome], times: list[float]) -> Outcome:
    """What a call returns; the processor time it took, seconds, is added to `times`."""
    start = time.process_time()
    outcome = call()
    times.append(time.process_time() - start)
    return outcome
