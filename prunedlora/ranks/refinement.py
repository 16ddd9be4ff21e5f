"""After the cut: the smaller adapter learns to predict what the larger one predicts, without labels."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prunedlora.adapters.modules import find_lora_modules
from prunedlora.choices import checked
from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.statistics.targets import IGNORED

Batch = TypeVar("Batch")
#: Learning rates of which the best is taken, after a short try of each.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
#: One try takes this share of the steps.
TRY = 0.125
#: Share of the steps in which the learning rate rises.
WARMUP = 0.05
#: Largest norm of the gradient.
CLIP = 1.0
#: How often the held-out loss is looked at on the way, by a try only at its end.
LOOKS = 10


@dataclass(frozen=True)
class Refinement:
    """The outcome of refining.

    Attributes:
        losses: the held-out loss after so many steps, from 0 on, in order.
        step: of the weights that were kept; 0 where nothing was better than the start.
        learning_rate: with which they were found.
    """

    losses: tuple[tuple[int, float], ...]
    step: int
    learning_rate: float

    @property
    def before(self) -> float:
        """The held-out loss of the start."""
        return self.losses[0][1]

    @property
    def after(self) -> float:
        """The held-out loss of what was kept; never above that of the start."""
        return dict(self.losses)[self.step]


def refine_adapter(
    model: nn.Module,
    teacher: str,
    batches: Iterable[Any],
    held_out: Iterable[Any],
    *,
    steps: int = 200,
    learning_rate: float | None = None,
    adapter: str = "default",
) -> Refinement:
    """Train a smaller adapter to predict what the larger one predicts, and keep it only where that helps.

    The loss of a batch is the mean over tokens of the divergence KL(teacher ‖ student) of their distributions, so that
    labels are not needed; where a batch has ``labels``, the tokens that these leave out do not count.  Teacher and
    student share the base model.  The weights of least held-out loss are kept, which are those of the start where
    training does not lower it.  The held-out batches choose rate and step, so that their loss at the end is a little
    optimistic.  Both factors of every module are trained, frozen or not; nothing else changes, and after an error
    nothing has.

    Args:
        model: a PEFT model with both adapters, around a causal language model or a classifier of sequences.
        teacher: name of the larger adapter, which stays as it is.
        batches: keyword arguments of the model, which are gone through again and again.
        held_out: others, by which it is judged.
        steps: optimiser steps, one batch each.
        learning_rate: of AdamW; by default the best of `RATES` after an eighth of the steps with each.
        adapter: name of the smaller one.

    Returns:
        The held-out losses, means over the batches, and what was kept.

    Raises:
        UnsupportedAdapterError: see :func:`prunedlora.find_lora_modules`.
        ConfigurationError: no batch, less than one step, another kind of model, or one adapter under both names.
        NonFiniteError: a loss is NaN or infinite where training starts.

    >>> import peft, transformers
    >>> _ = torch.manual_seed(0)
    >>> sizes = transformers.LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    ...     num_attention_heads=2, num_key_value_heads=2)
    >>> large, small = (peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False) for _ in range(2))
    >>> model = peft.get_peft_model(transformers.LlamaForCausalLM(sizes), small)
    >>> model.add_adapter("large", large)
    >>> batches = [{"input_ids": torch.randint(16, (4, 6))} for _ in range(4)]
    >>> found = refine_adapter(model, "large", batches[:3], batches[3:], steps=20)
    >>> found.after < found.before
    True
    """
    if teacher == adapter:
        raise ConfigurationError("teacher and adapter are the same; name the larger one as teacher")
    checked("steps", steps, int)
    modules = find_lora_modules(model, adapter)
    find_lora_modules(model, teacher)
    _check_model(model)

    def aim(batch: Any) -> Tensor:
        with _active(model, teacher):
            return _logits(model, batch)

    def predict(batch: Any) -> tuple[Tensor, Tensor]:
        logits = _logits(model, batch)
        return logits, counted_tokens(batch, logits)

    parameters = [p for module in modules for p in (module.B, module.A)]
    with _active(model, adapter):
        return distil(
            model, parameters, aim, predict, list(batches), list(held_out), steps, learning_rate
        )


@torch.inference_mode(False)
@torch.enable_grad()
def distil(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    aim: Callable[[Batch], Tensor],
    predict: Callable[[Batch], tuple[Tensor, Tensor]],
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    steps: int,
    learning_rate: float | None = None,
    *,
    divergence: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Refinement:
    """Train a model, in evaluation mode, to predict what another or its own former state does; see `refine`.

    Args:
        model: whose modes and flags stay as they were.
        parameters: that are trained.
        aim: the predictions for a batch that are to be reached; no gradient is taken of them.
        predict: the model's predictions for a batch, and which of them count.
        batches: see `refine`.
        held_out: see `refine`.
        steps: see `refine`.
        learning_rate: see `refine`.
        divergence: of predictions from those to be reached, where they count; `mean_divergence` by default.

    Raises:
        ConfigurationError, NonFiniteError: see `refine`.
    """
    between = divergence or mean_divergence

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            target = aim(batch)
        own, counted = predict(batch)
        return between(own, target, counted)

    with _as_it_was(model):
        # Dropout would make the student learn noise.
        model.eval()
        return refine(parameters, loss, batches, held_out, steps, learning_rate)


def refine(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    steps: int,
    learning_rate: float | None = None,
) -> Refinement:
    """Minimise a loss over parameters by AdamW, and leave them at the least held-out loss that was seen.

    Args:
        parameters: that are trained; their gradients stay as they were.
        loss: of a batch, a mean.
        batches: gone through in their order, again and again.
        held_out: of which the mean loss judges.
        steps: optimiser steps, one batch each.
        learning_rate: the peak; by default the best of `RATES`.

    Raises:
        ConfigurationError: no batch, less than one step, or a rate that is not positive.
        NonFiniteError: the held-out loss is NaN or infinite at the start.
        Whatever is raised, the parameters are as they were.
    """
    if not batches or not held_out:
        raise ConfigurationError("refining needs batches, and others that are held out")
    if steps < 1:
        raise ConfigurationError(f"steps must be at least 1, not {steps}")
    if (
        learning_rate is not None
        and not 0 < checked("learning_rate", learning_rate, float) < math.inf
    ):
        raise ConfigurationError(f"learning_rate must be positive and finite, not {learning_rate}")
    start = [p.detach().clone() for p in parameters]
    gradients = [p.grad for p in parameters]

    def run(rate: float, steps: int, looks: int) -> Refinement:
        _put(parameters, start)
        return _descend(parameters, loss, batches, held_out, steps, rate, before, looks)

    try:
        before = _mean(loss, held_out)
        if not math.isfinite(before):
            raise NonFiniteError(
                "the held-out loss is NaN or infinite before anything is refined; check both adapters, and that a "
                "token of each batch counts"
            )
        for parameter in parameters:
            parameter.requires_grad_(True)
        if learning_rate is None:
            tries = [run(rate, max(1, round(TRY * steps)), 1) for rate in RATES]
            learning_rate = min(tries, key=lambda found: found.after).learning_rate
        return run(learning_rate, steps, LOOKS)
    except BaseException:
        _put(parameters, start)
        raise
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


def mean_divergence(
    student: Float[Tensor, "n *t c"],
    teacher: Float[Tensor, "n *t c"],
    counted: Bool[Tensor, "n *t"],
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) in nats, the mean over the tokens that count.

    >>> logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> float(mean_divergence(logits, logits, torch.tensor([True, False])))
    0.0
    """
    aim = teacher[counted].float().log_softmax(-1)
    own = student[counted].float().log_softmax(-1)
    return nn.functional.kl_div(own, aim, reduction="none", log_target=True).sum(-1).mean()


def counted_tokens(batch: Any, logits: Float[Tensor, "n *t c"]) -> Bool[Tensor, "n *t"]:
    """Which predictions count: those that labels, else the attention mask, of a batch do not leave out."""
    counted = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
    if logits.ndim == 2:
        return counted
    if batch.get("labels") is not None:
        # The label of a token is predicted where the one before it stands.
        counted[:, :-1] = batch["labels"][:, 1:].to(logits.device) != IGNORED
        counted[:, -1] = False
    elif batch.get("attention_mask") is not None:
        counted &= batch["attention_mask"].to(logits.device).bool()
    return counted


def _descend(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    steps: int,
    rate: float,
    before: float,
    looks: int,
) -> Refinement:
    """One descent from where the parameters stand, with a held-out loss, to the best point on its way."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    warmup = max(1, round(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    losses = [(0, before)]
    best, kept = losses[0], [p.detach().clone() for p in parameters]
    every = max(1, steps // looks)
    for step, batch in enumerate(itertools.islice(itertools.cycle(batches), steps), start=1):
        number = loss(batch)
        if not torch.isfinite(number):
            # Of one batch; it has nothing to say.
            continue
        gradients = torch.autograd.grad(number, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % every and step != steps:
            continue
        losses.append((step, _mean(loss, held_out)))
        if losses[-1][1] < best[1]:
            best, kept = losses[-1], [p.detach().clone() for p in parameters]
    _put(parameters, kept)
    return Refinement(tuple(losses), best[0], rate)


@torch.no_grad()
def _mean(loss: Callable[[Batch], Tensor], batches: Sequence[Batch]) -> float:
    return sum(float(loss(batch)) for batch in batches) / len(batches)


@torch.no_grad()
def _put(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@contextmanager
def _active(model: Any, adapter: str) -> Iterator[None]:
    """An adapter of the model in place of those that are active; PEFT freezes the others meanwhile."""
    before = list(model.base_model.active_adapters), model.active_adapter
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.set_adapter(adapter)
    try:
        yield
    finally:
        model.base_model.set_adapter(before[0])
        model.active_adapter = before[1]
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Modes of all modules and flags of all parameters are put back."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _check_model(model: Any) -> None:
    """Refuse models whose predictions are not those of the next token or of a class."""
    base = getattr(model, "base_model", None)
    if not hasattr(model, "set_adapter") or not hasattr(base, "active_adapters"):
        raise ConfigurationError(
            "refining switches between two adapters: pass the PeftModel itself, without wrappers"
        )
    inner = model.get_base_model()
    kind = type(inner).__name__
    other = any(name in kind for name in ("MaskedLM", "TokenClassification", "QuestionAnswering"))
    if other or getattr(getattr(inner, "config", None), "is_encoder_decoder", False):
        raise ConfigurationError(
            f"{kind} is not a causal language model or a classifier of sequences, which refining knows"
        )


def _logits(model: nn.Module, batch: Any) -> Tensor:
    if not isinstance(batch, Mapping):
        raise ConfigurationError(
            f"a batch is a {type(batch).__name__}, not a mapping of the model's arguments"
        )
    out = model(**{name: value for name, value in batch.items() if name != "labels"})
    if not isinstance(getattr(out, "logits", None), Tensor):
        raise ConfigurationError("the model gives no logits; refining needs a model that predicts")
    return out.logits
