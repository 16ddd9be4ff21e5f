"""Settings of single jobs: frozen dataclasses, read from JSON by `experiments.settings.validation.validated`.

What is set for whole tables is in `experiments.settings.preset`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from experiments.settings.validation import STRICT, validated
from prunedlora.choices import Moments, Scope

Method = Literal[
    "untuned",
    "full",
    "lora",
    "lora_at_ranks",
    "dora",
    "adalora",
    "truncate",
    "truncate_full",
    "prune",
]
CompressionMethod = Literal[
    "dense", "random", "magnitude", "sparsegpt", "wanda", "gradient", "gradient_squared"
]
Dtype = Literal["float32", "bfloat16"]
Precision = Literal["float32", "tf32", "bf16_autocast"]
#: One run for each.
Seeds = Annotated[tuple[int, ...], Field(min_length=1)]
#: Settings that came later, at the values that stand for what was done before: they do not enter any hash, so that
#: older results keep theirs.
LATER = {"length_groups": 1, "precision": "float32"}


def digest(settings: dict[str, Any]) -> str:
    """A short hash of settings, whatever their order; of `LATER` ones only where they change something.

    >>> digest({"a": 1, "b": {"length_groups": 1}}) == digest({"b": {}, "a": 1})
    True
    """
    return hashlib.sha256(
        json.dumps(_without_later(settings), sort_keys=True).encode()
    ).hexdigest()[:12]


def _without_later(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_later(v) for k, v in value.items() if k not in LATER or v != LATER[k]}
    return value


#: Rules whose recovery is (11) as printed, in all tables, where a row does not say otherwise.
AS_PRINTED = ("prunedlora2025", "fisher")


def rule_options(criterion: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a rule in a row that has these.

    >>> rule_options("fisher", {}), rule_options("fisher", {"recovery": "B"}), rule_options("svd", {})
    ({'recovery': 'both'}, {'recovery': 'B'}, {})
    """
    return ({"recovery": "both"} if criterion in AS_PRINTED else {}) | dict(options)


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that its result depends on.

    Attributes:
        model: ``smollm2``, ``tiny``, a local folder, or ``organisation/name@revision`` on the hub.
        task: see `experiments.tasks.TASKS`.
        method: the untuned model; full fine-tuning; LoRA, DoRA or AdaLoRA as PEFT has them; pruning during training;
            LoRA from the start at the ranks to which pruning came (``lora_at_ranks``); or, without further training,
            a trained adapter reduced by a criterion (``truncate``) or the change that full fine-tuning made, reduced by
            SVD (``truncate_full``).
        initial_rank: rank in training; 0 for the untuned model and for full fine-tuning.
        target_rank: rank at the end; equal to the initial rank where nothing is pruned.
        criterion: pruning rule, for ``prune``, ``lora_at_ranks`` and ``truncate``.
        options: options of the rule; see `rule_options`.
        scope: ``module`` or ``global`` budget of ``prune``; empty for the rule's own.
        moments: what becomes of the optimiser's state at events, see `prunedlora.PruneConfig`.
        rslora: whether s is alpha / sqrt(r) in place of alpha / r, with the alpha that `scaling` gives the latter.
        calibration_examples: training examples from which ``truncate`` collects what its rule needs.
        scaling: s in ``W0 + s B A``; alpha is s times the rank.
        target_modules: names of the adapted layers.
        steps: optimiser steps.
        batch_size: examples per step.
        learning_rate: peak, after a linear warm-up over 3 % of the steps, then cosine to zero.
        interval: K1, steps between pruning events.
        per_event: K2, components removed per module at an event.
        warmup_steps: steps before the interval starts to count.
        max_length: longest example in tokens; longer ones are left out, or cut for an encoder.
        length_groups: batches among which training examples are sorted by length, so that little is padded.
        test_examples: examples of the test split that are scored.
        validation_examples: examples of the validation split that are scored, for the choice of settings.
        eval_batch_size: examples decoded together.
        dtype: of the base model; the adapter is always float32.
        precision: of products in training and evaluation, whatever the dtypes: as these say, with float32 matrices
            multiplied by TF32, or forward passes in bfloat16 by autocast.
        seed: of initialisation, order of the data and random pruning.
    """

    __pydantic_config__ = STRICT

    model: str
    task: str
    method: Method = "lora"
    initial_rank: NonNegativeInt = 0
    target_rank: NonNegativeInt = 0
    criterion: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    scope: Literal[Scope, ""] = ""
    moments: Moments = "follow"
    rslora: bool = False
    calibration_examples: NonNegativeInt = 512
    scaling: PositiveFloat = 1.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    steps: PositiveInt = 100
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-3
    interval: PositiveInt = 10
    per_event: PositiveInt = 2
    warmup_steps: NonNegativeInt = 10
    max_length: PositiveInt = 512
    length_groups: PositiveInt = 1
    test_examples: PositiveInt = 200
    validation_examples: NonNegativeInt = 0
    eval_batch_size: PositiveInt = 64
    dtype: Dtype = "float32"
    precision: Precision = "float32"
    seed: int = 0

    @cached_property
    def key(self) -> str:
        """Hash of all settings on which the result depends; names the result file."""
        settings = asdict(self)
        if self.method != "truncate":
            settings["calibration_examples"] = RunConfig.calibration_examples
        return digest(settings)

    @property
    def trains(self) -> bool:
        """Whether the run trains anything."""
        return self.method not in ("untuned", "truncate", "truncate_full")

    @property
    def source(self) -> "RunConfig | None":
        """The run without whose adapter this one cannot be done: what is truncated, or has the ranks; else None."""
        if self.method == "lora_at_ranks":
            return replace(self, method="prune")
        if not self.method.startswith("truncate"):
            return None
        plain: dict[str, Any] = {
            f.name: f.default
            for f in fields(self)
            if f.name in ("criterion", "scope", "calibration_examples")
        }
        if self.method == "truncate_full":
            return replace(self, method="full", initial_rank=0, target_rank=0, options={}, **plain)
        return replace(self, method="lora", target_rank=self.initial_rank, options={}, **plain)


def changed(run: RunConfig, changes: Mapping[str, Any], where: str) -> RunConfig:
    """A run with some other settings, as JSON or YAML has them.

    Raises:
        ValueError: see `validated`.
    """
    return validated(RunConfig, {**asdict(run), **changes}, where)


@dataclass(frozen=True)
class OneShot:
    """One-shot pruning of a trained adapter by every criterion.

    Attributes:
        run: settings of the training run, where they differ from the preset's.
        ranks: ranks to which the criteria that choose among components prune.
        truncation_ranks: the same for the truncation family.
        calibration_examples: training examples from which statistics are collected.
        calibration_scored: the first so many of them, on which the loss is measured too.
        seeds: one adapter for each.
    """

    __pydantic_config__ = STRICT

    run: dict[str, Any]
    ranks: tuple[PositiveInt, ...]
    truncation_ranks: tuple[PositiveInt, ...]
    calibration_examples: PositiveInt
    calibration_scored: PositiveInt
    seeds: Seeds = (0,)


@dataclass(frozen=True)
class Refined:
    """Refining the adapters of a one-shot experiment with a planted task, after the cut.

    Attributes:
        criteria: by which ranks are lowered; the first is what the others are compared with.
        ranks: to which they are lowered.
        calibration_examples: training examples from which statistics are collected, and on which is trained.
        held_out: further ones, which choose the rate and the step.
        steps: of training.
        seeds: of the experiment's adapters, those that are refined.
    """

    __pydantic_config__ = STRICT

    criteria: tuple[str, ...]
    ranks: tuple[PositiveInt, ...]
    calibration_examples: PositiveInt
    held_out: PositiveInt
    steps: PositiveInt
    seeds: Seeds = (0,)


@dataclass(frozen=True)
class Compression:
    """One-shot compression of a pretrained model by one method: everything that its result depends on.

    Attributes:
        model: as in `RunConfig`.
        method: see `experiments.jobs.pretrained.METHODS`; the dense model is not compressed.
        text: see `experiments.pretrained.corpus.load_corpus`.
        patterns: ``50%`` for a share of the weights, ``2:4`` for two that stay of every four inputs.
        sequences: calibration sequences.
        length: of calibration and test sequences, in tokens.
        batch_size: sequences that pass through the model together, one gradient for each batch.
        test_sequences: on which the perplexity is measured.
        damping: lambda, relative to the mean of the diagonal.
        block_size: columns whose masks SparseGPT chooses together.
        dtype: of the model.
        seed: of the choice of calibration sequences and of random pruning.
    """

    __pydantic_config__ = STRICT

    model: str
    method: CompressionMethod
    text: str
    patterns: tuple[str, ...]
    sequences: PositiveInt
    length: PositiveInt
    batch_size: PositiveInt
    test_sequences: PositiveInt
    damping: PositiveFloat = 1e-2
    block_size: PositiveInt = 128
    dtype: Dtype = "float32"
    seed: int = 0

    @property
    def key(self) -> str:
        """Hash of all settings; names the result file."""
        return digest(asdict(self))


@dataclass(frozen=True)
class Cost:
    """One measurement for Table 2.

    Attributes:
        run: what is measured.
        reference: what it is compared with.
        block: optimiser steps that are timed together.
    """

    __pydantic_config__ = STRICT

    run: RunConfig
    reference: RunConfig
    block: PositiveInt

    @property
    def key(self) -> str:
        """Hash of all settings but the learning rates, on which no time depends; names the result file."""
        return digest(
            {
                "run": _rateless(self.run),
                "reference": _rateless(self.reference),
                "block": self.block,
            }
        )

    @property
    def memory_key(self) -> str:
        """Hash of what the memory of the run depends on; names its result file."""
        return digest(_rateless(self.run))


def _rateless(run: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in asdict(run).items() if key != "learning_rate"}
