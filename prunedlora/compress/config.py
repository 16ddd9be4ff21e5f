"""Settings of `prunedlora.compress_adapter`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prunedlora.choices import (
    DtypeName,
    Layout,
    ReaderName,
    Scope,
    ZeroModules,
    check_settings,
)
from prunedlora.errors import ConfigurationError

if TYPE_CHECKING:
    import prunedlora.criteria

#: Settings that read ranks off the spectrum; see `prunedlora.ranks.spectrum`.
SPECTRUM = ("energy", "cumulative", "ratio", "knee")
#: Seeds that torch's generators take.
_SEEDS = 2**62
#: What a criterion may need without data.
_DATA_FREE = {"noise"}


@dataclass(frozen=True)
class CompressConfig:
    """How far an adapter is compressed, by what, and how the result is written.

    Exactly one of `rank`, `energy`, `cumulative`, `ratio`, `knee`, `max_loss_increase` and `size`
    says how far; beside one that reads ranks off the spectrum, `rank` is the largest allowed.

    Attributes:
        rank: rank of every module; with global scope, their mean.
        energy: share of the criterion's scores to keep, e.g. 0.95; those of svd are the squared
            singular values. A share of the Frobenius norm, as other tools have it, is its square
            here: 0.9 there is 0.81.
        cumulative: the same of the singular values themselves.
        ratio: keep components whose singular value is the largest over at most this.
        knee: keep those before the spectrum's elbow; the number is how pronounced it must be, 1 as
            usual.
        max_loss_increase: largest increase of the held-out loss as a share of it, 0.01 or on the
            command line 1%; needs base and data. The smallest rank within it, with global scope the
            smallest total of ranks, is found by bisection, on the held-out examples that the
            reported losses are of, before anything is refined; it assumes that the loss falls as
            ranks grow.
        size: largest size of the file of weights: bytes, or on the command line 20MB.
        criterion: what decides; svd without data, svd_fisher with data, or another that is
            registered.
        options: options of the criterion, on the command line e.g. damping=0.1.
        base: base model, a folder or a name on the hub; goes with data.
        data: examples to measure losses on, a .jsonl file or a data set on the hub.
        conv_rank: rank of convolutions with a kernel, where `rank` is that of all others.
        round_to: ranks are multiples of this; 8 or 16 are what some servers want. Zeros fill up a
            module that has less.
        samples: how many examples to use; one in four is held out.
        refine: after the cut, train so many steps to predict what the adapter predicts, without
            labels; needs data. What does not lower the held-out loss is dropped.
        scope: module, or global for one budget over all modules.
        relative_to: base model, a safetensors file or a folder of them; with global scope a component
            then counts by what it adds relative to the weight that it is added to, both in Frobenius
            norm. Of it only the weights are read, one at a time.
        layout: uniform: one rank, every reader agrees; ragged: a rank for each module, the smallest
            file; padded: ragged with zeros, every reader agrees. By default uniform for a PEFT
            folder, ragged with global scope and for a file alone, whose readers take ranks and
            alphas of each module.
        reader: the program that should load the result, on the command line --for; it decides
            layout and round_to where they are not given, and what it would not load right is
            refused.
        dtype: of the result; that of the adapter by default.
        device: for the base model, of which auto takes a GPU if there is one, and, if named, for the
            decompositions, which auto leaves to the CPU.
        zero_modules: keep at rank 1, or exclude from the result, a module that adds nothing or that
            gets nothing of a global budget.
        seed: of the choice of examples, and of the criterion random.

    Raises:
        ConfigurationError: settings that contradict each other, or values out of range.

    >>> CompressConfig(rank=16).criterion
    'svd'
    """

    rank: int | None = None
    energy: float | None = None
    cumulative: float | None = None
    ratio: float | None = None
    knee: float | None = None
    max_loss_increase: float | None = None
    size: int | None = None
    conv_rank: int | None = None
    round_to: int = 1
    criterion: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    data: str | None = None
    samples: int = 256
    refine: int = 0
    scope: Scope | None = None
    relative_to: str | None = None
    layout: Layout | None = None
    reader: ReaderName | None = None
    dtype: DtypeName | None = None
    device: str = "auto"
    zero_modules: ZeroModules = "keep"
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        self._check_target()
        if (self.base is None) != (self.data is None):
            raise ConfigurationError(
                "base and data go together: the loss needs a model and examples"
            )
        if self.criterion is None:
            object.__setattr__(self, "criterion", "svd" if self.data is None else "svd_fisher")
        self._check_values()
        self._check_criterion()
        self._settle_layout()

    @property
    def rule(self) -> "prunedlora.criteria.Criterion":
        """The criterion itself."""
        from prunedlora.criteria import get_criterion  # needs torch, which takes a second to import

        assert self.criterion is not None
        return get_criterion(self.criterion)

    @property
    def spectrum_rule(self) -> str | None:
        """Name of the setting that reads ranks off the spectrum; None where another one is given."""
        given = [name for name in SPECTRUM if getattr(self, name) is not None]
        return given[0] if given else None

    def _check_target(self) -> None:
        """Refuse no target, several, and what goes with none of those given."""
        names = (*SPECTRUM, "max_loss_increase", "size")
        given = [name for name in names if getattr(self, name) is not None]
        capped = self.spectrum_rule is not None and len(given) == 1
        if self.rank is not None and not capped:
            given.insert(0, "rank")
        if len(given) != 1:
            named = " and ".join(given) if given else "none"
            raise ConfigurationError(
                f"name exactly one of rank, {', '.join(names[:-1])} and {names[-1]} (or rank as "
                f"the largest beside one of {', '.join(SPECTRUM)}); got {named}"
            )
        if self.conv_rank is not None and (self.rank is None or self.scope == "global"):
            raise ConfigurationError(
                "conv_rank goes with a rank for all other modules, and with scope 'module'"
            )
        for name in ("rank", "conv_rank"):
            value = getattr(self, name)
            if value is not None and self.round_to > 1 and value % self.round_to:
                raise ConfigurationError(
                    f"{name}={value} is not a multiple of round_to={self.round_to}"
                )

    def _check_values(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ConfigurationError(f"rank must be at least 1, not {self.rank}")
        for name in ("energy", "cumulative"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ConfigurationError(f"{name} must be in (0, 1], not {share}")
        if self.ratio is not None and not 1 <= self.ratio < float("inf"):
            raise ConfigurationError(f"ratio must be at least 1, not {self.ratio}")
        if self.knee is not None and not 0 <= self.knee < float("inf"):
            raise ConfigurationError(f"knee must be at least 0, not {self.knee}")
        for name in ("conv_rank", "round_to"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value}")
        if self.max_loss_increase is not None and not 0 <= self.max_loss_increase < float("inf"):
            raise ConfigurationError(
                f"max_loss_increase must be at least 0, not {self.max_loss_increase}"
            )
        if self.size is not None and self.size < 1:
            raise ConfigurationError(f"size must be at least one byte, not {self.size}")
        if self.samples < 2:
            raise ConfigurationError(
                f"samples must be at least 2, one of them held out, not {self.samples}"
            )
        if self.refine < 0 or (self.refine and self.data is None):
            raise ConfigurationError(
                f"refine={self.refine}: it is a number of steps, and needs a base model and data"
            )
        if not abs(self.seed) < _SEEDS:
            raise ConfigurationError(f"seed must be below 2^62, not {self.seed}")
        if self.data is None and self.max_loss_increase is not None:
            raise ConfigurationError(
                "max_loss_increase needs data: name a base model and data, or give an energy"
            )

    def _check_criterion(self) -> None:
        from prunedlora.criteria import check_options

        check_options(self.rule, self.options)
        if self.data is None and not _DATA_FREE.issuperset(self.rule.needs):
            raise ConfigurationError(
                f"{self.criterion} needs data: name a base model and data, or use 'svd'"
            )

    def _settle_layout(self) -> None:
        from prunedlora.ranks.budget import settled_scope

        scope = settled_scope(self.rule, self.scope)
        # The reader decides before the scope does, once it is known what the adapter is.
        ragged = scope == "global" and self.reader is None
        layout = self.layout or ("ragged" if ragged else None)
        if scope == "global" and layout == "uniform":
            raise ConfigurationError(
                "scope 'global' gives ranks that differ, layout 'uniform' has one; use 'ragged' or "
                "'padded'"
            )
        if self.relative_to is not None and (scope != "global" or self.rule.unit == "loss"):
            raise ConfigurationError(
                "relative_to goes with scope 'global', where modules are compared, and with a criterion "
                "that does not look at the loss, such as 'svd'"
            )
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "layout", layout)
