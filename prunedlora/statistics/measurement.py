"""Statistics of a trained adapter over batches, by the two kinds of backward pass that criteria ask for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.errors import ConfigurationError
from prunedlora.linalg.weighted_truncation import DAMPING, core_maps, damped_moment
from prunedlora.statistics.collector import Collector
from prunedlora.statistics.core_gradients import MAX_CORE, Space
from prunedlora.statistics.data import Statistics
from prunedlora.statistics.fisher_loss import fisher_loss
from prunedlora.statistics.targets import IGNORED, logits_at_targets, transformers_model

#: Measured with the true Fisher matrix; the rest with the labels of the data, as in training.
OF_THE_MODEL = ("C_z", "U", "core_gradients", "core_columns", "core_rows", "core_traces")

Batch = TypeVar("Batch")


def model_loss(model: nn.Module) -> Callable[[Any], Tensor]:
    """The loss that a transformers model gives for a batch of its own arguments, ``labels`` among them.

    Raises:
        ConfigurationError: from the function returned, for a batch that is not a mapping, or where the output has no
            loss.
    """

    def loss(batch: Any) -> Tensor:
        value = getattr(model(**_arguments(batch)), "loss", None)
        if not isinstance(value, Tensor):
            raise ConfigurationError(
                "the model gave no loss for a batch; put labels into it, or pass loss=, a function of a batch"
            )
        return value

    return loss


def model_fisher(model: nn.Module) -> Callable[[Any, torch.Generator], Tensor]:
    """`fisher_loss` of a transformers model's logits, at the positions that its own loss counts.

    Knows classification, (samples, classes), and causal language models, (samples, tokens, vocabulary), whose logits
    predict the next token and whose labels are -100 where nothing is to be predicted.  Logits before the first
    target are not computed where the model can leave them out.  ``shift_labels`` in a batch, as the losses of
    transformers take them, are those of the logits that it asks for by ``logits_to_keep``.

    Raises:
        ConfigurationError: from the function returned, for logits or labels of other shapes.
    """
    inner = transformers_model(model)
    causal = type(inner).__name__.endswith(("ForCausalLM", "LMHeadModel"))

    def fisher(batch: Any, generator: torch.Generator) -> Tensor:
        given = _arguments(batch)
        inputs = {k: v for k, v in given.items() if k not in ("labels", "shift_labels")}
        labels = given.get("shift_labels")
        if causal and labels is None and isinstance(given.get("labels"), Tensor):
            logits, labels = logits_at_targets(model, inputs, given["labels"])
        else:
            logits = getattr(model(**inputs), "logits", None)
        if isinstance(logits, Tensor) and logits.dim() == 2:
            return fisher_loss(logits, generator=generator)
        if causal and isinstance(logits, Tensor) and isinstance(labels, Tensor):
            return fisher_loss(logits, labels != IGNORED, generator)
        raise ConfigurationError(
            "the Fisher matrix is known of classifiers and of causal language models, with labels in each batch; "
            "for another model pass fisher=, a function that calls prunedlora.fisher_loss on its logits"
        )

    return fisher


def measure_statistics(
    model: nn.Module,
    needs: tuple[str, ...],
    batches: Iterable[Batch],
    *,
    loss: Callable[[Batch], Tensor] | None = None,
    fisher: Callable[[Batch, torch.Generator], Tensor] | None = None,
    adapter: str = "default",
    seed: int = 0,
) -> dict[str, Statistics]:
    """What a criterion needs of each module, over all batches; the adapter stays as it is.

    Every batch counts as one optimiser step, and gradients are means over all batches.  Only the kinds of pass that
    `needs` asks for are made.  Masked tokens do not count.  The model is measured in evaluation mode and left in the
    mode that it was in; gradients that it held are lost.

    Core gradients of a module of rank r take 4 r² bytes a sample.  Where r is above `MAX_CORE` they are measured within
    its best `MAX_CORE` components under the Kronecker-factored curvature, which takes a pass of its own before.

    Args:
        model: with a trained adapter, frozen or not.
        needs: fields of `prunedlora.Statistics`, those of ``get_criterion(name).needs``.
        batches: whatever the two functions take, on the model's device; gone through once for each pass.
        loss: the loss of a batch, a mean over its samples; by default that of the model, called with the batch as
            its keyword arguments.
        fisher: a number whose gradients have the Fisher matrix as their second moment, see `prunedlora.fisher_loss`;
            by default that of the model's logits, see `model_fisher`.
        adapter: name of the adapter.
        seed: of random numbers in `fisher` and of the criterion's noise.

    Returns:
        The statistics of each module, by its name in the model.

    Raises:
        UnsupportedAdapterError: see :func:`prunedlora.find_lora_modules`.
        ConfigurationError: unknown needs, no batch, a batch without a loss, or a loss that does not reach a module.

    >>> import peft
    >>> _ = torch.manual_seed(0)
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(4, 3)), peft.LoraConfig(r=2, target_modules=["0"]))
    >>> batches = [torch.randn(5, 4), torch.randn(5, 4)]
    >>> found = measure_statistics(model, ("gram_B",), batches, loss=lambda x: model(x).square().mean())
    >>> {name: statistics.gram_B.shape for name, statistics in found.items()}
    {'base_model.model.0': torch.Size([2, 2])}
    """
    modules = find_lora_modules(model, adapter)
    _check_needs(needs)
    # The functions that give a number to call backward() on, for the two kinds of pass.
    of_data: Callable[[Any], Tensor] = loss or model_loss(model)
    of_model: Callable[[Any, torch.Generator], Tensor] = fisher or model_fisher(model)
    generator = torch.Generator()

    def number_of_model(batch: Any) -> Tensor:
        return of_model(batch, generator)

    passes = (
        (tuple(n for n in needs if n not in OF_THE_MODEL), of_data),
        *((names, number_of_model) for names in _passes_of_the_model(needs, modules)),
    )
    values: dict[str, dict[str, Tensor]] = {m.name: {} for m in modules}
    training = model.training
    # An adapter that was loaded for inference is frozen; its gradients are wanted all the same.
    frozen = [p for m in modules for p in (m.B, m.A) if not p.requires_grad]
    model.eval()
    try:
        for p in frozen:
            p.requires_grad_(True)
        for names, number in passes:
            if not names:
                continue
            # The same random numbers in each pass.
            generator.manual_seed(seed)
            spaces = _spaces(modules, values) if "core_gradients" in names else {}
            found = _collect(model, modules, names, batches, number, seed, spaces)
            for name, statistics in found.items():
                values[name] |= {n: v for n, v in vars(statistics).items() if v is not None}
    finally:
        model.zero_grad()
        model.train(training)
        for p in frozen:
            p.requires_grad_(False)
    return {
        name: Statistics(**{n: v for n, v in found.items() if n in needs or n in OF_THE_MODEL[3:]})
        for name, found in values.items()
    }


def _passes_of_the_model(
    needs: tuple[str, ...], modules: list[LoraModule]
) -> Iterator[tuple[str, ...]]:
    """What is measured with the true Fisher matrix, pass by pass."""
    names = tuple(n for n in needs if n in OF_THE_MODEL)
    if "core_gradients" in needs and any(module.rank > MAX_CORE for module in modules):
        yield ("C_z", "U")
        names = tuple(n for n in names if n not in ("C_z", "U"))
    yield names


def _spaces(
    modules: list[LoraModule], measured: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Space]:
    """The best `MAX_CORE` components of each module of higher rank, by its moments."""
    spaces = {}
    # One by one: eigenvalues of large matrices take as long in a batch.
    for module in modules:
        if module.rank > MAX_CORE:
            B = module.B.detach().double()
            A = module.A.detach().double()
            M_b = damped_moment(measured[module.name]["U"], B.mT @ B, DAMPING)
            M_a = damped_moment(measured[module.name]["C_z"], A @ A.mT, DAMPING)
            spaces[module.name] = core_maps(M_b, M_a, MAX_CORE)
    return spaces


def _collect(
    model: nn.Module,
    modules: list[LoraModule],
    needs: tuple[str, ...],
    batches: Iterable[Batch],
    number: Callable[[Batch], Tensor],
    seed: int,
    spaces: Mapping[str, Space],
) -> dict[str, Statistics]:
    """One pass over the batches; afterwards the parameters hold the mean gradient."""
    parameters = [p for m in modules for p in (m.B, m.A)]
    sums = [torch.zeros_like(p) for p in parameters]
    count = 0
    with Collector(
        model, modules, needs, ignore_padding=True, seed=seed, spaces=spaces
    ) as collector:
        for batch in batches:
            model.zero_grad()
            number(batch).backward()  # type: ignore[no-untyped-call]
            _check_reached(modules)
            collector.update()
            for total, p in zip(sums, parameters, strict=True):
                assert p.grad is not None
                total += p.grad
            count += 1
        if count == 0:
            raise ConfigurationError(
                "there is no batch to measure; a generator is used up by the first pass, pass a list or a DataLoader"
            )
        for total, p in zip(sums, parameters, strict=True):
            p.grad = total / count
        # The collector ends here: nothing is copied.
        return {m.name: collector.measure(m) for m in modules}


def _check_reached(modules: list[LoraModule]) -> None:
    for module in modules:
        if module.A.grad is None or module.B.grad is None:
            raise ConfigurationError(
                f"the loss does not reach {module.name}; make the adapter active (model.set_adapter), and leave "
                "modules that the loss does not reach out of it"
            )


def _check_needs(needs: tuple[str, ...]) -> None:
    known = [field.name for field in fields(Statistics)]
    unknown = sorted(set(needs) - set(known))
    if unknown:
        raise ConfigurationError(
            f"needs must be names of statistics, such as get_criterion('kfac').needs, not {unknown}; there are: "
            f"{', '.join(known)}"
        )


def _arguments(batch: Any) -> Mapping[str, Any]:
    """The batch as keyword arguments of a model; raises ConfigurationError where it is something else."""
    if not isinstance(batch, Mapping):
        raise ConfigurationError(
            f"a batch is a {type(batch).__name__}, not a mapping of the model's arguments; pass loss= and fisher=, "
            "functions of a batch"
        )
    return batch
