"""Settings of `prunedlora.compress_adapter`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prunedlora.choices import DtypeName, Layout, Scope, ZeroModules, check_settings
from prunedlora.errors import ConfigurationError

if TYPE_CHECKING:
    import prunedlora.criteria

#: What a criterion may need without data.
_DATA_FREE = {"noise"}


@dataclass(frozen=True)
class CompressConfig:
    """How far an adapter is compressed, by what, and how the result is written.

    Exactly one of `rank`, `energy`, `max_loss_increase` and `size` says how far.

    Attributes:
        rank: rank of every module; with global scope, their mean.
        energy: share of the criterion's scores to keep, e.g. 0.95; those of svd are the squared
            singular values.
        max_loss_increase: largest increase of the held-out loss as a share of it, 0.01 or on the
            command line 1%; needs base and data. The smallest rank within it is found by bisection,
            on the held-out examples that the reported losses are of.
        size: largest size of the file of weights: bytes, or on the command line 20MB.
        criterion: what decides; svd without data, svd_fisher with data, or another that is
            registered.
        options: options of the criterion, on the command line e.g. damping=0.1.
        base: base model, a folder or a name on the hub; goes with data.
        data: examples to measure losses on, a .jsonl file or a data set on the hub.
        samples: how many examples to use; one in four is held out.
        scope: module, or global for one budget over all modules.
        layout: uniform: one rank, every reader agrees; ragged: a rank for each module, the smallest
            file; padded: ragged with zeros, every reader agrees. By default uniform for a PEFT
            folder, ragged with global scope and for a file alone, whose readers take ranks and
            alphas of each module.
        dtype: of the result; that of the adapter by default.
        device: for the base model; auto takes a GPU if there is one.
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
    max_loss_increase: float | None = None
    size: int | None = None
    criterion: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    data: str | None = None
    samples: int = 256
    scope: Scope | None = None
    layout: Layout | None = None
    dtype: DtypeName | None = None
    device: str = "auto"
    zero_modules: ZeroModules = "keep"
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        given = [
            n
            for n in ("rank", "energy", "max_loss_increase", "size")
            if getattr(self, n) is not None
        ]
        if len(given) != 1:
            named = " and ".join(given) if given else "none"
            raise ConfigurationError(
                f"name exactly one of rank, energy, max_loss_increase and size; got {named}"
            )
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

    def _check_values(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ConfigurationError(f"rank must be at least 1, not {self.rank}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigurationError(f"energy must be in (0, 1], not {self.energy}")
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
        layout = self.layout or ("ragged" if scope == "global" else None)
        if scope == "global" and layout == "uniform":
            raise ConfigurationError(
                "scope 'global' gives ranks that differ, layout 'uniform' has one; use 'ragged' or "
                "'padded'"
            )
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "layout", layout)
